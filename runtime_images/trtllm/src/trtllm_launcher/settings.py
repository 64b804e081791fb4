"""Settings of the launcher: environment variables, because the command line belongs to the engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

LOOPBACK: Final = "127.0.0.1"
EVERY_ADDRESS: Final = ("0.0.0.0", "::", "localhost")  # noqa: S104  -- compared with, not bound
LARGEST_PORT: Final = 65535
PREFIX: Final = "TRTLLM_LAUNCHER_"
DEFAULT_PORT: Final = 8000
"""Of trtllm-serve."""
DEFAULT_DEADLINE_SECONDS: Final = 600.0
"""Longer than most generations; the operator sets it from the Pod's grace period."""
DEFAULT_STOP_SECONDS: Final = 30.0
DEFAULT_QUIET_SECONDS: Final = 5.0
"""Routers learn of a terminating Pod by watch, within a second; the rest is margin."""
DEFAULT_KV_TRANSFER_SECONDS: Final = 60.0
"""TensorRT-LLM's own default of `kv_transfer_timeout_ms`."""


class SettingsError(Exception):
    """A setting or the command is wrong; the message names it, its value, the rule and what to do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What to run and how long to wait. All times in seconds."""

    command: tuple[str, ...]
    host: str
    """Where to ask the engine for its metrics: `--host` of its command, or the loopback address."""
    port: int
    """Where the engine listens: `--port` of its command."""
    deadline_seconds: float = DEFAULT_DEADLINE_SECONDS
    """From the stop signal until everything is killed. Must be below the Pod's terminationGracePeriodSeconds."""
    stop_seconds: float = DEFAULT_STOP_SECONDS
    """Part of the deadline that is kept for the engine's own shutdown once it was told to stop."""
    quiet_seconds: float = DEFAULT_QUIET_SECONDS
    """Shortest wait before the engine stops listening, in which routers fence it."""
    kv_transfer_seconds: float = DEFAULT_KV_TRANSFER_SECONDS
    """Wait after the last completed request, in which other engines may still fetch KV caches from this one: its
    `kv_transfer_timeout_ms`. 0 for an engine that makes no caches for others."""

    def __post_init__(self) -> None:
        """Raises `SettingsError`."""
        if not self.command:
            raise SettingsError("no command given: trtllm-launcher [--] trtllm-serve serve MODEL ...")
        if self.stop_seconds >= self.deadline_seconds:
            raise SettingsError(
                f"{PREFIX}STOP_SECONDS is {self.stop_seconds:g}: must be below {PREFIX}DEADLINE_SECONDS "
                f"{self.deadline_seconds:g}, of which it is a part"
            )


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Settings from the command line (the engine's command) and the environment. Raises `SettingsError`."""
    command = tuple(arguments[1:] if arguments[:1] == ["--"] else arguments)
    return Settings(
        command=command,
        host=_host(command),
        port=_port(command),
        deadline_seconds=_seconds(environment, "DEADLINE_SECONDS", DEFAULT_DEADLINE_SECONDS),
        stop_seconds=_seconds(environment, "STOP_SECONDS", DEFAULT_STOP_SECONDS),
        quiet_seconds=_seconds(environment, "QUIET_SECONDS", DEFAULT_QUIET_SECONDS),
        kv_transfer_seconds=_seconds(environment, "KV_TRANSFER_SECONDS", DEFAULT_KV_TRANSFER_SECONDS),
    )


def _host(command: Sequence[str]) -> str:
    host = _option(command, "--host")
    return LOOPBACK if host in EVERY_ADDRESS or host is None else host


def _port(command: Sequence[str]) -> int:
    text = _option(command, "--port")
    if text is None:
        return DEFAULT_PORT
    if not text.isdecimal() or not 0 < int(text) < LARGEST_PORT + 1:
        raise SettingsError(f"--port is {text!r}: must be a number from 1 to {LARGEST_PORT}")
    return int(text)


def _option(command: Sequence[str], wanted: str) -> str | None:
    """Value of `--name value` or `--name=value`."""
    for index, word in enumerate(command):
        name, separator, value = word.partition("=")
        if name == wanted:
            return value if separator else "".join(command[index + 1 : index + 2])
    return None


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(PREFIX + name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value >= 0 and math.isfinite(value)):
        raise SettingsError(f"{PREFIX}{name} is {text!r}: must be a number of seconds, at least 0")
    return value

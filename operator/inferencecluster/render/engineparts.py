"""The shape that both backends fill: everything about a replica that depends on its engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from inferencecluster.render.manifest import Manifest

CONFIG_DIRECTORY: Final = "/etc/engine"
NOTICE_SECONDS: Final = 5
"""Until every router has seen in its watch that the Pod is terminating; engines close their port at SIGTERM."""
ENDING_SECONDS: Final = 60
"""Beside the drain: unloading the engine, and what SIGTERM handling costs on a busy node."""


@dataclass(frozen=True, slots=True)
class ProbeTiming:
    """Seconds between two probes, and what it takes to give up."""

    startup_period_seconds: int
    readiness_period_seconds: int
    liveness_period_seconds: int
    liveness_timeout_seconds: int
    liveness_failures: int


@dataclass(frozen=True, slots=True)
class EngineParts:
    """Image, command, configuration file and needs of one engine."""

    image: str
    arguments: tuple[str, ...]
    """Words for the image's entrypoint when `command` is empty."""
    config_file: str
    """Name of the configuration file inside `CONFIG_DIRECTORY`."""
    config_text: str
    environment: Mapping[str, str]
    """Variables that the user may override."""
    requests: Mapping[str, str]
    """CPU and memory where the user asks for none."""
    probes: ProbeTiming
    pod_security: Manifest
    container_security: Manifest
    command: tuple[str, ...] = ()
    secret_environment: tuple[Manifest, ...] = ()
    volumes: tuple[tuple[str, str, Manifest], ...] = ()
    """Name, mount path and source of each volume beside the configuration."""
    pre_stop_seconds: int = NOTICE_SECONDS
    """Time between the decision to end the Pod and the engine's SIGTERM."""
    labels: Mapping[str, str] = field(default_factory=dict)

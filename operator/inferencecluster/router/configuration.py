"""Settings of one router process, from its environment; what belongs to the cluster comes from its InferenceCluster."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from inferencecluster.api.names import ROUTER_ADMIN_PORT, ROUTER_PORT
from inferencecluster.core.errors import SpecError
from inferencecluster.router.bodies import BodyLimits
from inferencecluster.router.dispatcher import QueueLimits
from inferencecluster.router.services import Patience

_LARGEST_PORT: Final = 65_535


@dataclass(frozen=True, slots=True)
class Configuration:
    """Every knob of the process."""

    cluster: str
    """IC_CLUSTER."""
    namespace: str
    """IC_NAMESPACE."""
    port: int
    """IC_ROUTER_PORT; 0 takes a free one, which the log names."""
    admin_port: int
    """IC_ROUTER_ADMIN_PORT, for /state and /metrics; 0 takes a free one, as does a router with a port of its own."""
    log_level: int
    """IC_LOG_LEVEL: debug, info, warning or error."""
    bodies: BodyLimits
    """IC_MAX_BODY_BYTES (a larger body is refused with 413), IC_MAX_READING_BYTES, IC_BODY_SECONDS."""
    queue: QueueLimits
    """IC_MAX_QUEUE_REQUESTS, IC_MAX_QUEUE_BYTES."""
    patience: Patience
    """IC_CONNECT_SECONDS, IC_PREFILL_SECONDS, IC_FIRST_TOKEN_SECONDS, IC_SILENCE_SECONDS, IC_ANSWER_SECONDS, IC_ATTEMPTS."""
    notice_seconds: float
    """IC_NOTICE_SECONDS: after SIGTERM requests are still accepted for this long, until everybody knows."""


def read_configuration(environment: Mapping[str, str]) -> Configuration:
    """Configuration with defaults for what is absent or empty. Raises `SpecError` that names the variable."""
    values = _Values(environment)
    patience = Patience()
    return Configuration(
        cluster=values.text("IC_CLUSTER"),
        namespace=values.text("IC_NAMESPACE"),
        port=values.count("IC_ROUTER_PORT", ROUTER_PORT, least=0, most=_LARGEST_PORT),
        admin_port=values.count(
            "IC_ROUTER_ADMIN_PORT",
            # Several routers on one machine: each has to be given one port only.
            0 if values.text("IC_ROUTER_PORT") else ROUTER_ADMIN_PORT,
            least=0,
            most=_LARGEST_PORT,
        ),
        log_level=values.log_level("IC_LOG_LEVEL"),
        bodies=BodyLimits(
            # A prompt of a million token ids is 7 MB of JSON. Whoever sends larger images raises it.
            most_bytes=values.count("IC_MAX_BODY_BYTES", 8 << 20, least=1 << 10, most=1 << 30),
            reading_bytes=values.count("IC_MAX_READING_BYTES", 128 << 20, least=1 << 10, most=1 << 36),
            # 8 MiB in half a minute is 280 kB/s.
            seconds=values.number("IC_BODY_SECONDS", 30.0),
        ),
        queue=QueueLimits(
            # At 1,000 requests/s ten seconds of arrivals; bodies of 25 kB on average then fill the other bound.
            requests=values.count("IC_MAX_QUEUE_REQUESTS", 10_000, least=0, most=1_000_000),
            body_bytes=values.count("IC_MAX_QUEUE_BYTES", 256 << 20, least=0, most=1 << 36),
        ),
        patience=Patience(
            connect_seconds=values.number("IC_CONNECT_SECONDS", patience.connect_seconds),
            prefill_seconds=values.number("IC_PREFILL_SECONDS", patience.prefill_seconds),
            first_token_seconds=values.number("IC_FIRST_TOKEN_SECONDS", patience.first_token_seconds),
            silence_seconds=values.number("IC_SILENCE_SECONDS", patience.silence_seconds),
            answer_seconds=values.number("IC_ANSWER_SECONDS", patience.answer_seconds),
            attempts=values.count("IC_ATTEMPTS", patience.attempts, least=1, most=10),
        ),
        # The Pod's preStop has waited already; this covers clients and proxies with connections of their own.
        notice_seconds=values.number("IC_NOTICE_SECONDS", 2.0, least=0.0),
    )


@dataclass(frozen=True, slots=True)
class _Values:
    environment: Mapping[str, str]

    def text(self, name: str, default: str = "") -> str:
        return self.environment.get(name, "").strip() or default

    def number(self, name: str, default: float, *, least: float = 0.01, most: float = 86_400.0) -> float:
        value = self.text(name)
        try:
            number = float(value) if value else default
        except ValueError:
            number = float("nan")
        if not least <= number <= most:
            raise SpecError(
                field=name,
                value=value,
                rule=f"it is a number from {least:g} to {most:g}",
                advice=f"correct it, or remove it for {default:g}",
            )
        return number

    def count(self, name: str, default: int, *, least: int, most: int) -> int:
        number = self.number(name, default, least=least, most=most)
        if number != int(number):
            raise SpecError(
                field=name,
                value=number,
                rule="it is a whole number",
                advice=f"correct it, or remove it for {default}",
            )
        return int(number)

    def log_level(self, name: str) -> int:
        value = self.text(name, "info").upper()
        level = logging.getLevelNamesMapping().get(value)
        if level is None:
            raise SpecError(
                field=name,
                value=value,
                rule="there is no such level",
                advice="set debug, info, warning or error",
            )
        return level

"""Settings of one operator process, from the environment variables that the chart sets."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from inferencecluster.api.names import OPERATOR_HTTP_PORT
from inferencecluster.core.errors import SpecError
from inferencecluster.render.context import Platform

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Settings:
    """Every knob of the process; what belongs to one cluster is in its spec."""

    watch_namespaces: tuple[str, ...]
    """IC_WATCH_NAMESPACES, comma-separated. Empty means all."""
    prometheus_url: str
    """IC_PROMETHEUS_URL. Empty means that there is none."""
    platform: Platform
    """IC_ROUTER_IMAGE, IC_ROUTER_CLUSTER_ROLE, IC_EMULATED_FAULTS."""
    pod_name: str
    """IC_POD_NAME: the holder of the Lease."""
    pod_namespace: str
    """IC_POD_NAMESPACE: where the Lease is."""
    lease_name: str
    """IC_LEASE_NAME. Empty means that this process leads without asking, as on a developer's machine."""
    log_level: int
    """IC_LOG_LEVEL: debug, info, warning or error."""
    reads_nodes: bool
    """IC_CLUSTER_WIDE_NODES: nodes and the Pods on them may be read."""
    http_port: int
    """IC_HTTP_PORT."""
    workers: int
    """IC_WORKERS: clusters that are reconciled at the same time."""
    prometheus_window_seconds: int
    """IC_PROMETHEUS_WINDOW_SECONDS: what rates and percentiles are taken over; at least four scrapes long."""
    prometheus_poll_seconds: float
    """IC_PROMETHEUS_POLL_SECONDS: the newest answer serves all clusters for this long."""
    debounce_seconds: float
    """IC_DEBOUNCE_SECONDS: changes that come together are looked at once."""
    follow_up_seconds: float
    """IC_FOLLOW_UP_SECONDS: time between two looks while something starts or drains."""
    resync_seconds: float
    """IC_RESYNC_SECONDS: children are compared in full at least this often, changed or not."""
    record_file: str
    """IC_RECORD_FILE: every look is recorded there for `kubectl-ic replay`. Empty means that nothing is."""
    record_megabytes: int
    """IC_RECORD_MEGABYTES: size of that file; the one before it, `FILE.1`, is kept, too."""


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Settings with defaults for what is absent or empty. Raises `SpecError` that names the variable."""
    values = _Values(environment)
    return Settings(
        watch_namespaces=tuple(
            name.strip() for name in values.text("IC_WATCH_NAMESPACES").split(",") if name.strip()
        ),
        prometheus_url=values.url("IC_PROMETHEUS_URL"),
        platform=Platform(
            router_image=values.text("IC_ROUTER_IMAGE", "inferencecluster-operator:latest"),
            router_cluster_role=values.text("IC_ROUTER_CLUSTER_ROLE", "inferencecluster-router"),
            emulated_faults=values.switch("IC_EMULATED_FAULTS", default=False),
        ),
        pod_name=values.text("IC_POD_NAME", "inferencecluster-operator"),
        pod_namespace=values.text("IC_POD_NAMESPACE", "default"),
        lease_name=values.text("IC_LEASE_NAME"),
        log_level=values.log_level("IC_LOG_LEVEL"),
        reads_nodes=values.switch("IC_CLUSTER_WIDE_NODES", default=True),
        http_port=int(values.number("IC_HTTP_PORT", OPERATOR_HTTP_PORT, least=0, most=65_535)),
        workers=int(values.number("IC_WORKERS", 16, least=1, most=256)),
        prometheus_window_seconds=int(values.number("IC_PROMETHEUS_WINDOW_SECONDS", 60, least=5, most=3600)),
        prometheus_poll_seconds=values.number("IC_PROMETHEUS_POLL_SECONDS", 2.0, least=0.1, most=600),
        debounce_seconds=values.number("IC_DEBOUNCE_SECONDS", 0.1, least=0, most=10),
        follow_up_seconds=values.number("IC_FOLLOW_UP_SECONDS", 1.0, least=0.1, most=60),
        resync_seconds=values.number("IC_RESYNC_SECONDS", 600.0, least=1, most=86_400),
        record_file=values.text("IC_RECORD_FILE"),
        record_megabytes=int(values.number("IC_RECORD_MEGABYTES", 64, least=1, most=65_536)),
    )


@dataclass(frozen=True, slots=True)
class _Values:
    environment: Mapping[str, str]

    def text(self, name: str, default: str = "") -> str:
        return self.environment.get(name, "").strip() or default

    def switch(self, name: str, *, default: bool) -> bool:
        value = self.text(name).lower()
        if value not in _TRUE | _FALSE | {""}:
            raise SpecError(field=name, value=value, rule="it is a switch", advice="set true or false")
        return value in _TRUE if value else default

    def number(self, name: str, default: float, *, least: float, most: float) -> float:
        value = self.text(name)
        try:
            number = float(value) if value else default
        except ValueError:
            number = float("nan")
        if not least <= number <= most:
            rule = f"it is a number from {least} to {most}"
            raise SpecError(
                field=name, value=value, rule=rule, advice=f"correct it, or remove it for {default}"
            )
        return number

    def url(self, name: str) -> str:
        value = self.text(name).rstrip("/")
        if value and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).netloc):
            rule = "it is no http or https URL"
            raise SpecError(field=name, value=value, rule=rule, advice="write http://host:port")
        return value

    def log_level(self, name: str) -> int:
        value = self.text(name, "info")
        level = logging.getLevelNamesMapping().get(value.upper())
        if level is None:
            rule = "there is no such level"
            raise SpecError(field=name, value=value, rule=rule, advice="set debug, info, warning or error")
        return level

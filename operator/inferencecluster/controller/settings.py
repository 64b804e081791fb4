"""Settings of one operator process, from the environment variables that the chart sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from inferencecluster.adapters.environment import (
    LogLevel,
    Names,
    Number,
    Switch,
    Text,
    Url,
    Variable,
    WholeNumber,
)
from inferencecluster.api.names import OPERATOR_HTTP_PORT
from inferencecluster.render.context import Platform

WATCH_NAMESPACES: Final = Names(
    "IC_WATCH_NAMESPACES", "namespaces whose clusters are served, separated by commas; empty means all"
)
PROMETHEUS_URL: Final = Url("IC_PROMETHEUS_URL", "base URL of Prometheus; empty means that there is none")
PROMETHEUS_WINDOW: Final = WholeNumber(
    "IC_PROMETHEUS_WINDOW_SECONDS",
    "seconds over which rates and percentiles are taken; at least four scrapes long",
    default=60,
    least=5,
    most=3600,
)
PROMETHEUS_POLL: Final = Number(
    "IC_PROMETHEUS_POLL_SECONDS",
    "seconds for which the newest answer of Prometheus serves all clusters",
    default=2.0,
    least=0.1,
    most=600,
)
ROUTER_IMAGE: Final = Text(
    "IC_ROUTER_IMAGE",
    "image of the routers of clusters that name none",
    default="inferencecluster-operator:latest",
)
ROUTER_CLUSTER_ROLE: Final = Text(
    "IC_ROUTER_CLUSTER_ROLE",
    "ClusterRole that routers are bound to in their namespace",
    default="inferencecluster-router",
)
EMULATED_FAULTS: Final = Switch(
    "IC_EMULATED_FAULTS", "emulated engines take faults over HTTP: for tests", default=False
)
CLUSTER_WIDE_NODES: Final = Switch(
    "IC_CLUSTER_WIDE_NODES", "nodes and the Pods on them may be read, for the GPUs in status", default=True
)
POD_NAME: Final = Text(
    "IC_POD_NAME", "name of this process, as the holder of the Lease", default="inferencecluster-operator"
)
POD_NAMESPACE: Final = Text("IC_POD_NAMESPACE", "namespace of the Lease", default="default")
LEASE_NAME: Final = Text(
    "IC_LEASE_NAME",
    "the Lease that decides who leads; empty means that this process leads without asking, as on a developer's machine",
)
LOG_LEVEL: Final = LogLevel()
HTTP_PORT: Final = WholeNumber(
    "IC_HTTP_PORT",
    "port of /healthz, /readyz, /metrics and /targets; 0 takes a free one",
    default=OPERATOR_HTTP_PORT,
    least=0,
    most=65_535,
)
WORKERS: Final = WholeNumber(
    "IC_WORKERS", "clusters that are looked at in parallel", default=16, least=1, most=256
)
DEBOUNCE: Final = Number(
    "IC_DEBOUNCE_SECONDS",
    "seconds for which changes are collected into one look",
    default=0.1,
    least=0,
    most=10,
)
FOLLOW_UP: Final = Number(
    "IC_FOLLOW_UP_SECONDS",
    "seconds between two looks while something starts or drains",
    default=1.0,
    least=0.1,
    most=60,
)
RESYNC: Final = Number(
    "IC_RESYNC_SECONDS",
    "seconds after which children are compared in full, changed or not",
    default=600.0,
    least=1,
    most=86_400,
)
RECORD_FILE: Final = Text(
    "IC_RECORD_FILE", "every look is recorded there for `kubectl-ic replay`; empty means that nothing is"
)
RECORD_MEGABYTES: Final = WholeNumber(
    "IC_RECORD_MEGABYTES",
    "size of that file in MiB; the one before it, FILE.1, is kept, too",
    default=64,
    least=1,
    most=65_536,
)

VARIABLES: Final[tuple[Variable, ...]] = (
    *(WATCH_NAMESPACES, CLUSTER_WIDE_NODES),
    *(PROMETHEUS_URL, PROMETHEUS_WINDOW, PROMETHEUS_POLL),
    *(ROUTER_IMAGE, ROUTER_CLUSTER_ROLE, EMULATED_FAULTS),
    *(POD_NAME, POD_NAMESPACE, LEASE_NAME),
    *(LOG_LEVEL, HTTP_PORT, WORKERS, DEBOUNCE, FOLLOW_UP, RESYNC),
    *(RECORD_FILE, RECORD_MEGABYTES),
)
"""In the order in which a person looks for them."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Every knob of the process, each explained by its variable; what belongs to one cluster is in its spec."""

    watch_namespaces: tuple[str, ...]
    prometheus_url: str
    platform: Platform
    pod_name: str
    pod_namespace: str
    lease_name: str
    log_level: int
    reads_nodes: bool
    http_port: int
    workers: int
    prometheus_window_seconds: int
    prometheus_poll_seconds: float
    debounce_seconds: float
    follow_up_seconds: float
    resync_seconds: float
    record_file: str
    record_megabytes: int


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Settings with defaults for what is absent or empty. Raises `SpecError` that names the variable."""
    return Settings(
        watch_namespaces=WATCH_NAMESPACES.read(environment),
        prometheus_url=PROMETHEUS_URL.read(environment),
        platform=Platform(
            router_image=ROUTER_IMAGE.read(environment),
            router_cluster_role=ROUTER_CLUSTER_ROLE.read(environment),
            emulated_faults=EMULATED_FAULTS.read(environment),
        ),
        pod_name=POD_NAME.read(environment),
        pod_namespace=POD_NAMESPACE.read(environment),
        lease_name=LEASE_NAME.read(environment),
        log_level=LOG_LEVEL.read(environment),
        reads_nodes=CLUSTER_WIDE_NODES.read(environment),
        http_port=HTTP_PORT.read(environment),
        workers=WORKERS.read(environment),
        prometheus_window_seconds=PROMETHEUS_WINDOW.read(environment),
        prometheus_poll_seconds=PROMETHEUS_POLL.read(environment),
        debounce_seconds=DEBOUNCE.read(environment),
        follow_up_seconds=FOLLOW_UP.read(environment),
        resync_seconds=RESYNC.read(environment),
        record_file=RECORD_FILE.read(environment),
        record_megabytes=RECORD_MEGABYTES.read(environment),
    )

"""The operator's HTTP server: health, readiness, metrics, and Prometheus' http_sd targets of everything we run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from aiohttp import web

from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.adapters.pods import EnginePod, PodIndex
from inferencecluster.api.names import ENGINE_PORT, OPERATOR_HTTP_PORT, ROUTER_ADMIN_PORT
from inferencecluster.controller.metrics import CONTENT_TYPE, OperatorMetrics

ENGINE_METRICS_PATH: Final = "/prometheus/metrics"
"""trtllm-serve's own."""
EMULATED_DCGM_PATH: Final = "/dcgm/metrics"
"""DCGM's counters of GPUs that are emulated; those of real ones come from NVIDIA's exporter on each node."""

Target = dict[str, object]
"""One entry of Prometheus' http_sd format: `targets` and `labels`."""


def build_app(
    is_ready: Callable[[], bool], metrics: OperatorMetrics, targets: Callable[[], list[Target]]
) -> web.Application:
    """`/healthz`, which any process that can still answer passes, `/readyz`, `/metrics` and `/targets`."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n") if is_ready() else web.Response(text="not yet\n", status=503)

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def show_targets(_: web.Request) -> web.Response:
        return web.json_response(targets())

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/targets", show_targets)
    return app


def scrape_targets(pods: PodIndex, operators: Iterable[tuple[str, str]]) -> list[Target]:
    """Every router, engine and operator. `operators` are the names and addresses of the operator's own Pods.

    Targets carry the labels that the operator's query groups by: namespace, cluster, pool and pod.
    """
    targets: list[Target] = []
    for key in pods.clusters():
        for router in pods.routers(key):
            if router.address and router.running:
                labels = _labels(key, component="router", pod=router.name)
                targets.append(_target(router.address, ROUTER_ADMIN_PORT, "/metrics", labels))
        for engine in pods.engines(key):
            targets += _engine_targets(key, engine)
    for name, address in operators:
        labels = {"component": "operator", "pod": name}
        targets.append(_target(address, OPERATOR_HTTP_PORT, "/metrics", labels))
    return targets


def _engine_targets(key: ObjectKey, engine: EnginePod) -> list[Target]:
    replica = engine.replica
    if not engine.address or replica.ready_at is None:
        # Nothing listens before the model is loaded, and a failed scrape is an alert.
        return []
    labels = _labels(key, component="engine", pod=replica.name) | {
        "pool": replica.home.value,
        "role": replica.role.value,
        "revision": replica.revision,
    }
    paths = (ENGINE_METRICS_PATH, EMULATED_DCGM_PATH) if engine.is_emulated else (ENGINE_METRICS_PATH,)
    return [_target(engine.address, ENGINE_PORT, path, labels) for path in paths]


def _labels(key: ObjectKey, *, component: str, pod: str) -> dict[str, str]:
    return {"namespace": key.namespace, "cluster": key.name, "component": component, "pod": pod}


def _target(address: str, port: int, path: str, labels: dict[str, str]) -> Target:
    host = f"[{address}]" if ":" in address else address
    return {"targets": [f"{host}:{port}"], "labels": {"__metrics_path__": path, **labels}}

"""The whole operator against the fake API server, with fake routers, Prometheus and kubelet, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.fakes.apiserver import FakeApiServer, Manifest
from tests.fakes.client import FakeClient
from tests.fakes.virtualtime import VirtualClock

from inferencecluster.adapters.informer import Informer
from inferencecluster.adapters.kube import Selection
from inferencecluster.adapters.kube_resources import CLUSTERS
from inferencecluster.adapters.prometheus import MetricsBoard, MetricSource, Series
from inferencecluster.api.names import (
    ANNOTATION_FENCED_AT,
    LABEL_CLUSTER,
    LABEL_COMPONENT,
    LABEL_POOL,
)
from inferencecluster.api.router_state import ReplicaState, RouterState, Totals
from inferencecluster.controller.process import Operator
from inferencecluster.controller.settings import read_settings
from inferencecluster.controller.wiring import take_in
from inferencecluster.core.errors import MetricsUnavailable
from inferencecluster.core.missing import Missing

GPU = "nvidia.com/gpu"
NAME = "demo"
ROUTER_ADDRESS = "10.0.0.100"


def pool(minimum: int, maximum: int, gpus: int = 2) -> Manifest:
    return {
        "minReplicas": minimum,
        "maxReplicas": maximum,
        "gpusPerReplica": gpus,
        "performance": {
            "coefficients": {
                "prefill": {
                    "baseNanoseconds": 10_000_000,
                    "perTokenPicoseconds": 50_000_000,
                    "perTokenSquaredPicoseconds": 0,
                },
                "decode": {
                    "baseNanoseconds": 10_000_000,
                    "perSequencePicoseconds": 100_000_000,
                    "perContextTokenPicoseconds": 1000,
                },
                "kvCapacityTokens": 100_000,
                "maxBatchSize": 64,
            }
        },
    }


def cluster(name: str = NAME, **scaling: Any) -> Manifest:
    """An InferenceCluster with one prefill and one decode replica at least, on a budget of 16 GPUs."""
    return {
        "apiVersion": "gpupools.dev/v1alpha1",
        "kind": "InferenceCluster",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "model": {"source": "example/model", "servedName": "model"},
            "engine": {"backend": "Emulated", "image": "emulated:1", "version": "1.2.1"},
            "slo": {"percentile": 90, "ttftMilliseconds": 400, "itlMilliseconds": 40},
            "budget": {"gpus": 16},
            "pools": {"prefill": pool(1, 3), "decode": pool(1, 3), "mixed": pool(0, 2)},
            "scaling": {"intervalSeconds": 15, "expectedBootSeconds": 10} | scaling,
        },
    }


def node(name: str = "node-0", gpus: int = 64) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {}},
        "spec": {},
        "status": {
            "allocatable": {GPU: str(gpus)},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


@dataclass
class FakeRouters:
    """`RouterClient` whose routers see every engine Pod at once, as the API server has it."""

    server: FakeApiServer
    in_flight: dict[str, int] = field(default_factory=dict)
    """Pod name -> requests."""
    silent: bool = False
    arrivals_per_second: float = 0.0
    """Set it with `arrive`: counters never go back."""
    prompt_tokens: int = 500
    held_requests: int = 0
    """Set it with `hold`."""
    _holding: asyncio.Event = field(default_factory=asyncio.Event)
    _arrived: float = 0.0
    _counted_at: float = 0.0

    def arrive(self, per_second: float) -> None:
        """From now on this many requests arrive, and end at once."""
        now = asyncio.get_running_loop().time()
        self._arrived += self.arrivals_per_second * (now - self._counted_at)
        self._counted_at = now
        self.arrivals_per_second = per_second

    def hold(self, requests: int) -> None:
        """From now on so many requests wait."""
        self.held_requests = requests
        if requests:
            self._holding.set()
        else:
            self._holding.clear()

    async def state_when_holding(self, address: str) -> RouterState:
        if not self.silent:
            await self._holding.wait()
        return await self.state(address)

    async def state(self, address: str) -> RouterState:
        if self.silent:
            raise MetricsUnavailable(source=address, detail="no route to host")
        now = asyncio.get_running_loop().time()
        requests = int(self._arrived + self.arrivals_per_second * (now - self._counted_at))
        engines = [
            pod
            for pod in self.server.of_kind("pods").values()
            if pod["metadata"]["labels"].get(LABEL_COMPONENT) == "engine"
        ]
        return RouterState(
            instance=f"router at {address}",
            started_at=0.0,
            now=now,
            held_requests=self.held_requests,
            held_tokens=0,
            head_age_seconds=0.0,
            mixed_requests=0,
            synced=True,
            totals=Totals(
                requests=requests,
                prompt_tokens=requests * self.prompt_tokens,
                prompt_tokens_squared=requests * self.prompt_tokens**2,
                completed=requests,
                completed_output_tokens=requests * 100,
                failed=0,
                refused=0,
            ),
            replicas=tuple(self._replica(pod) for pod in engines),
        )

    def _replica(self, pod: Manifest) -> ReplicaState:
        metadata = pod["metadata"]
        is_fenced = ANNOTATION_FENCED_AT in (metadata.get("annotations") or {})
        return ReplicaState(
            name=metadata["name"],
            uid=metadata["uid"],
            fenced=is_fenced or "deletionTimestamp" in metadata,
            ready=True,
            in_flight=self.in_flight.get(metadata["name"], 0),
            kv_transfers=0,
            pending_prefill_tokens=0,
            decoding_sequences=self.in_flight.get(metadata["name"], 0),
            resident_kv_tokens=0,
            borrowed=False,
        )


@dataclass
class FakeMetrics:
    """`MetricSource` that agrees with the routers."""

    routers: FakeRouters
    down: bool = False
    hang_seconds: float = 0.0
    """So long a query gets no packet back; then it fails."""
    queries: list[str] = field(default_factory=list)

    async def query(self, expression: str, *, at: float) -> Sequence[Series]:
        self.queries.append(expression)
        if self.hang_seconds:
            await asyncio.sleep(self.hang_seconds)
            raise MetricsUnavailable(source="Prometheus", detail="timed out")
        if self.down:
            raise MetricsUnavailable(source="Prometheus", detail="connection refused")
        requests = self.routers.arrivals_per_second * 60
        values = {
            "requests": requests,
            "prompt_tokens": requests * self.routers.prompt_tokens,
            "prompt_tokens_squared": requests * self.routers.prompt_tokens**2,
            "completed": requests,
            "completed_output_tokens": requests * 100,
            "ttft_90": 0.1,
            "itl_90": 0.01,
        }
        return [
            Series({"namespace": "default", "cluster": NAME, "signal": signal}, value)
            for signal, value in values.items()
        ]


class World:
    """What outlives a process: the API server, and everything that is not the operator."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.server = FakeApiServer(self.clock.now)
        self.routers = FakeRouters(self.server)
        self.metrics = FakeMetrics(self.routers)
        self.kubelet_runs = True

    def fleet(self) -> dict[str, str]:
        """Replica -> home pool, with ! for a fence."""
        return {
            name: pod["metadata"]["labels"][LABEL_POOL]
            + ("!" if ANNOTATION_FENCED_AT in (pod["metadata"].get("annotations") or {}) else "")
            for name, pod in self.server.of_kind("pods").items()
            if pod["metadata"]["labels"].get(LABEL_COMPONENT) == "engine"
        }

    def gpus(self) -> int:
        """GPUs of every existing replica."""
        return sum(
            int(pod["spec"]["containers"][0]["resources"]["limits"][GPU])
            for pod in self.server.of_kind("pods").values()
            if pod["metadata"]["labels"].get(LABEL_COMPONENT) == "engine"
        )

    def status(self, name: str = NAME) -> Manifest:
        found: Manifest = self.server.of_kind("inferenceclusters")[name].get("status", {})
        return found

    def condition(self, kind: str) -> Manifest:
        return next(entry for entry in self.status()["conditions"] if entry["type"] == kind)

    def add_router(self, name: str = NAME) -> None:
        self.server.put(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{name}-router-1",
                    "namespace": "default",
                    "labels": {LABEL_CLUSTER: name, LABEL_COMPONENT: "router"},
                },
                "spec": {"nodeName": "node-0", "containers": []},
                "status": {
                    "phase": "Running",
                    "podIP": ROUTER_ADDRESS,
                    "containerStatuses": [{"state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
                },
            }
        )

    async def run_kubelet(self) -> None:
        """Bind each engine Pod at once and make it ready five seconds later; end terminating ones."""
        while True:
            await asyncio.sleep(1.0)
            if self.kubelet_runs:
                for name, pod in self.server.of_kind("pods").items():
                    if pod["metadata"]["labels"].get(LABEL_COMPONENT) == "engine":
                        self._step(name, pod)

    def _step(self, name: str, pod: Manifest) -> None:
        if "deletionTimestamp" in pod["metadata"]:
            self.server.remove("pods", "default", name)
            return
        created = datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()
        if self.clock.now() - created < 5 or pod.get("status", {}).get("phase") == "Running":
            return

        def make_ready(manifest: Manifest) -> None:
            moment = datetime.fromtimestamp(int(self.clock.now()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            manifest["spec"]["nodeName"] = "node-0"
            manifest["status"] = {
                "phase": "Running",
                "podIP": "10.0.0.1",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": moment}],
                "containerStatuses": [{"state": {"running": {"startedAt": moment}}}],
            }

        self.server.change("pods", "default", name, make_ready)


@asynccontextmanager
async def operating(
    world: World,
    *,
    crash_after: int | None = None,
    environment: Mapping[str, str] | None = None,
    fresh_seconds: float = 0.0,
    source: MetricSource | Missing | None = None,
) -> AsyncIterator[FakeClient]:
    """One operator process for as long as the block runs; a watch stands in for kopf's.

    By default an answer of the world's Prometheus is never fresh: each sizing tick asks, and can be counted.
    """
    client = FakeClient(world.server, crash_after=crash_after)
    board = MetricsBoard(source or world.metrics, world.clock, window_seconds=60, fresh_seconds=fresh_seconds)
    operator = Operator(read_settings(environment or {}), client, world.routers, board, world.clock)
    clusters: Informer[Manifest]

    def changed(before: Manifest | None, after: Manifest | None) -> None:
        kind = "DELETED" if after is None else "MODIFIED"
        take_in(operator.clusters, operator.loops, {"type": kind, "object": after or before})

    # The informers' own reads do not count towards the crash: a restart repeats them, and they change nothing.
    watching = FakeClient(world.server)
    clusters = Informer(
        watching, Selection(CLUSTERS), lambda manifest: manifest, on_change=changed, clock=world.clock
    )
    tasks = [asyncio.create_task(informer.run()) for informer in operator.watches.all()]
    tasks.append(asyncio.create_task(world.run_kubelet()))
    try:
        await operator.watches.wait_listed()
        tasks.append(asyncio.create_task(clusters.run()))
        yield client
    finally:
        await operator.loops.stop()
        await operator.sleepers.stop()
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

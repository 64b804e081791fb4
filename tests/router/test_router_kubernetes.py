"""The router over the Kubernetes API: Pods and the InferenceCluster come and change, and the API server goes away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from tests.fakes.apiserver import ApiError, Call, FakeApiServer
from tests.fakes.client import FakeClient
from tests.router.harness import ENVIRONMENT, eventually
from tests.router.test_router_sources import CLUSTER, pod

from inferencecluster.adapters.clock import SystemClock
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.routing import RoutingPolicy
from inferencecluster.router.configuration import read_configuration
from inferencecluster.router.kubernetes_sources import KubernetesFleet, KubernetesSettings
from inferencecluster.router.ledger import Ledger
from inferencecluster.router.process import RouterProcess, Sources


def manifest(name: str, **changes: Any) -> dict[str, Any]:
    found = pod(**changes)
    found["metadata"] |= {"name": name, "uid": f"uid-{name}"}
    return {"apiVersion": "v1", "kind": "Pod", **found}


@asynccontextmanager
async def over(server: FakeApiServer) -> AsyncIterator[RouterProcess]:
    client = FakeClient(server)
    names = {"cluster": "c", "namespace": "n"}
    sources = Sources(KubernetesFleet(client, **names), KubernetesSettings(client, **names))
    process = RouterProcess(read_configuration(ENVIRONMENT), sources, SystemClock(), stopwatch=time.monotonic)
    async with process.serving(host="127.0.0.1"):
        yield process


def names_of(process: RouterProcess) -> list[str]:
    return sorted(entry.record.name for entry in process.services.ledger)


async def test_the_fleet_follows_the_pods_of_the_cluster() -> None:
    server = FakeApiServer()
    server.put(CLUSTER)
    server.put(manifest("c-engine-0"))
    other = manifest("x-engine-0")
    other["metadata"]["labels"] = {**other["metadata"]["labels"], "gpupools.dev/cluster": "x"}
    server.put(other)
    async with over(server) as process:
        await eventually(lambda: names_of(process) == ["c-engine-0"])
        await eventually(lambda: process.standing.settings is not None)

        server.put(manifest("c-engine-1"))
        await eventually(lambda: names_of(process) == ["c-engine-0", "c-engine-1"])

        annotations = manifest("c-engine-0")["metadata"]["annotations"] | {"gpupools.dev/fenced-at": "1.0"}
        server.put(manifest("c-engine-0", annotations=annotations))
        view = process.services.ledger.fleet.get
        await eventually(lambda: not view("c-engine-0").serving)  # type: ignore[union-attr] # it is known
        assert view("c-engine-1").serving  # type: ignore[union-attr] # it is known

        server.remove("pods", "n", "c-engine-0")
        await eventually(lambda: names_of(process) == ["c-engine-1"])


def is_routed_as(ledger: Ledger, home: PoolName) -> bool:
    return [view.home for view in ledger.fleet] == [home]


async def test_a_converted_replica_is_known_in_its_new_home() -> None:
    server = FakeApiServer()
    server.put(CLUSTER)
    server.put(manifest("c-engine-0"))
    async with over(server) as process:
        ledger = process.services.ledger
        await eventually(lambda: names_of(process) == ["c-engine-0"])
        [entry] = ledger
        for home in (PoolName.DECODE, PoolName.MIXED, PoolName.PREFILL):
            moved = manifest("c-engine-0")
            moved["metadata"]["labels"] |= {"gpupools.dev/pool": home.value, "gpupools.dev/role": home.value}
            server.put(moved)
            await eventually(partial(is_routed_as, ledger, home))
        assert [*ledger] == [entry], "it is the same replica, with its books"


async def test_settings_follow_the_cluster_and_survive_what_cannot_be_read() -> None:
    server = FakeApiServer()
    server.put(CLUSTER)
    async with over(server) as process:
        standing = process.standing
        await eventually(lambda: standing.settings is not None)

        server.put({**CLUSTER, "spec": {**CLUSTER["spec"], "router": {"overflowTokens": 1}}})
        await eventually(
            lambda: standing.settings is not None and standing.settings.routing == RoutingPolicy.alike(1)
        )

        server.put({**CLUSTER, "spec": {}})
        await asyncio.sleep(0.1)
        assert standing.settings is not None
        assert standing.settings.routing == RoutingPolicy.alike(1)


async def test_an_outage_of_the_api_server_keeps_the_fleet_and_confirms_no_fence() -> None:
    server = FakeApiServer()
    server.put(CLUSTER)
    server.put(manifest("c-engine-0"))
    async with over(server) as process:
        fleet = process.sources.fleet
        await eventually(lambda: names_of(process) == ["c-engine-0"] and fleet.synced)

        def down(_: Call) -> ApiError | None:
            return ApiError(503, "down")

        server.fault = down
        server.end_watches()
        await eventually(lambda: not fleet.synced)
        assert fleet.listed
        assert names_of(process) == ["c-engine-0"]
        assert process.services.ledger.fleet.get("c-engine-0").serving  # type: ignore[union-attr] # it is known

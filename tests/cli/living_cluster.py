"""An InferenceCluster that the whole operator has sized, in virtual time: what `explain` and `top` look at."""

from __future__ import annotations

import asyncio
import copy
from functools import cache
from typing import Any

from tests.fakes.apiserver import FakeApiServer, Manifest
from tests.fakes.virtualtime import run_virtual
from tests.fakes.world import NAME, World, cluster, node, operating

from inferencecluster.api.router_state import RouterState
from inferencecluster.cli.cluster_reading import ClusterReading, reading_of
from inferencecluster.cli.surroundings import Surroundings, pods_by_cluster

NOW = 1_800_000_120.0
"""Two minutes after the cluster was made, soon after the operator's last look."""


def living_world() -> FakeApiServer:
    """Prefill and decode grew with the demand, and Prometheus has been silent since."""
    server = FakeApiServer()
    server.objects |= copy.deepcopy(_grown().objects)
    return server


@cache
def _grown() -> FakeApiServer:
    return run_virtual(_run()).server


async def _run() -> World:
    world = World()
    world.server.put(node())
    world.server.put(cluster(behavior={"scaleDown": {"stabilizationWindowSeconds": 300}}))
    world.add_router()
    async with operating(world):
        await asyncio.sleep(20)
        world.routers.arrive(30)
        await asyncio.sleep(35)
        world.metrics.down = True
        world.routers.arrive(60)
        await asyncio.sleep(40)
    return world


def reading(**changes: Any) -> ClusterReading:
    """The living cluster; `changes` replace top-level parts of its status."""
    return reading_of(manifest(**changes))


def manifest(**changes: Any) -> Manifest:
    """As the API server has it; a change to None takes that part of the status away."""
    found = copy.deepcopy(_grown().of_kind("inferenceclusters")[NAME])
    found["status"] |= changes
    found["status"] = {name: part for name, part in found["status"].items() if part is not None}
    return found


def around(server: FakeApiServer | None = None) -> Surroundings:
    """What belongs to it."""
    server = server or _grown()
    pods = pods_by_cluster(server.of_kind("pods").values())
    return Surroundings(
        next(iter(pods.values())),
        list(server.of_kind("enginepools").values()),
        list(server.of_kind("events").values()),
    )


def router_state(server: FakeApiServer, *, in_flight: int = 2, held_tokens: int = 900) -> dict[str, Any]:
    """What a router tells that gave `in_flight` requests to each replica."""
    replicas = [
        {
            "name": pod["metadata"]["name"],
            "uid": pod["metadata"]["uid"],
            "fenced": False,
            "ready": True,
            "in_flight": in_flight,
            "kv_transfers": 0,
            "pending_prefill_tokens": 600,
            "decoding_sequences": 1,
            "resident_kv_tokens": 25_000,
            "borrowed": False,
        }
        for pod in server.of_kind("pods").values()
        if "engine" in pod["metadata"]["name"]
    ]
    state = {
        "instance": "one",
        "started_at": 0.0,
        "now": NOW,
        "held_requests": 3,
        "held_tokens": held_tokens,
        "head_age_seconds": 0.4,
        "mixed_requests": 0,
        "synced": True,
        "totals": dict.fromkeys(
            (
                "requests",
                "prompt_tokens",
                "prompt_tokens_squared",
                "completed",
                "completed_output_tokens",
                "failed",
                "refused",
            ),
            0,
        ),
        "replicas": replicas,
    }
    return RouterState.model_validate(state).model_dump(mode="json")

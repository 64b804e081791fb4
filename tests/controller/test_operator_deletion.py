"""How clusters and replicas go, and whose they are."""

from __future__ import annotations

import asyncio

from tests.controller.operator_world import SETTLED, break_spec, delete_cluster, world_with
from tests.fakes.virtualtime import run_virtual
from tests.fakes.world import NAME, cluster, operating

from inferencecluster.api.names import FINALIZER


def test_a_cluster_that_is_deleted_is_held_until_its_requests_have_ended() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
            world.routers.in_flight = {"demo-engine-1": 3}
            delete_cluster(world)
            await asyncio.sleep(120)
            # The idle one is gone; the busy one, its object and its router wait.
            assert world.fleet() == {"demo-engine-1": "decode!"}
            assert world.server.of_kind("inferenceclusters")[NAME]["metadata"]["finalizers"] == [FINALIZER]
            assert f"{NAME}-router" in world.server.of_kind("deployments")
            assert "3 requests" in world.status()["draining"][0]["waitingFor"]
            world.routers.in_flight = {}
            await asyncio.sleep(30)
        assert world.fleet() == {}
        assert world.server.of_kind("inferenceclusters") == {}
        assert world.server.of_kind("deployments") == {}

    run_virtual(scenario())


def test_a_restart_in_the_middle_of_a_deletion_goes_on_draining() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
            world.routers.in_flight = {"demo-engine-1": 3}
            delete_cluster(world)
            await asyncio.sleep(10)
        async with operating(world):
            await asyncio.sleep(60)
            assert world.fleet() == {"demo-engine-1": "decode!"}
            world.routers.in_flight = {}
            await asyncio.sleep(30)
        assert world.server.of_kind("inferenceclusters") == {}

    run_virtual(scenario())


def test_a_cluster_with_a_spec_that_nobody_can_read_drains_all_the_same_when_it_is_deleted() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
        world.server.change("inferenceclusters", "default", NAME, break_spec)
        world.routers.in_flight = {"demo-engine-0": 1}
        delete_cluster(world)
        async with operating(world):
            await asyncio.sleep(60)
            assert world.fleet() == {"demo-engine-0": "prefill!"}
            world.routers.in_flight = {}
            await asyncio.sleep(30)
        assert world.server.of_kind("inferenceclusters") == {}

    run_virtual(scenario())


def test_a_drain_waits_while_a_router_does_not_answer_and_goes_on_when_it_does() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
            world.routers.silent = True
            delete_cluster(world)
            await asyncio.sleep(300)
            assert sorted(world.fleet().values()) == ["decode!", "prefill!"]
            world.routers.silent = False
            await asyncio.sleep(30)
        assert world.server.of_kind("inferenceclusters") == {}

    run_virtual(scenario())


def test_replicas_of_another_owner_are_neither_counted_nor_deleted() -> None:
    async def scenario() -> None:
        world = world_with()
        stranger = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "stranger",
                "namespace": "default",
                "labels": {
                    "gpupools.dev/cluster": NAME,
                    "gpupools.dev/component": "engine",
                    "gpupools.dev/pool": "prefill",
                },
            },
            "spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "2"}}}]},
        }
        world.server.put(stranger)
        async with operating(world):
            await asyncio.sleep(60)
        assert world.fleet() == {**SETTLED, "stranger": "prefill"}
        assert world.status()["summary"]["gpus"] == "4/16"

    run_virtual(scenario())


def test_a_new_cluster_of_the_same_name_starts_anew() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
            delete_cluster(world)
            await asyncio.sleep(60)
            assert world.server.of_kind("inferenceclusters") == {}
            world.server.put(cluster())
            await asyncio.sleep(60)
            assert world.fleet() == SETTLED
            uid = world.server.of_kind("inferenceclusters")[NAME]["metadata"]["uid"]
            owners = {
                pod["metadata"]["ownerReferences"][0]["uid"]
                for name, pod in world.server.of_kind("pods").items()
                if name in SETTLED
            }
            assert owners == {uid}

    run_virtual(scenario())

"""A held request wakes a sleeping cluster at once, and a cluster that is awake or gone is not asked about."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.fakes.virtualtime import run_virtual
from tests.fakes.world import World, cluster, node, operating, pool

INTERVAL = 600
BEHAVIOR = {"scaleDown": {"stabilizationWindowSeconds": 30}}


def sleepy_world() -> World:
    world = World()
    world.server.put(node())
    manifest: dict[str, Any] = cluster(behavior=BEHAVIOR, intervalSeconds=INTERVAL)
    manifest["spec"]["pools"] = {"prefill": pool(0, 3), "decode": pool(0, 3), "mixed": pool(0, 2)}
    world.server.put(manifest)
    world.add_router()
    return world


def test_a_new_cluster_that_nobody_asks_is_asleep_and_ready() -> None:
    async def scenario() -> None:
        world = sleepy_world()
        async with operating(world):
            await asyncio.sleep(30)
        assert world.fleet() == {}
        ready = world.condition("Ready")
        assert (ready["status"], ready["reason"]) == ("True", "ScaledToZero")
        assert world.condition("Reconciling")["status"] == "False"

    run_virtual(scenario())


def test_a_held_request_wakes_the_cluster_long_before_its_next_tick() -> None:
    async def scenario() -> None:
        world = sleepy_world()
        async with operating(world):
            await asyncio.sleep(INTERVAL / 2)
            world.routers.hold(1)
            await asyncio.sleep(5)
            woken = sorted(world.fleet().values())
            reasons = [item["reason"] for item in world.status()["decisions"]]
            ready = world.condition("Ready")
            events = [item["reason"] for item in world.server.of_kind("events").values()]
            world.routers.hold(0)
            # Nothing shrinks before the operator has judged some plans of its own.
            await asyncio.sleep(12 * INTERVAL)
            asleep = world.fleet()
            slept = [item["reason"] for item in world.status()["decisions"]]
        assert woken == ["decode", "prefill"]
        assert reasons == ["Woken", "Woken"]
        assert (ready["status"], ready["reason"]) == ("True", "Waking")
        assert "Woken" in events
        assert asleep == {}
        assert slept[:2] == ["ScaledToZero", "ScaledToZero"]

    run_virtual(scenario())


def test_a_router_that_cannot_be_asked_is_asked_again_and_the_sleep_goes_on() -> None:
    async def scenario() -> None:
        world = sleepy_world()
        async with operating(world):
            await asyncio.sleep(30)
            world.routers.silent = True
            world.routers.hold(1)
            await asyncio.sleep(60)
            during = world.fleet()
            world.routers.silent = False
            await asyncio.sleep(15)
            after = sorted(world.fleet().values())
        assert during == {}
        assert after == ["decode", "prefill"]

    run_virtual(scenario())


def test_a_cluster_that_goes_in_its_sleep_is_not_asked_about_any_more() -> None:
    async def scenario() -> None:
        world = sleepy_world()
        async with operating(world):
            await asyncio.sleep(30)
            world.server.remove("inferenceclusters", "default", "demo")
            await asyncio.sleep(30)
            asking = [task for task in asyncio.all_tasks() if task.get_name().startswith("sleep of")]
        assert asking == []

    run_virtual(scenario())

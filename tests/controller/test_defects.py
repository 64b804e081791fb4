"""Odd objects and defects of our own: what they end, what they must not, and what people are told."""

from __future__ import annotations

import asyncio

import pytest
from tests.fakes.apiserver import Manifest
from tests.fakes.virtualtime import VirtualClock, run_virtual
from tests.fakes.world import NAME, World, cluster, node, operating

from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.controller import reconcile
from inferencecluster.controller.loop import Loops, NextLook, Pace
from inferencecluster.controller.metrics import OperatorMetrics
from inferencecluster.controller.wakeups import Wakeups
from inferencecluster.controller.workers import Workers


def a_world() -> World:
    world = World()
    world.server.put(node())
    world.server.put(cluster())
    world.add_router()
    return world


def want_decode(world: World, replicas: int) -> None:
    def change(manifest: Manifest) -> None:
        manifest["spec"]["pools"]["decode"]["minReplicas"] = replicas

    world.server.change("inferenceclusters", "default", NAME, change)


@pytest.mark.parametrize("text", ["nan", "inf", "1e300", "-1e15", "garbage"])
def test_a_fence_with_an_odd_time_drains_by_its_deadline_and_ends_nothing(text: str) -> None:
    async def scenario() -> None:
        world = a_world()
        async with operating(world):
            await asyncio.sleep(60)
            world.routers.in_flight = {"demo-engine-1": 3}

            def fence(pod: Manifest) -> None:
                pod["metadata"]["annotations"]["gpupools.dev/fenced-at"] = text

            world.server.change("pods", "default", "demo-engine-1", fence)
            await asyncio.sleep(60)
            # Neither cut at once nor kept for ever: it has a time now.
            pod = world.server.of_kind("pods")["demo-engine-1"]
            written = float(pod["metadata"]["annotations"]["gpupools.dev/fenced-at"])
            assert 0 < world.clock.now() - written <= 61
            want_decode(world, 2)
            await asyncio.sleep(3600)
            assert world.status()["observedGeneration"] == 2
            assert sorted(world.fleet().values()) == ["decode", "decode", "prefill"]

    run_virtual(scenario())


def test_a_look_that_a_defect_ends_says_so_until_one_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        world = a_world()
        async with operating(world):
            await asyncio.sleep(60)
            assert world.condition("Ready")["status"] == "True"
            with monkeypatch.context() as broken:

                def fail(*_: object) -> None:
                    raise KeyError("lastTransitionTime")

                broken.setattr(reconcile, "decide", fail)
                await asyncio.sleep(120)
                for kind in ("Ready", "Stalled"):
                    condition = world.condition(kind)
                    assert (condition["status"], condition["reason"]) == ("Unknown", "InternalError")
                assert "KeyError" in world.condition("Ready")["message"]
                assert world.condition("Reconciling"), "what else was told stays"
                writes = len([write for write in world.server.writes if "inferenceclusters/status" in write])
                await asyncio.sleep(600)
                assert writes == len(
                    [write for write in world.server.writes if "inferenceclusters/status" in write]
                ), "it is told once"
            await asyncio.sleep(60)
            assert world.condition("Ready")["status"] == "True"
            assert world.condition("Stalled")["status"] == "False"

    run_virtual(scenario())


def test_a_spec_that_meets_a_defect_leaves_the_last_good_one_in_force(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        world = a_world()
        async with operating(world):
            await asyncio.sleep(60)
            with monkeypatch.context() as broken:

                def fail(*_: object) -> None:
                    raise ZeroDivisionError

                broken.setattr(reconcile, "accept", fail)
                want_decode(world, 2)
                await asyncio.sleep(30)
            stalled = world.condition("Stalled")
            assert stalled["status"] == "True"
            assert "ZeroDivisionError" in stalled["message"]
            world.server.remove("pods", "default", "demo-engine-1")
            await asyncio.sleep(60)
            assert sorted(world.fleet().values()) == ["decode", "prefill"], "it is replaced"
            want_decode(world, 3)
            await asyncio.sleep(60)
            assert world.condition("Stalled")["status"] == "False"
            assert sorted(world.fleet().values()) == ["decode"] * 3 + ["prefill"]

    run_virtual(scenario())


def test_who_waits_for_routers_lends_the_place_to_others() -> None:
    async def scenario() -> None:
        workers = Workers(1)
        times: list[float] = []

        async def look(_: ObjectKey) -> NextLook:
            async with workers.lent():
                await asyncio.sleep(2)
            times.append(asyncio.get_running_loop().time())
            return NextLook(0.0, finished=True)

        loops = Loops(look, Wakeups(), OperatorMetrics(), VirtualClock(), Pace(workers, 0.0))
        for number in range(50):
            loops.ensure(ObjectKey("team", f"c{number}"))
        await asyncio.sleep(10)
        assert times == [2.0] * 50

    run_virtual(scenario())


def test_a_place_that_was_lent_is_waited_for_again() -> None:
    async def scenario() -> None:
        workers = Workers(1)
        running = most = 0

        async def look(_: ObjectKey) -> NextLook:
            nonlocal running, most
            async with workers.lent():
                await asyncio.sleep(1)
            running += 1
            most = max(most, running)
            await asyncio.sleep(1)
            running -= 1
            return NextLook(0.0, finished=True)

        loops = Loops(look, Wakeups(), OperatorMetrics(), VirtualClock(), Pace(workers, 0.0))
        for number in range(5):
            loops.ensure(ObjectKey("team", f"c{number}"))
        await asyncio.sleep(60)
        assert most == 1
        assert loops.keys == frozenset()

    run_virtual(scenario())

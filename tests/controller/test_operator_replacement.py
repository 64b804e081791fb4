"""Replicas that are lost, changed or refused."""

from __future__ import annotations

import asyncio

import pytest
from tests.controller.operator_world import REFUSALS, SETTLED, world_with
from tests.fakes.apiserver import ApiError, Call, Manifest
from tests.fakes.virtualtime import run_virtual
from tests.fakes.world import NAME, operating


def test_an_evicted_replica_that_had_served_is_replaced_at_once() -> None:
    def evict(pod: Manifest) -> None:
        """As the kubelet leaves it: no Ready condition tells any more that the Pod ever served."""
        pod["status"] = {"phase": "Failed", "reason": "Evicted", "message": "the node was low on memory"}

    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
            world.kubelet_runs = False
            world.server.change("pods", "default", "demo-engine-0", evict)
            await asyncio.sleep(2)
            world.kubelet_runs = True
            await asyncio.sleep(8)
            assert world.fleet() == {"demo-engine-1": "decode", "demo-engine-2": "prefill"}

    run_virtual(scenario())


def _select_nodes(manifest: Manifest) -> None:
    manifest["spec"]["pools"]["decode"]["nodeSelector"] = {"zone": "a"}


def test_another_placement_replaces_the_replicas_of_its_pool_and_no_others() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
            before = world.server.of_kind("pods")
            world.server.change("inferenceclusters", "default", NAME, _select_nodes)
            await asyncio.sleep(120)
        pods = world.server.of_kind("pods")
        assert sorted(world.fleet().values()) == ["decode", "prefill"]
        assert pods["demo-engine-0"]["metadata"]["uid"] == before["demo-engine-0"]["metadata"]["uid"]
        (decode,) = [pods[name] for name, home in world.fleet().items() if home == "decode"]
        assert decode["spec"]["nodeSelector"] == {"zone": "a"}
        assert len({pods[name]["metadata"]["labels"]["gpupools.dev/revision"] for name in world.fleet()}) == 1
        assert world.condition("Reconciling")["status"] == "False"

    run_virtual(scenario())


def test_an_upgrade_takes_over_replicas_without_a_template_and_replaces_them_at_the_next_change() -> None:
    def forget(pod: Manifest) -> None:
        del pod["metadata"]["annotations"]["gpupools.dev/template"]

    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
        for name in SETTLED:
            world.server.change("pods", "default", name, forget)
        uids = {name: pod["metadata"]["uid"] for name, pod in world.server.of_kind("pods").items()}
        async with operating(world):
            await asyncio.sleep(120)
            assert {
                name: pod["metadata"]["uid"] for name, pod in world.server.of_kind("pods").items()
            } == uids
            world.server.change("inferenceclusters", "default", NAME, _select_nodes)
            await asyncio.sleep(120)
        assert "demo-engine-0" in world.fleet()
        assert "demo-engine-1" not in world.fleet() or (
            world.server.of_kind("pods")["demo-engine-1"]["metadata"]["uid"] != uids["demo-engine-1"]
        )

    run_virtual(scenario())


@pytest.mark.parametrize("reason", REFUSALS)
def test_a_create_that_is_refused_is_tried_again_ever_more_rarely_and_told_once(reason: str) -> None:
    async def scenario() -> None:
        world = world_with()

        def refuse(call: Call) -> ApiError | None:
            is_create = call.plural == "pods" and call.verb == "create"
            return REFUSALS[reason] if is_create else None

        world.server.fault = refuse
        async with operating(world):
            await asyncio.sleep(85)
            tries = sum(call.plural == "pods" and call.verb == "create" for call in world.server.calls)
            assert tries <= 2 * 8, "two pools, each after 1, 2, 4, 8, 16 and 32 seconds"
            stalled = world.condition("Stalled")
            assert (stalled["status"], stalled["reason"]) == ("True", reason)
            assert REFUSALS[reason].message in stalled["message"]
            assert [pool["desired"] for pool in world.status()["pools"]] == [1, 1, 0]
            told = [
                event["message"]
                for event in world.server.of_kind("events").values()
                if event["reason"] == reason and event["message"].startswith("Stalled")
            ]
            assert len(told) == 1
            world.server.fault = lambda _: None
            await asyncio.sleep(90)
            assert world.fleet() == SETTLED
            assert world.condition("Stalled")["status"] == "False"
            assert world.condition("ScalingLimited")["status"] == "False"

    run_virtual(scenario())

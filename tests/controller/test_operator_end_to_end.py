"""The operator as a whole against the fake API server: what users and the API server see of it."""

from __future__ import annotations

import asyncio

import pytest
from tests.controller.operator_world import SETTLED, break_spec, world_with
from tests.fakes.apiserver import Manifest
from tests.fakes.virtualtime import run_virtual
from tests.fakes.world import NAME, cluster, operating

from inferencecluster.adapters.prometheus import QUERY_SECONDS
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import NOT_CONFIGURED


def test_a_new_cluster_gets_its_minimum_its_router_and_a_status() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(40)
        assert world.fleet() == SETTLED
        assert set(world.server.of_kind("deployments")) == {f"{NAME}-router"}
        assert set(world.server.of_kind("services")) == {NAME}
        assert set(world.server.of_kind("enginepools")) == {"demo-decode", "demo-mixed", "demo-prefill"}
        assert world.status()["summary"] == {
            "prefill": "1/1",
            "decode": "1/1",
            "mixed": "0/0",
            "gpus": "4/16",
        }
        assert world.condition("Ready")["status"] == "True"
        assert world.status()["observedGeneration"] == 1

    run_virtual(scenario())


def test_with_nothing_changing_the_operator_writes_nothing() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(120)
            before = len(world.server.writes)
            await asyncio.sleep(3600)
            assert world.server.writes[before:] == []

    run_virtual(scenario())


def test_a_restart_writes_nothing() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(120)
        before = len(world.server.writes)
        async with operating(world):
            await asyncio.sleep(120)
        assert world.server.writes[before:] == []

    run_virtual(scenario())


def test_demand_grows_the_pools_and_its_end_shrinks_them_without_passing_the_budget() -> None:
    async def scenario() -> None:
        world = world_with(cluster(behavior={"scaleDown": {"stabilizationWindowSeconds": 30}}))
        most = 0
        async with operating(world):
            await asyncio.sleep(60)
            world.routers.arrive(60)
            for _ in range(180):
                await asyncio.sleep(1)
                most = max(most, world.gpus())
                assert world.gpus() <= 16
            grown = world.fleet()
            world.routers.arrive(0.0)
            await asyncio.sleep(1800)
        assert most > 4
        assert len(grown) > 2
        assert sorted(world.fleet().values()) == ["decode", "prefill"]

    run_virtual(scenario())


def test_a_wrong_spec_stalls_and_the_last_good_fleet_keeps_serving_and_is_repaired() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
            world.server.change("inferenceclusters", "default", NAME, break_spec)
            await asyncio.sleep(5)
            stalled = world.condition("Stalled")
            assert (stalled["status"], stalled["reason"]) == ("True", "InvalidSpec")
            assert "spec.engine.env[0].name" in stalled["message"]
            assert world.status()["observedGeneration"] == 2
            world.server.remove("pods", "default", "demo-engine-1")
            await asyncio.sleep(30)
            assert world.fleet() == SETTLED

    run_virtual(scenario())


def test_a_restart_with_a_wrong_spec_leaves_the_fleet_alone() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
        world.server.change("inferenceclusters", "default", NAME, break_spec)
        async with operating(world):
            await asyncio.sleep(600)
        assert world.fleet() == SETTLED
        assert world.condition("Stalled")["status"] == "True"
        assert world.status()["summary"]["prefill"] == "1/1"

    run_virtual(scenario())


@pytest.mark.parametrize("lost", ["prometheus", "routers", "both"])
def test_without_a_signal_no_pool_shrinks(lost: str) -> None:
    async def scenario() -> None:
        world = world_with(cluster(behavior={"scaleDown": {"stabilizationWindowSeconds": 30}}))
        async with operating(world):
            await asyncio.sleep(60)
            world.routers.arrive(60)
            await asyncio.sleep(180)
            grown = world.fleet()
            world.metrics.down = lost in ("prometheus", "both")
            world.routers.silent = lost in ("routers", "both")
            world.routers.arrive(0.0)
            await asyncio.sleep(900)
            assert world.fleet().keys() >= grown.keys()
            world.metrics.down = world.routers.silent = False
            await asyncio.sleep(1800)
        assert sorted(world.fleet().values()) == ["decode", "prefill"]

    run_virtual(scenario())


@pytest.mark.parametrize("minimum", [1, 0])
def test_without_a_prometheus_pools_follow_the_routers_up_down_and_to_sleep(minimum: int) -> None:
    async def scenario() -> None:
        manifest = cluster(behavior={"scaleDown": {"stabilizationWindowSeconds": 30}})
        for name in ("prefill", "decode"):
            manifest["spec"]["pools"][name]["minReplicas"] = minimum
        world = world_with(manifest)
        async with operating(world, source=Missing(NOT_CONFIGURED, "installed without one")):
            await asyncio.sleep(60)
            world.routers.arrive(60)
            await asyncio.sleep(180)
            assert len(world.fleet()) > 2
            assert world.condition("MetricsAvailable")["reason"] == "RoutersOnly"
            world.routers.arrive(0.0)
            await asyncio.sleep(1800)
            assert sorted(world.fleet().values()) == ["decode", "prefill"] * minimum
            assert world.condition("MetricsAvailable")["status"] == "True"

    run_virtual(scenario())


def test_clusters_share_one_wait_for_a_prometheus_that_hangs() -> None:
    async def scenario() -> None:
        world = world_with()
        names = [f"other-{number}" for number in range(12)]
        for name in names:
            world.server.put(cluster(name))
        world.metrics.hang_seconds = QUERY_SECONDS
        async with operating(world, environment={"IC_WORKERS": "1"}, fresh_seconds=2.0):
            # One query, the answer that all share, and the boot of the engines.
            await asyncio.sleep(QUERY_SECONDS + 10)
            assert all(world.status(name)["summary"]["gpus"] == "4/16" for name in names)
            assert len(world.metrics.queries) == 1

    run_virtual(scenario())


def test_a_prometheus_that_hangs_holds_up_no_cluster_that_does_not_ask_it() -> None:
    async def scenario() -> None:
        world = world_with(cluster(intervalSeconds=600))
        world.server.put(cluster("other"))
        async with operating(world, environment={"IC_WORKERS": "1"}):
            await asyncio.sleep(60)
            asked = len(world.metrics.queries)
            world.metrics.hang_seconds = 60.0
            await asyncio.sleep(20)
            assert len(world.metrics.queries) == asked + 1
            world.server.remove("pods", "default", "demo-engine-0")
            await asyncio.sleep(10)
            assert world.fleet().keys() >= SETTLED.keys()

    run_virtual(scenario())


def test_in_external_mode_the_pools_follow_their_scale_and_the_operator_never_writes_it_back() -> None:
    async def scenario() -> None:
        world = world_with()

        def go_external(manifest: Manifest) -> None:
            manifest["spec"]["scaling"]["mode"] = "External"

        def wish(manifest: Manifest) -> None:
            manifest["spec"]["replicas"] = 3

        async with operating(world):
            await asyncio.sleep(60)
            world.server.change("inferenceclusters", "default", NAME, go_external)
            await asyncio.sleep(30)
            assert world.fleet() == SETTLED
            world.server.change("enginepools", "default", "demo-decode", wish)
            await asyncio.sleep(60)
            assert sorted(world.fleet().values()) == ["decode", "decode", "decode", "prefill"]
            pool = world.server.of_kind("enginepools")["demo-decode"]
            assert pool["spec"]["replicas"] == 3
            assert pool["status"]["readyReplicas"] == 3

    run_virtual(scenario())


def test_in_recommend_mode_sizes_stay_as_they_are() -> None:
    async def scenario() -> None:
        world = world_with(cluster(mode="Recommend"))
        async with operating(world):
            await asyncio.sleep(60)
            present = world.fleet()
            world.routers.arrive(60)
            await asyncio.sleep(300)
            assert world.fleet() == present
            recommended = {entry["name"]: entry["recommended"] for entry in world.status()["pools"]}
            assert recommended["prefill"] > 1

    run_virtual(scenario())


def test_the_operators_own_writes_do_not_bring_a_sizing_tick_forward() -> None:
    async def scenario() -> None:
        world = world_with()
        async with operating(world):
            await asyncio.sleep(60)
            world.routers.arrive(60)
            await asyncio.sleep(300)
        assert len(world.fleet()) > 2
        assert len(world.metrics.queries) <= 360 / 15 + 1

    run_virtual(scenario())

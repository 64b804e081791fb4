"""While the watch of Pods lags, is refused, or belonged to another leader: nothing is decided on Pods as they were."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.fakes import world as fakes
from tests.fakes.apiserver import ApiError, Call, Manifest, Request
from tests.fakes.client import FakeClient
from tests.fakes.virtualtime import run_virtual
from tests.fakes.world import NAME, World, cluster, node, operating, pool

from inferencecluster.adapters.kube import Selection, WatchEvent

SILENCE = 60.0
"""A dead connection is noticed after 70 s: the watch may lag by nearly as much."""


class Lagging(FakeClient):
    """The watch of the clusters' Pods brings nothing before `until`, though it is connected."""

    until = 0.0

    @asynccontextmanager
    async def watch(
        self, selection: Selection, *, resource_version: str
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        async with super().watch(selection, resource_version=resource_version) as events:
            lags = selection.resource.plural == "pods" and "component" in selection.label_selector

            async def late() -> AsyncIterator[WatchEvent]:
                async for event in events:
                    now = asyncio.get_running_loop().time()
                    if lags and now < type(self).until:
                        await asyncio.sleep(type(self).until - now)
                    yield event

            yield late()


@pytest.fixture(autouse=True)
def _lagging(monkeypatch: pytest.MonkeyPatch) -> None:
    Lagging.until = 0.0
    monkeypatch.setattr(fakes, "FakeClient", Lagging)


def fall_silent() -> None:
    Lagging.until = asyncio.get_running_loop().time() + SILENCE


def scale(world: World, name: str, replicas: int) -> None:
    def change(manifest: Manifest) -> None:
        manifest["spec"]["replicas"] = replicas

    world.server.change("enginepools", "default", f"{NAME}-{name}", change)


def a_world(*, budget: int, **pools: Manifest) -> World:
    world = World()
    world.server.put(node())
    manifest = cluster(mode="External")
    manifest["spec"]["pools"] = pools
    manifest["spec"]["budget"]["gpus"] = budget
    world.server.put(manifest)
    world.add_router()
    return world


def test_one_replica_less_fences_one_however_the_load_moves_meanwhile() -> None:
    async def scenario() -> None:
        world = a_world(budget=32, prefill=pool(1, 3), decode=pool(1, 6), mixed=pool(0, 2))
        async with operating(world):
            await asyncio.sleep(30)
            scale(world, "decode", 4)
            await asyncio.sleep(60)
            names = [name for name, home in world.fleet().items() if home == "decode"]
            assert len(names) == 4
            fall_silent()
            scale(world, "decode", 3)
            fenced: set[str] = set()
            texts: set[str] = set()
            for second in range(50):
                # Another one is the least loaded in each look.
                world.routers.in_flight = {
                    name: 5 + (number * 7 + second * 5) % 11 for number, name in enumerate(names)
                }
                await asyncio.sleep(1)
                for name, pod in world.server.of_kind("pods").items():
                    text = pod["metadata"].get("annotations", {}).get("gpupools.dev/fenced-at")
                    if text is not None:
                        fenced.add(name)
                        texts.add(text)
            assert (len(fenced), len(texts)) == (1, 1), "one victim, and its deadline does not move"

    run_virtual(scenario())


def test_the_budget_holds_when_pools_change_places_while_the_watch_is_silent() -> None:
    async def scenario() -> None:
        world = a_world(budget=8, prefill=pool(1, 8, 1), decode=pool(1, 8, 1), mixed=pool(0, 1, 6))
        most = 0

        def account() -> None:
            nonlocal most
            most = max(most, world.gpus())

        world.server.on_change = account
        async with operating(world):
            await asyncio.sleep(60)
            fall_silent()
            scale(world, "mixed", 1)
            await asyncio.sleep(5)
            scale(world, "mixed", 0)
            scale(world, "decode", 7)
            await asyncio.sleep(SILENCE + 30)
        assert most == 8
        assert sorted(world.fleet().values()) == ["decode"] * 7 + ["prefill"]

    run_virtual(scenario())


def test_a_cluster_that_is_deleted_keeps_its_finalizer_while_replicas_exist_that_no_watch_showed() -> None:
    async def scenario() -> None:
        world = a_world(budget=16, prefill=pool(1, 3), decode=pool(1, 3), mixed=pool(0, 2))
        async with operating(world):
            await asyncio.sleep(30)
        fleet = world.fleet()
        world.routers.in_flight = dict.fromkeys(fleet, 3)
        pods = {name: pod for name, pod in world.server.of_kind("pods").items() if name in fleet}
        # This leader has listed before they came, and its watch has been silent since.
        for name in pods:
            del world.server.objects["pods", "default", name]
        fall_silent()
        async with operating(world):
            for name, pod in pods.items():
                world.server.objects["pods", "default", name] = pod
            path = f"/apis/gpupools.dev/v1alpha1/namespaces/default/inferenceclusters/{NAME}"
            world.server.handle(Request("DELETE", path, body={}))
            await asyncio.sleep(20)
            assert set(world.fleet()) == set(fleet), "busy replicas drain"
            assert NAME in world.server.of_kind("inferenceclusters")
            assert all(home.endswith("!") for home in world.fleet().values())
            world.routers.in_flight = {}
            await asyncio.sleep(SILENCE + 30)
        assert world.fleet() == {}
        assert NAME not in world.server.of_kind("inferenceclusters")

    run_virtual(scenario())


def test_a_leader_that_was_blind_as_a_follower_adds_to_what_the_last_one_made() -> None:
    async def scenario() -> None:
        world = a_world(budget=8, prefill=pool(1, 8, 1), decode=pool(1, 8, 1), mixed=pool(0, 1, 6))
        async with operating(world):
            await asyncio.sleep(30)
            scale(world, "decode", 4)
            await asyncio.sleep(30)
        made = world.fleet()
        pods = {name: world.server.objects.pop(("pods", "default", name)) for name in made}
        fall_silent()
        async with operating(world):
            for name, pod in pods.items():
                world.server.objects["pods", "default", name] = pod
            await asyncio.sleep(30)
        assert world.fleet() == made

    run_virtual(scenario())


def test_nothing_is_fenced_created_or_deleted_while_the_watch_of_pods_is_refused() -> None:
    async def scenario() -> None:
        world = a_world(budget=16, prefill=pool(1, 3), decode=pool(1, 3), mixed=pool(0, 2))

        def refuse(call: Call) -> ApiError | None:
            is_reading = call.verb in ("watch", "list") and call.plural == "pods"
            return ApiError(429, "too many requests") if is_reading else None

        async with operating(world):
            await asyncio.sleep(30)
            made = world.fleet()
            world.server.fault = refuse
            world.server.end_watches()
            await asyncio.sleep(1)
            scale(world, "decode", 3)
            scale(world, "prefill", 2)
            await asyncio.sleep(60)
            assert world.fleet() == made
            world.server.fault = lambda _: None
            await asyncio.sleep(60)
        assert sorted(world.fleet().values()) == ["decode"] * 3 + ["prefill"] * 2

    run_virtual(scenario())


def test_a_fence_or_delete_that_is_forbidden_is_tried_again_ever_more_slowly() -> None:
    async def scenario() -> None:
        world = a_world(budget=16, prefill=pool(1, 3), decode=pool(1, 3), mixed=pool(0, 2))
        tries: list[Call] = []

        def forbid(call: Call) -> ApiError | None:
            if call.plural != "pods" or call.verb not in ("patch", "delete"):
                return None
            tries.append(call)
            return ApiError(403, "no")

        async with operating(world):
            await asyncio.sleep(30)
            scale(world, "decode", 2)
            await asyncio.sleep(30)
            world.server.fault = forbid
            scale(world, "decode", 1)
            await asyncio.sleep(300)
            assert 2 <= len(tries) <= 10
            world.server.fault = lambda _: None
            await asyncio.sleep(300)
        assert sorted(world.fleet().values()) == ["decode", "prefill"]

    run_virtual(scenario())

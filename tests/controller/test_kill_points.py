"""Invariant 7: the operator dies after any one of its calls, and the next one ends with the same fleet."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from tests.fakes.apiserver import Manifest
from tests.fakes.virtualtime import run_virtual
from tests.fakes.world import NAME, World, cluster, node, operating

from inferencecluster.api.names import LABEL_REVISION

BUDGET = 16
RESTART_SECONDS = 3.0


@dataclass(frozen=True)
class Ending:
    """What a run left behind."""

    fleet: tuple[tuple[str, str], ...]
    """Home (with ! for a fence) and revision of each replica, sorted: names depend on who died when."""
    sizes: dict[str, int]
    children: frozenset[tuple[str, str]]
    calls: int


async def _story(world: World) -> None:
    """What users do meanwhile: one more prefill replica, then another image, then one replica less."""

    def change(what: str, value: object) -> None:
        def apply(manifest: Manifest) -> None:
            if what == "image":
                manifest["spec"]["engine"]["image"] = value
            else:
                manifest["spec"]["pools"]["prefill"]["minReplicas"] = value

        world.server.change("inferenceclusters", "default", NAME, apply)

    await asyncio.sleep(15)
    change("prefill", 2)
    await asyncio.sleep(15)
    change("image", "emulated:2")
    await asyncio.sleep(60)
    change("prefill", 1)
    await asyncio.sleep(60)


async def _run(crash_after: int | None) -> Ending:
    world = World()
    world.server.put(node())
    world.server.put(cluster(mode="Fixed"))
    world.add_router()
    most = 0

    def account() -> None:
        nonlocal most
        most = max(most, world.gpus())

    world.server.on_change = account
    story = asyncio.create_task(_story(world))
    if crash_after is not None:
        async with operating(world, crash_after=crash_after) as client:
            await client.crashed.wait()
        await asyncio.sleep(RESTART_SECONDS)
    async with operating(world):
        await story
    assert most <= BUDGET
    pods = world.server.of_kind("pods")
    return Ending(
        fleet=tuple(
            sorted(
                (home, pods[name]["metadata"]["labels"][LABEL_REVISION])
                for name, home in world.fleet().items()
            )
        ),
        sizes={entry["name"]: entry["desired"] for entry in world.status()["pools"]},
        children=frozenset(
            (plural, name)
            for plural in ("configmaps", "deployments", "enginepools", "services")
            for name in world.server.of_kind(plural)
        ),
        calls=sum(call.verb not in ("list", "watch") for call in world.server.calls),
    )


@pytest.mark.timeout(300)
def test_an_operator_that_is_killed_after_any_call_ends_with_the_same_fleet() -> None:
    undisturbed = run_virtual(_run(None))
    assert len(undisturbed.fleet) == 2
    assert undisturbed.calls > 40
    for point in range(1, undisturbed.calls + 1):
        ending = run_virtual(_run(point))
        found = (ending.fleet, ending.sizes, ending.children)
        assert found == (undisturbed.fleet, undisturbed.sizes, undisturbed.children), (
            f"killed after call {point}"
        )


async def _trade(crash_after: int | None) -> World:
    """A prefill replica is wanted as a decode replica, and the pools are interchangeable."""
    world = World()
    world.server.put(node())
    manifest = cluster(mode="Fixed", conversion="Enabled")
    manifest["spec"]["pools"]["prefill"]["minReplicas"] = 2
    world.server.put(manifest)
    world.add_router()

    def trade(changed: Manifest) -> None:
        changed["spec"]["pools"]["prefill"]["minReplicas"] = 1
        changed["spec"]["pools"]["decode"]["minReplicas"] = 2

    async def story() -> None:
        await asyncio.sleep(40)
        world.routers.in_flight = dict.fromkeys(world.fleet(), 3)
        world.server.change("inferenceclusters", "default", NAME, trade)
        await asyncio.sleep(60)

    told = asyncio.create_task(story())
    if crash_after is not None:
        async with operating(world, crash_after=crash_after) as client:
            await client.crashed.wait()
        await asyncio.sleep(RESTART_SECONDS)
    async with operating(world):
        await told
    return world


@pytest.mark.timeout(300)
def test_an_operator_that_is_killed_around_a_conversion_neither_drains_nor_boots_another() -> None:
    undisturbed = run_virtual(_trade(None))
    assert sorted(undisturbed.fleet().values()) == ["decode", "decode", "prefill"]
    calls = sum(call.verb not in ("list", "watch") for call in undisturbed.server.calls)
    assert calls > 20
    for point in range(1, calls + 1):
        world = run_virtual(_trade(point))
        assert sorted(world.fleet().values()) == ["decode", "decode", "prefill"], f"killed after call {point}"
        assert sorted(world.fleet()) == sorted(undisturbed.fleet()), f"killed after call {point}"
        removals = [write for write in world.server.writes if write.startswith("delete pods")]
        assert removals == [], f"killed after call {point}"


async def _grow(crash_after: int | None) -> World:
    """Demand rises once and stays; the operator may die on the way up."""
    world = World()
    world.server.put(node())
    world.server.put(cluster())
    world.add_router()

    async def rise() -> None:
        await asyncio.sleep(40)
        world.routers.arrive(60)

    story = asyncio.create_task(rise())
    if crash_after is not None:
        async with operating(world, crash_after=crash_after) as client:
            await client.crashed.wait()
        await asyncio.sleep(RESTART_SECONDS)
    async with operating(world):
        await story
        await asyncio.sleep(120)
    return world


@pytest.mark.timeout(300)
def test_an_operator_that_is_killed_while_it_grows_a_pool_takes_nothing_back() -> None:
    undisturbed = run_virtual(_grow(None))
    assert len(undisturbed.fleet()) > 2
    calls = sum(call.verb not in ("list", "watch") for call in undisturbed.server.calls)
    for point in range(1, calls + 1):
        world = run_virtual(_grow(point))
        removals = [write for write in world.server.writes if write.startswith("delete pods")]
        fenced = [home for home in world.fleet().values() if home.endswith("!")]
        assert (removals, fenced) == ([], []), f"killed after call {point}"

"""Every small fleet to every small target, driven to the end: what holds at each step, and that there is an end."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from tests.core.test_transition import plan
from tests.strategies import World, make_replica, make_spec, sizes

from inferencecluster.core.actions import Convert
from inferencecluster.core.fleet import Lifecycle, PoolName, Replica, ReplicaLoad, gpus_held
from inferencecluster.core.transition import Complete, Progress

MOST_STEPS = 150
SMALL = tuple(itertools.product(range(4), range(4), range(2)))
"""Prefill and decode of 0 to 3, mixed of 0 or 1."""
SHAPES = {PoolName.PREFILL: 2, PoolName.DECODE: 1, PoolName.MIXED: 1}


def homes_of(counts: tuple[int, int, int]) -> list[PoolName]:
    return [home for home, count in zip(PoolName, counts, strict=True) for _ in range(count)]


def fleet_of(counts: tuple[int, int, int], shapes: dict[PoolName, int], revision: str) -> list[Replica]:
    """Idle, busy, unready and starting replicas by turns; every fifth never gets rid of its work."""
    replicas = []
    for ordinal, home in enumerate(homes_of(counts)):
        load = ReplicaLoad((0, 1, 2, 0, 10_000)[ordinal % 5], ordinal % 2, fence_confirmed=False)
        replica = make_replica(ordinal, home, revision=revision, gpus=shapes[home], load=load)
        if ordinal == 3:
            replica = replace(replica, lifecycle=Lifecycle.STARTING, ready_at=None)
        if ordinal == 5:
            replica = replace(replica, lifecycle=Lifecycle.UNREADY)
        replicas.append(replica)
    return replicas


def serves(world: World) -> bool:
    return any(replica.is_serving for replica in world.observed())


def has_pair(world: World) -> bool:
    """Prefill and decode of one revision serve."""
    serving = [replica for replica in world.observed() if replica.is_serving]
    prefill, decode = (
        {replica.revision for replica in serving if replica.home is name}
        for name in (PoolName.PREFILL, PoolName.DECODE)
    )
    return bool(prefill & decode)


def settle(world: World, targets: dict[PoolName, int], *, room_for_a_pair: bool) -> None:
    """Drive to completion. `World` refuses unsafe actions by itself; here follows what needs two looks to see."""
    keeps_pair = room_for_a_pair and min(targets[PoolName.PREFILL], targets[PoolName.DECODE]) > 0
    keeps_serving = room_for_a_pair and any(targets.values())
    had_pair, served = False, False
    for _ in range(MOST_STEPS):
        held = gpus_held(world.observed())
        outcome = plan(world.observed(), targets, spec=world.spec, now=world.now)
        if isinstance(outcome, Complete):
            assert all(replica.is_serving for replica in world.observed()), world.explain("not all serve")
            counts = [sum(r.home is name for r in world.observed()) for name in PoolName]
            assert counts == list(targets.values()), world.explain("not what was wanted")
            assert all(replica.revision == world.spec.revision for replica in world.observed())
            return
        world.apply(outcome.actions if isinstance(outcome, Progress) else ())
        now_held = gpus_held(world.observed())
        assert now_held <= max(held, world.spec.budget_gpus), world.explain("grew beyond the budget")
        had_pair, served = had_pair or has_pair(world), served or serves(world)
        assert has_pair(world) or not (had_pair and keeps_pair), world.explain("the last pair is gone")
        assert serves(world) or not (served and keeps_serving), world.explain("nobody serves any more")
        for name, replica in list(world.replicas.items()):
            if replica.lifecycle is Lifecycle.UNREADY:
                world.change(name, lifecycle=Lifecycle.READY)
        world.pass_time()
    raise AssertionError(world.explain(f"not settled after {MOST_STEPS} steps"))


@pytest.mark.parametrize("revision", ["r1", "r0"], ids=["one revision", "a rollout"])
@pytest.mark.parametrize("room", [0, 1, 4], ids=["full budget", "one GPU more", "four GPUs more"])
@pytest.mark.parametrize("start", SMALL, ids=lambda counts: "-".join(map(str, counts)))
def test_every_small_fleet_reaches_every_small_target(
    start: tuple[int, int, int], room: int, revision: str
) -> None:
    for goal in SMALL:
        targets = sizes(*goal)
        least = sum(SHAPES[name] * count for name, count in targets.items())
        spec = make_spec(budget=max(1, least) + room, gpus=SHAPES)
        world = World(spec).add(fleet_of(start, SHAPES, revision))
        settle(world, targets, room_for_a_pair=room >= SHAPES[PoolName.PREFILL] + SHAPES[PoolName.DECODE])


ALIKE = dict.fromkeys(PoolName, 1)


@pytest.mark.parametrize("revision", ["r1", "r0"], ids=["one revision", "a rollout"])
@pytest.mark.parametrize("room", [0, 2], ids=["full budget", "two GPUs more"])
@pytest.mark.parametrize("start", SMALL, ids=lambda counts: "-".join(map(str, counts)))
def test_every_small_fleet_of_interchangeable_pools_reaches_every_small_target(
    start: tuple[int, int, int], room: int, revision: str
) -> None:
    for goal in SMALL:
        targets = sizes(*goal)
        spec = make_spec(budget=max(1, sum(targets.values())) + room, interchangeable=True)
        world = World(spec).add(fleet_of(start, ALIKE, revision))
        settle(world, targets, room_for_a_pair=room >= 2)


@pytest.mark.parametrize("start", SMALL, ids=lambda counts: "-".join(map(str, counts)))
def test_a_fleet_of_the_right_total_is_only_converted(start: tuple[int, int, int]) -> None:
    """Nothing drains and nothing boots where serving replicas are merely at home in the wrong pools."""
    for goal in SMALL:
        if sum(goal) != sum(start) or (goal[0] > 0) != (goal[1] > 0):
            continue
        world = World(make_spec(budget=sum(goal) or 1, interchangeable=True))
        world.add(make_replica(number, home) for number, home in enumerate(homes_of(start)))
        steps = []
        while not isinstance(outcome := plan(world.observed(), sizes(*goal), spec=world.spec), Complete):
            assert isinstance(outcome, Progress), world.explain(str(outcome))
            steps.append(outcome.actions)
            world.apply(outcome.actions)
        assert all(isinstance(action, Convert) for actions in steps for action in actions), world.explain("")
        assert len(steps) <= 1

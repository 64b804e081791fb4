"""What holds for a plan of any fleet that can be seen, sensible or not."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.core.test_transition import actions_of, plan
from tests.strategies import World, fleets, make_spec, sizes

from inferencecluster.core.actions import Convert, Create
from inferencecluster.core.fleet import PoolName, Replica

targets_of_pools = st.builds(sizes, st.integers(0, 4), st.integers(0, 4), st.integers(0, 2))


@given(fleets(), targets_of_pools, st.integers(1, 12), st.booleans())
def test_every_plan_is_safe_for_every_fleet(
    fleet: tuple[Replica, ...], targets: dict[PoolName, int], budget: int, interchangeable: bool
) -> None:
    world = World(make_spec(budget=budget, interchangeable=interchangeable)).add(fleet)
    outcome = plan(world.observed(), targets, spec=world.spec)
    world.apply(actions_of(outcome))


@given(fleets(), targets_of_pools)
def test_no_replica_is_created_or_drained_where_one_could_move(
    fleet: tuple[Replica, ...], targets: dict[PoolName, int]
) -> None:
    """What moves is no longer missing in one pool and no longer too many in the other; nobody is asked twice."""
    spec = make_spec(budget=100, interchangeable=True)
    apart = actions_of(plan(fleet, targets, spec=make_spec(budget=100)))
    moving = actions_of(plan(fleet, targets, spec=spec))
    created = sum(isinstance(action, Create) for action in apart)
    moved = [action for action in moving if isinstance(action, Convert)]
    # One that still waits for its move is not created either.
    assert sum(isinstance(action, Create) for action in moving) <= created - len(moved)
    uids = [action.uid for action in moving if not isinstance(action, Create)]
    assert len(uids) == len(set(uids))


@given(fleets(), targets_of_pools)
def test_renamed_replicas_give_renamed_plans(
    fleet: tuple[Replica, ...], targets: dict[PoolName, int]
) -> None:
    """Only what is created may differ: it fills other gaps."""
    renamed = [replace(item, name=item.name.replace("c-", "d-"), uid=f"x-{item.uid}") for item in fleet]
    before = [action for action in actions_of(plan(fleet, targets)) if not isinstance(action, Create)]
    after = [action for action in actions_of(plan(renamed, targets)) if not isinstance(action, Create)]
    assert [f"x-{action.uid}" for action in before] == [action.uid for action in after]


@given(fleets(), targets_of_pools)
def test_the_order_in_which_replicas_are_listed_does_not_matter(
    fleet: tuple[Replica, ...], targets: dict[PoolName, int]
) -> None:
    listed = actions_of(plan(fleet, targets))
    assert sorted(map(str, listed)) == sorted(map(str, actions_of(plan(fleet[::-1], targets))))

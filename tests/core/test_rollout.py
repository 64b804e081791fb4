"""Replacing an older revision: in pairs, inside the budget, never by nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.core.test_transition import drive, plan, steps_of
from tests.strategies import World, make_fleet, make_replica, make_spec, sizes

from inferencecluster.core.fleet import Lifecycle, PoolName, Replica
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.core.transition import Blocked

PREFILL, DECODE, MIXED = PoolName


@pytest.mark.parametrize(
    ("fleet", "budget", "expected"),
    [
        pytest.param(
            (1, 1, 0),
            4,
            ["create 2 prefill, create 3 decode", ".", "fence 0, fence 1", "delete 0, delete 1", "."],
            id="a pair comes up beside the old one",
        ),
        pytest.param(
            (1, 1, 0),
            2,
            [
                "fence 1",
                "delete 1",
                ".",
                "create 1 prefill",
                ".",
                "fence 0",
                "delete 0",
                ".",
                "create 0 decode",
                ".",
            ],
            id="without room, one after the other",
        ),
        pytest.param(
            (1, 1, 0),
            3,
            [
                "create 2 prefill",
                ".",
                "fence 0",
                "delete 0",
                ".",
                "create 0 decode",
                ".",
                "fence 1",
                "delete 1",
                ".",
            ],
            id="room for one",
        ),
        pytest.param(
            (0, 0, 2),
            3,
            [
                "create 2 mixed",
                ".",
                "fence 1",
                "delete 1",
                ".",
                "create 1 mixed",
                ".",
                "fence 0",
                "delete 0",
                ".",
            ],
            id="mixed replicas need no partner",
        ),
    ],
)
def test_steps_of_a_rollout(fleet: tuple[int, int, int], budget: int, expected: list[str]) -> None:
    world = World(make_spec(budget=budget)).add(make_fleet(*fleet, revision="r0"))
    assert drive(world, sizes(*fleet)) == expected


def old(ordinal: int, home: PoolName, **values: object) -> Replica:
    return make_replica(ordinal, home, revision="r0", **values)  # type: ignore[arg-type]  # fields of Replica


def pools_of(prefill: tuple[int, int], decode: tuple[int, int]) -> list[Replica]:
    """(old, new) replicas of both base pools; old prefill 0.., new 10.., old decode 20.., new 30..."""
    return [
        *(old(ordinal, PREFILL) for ordinal in range(prefill[0])),
        *(make_replica(10 + ordinal, PREFILL) for ordinal in range(prefill[1])),
        *(old(20 + ordinal, DECODE) for ordinal in range(decode[0])),
        *(make_replica(30 + ordinal, DECODE) for ordinal in range(decode[1])),
    ]


@pytest.mark.parametrize(
    ("prefill", "decode", "retired"),
    [
        pytest.param((4, 1), (2, 0), [], id="new prefill without new decode relieves nobody"),
        pytest.param((4, 0), (2, 2), [], id="nor the other way round"),
        pytest.param((4, 1), (2, 1), ["fence 3"], id="a quarter: 3 + 2 remain"),
        pytest.param((4, 2), (2, 1), ["fence 3", "fence 2", "fence 21"], id="a half: 2 + 1 remain"),
        pytest.param((1, 3), (1, 1), [], id="the last old pair stays for the rest"),
        pytest.param((1, 4), (1, 2), ["fence 0", "fence 20"], id="all"),
        pytest.param((6, 0), (2, 0), ["fence 5", "fence 4"], id="what exceeds the target goes anyway"),
    ],
)
def test_prefill_and_decode_leave_in_step(
    prefill: tuple[int, int], decode: tuple[int, int], retired: list[str]
) -> None:
    steps = steps_of(plan(pools_of(prefill, decode), sizes(4, 2)))
    assert [step for step in steps if "create" not in step] == retired


def test_old_replicas_that_never_served_go_at_once() -> None:
    fleet = [old(0, PREFILL), old(1, PREFILL, lifecycle=Lifecycle.STARTING), old(2, DECODE)]
    assert steps_of(plan(fleet, sizes(2, 1), spec=make_spec(budget=3))) == ["delete 1"]
    replaced = [*fleet, make_replica(3, PREFILL), make_replica(4, DECODE)]
    assert steps_of(plan(replaced, sizes(1, 1))) == ["delete 1", "fence 0", "fence 2"]


def test_unready_old_replicas_go_before_ready_ones() -> None:
    fleet = pools_of((1, 1), (2, 1))
    fleet.append(old(5, PREFILL, lifecycle=Lifecycle.UNREADY))
    steps = steps_of(plan(fleet, sizes(2, 2)))
    assert [step for step in steps if "fence" in step] == ["fence 5", "fence 21"]


def test_unready_old_replicas_go_before_ready_ones_without_a_partner() -> None:
    fleet = [
        make_replica(0, PREFILL, revision="r8", lifecycle=Lifecycle.UNREADY),
        make_replica(1, PREFILL, revision="r9"),
        make_replica(2, DECODE, revision="r8"),
        make_replica(3, PREFILL),
        make_replica(4, DECODE),
    ]
    assert steps_of(plan(fleet, sizes(2, 2), spec=make_spec(budget=5))) == ["fence 0"]


def test_a_changed_shape_is_a_rollout_too() -> None:
    spec = make_spec(budget=4, gpus={PREFILL: 2})
    fleet = [make_replica(0, PREFILL), make_replica(1, DECODE)]
    world = World(spec).add(fleet)
    steps = drive(world, sizes(1, 1))
    assert steps == ["create 2 prefill", ".", "fence 0", "delete 0", "."]


def with_template(spec: ClusterSpec, name: PoolName, template: str) -> ClusterSpec:
    pools = [replace(pool, template=template) if pool.name is name else pool for pool in spec.pools]
    return replace(spec, pools=(pools[0], pools[1], pools[2]))


class TestAnotherTemplate:
    """One pool's placement or resources changed; the revision did not."""

    @pytest.mark.parametrize(
        ("budget", "expected"),
        [
            pytest.param(
                4,
                [
                    "create 3 prefill",
                    ".",
                    "fence 1",
                    "delete 1",
                    ".",
                    "create 1 prefill",
                    ".",
                    "fence 0",
                    "delete 0",
                    ".",
                ],
                id="room for one",
            ),
            pytest.param(
                3,
                [
                    "fence 1",
                    "delete 1",
                    ".",
                    "create 1 prefill",
                    ".",
                    "fence 0",
                    "delete 0",
                    ".",
                    "create 0 prefill",
                    ".",
                ],
                id="without room, one after the other",
            ),
        ],
    )
    def test_its_replicas_are_replaced_one_by_one_and_no_others(
        self, budget: int, expected: list[str]
    ) -> None:
        spec = with_template(make_spec(budget=budget), PREFILL, "t2")
        fleet = [
            replace(replica, template="t1" if replica.home is PREFILL else "") for replica in make_fleet(2, 1)
        ]
        assert drive(World(spec).add(fleet), sizes(2, 1)) == expected

    def test_it_does_not_wait_for_a_partner_that_grows(self) -> None:
        """All replicas are of one revision: whoever serves can pair with whoever is old or new."""
        spec = with_template(make_spec(), PREFILL, "t2")
        old_one = replace(make_replica(0, PREFILL), template="t1")
        fleet = [old_one, replace(make_replica(1, PREFILL), template="t2"), make_replica(2, DECODE)]
        steps = steps_of(plan(fleet, sizes(1, 4), spec=spec))
        assert "fence 0" in steps

    def test_replicas_that_tell_none_are_kept(self) -> None:
        spec = with_template(make_spec(), PREFILL, "t2")
        assert steps_of(plan(make_fleet(1, 1), sizes(1, 1), spec=spec)) == []

    def test_it_joins_a_rollout_of_a_revision_in_pairs(self) -> None:
        spec = with_template(make_spec(), PREFILL, "t2")
        fleet = [
            replace(make_replica(0, PREFILL), template="t1"),
            replace(make_replica(1, PREFILL), template="t2"),
            old(2, DECODE),
        ]
        steps = steps_of(plan(fleet, sizes(1, 1), spec=spec))
        assert not [step for step in steps if "fence" in step], "no new pair serves yet"


def test_old_pairs_go_when_mixed_takes_over() -> None:
    world = World(make_spec(budget=4)).add(make_fleet(1, 1, revision="r0"))
    steps = drive(world, sizes(0, 0, 1))
    assert steps == ["fence 0, create 2 mixed", "delete 0", "fence 1", "delete 1", "."]


def test_of_two_old_revisions_the_smaller_goes_first_in_both_pools() -> None:
    fleet = [
        make_replica(0, PREFILL, revision="r9"),
        make_replica(1, PREFILL, revision="r8"),
        make_replica(2, PREFILL, revision="r8"),
        make_replica(3, DECODE, revision="r9"),
        make_replica(4, DECODE, revision="r8"),
        make_replica(5, DECODE, revision="r8"),
        make_replica(6, PREFILL),
        make_replica(7, DECODE),
    ]
    steps = steps_of(plan(fleet, sizes(3, 3), spec=make_spec(budget=8)))
    assert steps == ["fence 0", "fence 3"]


def test_of_two_old_revisions_the_one_without_a_partner_goes_first() -> None:
    fleet = [
        make_replica(0, PREFILL, revision="r8"),
        make_replica(1, PREFILL, revision="r9"),
        make_replica(2, PREFILL, revision="r9"),
        make_replica(3, DECODE, revision="r8"),
        make_replica(4, PREFILL),
        make_replica(5, DECODE),
    ]
    steps = steps_of(plan(fleet, sizes(3, 2), spec=make_spec(budget=6)))
    assert steps == ["fence 2"]


class TestMakingRoom:
    """One old replica drains so that a new one fits."""

    def test_the_larger_pool_gives_way(self) -> None:
        fleet = [old(0, PREFILL), old(1, PREFILL), old(2, DECODE)]
        assert steps_of(plan(fleet, sizes(2, 1), spec=make_spec(budget=3))) == ["fence 1"]

    def test_decode_gives_way_among_equals(self) -> None:
        fleet = [old(0, PREFILL), old(1, DECODE)]
        assert steps_of(plan(fleet, sizes(1, 1), spec=make_spec(budget=2))) == ["fence 1"]

    def test_the_pool_that_can_spare_one_gives_way(self) -> None:
        fleet = [old(0, PREFILL), make_replica(1, PREFILL), old(2, DECODE), old(3, DECODE)]
        assert steps_of(plan(fleet, sizes(1, 2), spec=make_spec(budget=4))) == ["fence 0"]

    @pytest.mark.parametrize("lifecycle", [Lifecycle.PENDING, Lifecycle.STARTING, Lifecycle.UNREADY])
    def test_a_revision_that_does_not_serve_yet_takes_nothing_away(self, lifecycle: Lifecycle) -> None:
        fleet = [old(0, PREFILL), old(1, DECODE), make_replica(2, PREFILL, lifecycle=lifecycle)]
        outcome = plan(fleet, sizes(1, 1), spec=make_spec(budget=3))
        assert outcome == Blocked("Starting", "c-engine-2 to become ready")

    def test_a_revision_that_does_not_start_takes_nothing_away(self) -> None:
        fleet = [old(0, PREFILL), old(1, DECODE)]
        outcome = plan(fleet, sizes(1, 1), spec=make_spec(budget=2), held_back=[PREFILL])
        assert outcome == Blocked(
            "BackOff", "prefill: replicas could not be created or started and are tried again later"
        )

    def test_one_at_a_time(self) -> None:
        fleet = [old(0, PREFILL), old(1, DECODE, fenced_at=990.0, fence_reason="Rollout")]
        outcome = plan(fleet, sizes(1, 1), spec=make_spec(budget=2))
        assert outcome == Blocked("Draining", "c-engine-1: every router to confirm the fence")

    def test_a_failed_replica_makes_room_by_itself(self) -> None:
        fleet = [old(0, PREFILL), old(1, DECODE), make_replica(2, PREFILL, lifecycle=Lifecycle.FAILED)]
        assert steps_of(plan(fleet, sizes(1, 1), spec=make_spec(budget=3))) == ["delete 2"]

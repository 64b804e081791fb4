"""Plans, step by step: what is done now, in which order, and what the rest waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.strategies import (
    DRAINED,
    IDLE,
    UNSEEN,
    World,
    make_fleet,
    make_replica,
    make_spec,
    sizes,
)

from inferencecluster.core.actions import Action, Convert, Create, Delete, Fence, Unfence
from inferencecluster.core.fleet import Lifecycle, PoolName, Replica, ReplicaLoad
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.core.transition import (
    Blocked,
    Complete,
    Outcome,
    Progress,
    TransitionRequest,
    plan_deletion,
    plan_transition,
    waiting_for,
)

PREFILL, DECODE, MIXED = PoolName
SPEC = make_spec(budget=100)


def plan(
    replicas: Sequence[Replica],
    targets: dict[PoolName, int],
    *,
    spec: ClusterSpec = SPEC,
    given_up: dict[str, str] | None = None,
    held_back: Sequence[PoolName] = (),
    now: float = 1000.0,
) -> Outcome:
    request = TransitionRequest(now, spec, tuple(replicas), targets, given_up or {}, frozenset(held_back))
    return plan_transition(request)


def short(action: Action) -> str:
    """`create 3 prefill`, `fence 0`, `delete! 1` (forced): what the tables below are written in."""
    match action:
        case Create():
            return f"create {action.ordinal} {action.pool}"
        case Fence() | Unfence():
            return f"{type(action).__name__.lower()} {action.uid.split('-')[1]}"
        case Convert():
            return f"convert {action.uid.split('-')[1]} {action.pool}"
        case Delete():
            return f"delete{'!' if action.forced else ''} {action.uid.split('-')[1]}"


def actions_of(outcome: Outcome) -> tuple[Action, ...]:
    return outcome.actions if isinstance(outcome, Progress) else ()


def steps_of(outcome: Outcome) -> list[str]:
    return [short(action) for action in actions_of(outcome)]


def drive(world: World, targets: dict[PoolName, int], limit: int = 60) -> list[str]:
    """All steps until nothing is left to be done; `.` stands for a wait."""
    steps: list[str] = []
    for _ in range(limit):
        outcome = plan(world.observed(), targets, spec=world.spec, now=world.now)
        if isinstance(outcome, Complete):
            return steps
        done = ", ".join(steps_of(outcome)) or "."
        if done != "." or steps[-1:] != ["."]:
            steps.append(done)
        world.apply(actions_of(outcome))
        world.pass_time()
    raise AssertionError(world.explain(f"not settled after {limit} steps"))


@pytest.mark.parametrize(
    ("fleet", "targets", "budget", "expected"),
    [
        pytest.param((0, 0, 0), (1, 1, 0), 8, ["create 0 prefill, create 1 decode", "."], id="a new cluster"),
        pytest.param((2, 1, 0), (2, 1, 0), 8, [], id="nothing to do"),
        pytest.param((1, 1, 0), (3, 1, 0), 8, ["create 2 prefill, create 3 prefill", "."], id="growth"),
        pytest.param(
            (3, 1, 0), (1, 1, 0), 8, ["fence 2, fence 1", "delete 1, delete 2", "."], id="shrinking"
        ),
        pytest.param(
            (3, 1, 0),
            (2, 2, 0),
            4,
            ["fence 2", "delete 2", ".", "create 2 decode", "."],
            id="a trade at full budget shrinks before it grows",
        ),
        pytest.param(
            (3, 1, 0),
            (2, 2, 0),
            5,
            ["fence 2, create 4 decode", "delete 2", "."],
            id="a trade below the budget does both at once",
        ),
        pytest.param(
            (1, 1, 0),
            (0, 0, 1),
            3,
            ["fence 0, create 2 mixed", "delete 0", "fence 1", "delete 1", "."],
            id="one replica serves until another pool takes over",
        ),
        pytest.param(
            (1, 0, 0),
            (0, 0, 1),
            1,
            ["fence 0", "delete 0", ".", "create 0 mixed", "."],
            id="unless the budget holds only one",
        ),
        pytest.param(
            (2, 1, 0),
            (0, 0, 0),
            3,
            ["fence 1, fence 0, fence 2", "delete 0, delete 1, delete 2", "."],
            id="to zero",
        ),
    ],
)
def test_steps(
    fleet: tuple[int, int, int], targets: tuple[int, int, int], budget: int, expected: list[str]
) -> None:
    world = World(make_spec(budget=budget)).add(make_fleet(*fleet))
    assert drive(world, sizes(*targets)) == expected


def test_a_short_budget_is_shared_by_need() -> None:
    outcome = plan([], sizes(2, 4), spec=make_spec(budget=3))
    assert steps_of(outcome) == ["create 0 prefill", "create 1 decode", "create 2 decode"]


def test_a_replica_that_does_not_fit_does_not_hold_up_smaller_ones() -> None:
    spec = make_spec(budget=4, gpus={PREFILL: 4, DECODE: 2})
    fleet = [make_replica(0, DECODE, gpus=2)]
    assert steps_of(plan(fleet, sizes(1, 2), spec=spec)) == ["create 1 decode"]


@pytest.mark.parametrize(
    "lifecycle",
    [Lifecycle.PENDING, Lifecycle.STARTING, Lifecycle.UNREADY, Lifecycle.TERMINATING, Lifecycle.FAILED],
)
def test_gpus_of_replicas_in_every_state_count_in_the_budget(lifecycle: Lifecycle) -> None:
    fleet = [make_replica(0, PREFILL, lifecycle=lifecycle), make_replica(1, DECODE)]
    created = [
        step for step in steps_of(plan(fleet, sizes(2, 1), spec=make_spec(budget=2))) if "create" in step
    ]
    assert created == []


def test_names_fill_gaps_and_are_never_given_twice() -> None:
    fleet = [
        make_replica(0),
        make_replica(2, lifecycle=Lifecycle.TERMINATING),
        make_replica(3),
        replace(make_replica(7), name="foreign"),
    ]
    assert steps_of(plan(fleet, sizes(6))) == ["create 1 prefill", "create 4 prefill", "create 5 prefill"]


def busy(in_flight: int, kv_transfers: int = 0) -> ReplicaLoad:
    return ReplicaLoad(in_flight, kv_transfers, fence_confirmed=True)


@pytest.mark.parametrize(
    ("fleet", "expected"),
    [
        pytest.param(
            [make_replica(0), make_replica(1, lifecycle=Lifecycle.PENDING)],
            ["delete 1"],
            id="Pending before ready",
        ),
        pytest.param(
            [
                make_replica(0, lifecycle=Lifecycle.STARTING, created_at=10),
                make_replica(1, lifecycle=Lifecycle.PENDING, created_at=5),
            ],
            ["delete 1"],
            id="Pending before starting",
        ),
        pytest.param(
            [
                make_replica(0, lifecycle=Lifecycle.STARTING, created_at=10),
                make_replica(1, lifecycle=Lifecycle.STARTING, created_at=5),
            ],
            ["delete 0"],
            id="starting: newest first, it has the most boot left",
        ),
        pytest.param(
            [make_replica(0, load=IDLE), make_replica(1, lifecycle=Lifecycle.UNREADY, load=busy(5))],
            ["fence 1"],
            id="unready before ready",
        ),
        pytest.param(
            [make_replica(0, load=busy(2)), make_replica(1, load=busy(3))], ["fence 0"], id="least load"
        ),
        pytest.param(
            [make_replica(0, load=busy(2)), make_replica(1, load=busy(1, 2))],
            ["fence 0"],
            id="KV transfers are load",
        ),
        pytest.param(
            [make_replica(0, created_at=9), make_replica(1, created_at=5)], ["fence 0"], id="newest"
        ),
        pytest.param([make_replica(9), make_replica(10)], ["fence 10"], id="highest ordinal, as a number"),
        pytest.param(
            [make_replica(0, lifecycle=Lifecycle.STARTING, ready_at=5.0), make_replica(1)],
            ["fence 0"],
            id="a replica that restarts drains, because it served",
        ),
    ],
)
def test_the_cheapest_replica_goes(fleet: list[Replica], expected: list[str]) -> None:
    assert steps_of(plan(fleet, sizes(1))) == expected


def draining(
    ordinal: int = 0, *, since: float = 990.0, reason: str = "ScaleDown", **values: object
) -> Replica:
    replica = make_replica(ordinal, fenced_at=since, fence_reason=reason)
    return replace(replica, **values)  # type: ignore[arg-type]  # fields of Replica


@pytest.mark.parametrize(
    ("replica", "expected", "waits_for"),
    [
        pytest.param(draining(load=DRAINED), ["delete 0"], "", id="drained"),
        pytest.param(draining(load=IDLE), [], "every router to confirm the fence", id="not confirmed"),
        pytest.param(draining(load=busy(2)), [], "2 requests and 0 KV transfers to end", id="requests"),
        pytest.param(draining(load=busy(0, 1)), [], "0 requests and 1 KV transfer to end", id="KV transfers"),
        pytest.param(
            draining(load=UNSEEN), [], "the routers to answer (connection refused)", id="missing is not idle"
        ),
        pytest.param(
            draining(load=busy(2), since=801.0), [], "2 requests and", id="just before the deadline"
        ),
        pytest.param(draining(load=busy(2), since=800.0), ["delete! 0"], "", id="busy at the deadline"),
        pytest.param(draining(load=UNSEEN, since=800.0), ["delete! 0"], "", id="missing at the deadline"),
        pytest.param(draining(load=DRAINED, since=700.0), ["delete 0"], "", id="drained late is not forced"),
        pytest.param(
            draining(load=UNSEEN, lifecycle=Lifecycle.STARTING, ready_at=None),
            ["delete 0"],
            "",
            id="never served, so nothing to wait for",
        ),
        pytest.param(
            draining(load=busy(2), lifecycle=Lifecycle.TERMINATING),
            [],
            "its Pod to end",
            id="terminating ones are not deleted again",
        ),
        pytest.param(
            draining(load=busy(2), lifecycle=Lifecycle.FAILED), ["delete 0"], "", id="failed meanwhile"
        ),
    ],
)
def test_a_drain_ends(replica: Replica, expected: list[str], waits_for: str) -> None:
    outcome = plan([replica], sizes(0))
    assert steps_of(outcome) == expected
    if not expected:
        assert isinstance(outcome, Blocked)
        assert outcome.reason == "Draining"
        assert outcome.waiting_for.startswith(f"c-engine-0: {waits_for}")


def test_a_drained_replica_waits_for_its_deletion_only() -> None:
    assert waiting_for(draining(load=DRAINED)) == "its deletion"


@pytest.mark.parametrize(
    ("fleet", "expected"),
    [
        pytest.param([draining(load=busy(2))], ["unfence 0"], id="draining"),
        pytest.param([draining(load=DRAINED)], ["unfence 0"], id="already drained"),
        pytest.param(
            [draining(0, since=980), draining(1, since=985)], ["unfence 1"], id="newest fence first"
        ),
        pytest.param([draining(1), draining(0)], ["unfence 0"], id="lowest ordinal among equals"),
        pytest.param([draining(load=UNSEEN, since=800)], ["delete! 0", "create 1 prefill"], id="overdue"),
        pytest.param([draining(lifecycle=Lifecycle.UNREADY)], ["create 1 prefill"], id="unready"),
        pytest.param([draining(reason="Rollout")], ["create 1 prefill"], id="fenced for another reason"),
        pytest.param([draining(revision="r0")], ["create 1 prefill"], id="of an old revision"),
        pytest.param([draining(gpus=2)], ["create 1 prefill"], id="of an old shape"),
        pytest.param([draining(home=DECODE)], ["create 1 prefill"], id="of another pool"),
    ],
)
def test_a_fence_is_taken_back_rather_than_a_replica_created(
    fleet: list[Replica], expected: list[str]
) -> None:
    assert steps_of(plan(fleet, sizes(1))) == expected


def test_growth_beyond_the_fenced_replicas_is_created() -> None:
    outcome = plan([draining(0), make_replica(1)], sizes(3))
    assert steps_of(outcome) == ["unfence 0", "create 2 prefill"]


def test_failed_replicas_go_at_once_and_are_replaced_in_the_same_step() -> None:
    fleet = [make_replica(0, lifecycle=Lifecycle.FAILED, ready_at=5.0, load=busy(3)), make_replica(1)]
    outcome = plan(fleet, sizes(2))
    assert steps_of(outcome) == ["delete 0", "create 2 prefill"]


def test_involuntary_terminations_are_replaced_while_their_gpus_still_count() -> None:
    fleet = [make_replica(0, lifecycle=Lifecycle.TERMINATING), make_replica(1)]
    assert steps_of(plan(fleet, sizes(2), spec=make_spec(budget=3))) == ["create 2 prefill"]
    assert plan(fleet, sizes(2), spec=make_spec(budget=2)) == Blocked(
        "Draining", "c-engine-0: its Pod to end"
    )


def test_given_up_replicas_that_never_served_are_deleted_and_those_that_did_drain() -> None:
    fleet = [
        make_replica(0, lifecycle=Lifecycle.PENDING),
        make_replica(1, lifecycle=Lifecycle.UNREADY),
        make_replica(2),
    ]
    outcome = plan(fleet, sizes(3), given_up={"uid-0": "Unschedulable", "uid-1": "Unresponsive"})
    assert steps_of(outcome) == ["delete 0", "fence 1", "create 3 prefill", "create 4 prefill"]


def test_nothing_is_created_in_a_pool_that_backs_off() -> None:
    outcome = plan([], sizes(2, 1), held_back=[PREFILL])
    assert steps_of(outcome) == ["create 0 decode"]
    fleet = [make_replica(0, DECODE)]
    assert plan(fleet, sizes(2, 1), held_back=[PREFILL]) == Blocked(
        "BackOff", "prefill: replicas could not be created or started and are tried again later"
    )


def test_a_fence_is_taken_back_in_a_pool_that_backs_off() -> None:
    assert steps_of(plan([draining(0)], sizes(1), held_back=[PREFILL])) == ["unfence 0"]


def test_a_plan_without_room_says_so() -> None:
    spec = make_spec(budget=3, gpus={PREFILL: 2})
    fleet = [make_replica(0, PREFILL, gpus=2), make_replica(1, DECODE)]
    assert plan(fleet, sizes(2, 1), spec=spec) == Blocked(
        "BudgetExhausted", "prefill lacks a replica of 2 GPUs, and 3 of 3 are held"
    )


def test_a_plan_waits_for_replicas_that_start() -> None:
    fleet = [make_replica(0, lifecycle=Lifecycle.STARTING)]
    assert plan(fleet, sizes(1)) == Blocked("Starting", "c-engine-0 to become ready")


def test_the_plan_for_a_fleet_at_rest_is_complete() -> None:
    assert plan(make_fleet(2, 1, 1), sizes(2, 1, 1)) == Complete()


def test_the_receiver_keeps_serving_while_it_takes_over_from_nobody() -> None:
    unready = make_replica(0, DECODE, lifecycle=Lifecycle.UNREADY)
    outcome = plan([unready, make_replica(1, PREFILL)], sizes(0, 1))
    assert outcome == Blocked("Starting", "c-engine-0 to become ready")


def test_the_last_replica_serves_while_others_start_even_without_room_for_all() -> None:
    fleet = [make_replica(0, PREFILL), make_replica(1, MIXED, lifecycle=Lifecycle.STARTING)]
    outcome = plan(fleet, sizes(0, 0, 2), spec=make_spec(budget=2))
    assert outcome == Blocked("Starting", "c-engine-1 to become ready")


class TestDeletion:
    """Of the whole cluster."""

    def test_everything_drains_before_it_goes(self) -> None:
        world = World(make_spec()).add(
            [
                make_replica(0, load=busy(1)),
                make_replica(1, DECODE, revision="r0"),
                make_replica(2, lifecycle=Lifecycle.PENDING),
                make_replica(3, lifecycle=Lifecycle.FAILED),
                draining(4, load=busy(3)),
            ]
        )
        steps = []
        for _ in range(20):
            outcome = plan_deletion(now=world.now, spec=world.spec, replicas=world.observed())
            if isinstance(outcome, Complete):
                break
            steps.append(", ".join(steps_of(outcome)) or ".")
            world.apply(actions_of(outcome))
            world.pass_time()
        assert steps == [
            "delete 3, delete 2, fence 1, fence 0",
            "delete 0, delete 1",
            ".",
            "delete 4",
            ".",
        ]
        assert world.replicas == {}

    def test_it_waits_for_the_last_pod(self) -> None:
        replicas = (make_replica(0, lifecycle=Lifecycle.TERMINATING),)
        outcome = plan_deletion(now=1000.0, spec=SPEC, replicas=replicas)
        assert outcome == Blocked("Draining", "c-engine-0: its Pod to end")

    def test_no_fence_is_taken_back(self) -> None:
        replicas = (draining(0, load=busy(1)),)
        outcome = plan_deletion(now=1000.0, spec=SPEC, replicas=replicas)
        assert isinstance(outcome, Blocked)


@pytest.mark.parametrize(
    ("seen_for", "is_cut"),
    [
        pytest.param(None, True, id="one clock for everything"),
        pytest.param(10.0, False, id="a leader that has just met the fence"),
        pytest.param(60.0, True, id="a leader that has asked for a minute"),
    ],
)
def test_a_drain_is_not_cut_by_the_clock_of_a_process_that_has_just_met_it(
    seen_for: float | None, is_cut: bool
) -> None:
    spec, now = make_spec(minimum=(0, 0, 0)), 100_000.0
    busy = replace(
        make_replica(0, PoolName.DECODE),
        fenced_at=now - spec.drain_deadline_seconds,
        fence_seen_at=None if seen_for is None else now - seen_for,
        fence_reason="ScaleDown",
        load=ReplicaLoad(in_flight=1, kv_transfers=0, fence_confirmed=True),
    )
    outcome = plan_transition(TransitionRequest(now, spec, (busy,), dict.fromkeys(PoolName, 0), given_up={}))
    cut = Delete(busy.name, busy.uid, "DrainDeadline", forced=True)
    assert outcome == (
        Progress((cut,))
        if is_cut
        else Blocked("Draining", f"{busy.name}: 1 request and 0 KV transfers to end")
    )


ALIKE = make_spec(budget=4, interchangeable=True)


@pytest.mark.parametrize(
    ("fleet", "targets", "expected"),
    [
        pytest.param((3, 1, 0), (2, 2, 0), ["convert 2 decode"], id="a trade"),
        pytest.param(
            (0, 2, 2), (2, 1, 1), ["convert 1 prefill, convert 3 prefill"], id="from several pools to one"
        ),
        pytest.param(
            (4, 0, 0),
            (1, 2, 1),
            ["convert 3 decode, convert 2 mixed, convert 1 decode"],
            id="to several pools, the neediest first",
        ),
        pytest.param(
            (3, 0, 0), (1, 1, 0), ["convert 2 decode, fence 1", "delete 1", "."], id="what is left drains"
        ),
        pytest.param((2, 1, 0), (1, 3, 0), ["convert 1 decode, create 3 decode", "."], id="what lacks boots"),
        pytest.param(
            (1, 1, 0), (0, 0, 1), ["convert 0 mixed, fence 1", "delete 1", "."], id="to mixed alone"
        ),
        pytest.param(
            (0, 0, 2), (1, 1, 0), ["convert 1 prefill, convert 0 decode"], id="mixed apart into a pair"
        ),
        pytest.param(
            (0, 0, 1),
            (1, 1, 0),
            ["create 1 decode", ".", "convert 0 prefill"],
            id="the last replica that serves a phase stays until another does",
        ),
    ],
)
def test_replicas_move_between_interchangeable_pools(
    fleet: tuple[int, int, int], targets: tuple[int, int, int], expected: list[str]
) -> None:
    world = World(ALIKE).add(make_fleet(*fleet))
    assert drive(world, sizes(*targets)) == expected


@pytest.mark.parametrize(
    ("replica", "expected"),
    [
        pytest.param(make_replica(0), ["convert 0 decode"], id="idle"),
        pytest.param(
            make_replica(0, load=busy(3, 2)), ["convert 0 decode"], id="busy: it finishes what it holds"
        ),
        pytest.param(make_replica(0, load=UNSEEN), ["convert 0 decode"], id="with a load that is not known"),
        pytest.param(
            make_replica(0, lifecycle=Lifecycle.PENDING), ["convert 0 decode"], id="on its way to its node"
        ),
        pytest.param(make_replica(0, lifecycle=Lifecycle.STARTING), ["convert 0 decode"], id="booting"),
        pytest.param(
            make_replica(0, lifecycle=Lifecycle.UNREADY), ["fence 0", "create 1 decode"], id="unready drains"
        ),
        pytest.param(
            make_replica(0, lifecycle=Lifecycle.STARTING, ready_at=5.0),
            ["fence 0", "create 1 decode"],
            id="restarting drains",
        ),
        pytest.param(
            replace(make_replica(0), template="t0"),
            ["fence 0", "create 1 decode"],
            id="of another template: a rollout",
        ),
        pytest.param(draining(0), ["convert 0 decode"], id="draining comes back in the pool that lacks it"),
        pytest.param(draining(0, load=DRAINED), ["convert 0 decode"], id="drained"),
        pytest.param(draining(0, reason="Rollout"), ["create 1 decode"], id="fenced for another reason"),
        pytest.param(draining(0, load=busy(1), since=800.0), ["delete! 0", "create 1 decode"], id="overdue"),
    ],
)
def test_which_replicas_may_move(replica: Replica, expected: list[str]) -> None:
    another = make_replica(9, created_at=-1.0, load=busy(50))
    assert steps_of(plan([replica, another], sizes(1, 1), spec=ALIKE)) == expected


@pytest.mark.parametrize(
    ("fleet", "expected"),
    [
        pytest.param(
            [make_replica(0, load=busy(5)), make_replica(1, load=busy(1)), make_replica(2)],
            ["convert 2 decode", "fence 1", "fence 0"],
            id="the least loaded",
        ),
        pytest.param(
            [make_replica(0, load=busy(5)), make_replica(1, lifecycle=Lifecycle.PENDING)],
            ["convert 0 decode", "delete 1"],
            id="one that serves before one that boots",
        ),
        pytest.param(
            [draining(0), make_replica(1)], ["convert 0 decode", "fence 1"], id="one that drains first"
        ),
    ],
)
def test_who_moves(fleet: list[Replica], expected: list[str]) -> None:
    assert steps_of(
        plan([*fleet, make_replica(9, MIXED)], sizes(0, 1, 1), spec=make_spec(interchangeable=True))
    ) == (expected)


def test_its_own_pool_takes_a_draining_replica_back_first() -> None:
    outcome = plan([draining(0)], sizes(1, 1), spec=ALIKE)
    assert steps_of(outcome) == ["unfence 0", "create 1 decode"]


def test_each_pool_takes_its_own_back_before_others_take_them() -> None:
    fleet = [draining(0, since=995), draining(1, since=990), draining(2, since=985, home=DECODE)]
    outcome = plan([*fleet, make_replica(9, MIXED)], sizes(1, 1, 2), spec=make_spec(interchangeable=True))
    assert steps_of(outcome) == ["unfence 0", "convert 1 mixed", "unfence 2"]


def test_nobody_moves_to_a_pool_of_another_shape_or_speed() -> None:
    """The flag is of pools, and two of them may agree while the third does not."""
    prefill, decode, mixed = ALIKE.pools
    other = replace(decode, interchangeable=False)
    outcome = plan(make_fleet(2), sizes(1, 1), spec=replace(ALIKE, pools=(prefill, other, mixed)))
    assert steps_of(outcome) == ["fence 1", "create 2 decode"]
    larger = replace(decode, gpus_per_replica=2)
    outcome = plan(make_fleet(2), sizes(1, 1), spec=replace(ALIKE, pools=(prefill, larger, mixed)))
    assert steps_of(outcome) == ["fence 1", "create 2 decode"]


def test_replicas_move_to_a_pool_that_backs_off() -> None:
    """What cannot boot need not boot."""
    assert steps_of(plan(make_fleet(2), sizes(1, 1), spec=ALIKE, held_back=[DECODE])) == ["convert 1 decode"]


def test_a_move_within_the_new_revision_makes_room_without_an_old_replica() -> None:
    fleet = [*make_fleet(2), make_replica(2, DECODE, revision="r0")]
    assert steps_of(plan(fleet, sizes(1, 1), spec=replace(ALIKE, budget_gpus=3))) == ["convert 1 decode"]


def test_the_deletion_of_the_cluster_moves_nobody() -> None:
    outcome = plan_deletion(now=1000.0, spec=ALIKE, replicas=tuple(make_fleet(2, 1)))
    assert steps_of(outcome) == ["fence 2", "fence 1", "fence 0"]

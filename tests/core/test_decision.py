"""`decide` as its callers see it: modes, restarts, records, status, and what a look without news leaves alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from tests.strategies import (
    NO_DELAY,
    QUIET,
    UNSEEN,
    World,
    fleets,
    make_fleet,
    make_flow,
    make_observation,
    make_replica,
    make_spec,
    sizes,
    specs,
)

from inferencecluster.core.actions import Create, Delete, Fence
from inferencecluster.core.decision import MAX_RECORDS, Decision, Memory, decide
from inferencecluster.core.fleet import Lifecycle, PoolName, Replica
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import MetricsSample, PoolCapacity, Refusal, RouterSample
from inferencecluster.core.replacement import FIRST_BACK_OFF_SECONDS
from inferencecluster.core.spec import ClusterSpec, ScalingMode
from inferencecluster.core.status import ConditionStatus, ConditionType, DecisionRecord
from inferencecluster.core.transition import Blocked, Complete

PREFILL, DECODE, MIXED = PoolName
SPEC = make_spec(minimum=(1, 1, 0), budget=20)
LOADED = 12.0
"""Requests per second that keep 2.4 prefill replicas busy."""


def targets_of(decision: Decision) -> tuple[int, ...]:
    return tuple(decision.targets[name] for name in PoolName)


def condition_of(decision: Decision, kind: ConditionType) -> tuple[ConditionStatus, str]:
    found = next(item for item in decision.status.conditions if item.type is kind)
    return found.status, found.reason


def restored(*counts: int, records: tuple[DecisionRecord, ...] = ()) -> Memory:
    return Memory.restored(sizes(*counts), records, 990.0)


class TestTheFirstLook:
    """Without memory."""

    def test_an_empty_cluster_starts_at_its_minimums(self) -> None:
        decision = decide(make_observation(SPEC), Memory.empty())
        assert targets_of(decision) == (1, 1, 0)
        assert [action.pool for action in decision.actions if isinstance(action, Create)] == [PREFILL, DECODE]

    def test_so_it_does_when_nothing_can_be_seen(self) -> None:
        decision = decide(make_observation(SPEC, rate=UNSEEN, metrics=UNSEEN), Memory.empty())
        assert targets_of(decision) == (1, 1, 0)

    def test_an_existing_fleet_is_kept_while_nothing_can_be_seen(self) -> None:
        observation = make_observation(SPEC, make_fleet(3, 2, 1), rate=UNSEEN, metrics=UNSEEN)
        decision = decide(observation, Memory.empty())
        assert targets_of(decision) == (3, 2, 1)
        assert decision.outcome == Complete()
        assert decision.records == ()

    def test_an_existing_fleet_is_kept_within_its_bounds(self) -> None:
        spec = make_spec(minimum=(1, 1, 0), maximum=(2, 2, 2))
        observation = make_observation(spec, make_fleet(5, 0, 1), rate=UNSEEN, metrics=UNSEEN)
        assert targets_of(decide(observation, Memory.empty())) == (2, 1, 1)


class TestModes:
    """Who decides the sizes."""

    def test_automatic_follows_demand(self) -> None:
        decision = decide(make_observation(SPEC, make_fleet(1, 1), rate=LOADED), Memory.empty())
        assert decision.targets[PREFILL] > 1
        assert decision.status.pools[0].recommended == decision.targets[PREFILL]

    def test_recommend_tells_and_changes_nothing(self) -> None:
        spec = replace(SPEC, mode=ScalingMode.RECOMMEND)
        observation = make_observation(spec, make_fleet(1, 1), rate=LOADED)
        decision = decide(observation, restored(1, 1, 0))
        automatic = decide(replace(observation, spec=SPEC), restored(1, 1, 0))
        assert targets_of(decision) == (1, 1, 0)
        assert decision.actions == ()
        assert decision.status.pools[0].recommended == automatic.targets[PREFILL]
        assert [(record.pool, record.before, record.after) for record in decision.records] == [
            (record.pool, record.before, record.after) for record in automatic.records
        ]
        assert all(record.message.startswith("recommended only: ") for record in decision.records)

    def test_recommend_still_repairs(self) -> None:
        spec = replace(SPEC, mode=ScalingMode.RECOMMEND)
        decision = decide(make_observation(spec, make_fleet(0, 1)), restored(1, 1, 0))
        assert [type(action) for action in decision.actions] == [Create]

    def test_recommend_keeps_a_size_that_its_nodes_cannot_hold_for_a_while(self) -> None:
        spec = replace(SPEC, mode=ScalingMode.RECOMMEND)
        broken = make_replica(9, lifecycle=Lifecycle.FAILED, failure="ErrImagePull: x")
        decision = decide(make_observation(spec, [*make_fleet(1, 1), broken]), restored(2, 1, 0))
        assert targets_of(decision) == (2, 1, 0)
        assert [type(action) for action in decision.actions] == [Delete]

    def test_recommend_tells_each_recommendation_once_also_over_a_restart(self) -> None:
        spec = replace(SPEC, mode=ScalingMode.RECOMMEND)
        observation = make_observation(spec, make_fleet(1, 1), rate=LOADED)
        first = decide(observation, restored(1, 1, 0))
        assert first.records
        again = replace(observation, now=observation.now + 10)
        assert decide(again, first.memory).records == ()
        assert decide(again, restored(1, 1, 0, records=first.memory.records)).records == ()

    def test_a_bound_binds_in_recommend_too(self) -> None:
        spec = replace(make_spec(minimum=(2, 1, 0)), mode=ScalingMode.RECOMMEND)
        decision = decide(make_observation(spec, make_fleet(1, 1)), restored(1, 1, 0))
        assert targets_of(decision) == (2, 1, 0)
        assert (decision.records[0].reason, decision.records[0].after) == ("MinReplicas", 2)

    @pytest.mark.parametrize(
        ("external", "expected"),
        [
            pytest.param({PREFILL: 3, DECODE: 2}, (3, 2, 1), id="a pool that nobody set stays"),
            pytest.param({PREFILL: 0, DECODE: 50, MIXED: 0}, (1, 10, 0), id="within bounds"),
            pytest.param(Missing("NoEnginePool"), (2, 2, 1), id="not seen: sizes hold"),
        ],
    )
    def test_external_is_bounded(
        self, external: dict[PoolName, int] | Missing, expected: tuple[int, int, int]
    ) -> None:
        spec = replace(SPEC, mode=ScalingMode.EXTERNAL)
        observation = make_observation(
            spec, make_fleet(2, 2, 1), rate=UNSEEN, metrics=UNSEEN, external=external, sizing_due=False
        )
        assert targets_of(decide(observation, restored(2, 2, 1))) == expected

    def test_external_shares_the_budget(self) -> None:
        spec = replace(make_spec(minimum=(1, 1, 0), budget=4), mode=ScalingMode.EXTERNAL)
        observation = make_observation(spec, external=sizes(9, 9, 9))
        assert targets_of(decide(observation, Memory.empty())) == (2, 2, 0)

    def test_what_demand_would_choose_is_told_beside(self) -> None:
        spec = replace(SPEC, mode=ScalingMode.FIXED)
        decision = decide(make_observation(spec, make_fleet(1, 1), rate=LOADED), restored(1, 1, 0))
        assert targets_of(decision) == (1, 1, 0)
        assert decision.status.pools[0].recommended > 1

    def test_and_it_does_not_wait_for_windows_that_bind_nobody(self) -> None:
        slow = replace(NO_DELAY, scale_up=replace(NO_DELAY.scale_up, stabilization_window_seconds=600.0))
        spec = replace(SPEC, mode=ScalingMode.FIXED, behavior=slow)
        decision = decide(make_observation(spec, make_fleet(1, 1), rate=LOADED), restored(1, 1, 0))
        assert decision.status.pools[0].recommended > 1

    def test_automatic_takes_over_from_the_sizes_that_were_set(self) -> None:
        external = replace(SPEC, mode=ScalingMode.EXTERNAL)
        observation = make_observation(external, make_fleet(1, 1), external=sizes(3, 2, 1))
        first = decide(observation, restored(1, 1, 0))
        spec = replace(SPEC, generation=2)
        blind = make_observation(spec, make_fleet(1, 1), now=1010.0, rate=UNSEEN, metrics=UNSEEN)
        assert targets_of(decide(blind, first.memory)) == (3, 2, 1)

    def test_fixed_is_the_minimum(self) -> None:
        spec = replace(SPEC, mode=ScalingMode.FIXED)
        decision = decide(make_observation(spec, make_fleet(3, 3, 1), rate=LOADED), restored(3, 3, 1))
        assert targets_of(decision) == (1, 1, 0)
        assert {record.reason for record in decision.records} == {"Fixed"}


class TestBetweenTicks:
    """Sizes stay, everything else goes on."""

    def test_demand_waits_for_the_next_tick(self) -> None:
        first = decide(make_observation(SPEC, make_fleet(1, 1)), Memory.empty())
        burst = make_observation(SPEC, make_fleet(1, 1), now=1002.0, rate=LOADED, sizing_due=False)
        assert targets_of(decide(burst, first.memory)) == (1, 1, 0)

    def test_another_spec_does_not_wait(self) -> None:
        first = decide(make_observation(SPEC, make_fleet(1, 1)), Memory.empty())
        spec = replace(make_spec(minimum=(2, 1, 0)), generation=2)
        second = decide(make_observation(spec, make_fleet(1, 1), now=1002.0, sizing_due=False), first.memory)
        assert targets_of(second) == (2, 1, 0)

    def test_a_lost_replica_does_not_wait(self) -> None:
        first = decide(make_observation(SPEC, make_fleet(1, 1)), Memory.empty())
        second = decide(make_observation(SPEC, make_fleet(1), now=1002.0, sizing_due=False), first.memory)
        assert [type(action) for action in second.actions] == [Create]


class TestMissingSignals:
    """They hold: never shrink."""

    @pytest.mark.parametrize(
        ("rate", "metrics"),
        [
            pytest.param(UNSEEN, None, id="routers"),
            pytest.param(0.0, UNSEEN, id="Prometheus"),
            pytest.param(UNSEEN, UNSEEN, id="both"),
        ],
    )
    def test_no_pool_shrinks(self, rate: float | Missing, metrics: Missing | None) -> None:
        memory = restored(4, 3, 2)
        for look in range(60):
            now = 1000.0 + 10 * look
            observation = make_observation(SPEC, make_fleet(4, 3, 2), now=now, rate=rate, metrics=metrics)
            decision = decide(observation, memory)
            memory = decision.memory
            assert targets_of(decision) == (4, 3, 2)
            assert decision.actions == ()

    def test_they_do_when_all_is_seen(self) -> None:
        """So that the test above can fail."""
        memory = restored(4, 3, 2)
        for look in range(60):
            now = 1000.0 + 10 * look
            decision = decide(make_observation(SPEC, make_fleet(4, 3, 2), now=now), memory)
            memory = decision.memory
        assert targets_of(decision) == (1, 1, 0)

    def test_growth_goes_on_without_prometheus(self) -> None:
        observation = make_observation(SPEC, make_fleet(1, 1), rate=LOADED, metrics=UNSEEN)
        assert decide(observation, restored(1, 1, 0)).targets[PREFILL] > 1


class TestReplicasThatDoNotStart:
    """Given up, waited for, tried again."""

    def run(self, spec: ClusterSpec, wished: dict[PoolName, int], looks: int) -> list[tuple[int, int, int]]:
        """(seconds since the start, desired, existing) of prefill, whose second replica finds no node."""
        world = World(spec, starts=lambda replica: replica.name == "c-engine-0" or replica.home is DECODE)
        memory, seen = Memory.empty(), []
        for _ in range(looks):
            observation = make_observation(spec, world.observed(), now=world.now, external=wished)
            decision = decide(observation, memory)
            memory = decision.memory
            existing = sum(replica.home is PREFILL for replica in world.observed())
            seen.append((int(world.now - 1000), decision.targets[PREFILL], existing))
            world.apply(decision.actions)
            world.pass_time()
        return seen

    def test_above_the_minimum_the_wish_is_lowered_and_raised_again(self) -> None:
        spec = make_spec(minimum=(1, 1, 0), budget=20, mode=ScalingMode.EXTERNAL)
        seen = self.run(spec, sizes(2, 1, 0), looks=25)
        lowered = [now for now, target, _ in seen if target == 1]
        tried_again = 100 + FIRST_BACK_OFF_SECONDS
        assert lowered == [100, 110, 120, tried_again + 100, tried_again + 110]

    def test_the_minimum_stays_desired_and_its_creation_waits(self) -> None:
        spec = make_spec(minimum=(2, 1, 0), budget=20, mode=ScalingMode.EXTERNAL)
        seen = self.run(spec, sizes(2, 1, 0), looks=25)
        assert {target for _, target, _ in seen} == {2}
        waits = [now for now, _, existing in seen if existing == 1]
        assert waits == [120, 130], "between the given-up Pod's end and the next try, nothing new exists"

    def test_what_cannot_start_is_told_with_its_cause(self) -> None:
        stuck = make_replica(1, lifecycle=Lifecycle.STARTING, created_at=800.0)
        observation = make_observation(
            make_spec(minimum=(2, 1, 0)), [make_replica(0), stuck, make_replica(2, DECODE)]
        )
        decision = decide(observation, restored(2, 1, 0))
        assert [(type(action), action.reason) for action in decision.actions] == [
            (Delete, "StartupDeadlineExceeded")
        ]
        assert targets_of(decision) == (2, 1, 0)
        for kind in (ConditionType.STALLED, ConditionType.SCALING_LIMITED):
            assert condition_of(decision, kind) == (ConditionStatus.TRUE, "StartupDeadlineExceeded")

    @pytest.mark.parametrize(
        ("failure", "reason", "limited_by"),
        [
            pytest.param("ErrImagePull: not found", "ImagePullFailed", "backOff", id="image"),
            pytest.param("CrashLoopBackOff: exit code 1", "EngineCrashed", "backOff", id="crash"),
            pytest.param("", "NodesExhausted", "nodes", id="no node"),
        ],
    )
    def test_a_lowered_wish_is_recorded_with_its_cause(
        self, failure: str, reason: str, limited_by: str
    ) -> None:
        stuck = (
            make_replica(9, lifecycle=Lifecycle.FAILED, failure=failure)
            if failure
            else make_replica(9, lifecycle=Lifecycle.PENDING, created_at=800.0)
        )
        spec = replace(SPEC, mode=ScalingMode.EXTERNAL)
        observation = make_observation(spec, [*make_fleet(1, 1), stuck], external=sizes(2, 1, 0))
        decision = decide(observation, restored(2, 1, 0))
        assert [(record.reason, record.limited_by) for record in decision.records] == [(reason, limited_by)]

    def test_trouble_is_told_through_the_next_try_until_a_replica_serves(self) -> None:
        spec = replace(SPEC, mode=ScalingMode.EXTERNAL)
        broken = make_replica(9, lifecycle=Lifecycle.FAILED, failure="ErrImagePull: x")
        fleet, wished = make_fleet(1, 1), sizes(2, 1, 0)
        first = decide(make_observation(spec, [*fleet, broken], external=wished), restored(2, 1, 0))
        trying = make_replica(2, lifecycle=Lifecycle.STARTING, created_at=1040.0)
        retry = make_observation(spec, [*fleet, trying], now=1050.0, external=wished)
        second = decide(retry, first.memory)
        assert condition_of(second, ConditionType.SCALING_LIMITED) == (
            ConditionStatus.TRUE,
            "ImagePullFailed",
        )
        served = make_replica(2, created_at=1040.0)
        more = make_observation(spec, [*fleet, served], now=1060.0, external=sizes(3, 1, 0))
        third = decide(more, second.memory)
        assert condition_of(third, ConditionType.SCALING_LIMITED) == (ConditionStatus.FALSE, "WithinLimits")

    def test_a_rollout_that_fails_is_not_repeated_at_once(self) -> None:
        old = make_fleet(1, 1, revision="r0")
        broken = make_replica(2, lifecycle=Lifecycle.FAILED, failure="ErrImagePull: x")
        memory = restored(1, 1, 0)
        first = decide(make_observation(SPEC, [*old, broken, make_replica(3, DECODE)]), memory)
        assert [type(action) for action in first.actions] == [Delete]
        later = make_observation(SPEC, [*old, make_replica(3, DECODE)], now=1010.0)
        second = decide(later, first.memory)
        assert second.actions == ()
        assert second.outcome == Blocked(
            "BackOff", "prefill: replicas could not be created or started and are tried again later"
        )
        assert condition_of(second, ConditionType.STALLED) == (ConditionStatus.TRUE, "ImagePullFailed")


class TestCreatesThatAreRefused:
    """The API server says no."""

    REFUSAL = Refusal(DECODE, "QuotaExceeded", 'pods "c-engine-2" is forbidden: exceeded quota: gpus (403)')

    def look(self, memory: Memory, now: float, *refusals: Refusal, minimum: int = 1) -> Decision:
        spec = make_spec(minimum=(1, minimum, 0), mode=ScalingMode.EXTERNAL)
        observation = make_observation(spec, make_fleet(1, 1), now=now, external=sizes(1, 2, 0))
        return decide(replace(observation, refusals=refusals), memory)

    def test_they_are_held_back_and_tried_again_after_a_growing_wait(self) -> None:
        memory, tries = restored(1, 2, 0), []
        refused: tuple[Refusal, ...] = ()
        for second in range(600):
            decision = self.look(memory, 1000.0 + second, *refused)
            memory, refused = decision.memory, ()
            if decision.actions:
                tries.append(second)
                refused = (self.REFUSAL,)
        # Each refusal is seen one look after its try.
        assert tries == [0, 2, 5, 10, 19, 36, 69, 134, 263, 520]

    def test_the_wish_is_lowered_to_what_exists_and_the_cause_is_told_in_the_servers_words(self) -> None:
        decision = self.look(restored(1, 2, 0), 1000.0, self.REFUSAL)
        assert targets_of(decision) == (1, 1, 0)
        [record] = decision.records
        assert (record.reason, record.limited_by) == ("QuotaExceeded", "quota")
        assert "exceeded quota: gpus" in record.message
        assert condition_of(decision, ConditionType.SCALING_LIMITED) == (
            ConditionStatus.TRUE,
            "QuotaExceeded",
        )

    def test_below_the_minimum_the_cluster_is_stalled_and_the_minimum_stays_desired(self) -> None:
        decision = self.look(restored(1, 2, 0), 1000.0, self.REFUSAL, minimum=2)
        assert targets_of(decision) == (1, 2, 0)
        assert decision.actions == ()
        assert condition_of(decision, ConditionType.STALLED) == (ConditionStatus.TRUE, "QuotaExceeded")

    def test_nothing_is_deleted_because_nothing_can_be_created(self) -> None:
        spec = replace(SPEC, mode=ScalingMode.EXTERNAL)
        pending = make_replica(2, DECODE, lifecycle=Lifecycle.PENDING, created_at=995.0)
        observation = make_observation(spec, [*make_fleet(1, 1), pending], external=sizes(1, 3, 0))
        decision = decide(replace(observation, refusals=(self.REFUSAL,)), restored(1, 3, 0))
        assert targets_of(decision) == (1, 2, 0)
        assert decision.actions == ()


class TestSettling:
    """Reconciling is about the spec, not about sizes."""

    def test_a_new_spec_is_reconciled_once(self) -> None:
        young = [make_replica(0, lifecycle=Lifecycle.STARTING, created_at=990.0), make_replica(1, DECODE)]
        first = decide(make_observation(SPEC, young), Memory.empty())
        assert condition_of(first, ConditionType.RECONCILING) == (ConditionStatus.TRUE, "BelowMinimum")
        second = decide(make_observation(SPEC, make_fleet(1, 1), now=1010.0), first.memory)
        assert condition_of(second, ConditionType.RECONCILING) == (ConditionStatus.FALSE, "Settled")
        third = decide(make_observation(SPEC, young, now=1020.0), second.memory)
        assert condition_of(third, ConditionType.RECONCILING) == (ConditionStatus.FALSE, "Settled")
        assert condition_of(third, ConditionType.READY) == (ConditionStatus.FALSE, "BelowMinimum")

    def test_a_restart_does_not_reconcile_again_what_was_settled(self) -> None:
        memory = Memory.restored(sizes(1, 1, 0), (), 990.0, settled_generation=SPEC.generation)
        decision = decide(make_observation(SPEC, make_fleet(1)), memory)
        assert condition_of(decision, ConditionType.RECONCILING) == (ConditionStatus.FALSE, "Settled")


class TestStatus:
    """What is told about pools and drains."""

    def test_pools_count_what_exists(self) -> None:
        replicas = [
            make_replica(0, gpus=1),
            make_replica(1, lifecycle=Lifecycle.STARTING),
            make_replica(2, fenced_at=990.0, fence_reason="ScaleDown"),
            make_replica(3, lifecycle=Lifecycle.TERMINATING),
            make_replica(4, DECODE),
        ]
        nodes = PoolCapacity(PREFILL, 1, 8, 4, 4, 4)
        observation = make_observation(SPEC, replicas, capacity=(nodes,))
        borrowing = RouterSample(replace(QUIET, borrowed_replicas=("c-engine-0",)), make_flow(0.0))
        status = decide(replace(observation, routers=borrowing), restored(2, 1, 0)).status
        prefill = status.pools[0]
        assert (prefill.ready, prefill.starting, prefill.draining, prefill.borrowed) == (1, 1, 2, 1)
        assert (prefill.gpus, status.gpus, status.budget_gpus) == (4, 5, 20)
        assert prefill.capacity == nodes
        assert isinstance(status.pools[1].capacity, Missing)

    def test_nothing_is_borrowed_as_far_as_can_be_seen_without_routers(self) -> None:
        decision = decide(make_observation(SPEC, make_fleet(1, 1), rate=UNSEEN), restored(1, 1, 0))
        assert [pool.borrowed for pool in decision.status.pools] == [0, 0, 0]

    def test_a_drain_shows_its_deadline_and_what_it_waits_for(self) -> None:
        replicas = [*make_fleet(1, 1), make_replica(2, fenced_at=990.0, fence_reason="ScaleDown")]
        drain = decide(make_observation(SPEC, replicas), restored(1, 1, 0)).status.draining[0]
        assert (drain.replica, drain.pool, drain.since, drain.deadline) == (
            "c-engine-2",
            PREFILL,
            990.0,
            1190.0,
        )
        assert drain.waiting_for == "every router to confirm the fence"


class TestRecords:
    """Why sizes changed."""

    def test_each_change_is_recorded_with_its_inputs(self) -> None:
        decision = decide(make_observation(SPEC, make_fleet(1, 1), rate=LOADED), restored(1, 1, 0))
        record = decision.records[0]
        assert (record.pool, record.before, record.after) == (PREFILL, 1, decision.targets[PREFILL])
        # A fifth of headroom, because no plan has come due yet.
        assert dict(record.inputs)["requestsPerSecond"] == pytest.approx(1.2 * LOADED)

    def test_no_change_is_no_record(self) -> None:
        assert decide(make_observation(SPEC, make_fleet(1, 1)), restored(1, 1, 0)).records == ()

    def test_memory_keeps_the_newest(self) -> None:
        told = DecisionRecord(1.0, PREFILL, 1, 2, "Work", "", ())
        memory = restored(1, 1, 0, records=(told,) * MAX_RECORDS)
        decision = decide(make_observation(SPEC, make_fleet(1, 1), rate=LOADED), memory)
        assert len(decision.memory.records) == MAX_RECORDS
        assert decision.memory.records[: len(decision.records)] == decision.records


class TestRestart:
    """The operator may die at any moment."""

    def test_a_half_done_growth_goes_on(self) -> None:
        observation = make_observation(SPEC, make_fleet(1, 1), rate=UNSEEN, metrics=UNSEEN)
        decision = decide(observation, restored(3, 1, 0))
        assert targets_of(decision) == (3, 1, 0)
        assert [type(action) for action in decision.actions] == [Create, Create]

    def test_a_half_done_shrink_goes_on(self) -> None:
        observation = make_observation(SPEC, make_fleet(3, 1), rate=UNSEEN, metrics=UNSEEN)
        decision = decide(observation, restored(2, 1, 0))
        assert [type(action) for action in decision.actions] == [Fence]

    def test_nothing_shrinks_before_its_window_has_passed_again(self) -> None:
        slow = replace(NO_DELAY, scale_down=replace(NO_DELAY.scale_down, stabilization_window_seconds=300.0))
        spec = make_spec(minimum=(1, 1, 0), behavior=slow)
        decision = decide(make_observation(spec, make_fleet(4, 4)), restored(4, 4, 0))
        assert targets_of(decision) == (4, 4, 0)


@given(specs(), fleets())
def test_equal_arguments_give_equal_decisions(spec: ClusterSpec, fleet: tuple[Replica, ...]) -> None:
    observation = make_observation(spec, fleet, rate=LOADED)
    assert decide(observation, Memory.empty()) == decide(observation, Memory.empty())


@given(specs(), fleets())
def test_sizes_keep_bounds_and_budget_for_every_fleet(spec: ClusterSpec, fleet: tuple[Replica, ...]) -> None:
    decision = decide(make_observation(spec, fleet, rate=LOADED), Memory.empty())
    assert all(decision.targets[pool.name] <= pool.max_replicas for pool in spec.pools)
    gpus = sum(decision.targets[pool.name] * pool.gpus_per_replica for pool in spec.pools)
    assert gpus <= spec.budget_gpus


def test_a_cluster_at_rest_says_the_same_at_every_look() -> None:
    memory, said = Memory.empty(), []
    for look in range(30):
        now = 1000.0 + 10 * look
        metrics = MetricsSample(make_flow(3.0, 60.0), 0.3, 0.015)
        decision = decide(
            make_observation(SPEC, make_fleet(1, 1), now=now, rate=3.0, metrics=metrics), memory
        )
        memory = decision.memory
        said.append((decision.actions, decision.status, decision.records))
    assert all(item == said[2] for item in said[2:])

"""Anything may happen in any order; what DESIGN section 7 promises must hold after each step (tests/invariants.py).

A case is one cluster with a spec of its own and up to 8 (short walks) or 40 steps of people, faults and the operator; counted are
cases, not the looks inside them. A run of the suite makes 2000 short ones, 500 for each design, and 100 long ones, after which the
world calms down and the fleet must settle. `make simulations-long` makes ten times as many.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.invariants import Witness, cases, is_at_rest, the_fleet_is_as_decided
from tests.strategies import (
    UNSEEN,
    Design,
    World,
    make_observation,
    make_spec,
    specs,
    with_half_the_budget,
    with_other_bounds,
)

from inferencecluster.core.actions import Create, Fence
from inferencecluster.core.decision import Decision, Memory, decide
from inferencecluster.core.fleet import Lifecycle, PoolName, Replica, ReplicaLoad, gpus_held
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Refusal
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.core.status import DecisionRecord

pytestmark = pytest.mark.timeout(300)
"""Thousands of cases: on cores that others use, too, they take minutes."""

LOOKS_TO_SETTLE = 300
"""Enough for every drain deadline (20 looks), back-off (60) and startup deadline (10) in a row."""


class Operator(RuleBasedStateMachine):
    """One cluster, its operator, and everybody who interferes with it."""

    design: ClassVar[Design | None] = None
    """What it begins with; any where None."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory.empty()
        self.published: tuple[dict[PoolName, int], tuple[DecisionRecord, ...]] | None = None
        self.rate: float = 0.0
        self.sees_metrics = True
        self.broken: set[PoolName] = set()
        self.refusing: set[PoolName] = set()
        self.refusals: tuple[Refusal, ...] = ()
        self.witness = Witness()

    @initialize(data=st.data())
    def create(self, data: st.DataObject) -> None:
        spec = data.draw(specs(design=self.design))
        self.world = World(spec, starts=lambda replica: replica.home not in self.broken)

    def observe_and_decide(self) -> Decision:
        observation = make_observation(
            self.world.spec,
            self.world.observed(),
            now=self.world.now,
            rate=self.rate if self.world.routers_answer else UNSEEN,
            metrics=None if self.sees_metrics else UNSEEN,
        )
        observation = replace(observation, refusals=self.refusals)
        decision = decide(observation, self.memory)
        self.witness.saw(observation, self.memory, decision)
        return decision

    @rule(seconds=st.sampled_from([1.0, 10.0, 60.0]))
    def look(self, seconds: float) -> None:
        decision = self.observe_and_decide()
        self.memory = decision.memory
        self.publish(decision)
        self.act(decision)
        self.world.pass_time(seconds)

    def act(self, decision: Decision) -> None:
        """All actions but the creates that the API server refuses."""
        refused = {
            action.pool: action
            for action in decision.actions
            if isinstance(action, Create) and action.pool in self.refusing
        }
        waiting = self.memory.replacement.waiting(self.world.now)
        assert not refused.keys() & waiting.keys(), "tried again before its wait was over"
        self.refusals = tuple(Refusal(name, "QuotaExceeded", "exceeded quota") for name in refused)
        self.world.apply(
            action
            for action in decision.actions
            if not (isinstance(action, Create) and action.pool in refused)
        )

    def publish(self, decision: Decision) -> None:
        self.published = dict(decision.targets), decision.memory.records
        self.witness.published(self.world.spec, decision)

    @rule()
    def crash_before_acting(self) -> None:
        """Status is written first, then the operator dies."""
        decision = self.observe_and_decide()
        self.publish(decision)
        self.restart()

    @rule(share=st.floats(0.0, 1.0))
    def crash_while_acting(self, share: float) -> None:
        decision = self.observe_and_decide()
        self.publish(decision)
        self.world.apply(decision.actions[: int(share * len(decision.actions))])
        self.restart()

    def restart(self) -> None:
        self.memory = Memory.empty()
        self.refusals = ()
        if self.published is not None:
            targets, records = self.published
            self.memory = Memory.restored(targets, records, self.world.now)

    @rule()
    def repeat_all_writes(self) -> None:
        """A stale cache shows the past: the same actions come again and must change nothing new."""
        decision = self.observe_and_decide()
        repeatable = tuple(action for action in decision.actions if not isinstance(action, Create))
        self.world.apply(repeatable)
        once = dict(self.world.replicas)
        self.world.apply(repeatable)
        refenced = {name: replace(item, fenced_at=None) for name, item in self.world.replicas.items()}
        assert refenced == {name: replace(item, fenced_at=None) for name, item in once.items()}

    @rule(rate=st.sampled_from([0.0, 5.0, 40.0, 200.0]))
    def demand_changes(self, rate: float) -> None:
        self.rate = rate

    @rule(answers=st.booleans())
    def routers(self, answers: bool) -> None:
        self.world.routers_answer = answers

    @rule(answers=st.booleans())
    def prometheus(self, answers: bool) -> None:
        self.sees_metrics = answers

    @rule(pools=st.sets(st.sampled_from(PoolName), max_size=2))
    def nodes(self, pools: set[PoolName]) -> None:
        """Replicas of these pools find no node."""
        self.broken = pools

    @rule(pools=st.sets(st.sampled_from(PoolName), max_size=2))
    def quota(self, pools: set[PoolName]) -> None:
        """The API server creates nothing in these pools."""
        self.refusing = pools

    @rule(spec=specs(), new_revision=st.booleans(), template=st.sampled_from(["t1", "t2"]))
    def spec_changes(self, spec: ClusterSpec, new_revision: bool, template: str) -> None:
        now = self.world.spec
        prefill, decode, mixed = spec.pools
        self.world.spec = replace(
            spec,
            pools=(prefill, replace(decode, template=template), mixed),
            generation=now.generation + 1,
            revision=f"r{now.generation + 1}" if new_revision else now.revision,
        )

    @rule()
    def budget_is_halved(self) -> None:
        self.world.spec = with_half_the_budget(self.world.spec)

    @rule(data=st.data())
    def bounds_change(self, data: st.DataObject) -> None:
        self.world.spec = data.draw(with_other_bounds(self.world.spec))

    def pick(self, data: st.DataObject) -> Replica:
        return self.world.replicas[data.draw(st.sampled_from(sorted(self.world.replicas)))]

    @precondition(lambda self: bool(self.world.replicas))
    @rule(data=st.data(), in_flight=st.integers(1, 30))
    def work_arrives(self, data: st.DataObject, in_flight: int) -> None:
        replica = self.pick(data)
        if replica.is_serving:
            load = ReplicaLoad(in_flight, 1, fence_confirmed=False)
            self.world.change(replica.name, load=load)

    @precondition(lambda self: bool(self.world.replicas))
    @rule(
        data=st.data(), failure=st.sampled_from(["CrashLoopBackOff: exit code 1", "Evicted: disk pressure"])
    )
    def replica_fails(self, data: st.DataObject, failure: str) -> None:
        self.fail(self.pick(data), failure)

    def fail(self, replica: Replica, failure: str) -> None:
        if replica.lifecycle is not Lifecycle.TERMINATING:
            self.world.change(replica.name, lifecycle=Lifecycle.FAILED, failure=failure)

    @precondition(lambda self: bool(self.world.replicas))
    @rule(keep=st.sampled_from([0, 1, 2]))
    def a_node_is_lost(self, keep: int) -> None:
        """With every replica on it, busy ones too."""
        for number, replica in enumerate(list(self.world.replicas.values())):
            if number % 3 != keep and replica.lifecycle is not Lifecycle.PENDING:
                self.fail(replica, "NodeLost: its node is gone")

    @precondition(lambda self: bool(self.world.replicas))
    @rule(data=st.data())
    def replica_turns_unready(self, data: st.DataObject) -> None:
        replica = self.pick(data)
        if replica.lifecycle is Lifecycle.READY:
            self.world.change(replica.name, lifecycle=Lifecycle.UNREADY)

    @precondition(lambda self: bool(self.world.replicas))
    @rule(data=st.data(), seconds=st.sampled_from([5.0, 100.0]))
    def somebody_deletes(self, data: st.DataObject, seconds: float) -> None:
        self.world.terminate(self.pick(data).name, seconds)

    @invariant()
    def budget_holds(self) -> None:
        if hasattr(self, "world"):
            self.witness.gpus_stay_within_the_budget(gpus_held(self.world.observed()), self.world.spec)

    def teardown(self) -> None:
        """When the world calms down, the fleet settles, and then nothing is written any more."""
        if not hasattr(self, "world"):
            return
        self.world.routers_answer, self.sees_metrics = True, True
        self.broken, self.refusing = set(), set()
        quiet, looks = 0, 0
        while quiet < 20:
            looks += 1
            assert looks < LOOKS_TO_SETTLE, self.world.explain("does not settle")
            decision = self.observe_and_decide()
            self.memory = decision.memory
            self.act(decision)
            self.world.pass_time()
            quiet = quiet + 1 if is_at_rest(decision) else 0
        the_fleet_is_as_decided(self.world.spec, self.world.observed(), decision.targets)


class ShortWalk(Operator):
    """Only what must hold at each step: most of what can go wrong needs few of them, and many beginnings."""

    def teardown(self) -> None:
        """Whether the fleet settles is for the long ones."""


class Apart(ShortWalk):
    design = Design.APART


class Converting(ShortWalk):
    design = Design.CONVERTING


class MixedOnly(ShortWalk):
    design = Design.MIXED_ONLY


class Sleeping(ShortWalk):
    design = Design.SLEEPING


def walks(count: int, *, steps: int) -> settings:
    return settings(
        max_examples=cases(count),
        stateful_step_count=steps,
        deadline=None,
        # Explaining a failure runs the machine under a tracer, for minutes; the world's own history says more.
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


TestOperator = Operator.TestCase
TestOperator.settings = walks(100, steps=40)
TestApart = Apart.TestCase
TestConverting = Converting.TestCase
TestMixedOnly = MixedOnly.TestCase
TestSleeping = Sleeping.TestCase
for walk in (TestApart, TestConverting, TestMixedOnly, TestSleeping):
    walk.settings = walks(500, steps=8)
del walk


@pytest.mark.parametrize("cut", range(8))
def test_from_any_crash_point_the_same_fleet_is_reached(cut: int) -> None:
    """One scale-down, killed after each write in turn, against the run that was never killed."""
    spec = make_spec(minimum=(1, 1, 1), budget=8)

    def run(kill_after: int | None) -> list[tuple[str, PoolName]]:
        world = World(spec)
        memory, writes = Memory.empty(), 0
        for _ in range(120):
            rate = 12.0 if world.now < 1200 else 0.0
            decision = decide(make_observation(spec, world.observed(), now=world.now, rate=rate), memory)
            memory = decision.memory
            for action in decision.actions:
                world.apply([action])
                writes += 1
                if writes == kill_after:
                    memory = Memory.restored(dict(decision.targets), memory.records, world.now)
                    break
            world.pass_time()
        assert writes > 8, "there is something to kill"
        return [(replica.name, replica.home) for replica in world.observed()]

    homes = sorted(home for _, home in run(cut + 1))
    assert homes == sorted(home for _, home in run(None))


def test_blind_operators_fence_nobody() -> None:
    """Missing is not zero, all the way through."""
    spec = make_spec(minimum=(1, 1, 0))
    world = World(spec)
    memory = Memory.empty()
    for look in range(100):
        blind = look > 40
        rate: float | Missing = UNSEEN if blind else 12.0
        metrics = UNSEEN if blind else None
        decision = decide(
            make_observation(spec, world.observed(), now=world.now, rate=rate, metrics=metrics), memory
        )
        memory = decision.memory
        assert not any(isinstance(action, Fence) for action in decision.actions) or not blind
        world.apply(decision.actions)
        world.pass_time()
    assert sum(replica.home is PoolName.PREFILL for replica in world.observed()) > 1

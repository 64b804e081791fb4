"""What must hold (DESIGN section 7) over random workloads, fleets, policies, faults and edits of the spec.

A case is one whole run: a cluster, a workload of up to 125 requests, and what goes wrong meanwhile; every event of it is looked at. A run
of the suite makes 200 and, of the core alone, 2100 walks (tests/core/test_decision_machine.py). `make simulations-long` makes ten times as many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.invariants import Witness, cases, is_at_rest, the_fleet_is_as_decided
from tests.simulator.simulator_builders import hardware, rules
from tests.strategies import Design, specs, with_half_the_budget, with_other_bounds

from inferencecluster.core.actions import Delete
from inferencecluster.core.decision import Decision
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.observation import Observation
from inferencecluster.core.spec import Behavior, ClusterSpec
from inferencecluster.simulator.journeys import Journey, Outcome
from inferencecluster.simulator.links import Network
from inferencecluster.simulator.scenario import (
    Boot,
    Failure,
    Faults,
    NodeGroup,
    NodeLoss,
    Outage,
    Scenario,
    SpecChange,
)
from inferencecluster.simulator.signals import Signals
from inferencecluster.simulator.simulation import Simulation
from inferencecluster.simulator.workload import Request

pytestmark = pytest.mark.timeout(300)
"""Hundreds of whole runs: on cores that others use, too, they take minutes."""

MEMORY_TOKENS: Final = 12_000
SEQUENCES: Final = 12
"""So small that a handful of requests fills an engine."""
TROUBLE_SECONDS: Final = 100.0
"""Nothing breaks later."""
REST_SECONDS: Final = 3600.0
"""Enough for every back-off, deadline and window in a row."""
QUIET_LOOKS: Final = 20


@dataclass
class Whims:
    """A policy that wants something else each time."""

    wishes: tuple[Mapping[PoolName, int], ...]
    name: str = "whims"
    interval_seconds: float = 7.0
    asked: int = 0

    def sizes(self, signals: Signals) -> Mapping[PoolName, int]:
        for pool in signals.pools.values():
            assert 0 <= pool.serving <= pool.replicas
            assert 0.0 <= pool.kernel_utilization <= 1.0 + 1e-9
            assert pool.concurrency >= -1e-9
            assert pool.waiting_requests >= pool.unserved_requests >= 0
            assert pool.unserved_requests == 0 or pool.serving == 0
            assert all(0 <= member.resident_kv_tokens <= MEMORY_TOKENS for member in pool.members)
        self.asked += 1
        return self.wishes[self.asked % len(self.wishes)] if self.wishes else {}


@st.composite
def clusters(draw: st.DrawFn) -> ClusterSpec:
    design = draw(st.sampled_from([*Design, Design.CONVERTING]))
    spec = draw(specs(design=design, memory_tokens=MEMORY_TOKENS, most_sequences=SEQUENCES))
    return replace(
        spec,
        behavior=Behavior(rules(0.0), rules(60.0)),
        interval_seconds=5.0,
        boot_seconds=float(draw(st.sampled_from([2, 20]))),
        startup_deadline_seconds=60.0,
        drain_deadline_seconds=float(draw(st.sampled_from([3, 600]))),
        overflow_tokens=draw(st.sampled_from([None, 0, 1500, 8192])),
    )


def as_many_as_fit(spec: ClusterSpec) -> Mapping[PoolName, int]:
    """Of each pool in turn."""
    sizes = {pool.name: pool.min_replicas for pool in spec.pools}
    free = spec.budget_gpus - sum(pool.gpus_per_replica * pool.min_replicas for pool in spec.pools)
    for _ in range(max(pool.max_replicas for pool in spec.pools)):
        for pool in spec.pools:
            if sizes[pool.name] < pool.max_replicas and pool.gpus_per_replica <= free:
                sizes[pool.name] += 1
                free -= pool.gpus_per_replica
    return sizes


@st.composite
def edits(draw: st.DrawFn, spec: ClusterSpec) -> tuple[SpecChange, ...]:
    """The user halves the budget, or moves bounds, some times."""
    found = []
    for at in sorted(draw(st.lists(moments, max_size=2))):
        spec = draw(st.one_of(st.just(with_half_the_budget(spec)), with_other_bounds(spec)))
        found.append(SpecChange(at, spec))
    return tuple(found)


moments = st.floats(0, TROUBLE_SECONDS)
outages = st.lists(st.tuples(moments, st.sampled_from([3.0, 30.0])), max_size=2).map(
    lambda items: tuple(Outage(begin, min(begin + seconds, TROUBLE_SECONDS)) for begin, seconds in items)
)


@st.composite
def troubles(draw: st.DrawFn) -> Faults:
    both = draw(st.sampled_from([(), (Outage(20.0, 60.0),)]))
    return Faults(
        mean_hours=draw(st.sampled_from([0.0, 0.0, 0.0, 0.02])),
        failures=tuple(map(Failure, draw(st.lists(moments, max_size=3)))),
        node_losses=tuple(NodeLoss(at, "node-0-0") for at in draw(st.lists(moments, max_size=1))),
        boots=draw(outages),
        routers=draw(outages) + both,
        metrics=draw(outages) + both,
        restarts=tuple(draw(st.lists(moments, max_size=2))),
    )


@st.composite
def workloads(draw: st.DrawFn) -> list[Request]:
    waves = draw(
        st.lists(
            st.tuples(
                st.floats(0, 80),
                st.integers(1, 25),
                st.floats(0, 1),
                st.integers(1, 6000),
                st.integers(1, 400),
            ),
            min_size=1,
            max_size=5,
        )
    )
    return sorted(
        Request(start + gap * number, prompt, output)
        for start, count, gap, prompt, output in waves
        for number in range(count)
    )


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    spec = draw(clusters())
    nodes = (NodeGroup(frozenset(PoolName), draw(st.integers(1, 3)), 4),) if draw(st.booleans()) else ()
    honest = draw(st.sampled_from([1.0, 1.0, 0.7]))
    return Scenario(
        spec,
        # Engines may be slower than what the operator believes of them.
        {pool.name: hardware(pool.performance, power_cap=honest) for pool in spec.pools},
        initial=draw(st.sampled_from([{}, as_many_as_fit(spec)])),
        seed=draw(st.integers(0, 3)),
        boot=Boot.of(spec.boot_seconds, spread=draw(st.sampled_from([0.0, 0.5]))),
        faults=draw(troubles()),
        changes=draw(edits(spec)),
        network=Network(layer_wise=draw(st.booleans())),
        nodes=nodes,
        max_queue_seconds=draw(st.sampled_from([2.0, 30.0])),
        optimistic_memory=draw(st.booleans()),
        prefill_answers=draw(st.booleans()),
    )


def trading(sizes: tuple[int, int]) -> Whims:
    """To and fro between prefill and decode: where pools convert, replicas move."""
    one, other = sizes
    return Whims(
        ({PoolName.PREFILL: one, PoolName.DECODE: other}, {PoolName.PREFILL: other, PoolName.DECODE: one})
    )


policies = st.one_of(
    st.none(),
    st.none(),
    st.tuples(st.integers(1, 2), st.integers(2, 4)).map(trading),
    st.lists(st.dictionaries(st.sampled_from(PoolName), st.integers(0, 6), max_size=3), max_size=4).map(
        lambda wishes: Whims(tuple(wishes))
    ),
)


@dataclass
class Watch:
    """Looks at the whole cluster after every event."""

    simulation: Simulation
    plan: Scenario
    ended: list[Journey] = field(default_factory=list)
    cut: set[str] = field(default_factory=set)
    """Replicas whose work was lost for a reason: their drain deadline passed."""
    witness: Witness = field(default_factory=Witness)
    quiet: int = 0
    """Decisions in a row that changed nothing."""

    def __post_init__(self) -> None:
        self.spec = self.plan.spec

    def start(self) -> None:
        simulation = self.simulation
        run_next, measured = simulation.events.run_next, simulation.measures.ended
        decided = simulation.operator.on_decision

        def watched() -> None:
            run_next()
            self.check()

        def end(journey: Journey) -> None:
            self.ended.append(journey)
            measured(journey)

        def decide(observation: Observation, decision: Decision) -> None:
            self.check_decision(observation, decision)
            decided(observation, decision)

        simulation.events = _Watched(simulation.events, watched)  # type: ignore[assignment]  # a stand-in
        simulation.measures.ended = end  # type: ignore[method-assign]
        simulation.operator.on_decision = decide

    def check(self) -> None:
        replicas = self.simulation.replicas
        self.witness.gpus_stay_within_the_budget(replicas.gpus, self.spec)
        for replica in replicas:
            entry = replica.entry
            if entry is None or not entry.alive:
                continue
            engine = entry.engine
            assert 0 <= engine.held_tokens <= engine.limits.kv_capacity_tokens
            assert engine.batch.size == len(engine.batch.members) <= engine.limits.max_batch_size
            assert entry.pending_prefill_tokens >= 0
            assert entry.reserved_kv_tokens >= 0
            assert min(entry.in_flight, entry.sequences, entry.kv_transfers, entry.mixed_requests) >= 0
            assert entry.is_idle == (not entry.journeys)

    def check_decision(self, observation: Observation, decision: Decision) -> None:
        self.spec = observation.spec
        self.witness.saw(observation, self.simulation.operator._memory, decision)
        self.witness.published(observation.spec, decision)
        replicas = {replica.name: replica for replica in self.simulation.replicas}
        for action in decision.actions:
            if not isinstance(action, Delete):
                continue
            replica = replicas[action.replica]
            if action.forced:
                self.cut.add(replica.uid)
            elif replica.entry is not None and replica.entry.alive:
                # Not as it was told: as it is.
                assert replica.entry.is_idle, replica.name
        self.quiet = self.quiet + 1 if is_at_rest(decision) else 0

    def rest(self) -> None:
        """Nothing is asked of the cluster any more and nothing breaks: it comes to rest, as it should be."""
        events = self.simulation.events
        until = max(events.now, TROUBLE_SECONDS) + REST_SECONDS
        self.quiet = 0
        while self.quiet < QUIET_LOOKS or events.now < TROUBLE_SECONDS:
            events.run_next()
            assert events.now < until, "does not come to rest"
        targets = self.witness.decided
        the_fleet_is_as_decided(self.spec, self.simulation.replicas.observed(), targets)


@dataclass
class _Watched:
    """The event queue, watched."""

    queue: object
    run_next: object

    def __getattr__(self, name: str) -> object:
        return getattr(self.queue, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("queue", "run_next"):
            object.__setattr__(self, name, value)
        else:
            setattr(self.queue, name, value)


@settings(max_examples=cases(200))
@given(scenarios(), workloads(), policies)
def test_the_invariants_hold_at_every_event(
    plan: Scenario, workload: list[Request], policy: Whims | None
) -> None:
    simulation = Simulation(plan, policy)
    watch = Watch(simulation, plan)
    watch.start()
    simulation.serve(workload)
    every_request_ends_once_in_full_or_with_an_error(watch, workload)
    nobody_holds_anything_any_more(simulation)
    whims = 0 if policy is None else len({frozenset(wish.items()) for wish in policy.wishes})
    # Nodes that are full or gone, failures without end and wishes that change leave no rest.
    if not plan.nodes and plan.faults.mean_hours == 0.0 and whims <= 1:
        watch.rest()


def every_request_ends_once_in_full_or_with_an_error(watch: Watch, workload: list[Request]) -> None:
    assert len(watch.ended) == len({id(journey) for journey in watch.ended}) == len(workload)
    report = watch.simulation.report()
    assert report.completed + report.failed + report.refused == report.requests == len(workload)
    asked = Counter((request.prompt_tokens, request.output_tokens) for request in workload)
    assert asked == Counter((journey.prompt_tokens, journey.output_tokens) for journey in watch.ended)
    for journey in watch.ended:
        assert journey.ended_at >= journey.arrived_at
        if journey.outcome is Outcome.COMPLETED:
            assert journey.arrived_at <= journey.first_token_at <= journey.ended_at
        if journey.outcome is Outcome.REFUSED:
            assert journey.first_token_at < 0.0, "cut after its answer had begun"
    # Nothing is lost but by failures, by drain deadlines, and where it never fits.
    if not (watch.simulation.replicas.failures or watch.cut):
        too_long = sum(request.prompt_tokens + request.output_tokens > MEMORY_TOKENS for request in workload)
        assert report.failed == too_long


def nobody_holds_anything_any_more(simulation: Simulation) -> None:
    for replica in simulation.replicas:
        if replica.entry is not None and replica.entry.alive:
            assert replica.entry.is_idle
            assert replica.entry.reserved_kv_tokens == replica.entry.pending_prefill_tokens == 0
            assert replica.entry.sequences == replica.entry.mixed_requests == 0
            assert replica.entry.engine.held_tokens == 0
    assert simulation.frontend.held_requests == simulation.frontend.held_tokens == 0


@settings(max_examples=cases(20))
@given(scenarios(), workloads())
def test_the_same_run_gives_the_same_report(plan: Scenario, workload: list[Request]) -> None:
    first, second = Simulation(plan), Simulation(plan)
    for simulation in (first, second):
        simulation.serve(workload)
    assert first.report().to_json() == second.report().to_json()
    assert first.events.calls == second.events.calls

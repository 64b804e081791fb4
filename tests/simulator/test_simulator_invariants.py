"""What must hold (DESIGN section 7) over random workloads, fleets, policies and faults.

`SIMULATED_CASES=3000` runs thousands of cases; the default keeps the suite short.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulator.simulator_builders import ROUND, cluster_spec, hardware

from inferencecluster.core.actions import Delete
from inferencecluster.core.decision import Decision
from inferencecluster.core.fleet import PoolName, ReplicaLoad, gpus_held
from inferencecluster.core.observation import Observation
from inferencecluster.core.perfmodel import PerformanceModel
from inferencecluster.core.spec import ClusterSpec, ScalingMode
from inferencecluster.simulator.journeys import Journey, Outcome
from inferencecluster.simulator.links import Network
from inferencecluster.simulator.scenario import Boot, Failure, Faults, NodeGroup, Scenario
from inferencecluster.simulator.signals import Signals
from inferencecluster.simulator.simulation import Simulation
from inferencecluster.simulator.workload import Request

CASES: Final = int(os.environ.get("SIMULATED_CASES", "60"))
SMALL: Final = PerformanceModel(ROUND.prefill, ROUND.decode, kv_capacity_tokens=12_000, max_batch_size=12)


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
            assert all(0 <= member.resident_kv_tokens <= SMALL.kv_capacity_tokens for member in pool.members)
        self.asked += 1
        return self.wishes[self.asked % len(self.wishes)] if self.wishes else {}


@st.composite
def specs(draw: st.DrawFn) -> ClusterSpec:
    kind = draw(st.sampled_from(["split", "split", "mixed", "all"]))
    lows = {"split": (1, 1, 0), "mixed": (0, 0, 1), "all": (0, 1, 0)}[kind]
    highs = tuple(low + draw(st.integers(0, 3)) for low in lows)
    mode = draw(st.sampled_from([ScalingMode.AUTOMATIC, ScalingMode.AUTOMATIC, ScalingMode.FIXED]))
    gpus = (draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    least = sum(low * count for low, count in zip(lows, gpus, strict=True))
    return cluster_spec(
        lows,
        most=(highs[0], highs[1], highs[2]),
        gpus=gpus,
        budget=least + draw(st.integers(0, 8)),
        mode=mode,
        performance=SMALL,
        boot_seconds=float(draw(st.sampled_from([2, 20]))),
        drain_deadline_seconds=float(draw(st.sampled_from([3, 600]))),
        overflow_tokens=draw(st.sampled_from([None, 0, 1500, 8192])),
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
    spec = draw(specs())
    failures = tuple(Failure(draw(st.floats(0, 100))) for _ in range(draw(st.integers(0, 3))))
    nodes = (NodeGroup(frozenset(PoolName), draw(st.integers(1, 3)), 4),) if draw(st.booleans()) else ()
    return Scenario(
        spec,
        {name: hardware(SMALL) for name in PoolName},
        seed=draw(st.integers(0, 3)),
        boot=Boot.of(spec.boot_seconds, spread=draw(st.sampled_from([0.0, 0.5]))),
        faults=Faults(mean_hours=draw(st.sampled_from([0.0, 0.02])), failures=failures),
        network=Network(layer_wise=draw(st.booleans())),
        nodes=nodes,
        max_queue_seconds=draw(st.sampled_from([2.0, 30.0])),
        optimistic_memory=draw(st.booleans()),
        prefill_answers=draw(st.booleans()),
    )


policies = st.one_of(
    st.none(),
    st.lists(st.dictionaries(st.sampled_from(PoolName), st.integers(0, 6), max_size=3), max_size=4).map(
        lambda wishes: Whims(tuple(wishes))
    ),
)


@dataclass
class Watch:
    """Looks at the whole cluster after every event."""

    simulation: Simulation
    spec: ClusterSpec
    ended: list[Journey] = field(default_factory=list)
    cut: set[str] = field(default_factory=set)
    """Replicas whose work was lost for a reason: they failed, or their drain deadline passed."""

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
        assert replicas.gpus <= self.spec.budget_gpus
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
        assert gpus_held(observation.replicas) <= self.spec.budget_gpus
        for name, size in decision.targets.items():
            assert self.spec.pool(name).min_replicas <= size <= self.spec.pool(name).max_replicas
        by_name = {replica.name: replica for replica in observation.replicas}
        for action in decision.actions:
            if not isinstance(action, Delete):
                continue
            replica = by_name[action.replica]
            load = replica.load
            if action.forced:
                assert replica.fenced_at is not None
                assert observation.now >= replica.fenced_at + self.spec.drain_deadline_seconds
                self.cut.add(replica.uid)
            elif not replica.failure:
                assert isinstance(load, ReplicaLoad)
                assert load.is_idle


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


@settings(max_examples=CASES)
@given(scenarios(), workloads(), policies)
def test_the_invariants_hold_at_every_event(
    plan: Scenario, workload: list[Request], policy: Whims | None
) -> None:
    simulation = Simulation(plan, policy)
    watch = Watch(simulation, plan.spec)
    watch.start()
    simulation.serve(workload)
    # Each request ends exactly once.
    assert len(watch.ended) == len({id(journey) for journey in watch.ended}) == len(workload)
    report = simulation.report()
    assert report.completed + report.failed + report.refused == report.requests == len(workload)
    for journey in watch.ended:
        assert journey.ended_at >= journey.arrived_at
        if journey.outcome is Outcome.COMPLETED:
            assert journey.arrived_at <= journey.first_token_at <= journey.ended_at
    # Nothing is lost but by failures, by drain deadlines, and where it never fits.
    unlucky = simulation.replicas.failures or watch.cut
    if not unlucky:
        too_long = sum(
            request.prompt_tokens + request.output_tokens > SMALL.kv_capacity_tokens for request in workload
        )
        assert report.failed == too_long
    # Afterwards nobody holds anything.
    for replica in simulation.replicas:
        if replica.entry is not None and replica.entry.alive:
            assert replica.entry.is_idle
            assert replica.entry.reserved_kv_tokens == replica.entry.pending_prefill_tokens == 0
            assert replica.entry.sequences == replica.entry.mixed_requests == 0
            assert replica.entry.engine.held_tokens == 0
    assert simulation.frontend.held_requests == simulation.frontend.held_tokens == 0


@settings(max_examples=max(5, CASES // 10))
@given(scenarios(), workloads())
def test_the_same_run_gives_the_same_report(plan: Scenario, workload: list[Request]) -> None:
    first, second = Simulation(plan), Simulation(plan)
    for simulation in (first, second):
        simulation.serve(workload)
    assert first.report().to_json() == second.report().to_json()
    assert first.events.calls == second.events.calls

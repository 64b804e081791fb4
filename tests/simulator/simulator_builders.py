"""Small clusters whose times can be computed by hand, and an engine that works one iteration after the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.perfmodel import DecodeModel, PerformanceModel, PrefillModel
from inferencecluster.core.spec import (
    Behavior,
    ClusterSpec,
    PoolSpec,
    ScalingMode,
    ScalingRules,
    SelectPolicy,
    Slo,
)
from inferencecluster.simulator.events import EventQueue
from inferencecluster.simulator.hardware import Hardware
from inferencecluster.simulator.journeys import Journey
from inferencecluster.simulator.links import Network
from inferencecluster.simulator.mixed_engine import Engine, EngineLimits
from inferencecluster.simulator.report import Report
from inferencecluster.simulator.scenario import Scenario
from inferencecluster.simulator.sequences import Phase
from inferencecluster.simulator.sequences import Sequence as EngineSequence
from inferencecluster.simulator.simulation import simulate
from inferencecluster.simulator.step_times import LinearTimes, StepTimes
from inferencecluster.simulator.workload import Request

# A prompt of 1000 tokens takes 10 + 100 = 110 ms; a step over 10 sequences with 10,000 tokens 10 + 1 + 1 = 12 ms.
ROUND = PerformanceModel(
    PrefillModel(0.010, 1e-4, 0.0), DecodeModel(0.010, 1e-4, 1e-7), kv_capacity_tokens=100_000
)
# Sums of these are exact in floating point as long as they stay below some minutes.
DYADIC = PerformanceModel(
    PrefillModel(2**-7, 2**-13, 2**-26),
    DecodeModel(2**-6, 2**-12, 2**-20),
    kv_capacity_tokens=1 << 20,
    max_batch_size=8,
)
KV_BYTES = 1000.0
LINK = 1e7  # 10,000 tokens a second


def hardware(performance: PerformanceModel = ROUND, **changes: Any) -> Hardware:
    plain = Hardware("round", performance, KV_BYTES, LINK, max_num_tokens=4096, dollars_per_gpu_hour=2.0)
    return replace(plain, watts_per_gpu=500.0, **changes)


def rules(window: float) -> ScalingRules:
    return ScalingRules(window, SelectPolicy.MAX, ())


def cluster_spec(
    sizes: tuple[int, int, int] = (1, 1, 0),
    *,
    most: tuple[int, int, int] | None = None,
    gpus: int | tuple[int, int, int] = 1,
    budget: int = 100,
    mode: ScalingMode = ScalingMode.FIXED,
    performance: PerformanceModel = ROUND,
    **changes: Any,
) -> ClusterSpec:
    shapes = (gpus,) * 3 if isinstance(gpus, int) else gpus
    prefill, decode, mixed = (
        PoolSpec(name, low, high, count, performance)
        for name, low, high, count in zip(PoolName, sizes, most or sizes, shapes, strict=True)
    )
    spec = ClusterSpec(
        generation=1,
        revision="r1",
        budget_gpus=budget,
        slo=Slo(90, ttft_seconds=0.5, itl_seconds=0.020),
        pools=(prefill, decode, mixed),
        mode=mode,
        behavior=Behavior(rules(0.0), rules(60.0)),
        interval_seconds=5.0,
        boot_seconds=20.0,
        startup_deadline_seconds=600.0,
        drain_deadline_seconds=600.0,
        overflow_tokens=8192,
    )
    return replace(spec, **changes)


LAYER_WISE = Network(layer_wise=True, constant_seconds=0.005)


def scenario(spec: ClusterSpec | None = None, **changes: Any) -> Scenario:
    known = spec or cluster_spec()
    pools = changes.pop("hardware", None) or {
        name: hardware(known.pool(name).performance) for name in PoolName
    }
    # But for tests of the network caches hide behind their prompts, as Splitwise's: sums are easier to follow.
    return Scenario(known, pools, **{"network": LAYER_WISE, **changes})


def requests(*items: tuple[float, int, int]) -> list[Request]:
    return [Request(*item) for item in items]


def steady(rate: float, seconds: float, *, prompt: int = 1000, output: int = 100) -> list[Request]:
    return [Request(number / rate, prompt, output) for number in range(int(rate * seconds))]


@dataclass
class Run:
    report: Report
    journeys: list[Journey]


def run(plan: Scenario, workload: Iterable[Request], policy: Any = None) -> Run:
    """Journeys in the order of their arrival."""
    journeys: list[Journey] = []
    report = simulate(plan, workload, policy, record=journeys.append)
    return Run(report, sorted(journeys, key=lambda journey: journey.arrived_at))


@dataclass
class RecordingHost:
    """Fetches every cache in `transfer_seconds` and writes down what an engine says."""

    events: EventQueue = field(default_factory=EventQueue)
    transfer_seconds: float = 0.0
    engine: Engine = field(init=False)
    first_tokens: dict[int, float] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)
    prefills: dict[int, float] = field(default_factory=dict)
    reports: list[tuple[int, int, float]] = field(default_factory=list)
    stepped_tokens: int = 0
    most_memory: int = 0

    def start(
        self, performance: PerformanceModel = ROUND, *, times: StepTimes | None = None, **limits: Any
    ) -> RecordingHost:
        known = EngineLimits(performance.kv_capacity_tokens, performance.max_batch_size, max_num_tokens=4096)
        self.engine = Engine(replace(known, **limits), times or LinearTimes(performance), self.events, self)
        return self

    def submit_at(self, number: int, time: float, phase: Phase, prompt: int, output: int) -> EngineSequence:
        sequence = EngineSequence(number, phase, prompt, output)
        self.events.at(time, self._submit, sequence)
        return sequence

    def run(self) -> None:
        while self.events.next_time() is not None:
            self.events.run_next()
            self.most_memory = max(self.most_memory, self.engine.held_tokens)

    def _submit(self, sequence: EngineSequence) -> None:
        self.engine.submit(sequence, self.events.now)

    def prefilled(self, sequence: EngineSequence, now: float) -> None:
        self.prefills[sequence.owner] = now

    def admitted(self, sequence: EngineSequence, now: float) -> None:
        self.events.at(now + self.transfer_seconds, self._fetched, sequence)

    def _fetched(self, sequence: EngineSequence) -> None:
        self.engine.fetched(sequence, self.events.now)

    def first_token(self, sequence: EngineSequence, now: float) -> None:
        assert sequence.owner not in self.first_tokens
        self.first_tokens[sequence.owner] = now

    def reported(self, sequence: EngineSequence) -> None:
        self.reports.append((sequence.owner, sequence.next_report, self.events.now))
        sequence.next_report *= 2

    def finished(self, sequence: EngineSequence, now: float) -> None:
        assert sequence.owner not in self.ends
        self.ends[sequence.owner] = now

    def steps(self, seconds: float, tokens: int) -> None:
        self.stepped_tokens += tokens
        # Told at the end of a run, before its members leave: this is when the memory is fullest.
        batch = self.engine.batch
        grown = tokens // batch.size * batch.growing
        self.most_memory = max(self.most_memory, self.engine.held_tokens + grown)


@dataclass
class NaiveSequence:
    """As an engine that counts single tokens would have it."""

    number: int
    arrival: float
    phase: Phase
    prompt: int
    output: int
    prefilled: int = 0
    made: int = 0

    @property
    def reservation(self) -> int:
        return self.prompt + (0 if self.phase is Phase.PREFILL else self.output)


@dataclass
class NaiveEngine:
    """One iteration after the other, one token after the other. Caches are fetched in no time, held ones stay."""

    model: PerformanceModel
    max_num_tokens: int
    kv_capacity_tokens: int
    coming: list[NaiveSequence]
    fetches: list[NaiveSequence] = field(default_factory=list)
    prompts: list[NaiveSequence] = field(default_factory=list)
    fetched: list[NaiveSequence] = field(default_factory=list)
    active: list[NaiveSequence] = field(default_factory=list)
    batch: list[NaiveSequence] = field(default_factory=list)
    held: list[NaiveSequence] = field(default_factory=list)
    first_tokens: dict[int, float] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)

    def run(self) -> None:
        self.coming.sort(key=lambda sequence: sequence.arrival)
        now = 0.0
        while self.coming or self.fetched or self.active or self.batch or self.fetches or self.prompts:
            self._join(now)
            self._admit()
            if not (self.active or self.batch):
                # Nothing runs: what was just fetched begins now, or the next request does.
                if not self.fetched:
                    now = self.coming[0].arrival
                    self._arrive(self.coming.pop(0))
                continue
            chunks = self._chunks()
            end = now + self._seconds(chunks)
            while self.coming and self.coming[0].arrival < end:
                self._arrive(self.coming.pop(0))
            now = end
            self._decode(now)
            self._prefill(chunks, now)

    def _fits(self, sequence: NaiveSequence) -> bool:
        inside = (*self.fetched, *self.active, *self.batch)
        taken = sum(other.reservation for other in (*inside, *self.held))
        return (
            len(inside) < self.model.max_batch_size
            and taken + sequence.reservation <= self.kv_capacity_tokens
        )

    def _arrive(self, sequence: NaiveSequence) -> None:
        if sequence.phase is not Phase.DECODE:
            self.prompts.append(sequence)
            return
        self.fetches.append(sequence)
        self._fetch()

    def _fetch(self) -> None:
        while self.fetches and self._fits(self.fetches[0]):
            self.fetched.append(self.fetches.pop(0))

    def _admit(self) -> None:
        self._fetch()
        while not self.fetches and self.prompts and self._fits(self.prompts[0]):
            self.active.append(self.prompts.pop(0))

    def _join(self, now: float) -> None:
        fetched, self.fetched = self.fetched, []
        for sequence in fetched:
            self._begin_tokens(sequence, now)

    def _begin_tokens(self, sequence: NaiveSequence, now: float) -> None:
        sequence.made = 1
        self.first_tokens[sequence.number] = now
        if sequence.output == 1:
            self.ends[sequence.number] = now
        else:
            self.batch.append(sequence)

    def _chunks(self) -> list[tuple[NaiveSequence, int]]:
        room = self.max_num_tokens - len(self.batch)
        chunks = []
        for sequence in self.active:
            tokens = min(sequence.prompt - sequence.prefilled, room)
            if tokens > 0:
                chunks.append((sequence, tokens))
                room -= tokens
        return chunks

    def _seconds(self, chunks: list[tuple[NaiveSequence, int]]) -> float:
        prefill, decode = self.model.prefill, self.model.decode
        bases = [0.0]
        seconds = 0.0
        for sequence, tokens in chunks:
            squares = (sequence.prefilled + tokens) ** 2 - sequence.prefilled**2
            seconds += prefill.per_token_seconds * tokens + prefill.per_token_squared_seconds * squares
            bases.append(prefill.base_seconds)
        for sequence in self.batch:
            seconds += decode.per_sequence_seconds
            seconds += decode.per_context_token_seconds * (sequence.prompt + sequence.made)
            bases.append(decode.base_seconds)
        return seconds + max(bases)

    def _decode(self, now: float) -> None:
        for sequence in tuple(self.batch):
            sequence.made += 1
            if sequence.made == sequence.output:
                self.batch.remove(sequence)
                self.ends[sequence.number] = now

    def _prefill(self, chunks: list[tuple[NaiveSequence, int]], now: float) -> None:
        for sequence, tokens in chunks:
            sequence.prefilled += tokens
            if sequence.prefilled < sequence.prompt:
                continue
            self.active.remove(sequence)
            if sequence.phase is Phase.PREFILL:
                self.held.append(sequence)
                self.ends[sequence.number] = now
            else:
                self._begin_tokens(sequence, now)

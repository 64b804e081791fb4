"""The emulated engine and the simulator's engine serve the same load alike: every token at the same time.

Both are built from one InferenceCluster, the first by what the operator renders for it, the second as `kubectl-ic simulate` does.
They share no code. Each case is a script of requests; times may differ by a microsecond, which is rounding.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import pytest
from e2e.demo.scenario import Scenario as DemoScenario
from e2e.demo.scenario import cluster_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulator.simulator_builders import RecordingHost, run

from emulated_engine.configuration import Configuration, parse_configuration
from emulated_engine.kv_transfer import Link
from emulated_engine.replica import limits_of
from emulated_engine.scheduler import Scheduler
from emulated_engine.sequences import Event, TokensReady, TransferWanted
from emulated_engine.sequences import Phase as EmulatedPhase
from emulated_engine.sequences import Sequence as EmulatedSequence
from inferencecluster.api.inferencecluster import InferenceCluster, parse_cluster
from inferencecluster.cli.simulate_inputs import cluster_of
from inferencecluster.core.fleet import PoolName
from inferencecluster.render.context import Platform, pool_context
from inferencecluster.render.emulated import emulated_engine
from inferencecluster.simulator.scenario import Scenario
from inferencecluster.simulator.sequences import Phase
from inferencecluster.simulator.sequences import Sequence as SimulatedSequence
from inferencecluster.simulator.workload import Request

ROUNDING_SECONDS: Final = 1e-6
TRANSFER_SECONDS: Final = 0.004
"""Of a cache that a single decode engine fetches: 1,200 tokens of the demo's model over its link."""
PREFILL, DECODE, WHOLE = Phase.PREFILL, Phase.DECODE, Phase.WHOLE
EMULATED: Final = {
    PREFILL: EmulatedPhase.CONTEXT_ONLY,
    DECODE: EmulatedPhase.GENERATION_ONLY,
    WHOLE: EmulatedPhase.WHOLE,
}
TokenTimes = dict[int, list[float]]
"""Of each request by its place in the script, when each of its tokens was made."""


def manifest(**pools: dict[str, Any]) -> InferenceCluster:
    """The demo's cluster."""
    demo = DemoScenario("agreement", (), seconds=600.0, compression=6.0, share=1.0)
    document: Any = cluster_manifest(
        demo,
        name="demo",
        namespace="demo",
        engine_image="registry.example/emulated:1",
        gpu_resource="nvidia.com/gpu",
    )
    for name, changes in pools.items():
        document["spec"]["pools"][name] |= changes
    return parse_cluster(document)


PLATFORM = Platform(router_image="registry.example/operator:1", router_cluster_role="router")
CLUSTER = cluster_of(manifest(), boot_seconds=None)


def configuration(pool: PoolName) -> Configuration:
    """What the operator mounts into the engines of a pool."""
    rendered = emulated_engine(pool_context(manifest(), pool, PLATFORM))
    return parse_configuration(json.loads(rendered.config_text))


@dataclass(frozen=True)
class Item:
    """One request of a script."""

    at: float
    phase: Phase
    prompt: int
    output: int


@dataclass
class EmulatedEngine:
    """The emulated engine's scheduler under a clock of its own; caches travel for `TRANSFER_SECONDS`."""

    scheduler: Scheduler
    calls: list[tuple[float, int, Callable[[float], None]]] = field(default_factory=list)
    numbers: dict[EmulatedSequence, int] = field(default_factory=dict)
    tokens: TokenTimes = field(default_factory=lambda: defaultdict(list))
    order: itertools.count[int] = field(default_factory=itertools.count)

    def play(self, script: Sequence[Item]) -> TokenTimes:
        for number, item in enumerate(script):
            sequence = EmulatedSequence(
                EMULATED[item.phase], item.prompt, item.output, item.at, chunk_tokens=1
            )
            self.numbers[sequence] = number
            self._call(item.at, partial(self.scheduler.submit, sequence))
        while self.calls or self.scheduler.deadline is not None:
            deadline = self.scheduler.deadline
            if self.calls and (deadline is None or self.calls[0][0] <= deadline):
                now, _, call = heapq.heappop(self.calls)
                call(now)
            else:
                assert deadline is not None
                now = deadline
            for event in self.scheduler.advance(now):
                self._heard(event, now)
        return self.tokens

    def _call(self, at: float, call: Callable[[float], None]) -> None:
        heapq.heappush(self.calls, (at, next(self.order), call))

    def _heard(self, event: Event, now: float) -> None:
        match event:
            case TransferWanted(sequence):
                self._call(now + TRANSFER_SECONDS, lambda then: self.scheduler.transfer_done(sequence, then))
            case TokensReady(sequence, tokens, _, at):
                self.tokens[self.numbers[sequence]] += [at] * tokens


class TokenHost(RecordingHost):
    """Writes down when each token of the simulator's engine was made."""

    def play(self, script: Sequence[Item]) -> TokenTimes:
        self.tokens: TokenTimes = defaultdict(list)
        for number, item in enumerate(script):
            sequence = self.submit_at(number, item.at, item.phase, item.prompt, item.output)
            sequence.next_report = 2
        self.run()
        return self.tokens

    def prefilled(self, sequence: SimulatedSequence, now: float) -> None:
        self.tokens[sequence.owner].append(now)

    def first_token(self, sequence: SimulatedSequence, now: float) -> None:
        self.tokens[sequence.owner].append(now)

    def reported(self, sequence: SimulatedSequence) -> None:
        self.tokens[sequence.owner].append(self.events.now)
        sequence.next_report += 1

    def finished(self, sequence: SimulatedSequence, now: float) -> None:
        if sequence.output_tokens > 1:
            self.tokens[sequence.owner].append(now)


def emulated(pool: PoolName, script: Sequence[Item]) -> TokenTimes:
    known = configuration(pool)
    return EmulatedEngine(Scheduler(limits_of(known), known.prefill, known.decode)).play(script)


def simulated(pool: PoolName, script: Sequence[Item]) -> TokenTimes:
    hardware = CLUSTER.hardware[pool]
    host = TokenHost(transfer_seconds=TRANSFER_SECONDS)
    host.start(hardware.performance, max_num_tokens=hardware.max_num_tokens, fetch_at_boundary=True)
    return host.play(script)


def assert_same(first: TokenTimes, second: TokenTimes) -> None:
    assert first.keys() == second.keys()
    for number, times in first.items():
        assert times == pytest.approx(second[number], rel=0, abs=ROUNDING_SECONDS), f"request {number}"


@pytest.mark.parametrize("pool", list(PoolName))
def test_both_are_given_the_same_engine(pool: PoolName) -> None:
    rendered, hardware = configuration(pool), CLUSTER.hardware[pool]
    model = hardware.performance
    for ours, theirs in ((rendered.prefill, model.prefill), (rendered.decode, model.decode)):
        for name in ours.__dataclass_fields__:
            assert getattr(ours, name) == getattr(theirs, name), name
    assert rendered.splits_prompts
    assert (
        rendered.kv_capacity_tokens,
        rendered.max_batch_size,
        rendered.max_num_tokens,
        rendered.kv_bytes_per_token,
        rendered.kv_bandwidth_bytes_per_second,
    ) == (
        model.kv_capacity_tokens,
        model.max_batch_size,
        hardware.max_num_tokens,
        hardware.kv_bytes_per_token,
        hardware.link_bytes_per_second,
    )


def spread(
    count: int, phase: Phase, *, gap: float, prompts: Sequence[int], outputs: Sequence[int]
) -> list[Item]:
    """Requests `gap` seconds apart whose lengths repeat; an odd gap keeps arrivals off the ends of iterations."""
    lengths = zip(itertools.cycle(prompts), itertools.cycle(outputs), strict=False)
    return [
        Item(number * gap, phase, prompt, output)
        for number, (prompt, output) in zip(range(count), lengths, strict=False)
    ]


SCRIPTS = [
    pytest.param(PoolName.PREFILL, [Item(0.5, PREFILL, 1020, 129)], id="one prompt alone"),
    pytest.param(PoolName.DECODE, [Item(0.5, DECODE, 1020, 129)], id="one token phase alone"),
    pytest.param(PoolName.MIXED, [Item(0.5, WHOLE, 1020, 129)], id="one whole request alone"),
    pytest.param(PoolName.MIXED, [Item(0.5, WHOLE, 1020, 1)], id="one token in all"),
    pytest.param(
        PoolName.PREFILL,
        spread(60, PREFILL, gap=0.0137, prompts=(1020, 91, 2735, 400), outputs=(100,)),
        id="a burst of prompts on one prefill replica",
    ),
    pytest.param(
        PoolName.PREFILL,
        spread(12, PREFILL, gap=0.0137, prompts=(14_050, 700), outputs=(100,)),
        id="prompts longer than an iteration are chunked",
    ),
    pytest.param(
        PoolName.DECODE,
        spread(300, DECODE, gap=0.00137, prompts=(1020, 2735, 64), outputs=(129, 424, 17)),
        id="more token phases than a decode batch holds",
    ),
    pytest.param(
        PoolName.DECODE,
        spread(60, DECODE, gap=0.0113, prompts=(14_050, 12_001), outputs=(424, 61)),
        id="more token phases than the KV memory holds",
    ),
    pytest.param(
        PoolName.MIXED,
        spread(80, WHOLE, gap=0.0311, prompts=(1020, 91, 2735), outputs=(129, 424, 17)),
        id="a batch of whole requests on a mixed replica",
    ),
    pytest.param(
        PoolName.DECODE,
        sorted(
            spread(40, DECODE, gap=0.0171, prompts=(1020, 300), outputs=(129, 200))
            + spread(12, WHOLE, gap=0.0531, prompts=(2735, 5000), outputs=(80,)),
            key=lambda item: item.at,
        ),
        id="whole requests on a borrowed decode replica",
    ),
]


@pytest.mark.parametrize(("pool", "script"), SCRIPTS)
def test_every_token_comes_at_the_same_time(pool: PoolName, script: list[Item]) -> None:
    expected = emulated(pool, script)
    assert_same(simulated(pool, script), expected)
    # Nobody is left out: a prompt yields one token, all others yield their output.
    assert [len(expected[number]) for number in range(len(script))] == [
        1 if item.phase is PREFILL else item.output for item in script
    ]


@st.composite
def scripts(draw: st.DrawFn) -> list[Item]:
    """Each arrival has an offset of its own: nothing of two requests falls on one instant."""
    phases = draw(st.sampled_from([(PREFILL,), (DECODE,), (WHOLE,), (DECODE, WHOLE)]))
    return [
        Item(
            draw(st.integers(0, 4_000)) * 1e-3 + (number + 1) * 1.7e-5,
            draw(st.sampled_from(phases)),
            draw(st.integers(1, 12_000)),
            draw(st.integers(2, 60)),
        )
        for number in range(draw(st.integers(1, 12)))
    ]


@settings(max_examples=60)
@given(st.sampled_from(PoolName), scripts())
def test_any_load_makes_the_same_tokens_at_the_same_times(pool: PoolName, script: list[Item]) -> None:
    assert_same(simulated(pool, script), emulated(pool, script))


class EmulatedPair:
    """A prefill and a decode engine whose caches travel over the emulated engines' own links; HTTP takes no time."""

    def __init__(self, requests: Sequence[Request]) -> None:
        prefill, decode = configuration(PoolName.PREFILL), configuration(PoolName.DECODE)
        self.requests = requests
        self.prefill = Scheduler(limits_of(prefill), prefill.prefill, prefill.decode)
        self.decode = Scheduler(limits_of(decode), decode.prefill, decode.decode)
        self.egress = Link(prefill.kv_bandwidth_bytes_per_second)
        self.ingress = Link(decode.kv_bandwidth_bytes_per_second)
        self.bytes_per_token = prefill.kv_bytes_per_token
        self.first_tokens: dict[int, float] = {}
        self.ends: dict[int, float] = {}
        self._numbers: dict[EmulatedSequence, int] = {}
        self._contexts: dict[int, EmulatedSequence] = {}
        self._calls: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()

    def play(self) -> None:
        for number, request in enumerate(self.requests):
            self._call(
                request.arrival, partial(self._submit, self.prefill, EmulatedPhase.CONTEXT_ONLY, number)
            )
        while (now := self._next()) is not None:
            while self._calls and self._calls[0][0] <= now:
                heapq.heappop(self._calls)[2](now)
            for engine in (self.prefill, self.decode):
                for event in engine.advance(now):
                    self._heard(event, now)

    def _next(self) -> float | None:
        times = [engine.deadline for engine in (self.prefill, self.decode) if engine.deadline is not None]
        return min([*times, *(call[0] for call in self._calls[:1])], default=None)

    def _call(self, at: float, action: Callable[[float], None]) -> None:
        heapq.heappush(self._calls, (at, next(self._order), action))

    def _submit(self, engine: Scheduler, phase: EmulatedPhase, number: int, now: float) -> None:
        item = self.requests[number]
        sequence = EmulatedSequence(phase, item.prompt_tokens, item.output_tokens, now, chunk_tokens=1)
        self._numbers[sequence] = number
        if phase is EmulatedPhase.CONTEXT_ONLY:
            self._contexts[number] = sequence
        engine.submit(sequence, now)

    def _arrived(self, sequence: EmulatedSequence, now: float) -> None:
        self.prefill.release(self._contexts[self._numbers[sequence]], now)
        self.decode.transfer_done(sequence, now)

    def _heard(self, event: Event, now: float) -> None:
        match event:
            case TransferWanted(sequence):
                size = sequence.prompt_tokens * self.bytes_per_token
                done = max(self.ingress.reserve(size, now), self.egress.reserve(size, now))
                self._call(done, partial(self._arrived, sequence))
            case TokensReady(sequence, _, is_last, at):
                number = self._numbers[sequence]
                if sequence.phase is EmulatedPhase.CONTEXT_ONLY:
                    self._call(at, partial(self._submit, self.decode, EmulatedPhase.GENERATION_ONLY, number))
                    return
                self.first_tokens.setdefault(number, at)
                if is_last:
                    self.ends[number] = at


@pytest.mark.parametrize(
    "requests",
    [
        pytest.param([Request(0.5, 1020, 129)], id="one request"),
        pytest.param(
            [
                Request(number * 0.0613, (1020, 300, 2735)[number % 3], (40, 129)[number % 2])
                for number in range(12)
            ],
            id="requests whose prompts and transfers wait for each other",
        ),
    ],
)
def test_a_request_passes_prefill_transfer_and_decode_in_the_same_time(requests: list[Request]) -> None:
    pair = EmulatedPair(requests)
    pair.play()
    fixed = cluster_of(
        manifest(prefill={"maxReplicas": 1}, decode={"maxReplicas": 1}, mixed={"maxReplicas": 0}),
        boot_seconds=None,
    )
    # Nothing overflows into borrowed replicas: the pair has to carry the burst.
    spec = replace(fixed.spec, overflow_tokens=1_000_000)
    journeys = run(Scenario(spec, fixed.hardware), requests).journeys
    assert {journey.path for journey in journeys} == {"disaggregated"}
    assert all(journey.held_seconds == 0 for journey in journeys)
    for number, journey in enumerate(journeys):
        assert journey.first_token_at == pytest.approx(pair.first_tokens[number], rel=0, abs=ROUNDING_SECONDS)
        assert journey.ended_at == pytest.approx(pair.ends[number], rel=0, abs=ROUNDING_SECONDS)

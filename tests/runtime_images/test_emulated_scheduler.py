"""Continuous batching on a simulated clock: exact times, honest queues, and no result that depends on wake-ups."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulated_engine.scheduler import Limits, Scheduler
from emulated_engine.sequences import (
    Event,
    IterationsDone,
    Phase,
    Sequence,
    State,
    TokensReady,
    TransferWanted,
)
from emulated_engine.timing import DecodeModel, PrefillModel

PREFILL = PrefillModel(0.5, 0.01, 1e-5)
DECODE = DecodeModel(0.25, 0.01, 1e-4)


def limits(*, kv: int = 100_000, batch: int = 64, tokens: int = 1000, splits_prompts: bool = True) -> Limits:
    return Limits(
        kv_capacity_tokens=kv, max_batch_size=batch, max_num_tokens=tokens, splits_prompts=splits_prompts
    )


def whole(prompt: int, output: int, *, at: float = 0.0, chunk: int | None = 1) -> Sequence:
    return Sequence(Phase.WHOLE, prompt, output, at, chunk_tokens=chunk)


def context(prompt: int, *, at: float = 0.0) -> Sequence:
    return Sequence(Phase.CONTEXT_ONLY, prompt, 10, at)


def generation(prompt: int, output: int, *, at: float = 0.0) -> Sequence:
    return Sequence(Phase.GENERATION_ONLY, prompt, output, at, chunk_tokens=1)


@dataclass
class Simulation:
    """Plays what happens at given times, and wakes the scheduler exactly at its deadlines in between."""

    scheduler: Scheduler
    events: list[Event] = field(default_factory=list)

    def play(
        self,
        actions: Iterable[tuple[float, Callable[[float], None]]] = (),
        *,
        until: float = math.inf,
        wakes: Iterable[float] = (),
    ) -> None:
        nothing: Callable[[float], None] = lambda _: None  # noqa: E731
        timeline = sorted([*actions, *((at, nothing) for at in wakes)], key=lambda entry: entry[0])
        for at, action in timeline:
            self._run(at)
            action(at)
            self.events += self.scheduler.advance(at)
        self._run(until)

    def submit(self, *sequences: Sequence, until: float = math.inf, wakes: Iterable[float] = ()) -> None:
        self.play([(s.arrived_at, self.submission(s)) for s in sequences], until=until, wakes=wakes)

    def submission(self, sequence: Sequence) -> Callable[[float], None]:
        return lambda now: self.scheduler.submit(sequence, now)

    def release(self, sequence: Sequence) -> Callable[[float], None]:
        return lambda now: self.scheduler.release(sequence, now)

    def arrival(self, sequence: Sequence) -> Callable[[float], None]:
        return lambda now: self.scheduler.transfer_done(sequence, now)

    def _run(self, until: float) -> None:
        while (deadline := self.scheduler.deadline) is not None and deadline <= until:
            self.events += self.scheduler.advance(deadline)

    def token_times(self, sequence: Sequence) -> list[tuple[float, int]]:
        return [
            (event.at, event.tokens)
            for event in self.events
            if isinstance(event, TokensReady) and event.sequence is sequence
        ]


def engine(bounds: Limits | None = None) -> Simulation:
    return Simulation(Scheduler(bounds or limits(), PREFILL, DECODE))


def prefill_seconds(tokens: int) -> float:
    return 0.5 + 0.01 * tokens + 1e-5 * tokens**2


def step_seconds(*contexts: int) -> float:
    return 0.25 + 0.01 * len(contexts) + 1e-4 * sum(contexts)


def ended(sequence: Sequence) -> float:
    assert sequence.ended_at is not None
    return sequence.ended_at


def first_token(sequence: Sequence) -> float:
    assert sequence.first_token_at is not None
    return sequence.first_token_at


def test_one_request_takes_its_prefill_and_then_a_step_per_token() -> None:
    simulation, request = engine(), whole(100, 4, at=3.0)
    simulation.submit(request)
    first = 3.0 + prefill_seconds(100)
    second = first + step_seconds(101)
    third = second + step_seconds(102)
    expected = [first, second, third, third + step_seconds(103)]
    assert [at for at, _ in simulation.token_times(request)] == pytest.approx(expected)


def test_a_request_without_stream_is_reported_once_and_ends_at_the_same_time() -> None:
    streamed, silent = whole(100, 50), whole(100, 50, chunk=None)
    for request in (streamed, silent):
        simulation = engine()
        simulation.submit(request)
    ((at, tokens),) = simulation.token_times(silent)
    assert tokens == 50
    assert at == pytest.approx(ended(streamed))
    assert first_token(silent) == pytest.approx(first_token(streamed))


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        pytest.param(1, [1, 1, 1, 1, 1, 1, 1], id="every token"),
        pytest.param(3, [1, 2, 3, 1], id="first token, then multiples of the interval, then the rest"),
        pytest.param(20, [1, 6], id="an interval longer than the answer"),
    ],
)
def test_the_stream_interval_sets_the_chunks(interval: int, expected: list[int]) -> None:
    simulation, request = engine(), whole(10, 7, chunk=interval)
    simulation.submit(request)
    assert [tokens for _, tokens in simulation.token_times(request)] == expected


def test_prompts_that_fit_share_an_iteration_and_its_base() -> None:
    simulation, first, second = engine(limits(tokens=300)), whole(100, 1), whole(150, 1)
    simulation.submit(first, second)
    # The first is alone in the iteration that its arrival starts; both arrive at 0.
    assert first_token(first) == pytest.approx(prefill_seconds(100))
    assert first_token(second) == pytest.approx(prefill_seconds(100) + prefill_seconds(150))
    third, fourth = whole(100, 1, at=10.1), whole(150, 1, at=10.2)
    simulation.submit(whole(100, 1, at=10.0), third, fourth)
    together = 10.0 + prefill_seconds(100) + prefill_seconds(100) + prefill_seconds(150) - 0.5
    assert first_token(third) == first_token(fourth) == pytest.approx(together)


@pytest.mark.parametrize(
    ("splits_prompts", "expected"),
    [
        pytest.param(True, [100, 200, 200, 100], id="split"),
        pytest.param(False, [100, 200, 100, 200], id="whole"),
    ],
)
def test_a_prompt_that_does_not_fit_is_split_or_waits(splits_prompts: bool, expected: list[int]) -> None:
    simulation = engine(limits(tokens=200, splits_prompts=splits_prompts))
    # The first runs alone; the others wait for it, and an iteration has room for 200 tokens.
    simulation.submit(whole(100, 1), whole(200, 1, at=0.1), whole(100, 1, at=0.2), whole(200, 1, at=0.3))
    chunks = [event.context_tokens for event in simulation.events if isinstance(event, IterationsDone)]
    assert chunks == expected


def test_a_prompt_longer_than_an_iteration_is_split_even_where_prompts_run_whole() -> None:
    simulation, request = engine(limits(tokens=200, splits_prompts=False)), whole(500, 1)
    simulation.submit(request)
    assert first_token(request) == pytest.approx(prefill_seconds(500) + 2 * 0.5)


def test_prompts_and_decode_steps_share_iterations_and_pay_the_larger_base_once() -> None:
    simulation, running, arriving = engine(), whole(100, 50), whole(200, 1, at=1.7)
    simulation.submit(running, arriving)
    start = prefill_seconds(100)
    assert start < 1.7 < start + step_seconds(101)
    mixed = 0.5 + (prefill_seconds(200) - 0.5) + (step_seconds(102) - 0.25)
    expected = start + step_seconds(101) + mixed
    assert first_token(arriving) == pytest.approx(expected)
    assert simulation.token_times(running)[2][0] == pytest.approx(expected)


def test_a_full_cache_queues_first_come_first_served_and_nothing_overtakes() -> None:
    simulation = engine(limits(kv=250))
    big, second, small = whole(100, 50), whole(150, 50, at=0.1), whole(10, 1, at=0.2)
    simulation.submit(big, second, small)
    assert second.scheduled_at == pytest.approx(ended(big))
    assert small.scheduled_at == pytest.approx(second.scheduled_at)


def test_a_full_batch_queues() -> None:
    simulation = engine(limits(batch=2))
    requests = [whole(10, 20, at=0.01 * index) for index in range(3)]
    simulation.submit(*requests)
    assert requests[2].scheduled_at == pytest.approx(ended(requests[0]))


def test_a_context_only_cache_holds_its_room_until_it_is_fetched() -> None:
    simulation, first, second = engine(limits(kv=150)), context(100), context(100, at=0.1)
    simulation.submit(first, second, until=100.0)
    assert first.state is State.HELD
    assert second.scheduled_at is None
    assert simulation.scheduler.load().held_tokens == 100
    simulation.play([(100.0, simulation.release(first))])
    assert second.scheduled_at == 100.0
    assert second.state is State.HELD


def test_a_held_cache_leaves_its_batch_slot() -> None:
    simulation, first, second = engine(limits(batch=1)), context(100), context(100, at=0.1)
    simulation.submit(first, second)
    assert second.scheduled_at == pytest.approx(ended(first))


def test_a_generation_waits_for_its_transfer_and_brings_its_first_token_along() -> None:
    simulation, request = engine(), generation(100, 3, at=1.0)
    simulation.submit(request, until=5.0)
    assert [event for event in simulation.events if isinstance(event, TransferWanted)] == [
        TransferWanted(request)
    ]
    assert simulation.token_times(request) == []
    simulation.play([(5.0, simulation.arrival(request))])
    expected = [5.0, 5.0 + step_seconds(101), 5.0 + step_seconds(101) + step_seconds(102)]
    assert [at for at, _ in simulation.token_times(request)] == pytest.approx(expected)


def test_a_generation_of_one_token_needs_no_step() -> None:
    simulation, request = engine(), generation(100, 1)
    simulation.submit(request, until=2.0)
    simulation.play([(2.0, simulation.arrival(request))])
    assert simulation.token_times(request) == [(2.0, 1)]
    assert simulation.scheduler.reserved_tokens == 0


def test_transfers_are_admitted_before_prompts() -> None:
    simulation = engine(limits(kv=200))
    running, prompt, transfer = whole(100, 60), whole(100, 1, at=0.1), generation(100, 1, at=0.2)
    simulation.submit(running, prompt, transfer, until=ended_of(running))
    assert transfer.state is State.TRANSFERRING
    assert prompt.state is State.QUEUED


def ended_of(sequence: Sequence) -> float:
    """When `sequence` ends alone on an engine like the tested one."""
    alone = whole(sequence.prompt_tokens, sequence.output_tokens)
    engine().submit(alone)
    return ended(alone)


def test_a_cancelled_request_costs_the_step_under_way_and_no_more() -> None:
    simulation, stays, leaves = engine(), whole(100, 100, chunk=None), whole(100, 100, chunk=None)
    simulation.play([(0.0, simulation.submission(stays)), (0.0, simulation.submission(leaves))], until=4.0)
    before = simulation.scheduler.load().decoding
    simulation.play([(4.0, simulation.release(leaves))], until=4.0 + step_seconds(110, 110))
    assert (before, simulation.scheduler.load().decoding) == (2, 1)
    simulation.play()
    assert simulation.token_times(leaves) == []
    assert simulation.token_times(stays)[0][1] == 100


@pytest.mark.parametrize("state", [State.QUEUED, State.TRANSFERRING, State.PREFILLING, State.HELD], ids=str)
def test_releasing_frees_everything_in_every_state(state: State) -> None:
    simulation = engine(limits(batch=1))
    request = generation(100, 5, at=0.1) if state is State.TRANSFERRING else context(100, at=0.1)
    if state is State.QUEUED:
        simulation.submit(whole(50, 500), request, until=1.0)
    else:
        simulation.submit(request, until=50.0 if state is State.HELD else 0.2)
    assert request.state is state
    simulation.play([(50.0, simulation.release(request))])
    load = simulation.scheduler.load()
    assert request.state is State.ENDED
    assert (load.active, load.queued, load.resident_tokens) == (0, 0, 0)
    assert simulation.scheduler.reserved_tokens == 0


@pytest.mark.parametrize("batch", [2, 4, 8, 16])
def test_more_sequences_make_every_token_slower(batch: int) -> None:
    def seconds_per_token(sequences: int) -> float:
        simulation = engine()
        requests = [whole(10, 40) for _ in range(sequences)]
        simulation.submit(*requests)
        last = requests[-1]
        return (ended(last) - first_token(last)) / 39

    assert seconds_per_token(batch) > seconds_per_token(batch // 2)


def test_overload_makes_each_request_wait_longer_than_the_one_before() -> None:
    simulation = engine(limits(batch=1, tokens=400))
    # Prefill takes 2.6 s, one arrives each second.
    requests = [context(200, at=float(index)) for index in range(20)]
    simulation.submit(*requests)
    waits = [first_token(request) - request.arrived_at for request in requests]
    assert all(later > earlier for earlier, later in itertools.pairwise(waits))


def test_a_slower_engine_is_slower_by_exactly_its_factor() -> None:
    slow = Simulation(Scheduler(limits(), PREFILL, DECODE, stretch=lambda: 3.0))
    fast, request_slow, request_fast = engine(), whole(100, 20), whole(100, 20)
    slow.submit(request_slow)
    fast.submit(request_fast)
    assert ended(request_slow) == pytest.approx(3 * ended(request_fast))


def test_statistics_count_every_iteration_although_steps_run_together() -> None:
    simulation = engine()
    simulation.submit(whole(100, 50, chunk=None))
    runs = [event for event in simulation.events if isinstance(event, IterationsDone)]
    assert sum(run.iterations for run in runs) == 1 + 49
    assert sum(run.completed for run in runs) == 1
    assert len(runs) < 50


REQUESTS = st.lists(
    st.builds(
        whole,
        st.integers(1, 300),
        st.integers(1, 30),
        at=st.integers(0, 400).map(lambda tenths: tenths / 10),
        chunk=st.none() | st.integers(1, 12),
    ),
    min_size=1,
    max_size=12,
).map(lambda requests: sorted(requests, key=lambda request: request.arrived_at))
BOUNDS = st.builds(
    limits,
    kv=st.integers(330, 1500),
    batch=st.integers(1, 6),
    tokens=st.integers(6, 400),
    splits_prompts=st.booleans(),
)


@dataclass
class _Planned:
    """A request in the step-by-step reference."""

    prompt: int
    output: int
    at: float
    done: int = 0
    generated: int = 0
    first: float = 0.0
    end: float = 0.0


def one_step_at_a_time(requests: list[Sequence], bounds: Limits) -> list[tuple[float, float]]:
    """(first token, end) of each request from a plain loop over iterations: what the runs must reproduce."""
    waiting = [_Planned(r.prompt_tokens, r.output_tokens, r.arrived_at) for r in requests]
    everything, now = list(waiting), 0.0
    running: list[_Planned] = []
    while waiting or running:
        if not running:
            now = max(now, waiting[0].at)
        while waiting and (waiting[0].at < now or (not running and waiting[0].at <= now)):
            held = sum(entry.prompt + entry.output for entry in running)
            candidate = waiting[0]
            if len(running) >= bounds.max_batch_size:
                break
            if held + candidate.prompt + candidate.output > bounds.kv_capacity_tokens:
                break
            running.append(waiting.pop(0))
        now += _iterate(running, bounds)
        for entry in running:
            if entry.generated == 1 and not entry.first:
                entry.first = now
            entry.end = now
        running = [entry for entry in running if entry.generated < entry.output]
    return [(entry.first, entry.end) for entry in everything]


def _iterate(running: list[_Planned], bounds: Limits) -> float:
    """One iteration: its seconds; progress is noted in the entries."""
    decoding = [entry for entry in running if entry.generated]
    seconds = 0.0
    base = 0.25 if decoding else 0.0
    room = bounds.max_num_tokens - len(decoding)
    used = 0
    for entry in (entry for entry in running if not entry.generated):
        left = entry.prompt - entry.done
        if room <= 0 or (left > room and used and not bounds.splits_prompts):
            break
        tokens = min(left, room)
        seconds += 0.01 * tokens + 1e-5 * ((entry.done + tokens) ** 2 - entry.done**2)
        base, room, used = 0.5, room - tokens, used + 1
        entry.done += tokens
        if entry.done == entry.prompt:
            entry.generated = 1
    for entry in decoding:
        seconds += 0.01 + 1e-4 * (entry.prompt + entry.generated)
        entry.generated += 1
    return base + seconds


@settings(max_examples=150, deadline=None)
@given(requests=REQUESTS, bounds=BOUNDS)
def test_runs_of_steps_give_the_times_of_single_steps(requests: list[Sequence], bounds: Limits) -> None:
    # Distinct arrivals, which no iteration's end meets: ties would be decided by rounding.
    for index, request in enumerate(requests):
        request.arrived_at += 0.00137 * (index + 1)
    simulation = engine(bounds)
    simulation.submit(*requests)
    measured = [(first_token(request), ended(request)) for request in requests]
    for seen, expected in zip(measured, one_step_at_a_time(requests, bounds), strict=True):
        assert seen == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(requests=REQUESTS, bounds=BOUNDS, wakes=st.lists(st.floats(0, 60), max_size=20))
def test_waking_up_at_other_times_changes_nothing(
    requests: list[Sequence], bounds: Limits, wakes: list[float]
) -> None:
    copies = [
        whole(r.prompt_tokens, r.output_tokens, at=r.arrived_at, chunk=r.chunk_tokens) for r in requests
    ]
    calm, restless = engine(bounds), engine(bounds)
    calm.submit(*requests)
    restless.submit(*copies, wakes=wakes)
    for one, other in zip(requests, copies, strict=True):
        seen, expected = restless.token_times(other), calm.token_times(one)
        assert [tokens for _, tokens in seen] == [tokens for _, tokens in expected]
        assert [at for at, _ in seen] == pytest.approx([at for at, _ in expected])


@given(requests=REQUESTS, bounds=BOUNDS)
def test_an_engine_that_overslept_catches_up_to_the_times_it_missed(
    requests: list[Sequence], bounds: Limits
) -> None:
    copies = [whole(r.prompt_tokens, r.output_tokens, chunk=r.chunk_tokens) for r in requests]
    for request in requests:
        request.arrived_at = 0.0
    punctual, late = engine(bounds), engine(bounds)
    punctual.submit(*requests)
    for copy in copies:
        late.scheduler.submit(copy, 0.0)
        late.events += late.scheduler.advance(0.0)
    late.events += late.scheduler.advance(1e6)
    for one, other in zip(requests, copies, strict=True):
        assert late.token_times(other) == punctual.token_times(one)


@settings(max_examples=100, deadline=None)
@given(requests=REQUESTS, bounds=BOUNDS, leaving=st.lists(st.tuples(st.integers(0, 11), st.floats(0, 60))))
def test_bounds_hold_at_every_moment_and_nothing_is_left_behind(
    requests: list[Sequence], bounds: Limits, leaving: list[tuple[int, float]]
) -> None:
    simulation = engine(bounds)
    actions = [(request.arrived_at, simulation.submission(request)) for request in requests]
    for index, at in leaving:
        request = requests[index % len(requests)]
        if at > request.arrived_at:
            actions.append((at, simulation.release(request)))
    simulation.play(actions)
    runs = [event for event in simulation.events if isinstance(event, IterationsDone)]
    for run in runs:
        assert run.load.active <= bounds.max_batch_size
        assert run.load.resident_tokens <= bounds.kv_capacity_tokens
        assert run.context_tokens + run.generation_requests <= max(
            bounds.max_num_tokens, bounds.max_batch_size
        )
    assert simulation.scheduler.reserved_tokens == 0
    assert simulation.scheduler.deadline is None
    assert all(request.state is State.ENDED for request in requests)
    released = {id(requests[index % len(requests)]) for index, _ in leaving}
    for request in requests:
        if id(request) not in released:
            assert sum(tokens for _, tokens in simulation.token_times(request)) == request.output_tokens


def test_what_is_cached_of_a_prompt_takes_no_time_and_still_takes_room() -> None:
    scheduler = Scheduler(limits(), PREFILL, DECODE)
    sequence = Sequence(Phase.WHOLE, 100, 1, 0.0, chunk_tokens=1, cached_tokens=60, prefilled=60)
    scheduler.submit(sequence, 0.0)
    scheduler.advance(0.0)
    assert scheduler.deadline == pytest.approx(0.5 + PREFILL.chunk_seconds(60, 40))
    assert scheduler.reserved_tokens == 101

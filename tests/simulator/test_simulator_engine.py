"""Engines: closed form against one iteration after the other, batches, memory, preemption."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulator.simulator_builders import (
    DYADIC,
    ROUND,
    NaiveEngine,
    NaiveSequence,
    RecordingHost,
)

from inferencecluster.simulator.decode_engine import run_seconds, steps_ended
from inferencecluster.simulator.mixed_engine import MAX_PREEMPTIONS
from inferencecluster.simulator.sequences import Phase

PREFILL, DECODE, WHOLE = Phase.PREFILL, Phase.DECODE, Phase.WHOLE

phases = st.sampled_from(Phase)


@st.composite
def arrivals(draw: st.DrawFn) -> list[NaiveSequence]:
    """Each arrival has a last bit of its own: no two things of different requests fall on one instant."""
    count = draw(st.integers(1, 14))
    kinds = draw(st.sampled_from([(DECODE,), (PREFILL,), (WHOLE,), tuple(Phase)]))
    return [
        NaiveSequence(
            number,
            draw(st.integers(0, 2**21)) * 2**-20 + (number + 1) * 2**-30,
            draw(st.sampled_from(kinds)),
            draw(st.integers(1, 5000)),
            draw(st.integers(2, 60)),
        )
        for number in range(count)
    ]


@given(arrivals(), st.sampled_from([64, 1024, 4096]), st.sampled_from([12_000, 1 << 20]))
def test_the_closed_form_equals_one_iteration_after_the_other_to_the_last_bit(
    sequences: list[NaiveSequence], max_num_tokens: int, capacity: int
) -> None:
    host = RecordingHost().start(DYADIC, max_num_tokens=max_num_tokens, kv_capacity_tokens=capacity)
    held = sum(sequence.prompt for sequence in sequences if sequence.phase is PREFILL)
    if held > capacity - 6000:
        # Caches that nobody fetches would fill the memory for good.
        sequences = [sequence for sequence in sequences if sequence.phase is not PREFILL]
    for item in sequences:
        host.submit_at(item.number, item.arrival, item.phase, item.prompt, item.output)
    host.run()
    naive = NaiveEngine(DYADIC, max_num_tokens, capacity, list(sequences))
    naive.run()
    assert host.first_tokens == naive.first_tokens
    assert host.prefills | host.ends == naive.ends
    assert host.most_memory <= capacity


@given(st.floats(1e-3, 1.0), st.one_of(st.just(0.0), st.floats(1e-9, 1e-3)), st.floats(0.0, 500.0))
def test_steps_that_have_ended_are_the_inverse_of_their_duration(
    first: float, growth: float, seconds: float
) -> None:
    steps = steps_ended(first, growth, seconds)
    assert run_seconds(first, growth, steps) <= seconds < run_seconds(first, growth, steps + 1)


def test_a_run_is_the_sum_of_its_steps() -> None:
    assert run_seconds(2.0, 0.5, 4) == 2.0 + 2.5 + 3.0 + 3.5
    assert run_seconds(2.0, 0.5, 0) == 0.0


def test_a_decode_step_depends_on_batch_and_context() -> None:
    host = RecordingHost().start()
    host.submit_at(0, 0.0, DECODE, 1000, 3)
    host.submit_at(1, 0.001, DECODE, 3000, 3)
    host.run()
    alone = 0.010 + 1e-4 + 1e-7 * 1001
    both = 0.010 + 2e-4 + 1e-7 * (1002 + 3001)
    alone_again = 0.010 + 1e-4 + 1e-7 * 3002
    assert host.ends == pytest.approx({0: alone + both, 1: alone + both + alone_again}, abs=1e-12)


def test_who_comes_during_a_step_joins_at_its_end() -> None:
    host = RecordingHost().start()
    host.submit_at(0, 0.0, DECODE, 1000, 100)
    step = 0.010 + 1e-4 + 1e-7 * 1001
    host.submit_at(1, 2.5 * step, DECODE, 1000, 2)
    host.run()
    assert host.first_tokens[1] == pytest.approx(run_seconds(step, 1e-7, 3), abs=1e-12)


def test_the_number_of_events_does_not_depend_on_the_length_of_answers() -> None:
    counts = []
    for output in (10, 10_000):
        host = RecordingHost().start(kv_capacity_tokens=1 << 30)
        for number in range(20):
            host.submit_at(number, number * 0.01, DECODE, 100, output + 100 * number)
        host.run()
        counts.append(host.events.calls)
    # Short answers end between the arrivals, which is an event more or less each.
    assert counts[1] <= counts[0] + 20 <= 140


def test_prompts_are_batched_in_their_order_up_to_the_tokens_of_an_iteration() -> None:
    host = RecordingHost().start(max_num_tokens=4096)
    for number in range(5):
        host.submit_at(number, 0.0, PREFILL, 1000, 9)
    host.run()
    # The first begins alone. 4096 tokens hold the other four.
    assert host.prefills[0] == pytest.approx(0.110)
    assert [host.prefills[number] for number in range(1, 5)] == pytest.approx([0.110 + 0.410] * 4)


def test_a_prompt_that_does_not_fit_the_rest_of_an_iteration_begins_in_it() -> None:
    host = RecordingHost().start(max_num_tokens=1500)
    host.submit_at(0, 0.0, PREFILL, 100, 9)
    host.submit_at(1, 0.001, PREFILL, 1000, 9)
    host.submit_at(2, 0.002, PREFILL, 1000, 9)
    host.run()
    first = 0.010 + 0.010
    assert host.prefills == pytest.approx({0: first, 1: first + 0.160, 2: first + 0.160 + 0.060})


def test_chunks_cost_together_what_the_prompt_costs_alone_and_a_base_each() -> None:
    model = replace(ROUND, prefill=replace(ROUND.prefill, per_token_squared_seconds=1e-7))
    host = RecordingHost().start(model, max_num_tokens=1000)
    host.submit_at(0, 0.0, PREFILL, 3500, 9)
    host.run()
    assert host.prefills[0] == pytest.approx(model.prefill.seconds(3500) + 3 * 0.010)


def test_prompts_and_decode_steps_share_an_iteration_and_its_larger_base() -> None:
    host = RecordingHost().start()
    host.submit_at(0, 0.0, DECODE, 1000, 100)
    host.submit_at(1, 0.001, WHOLE, 500, 2)
    host.run()
    step = 0.010 + 1e-4 + 1e-7 * 1001
    both = 0.010 + 500e-4 + 1e-4 + 1e-7 * 1002
    assert host.first_tokens[1] == pytest.approx(step + both)


def test_a_batch_is_never_larger_than_the_engine_is_configured_for() -> None:
    host = RecordingHost().start(max_batch_size=2)
    for number in range(3):
        host.submit_at(number, 0.0, DECODE, 1000, 11)
    host.run()
    # The second joins after one step. The third is let in when the first ends, and joins a step later.
    assert host.first_tokens[1] < 0.011
    assert host.ends[0] < host.first_tokens[2] == host.ends[1]


def test_a_cache_waits_for_memory_behind_the_one_before_it() -> None:
    host = RecordingHost().start(kv_capacity_tokens=2100)
    host.submit_at(0, 0.0, DECODE, 1000, 11)
    host.submit_at(1, 0.0, DECODE, 1900, 11)
    host.submit_at(2, 0.0, DECODE, 100, 11)
    host.run()
    assert host.first_tokens[0] == 0.0
    assert host.first_tokens[1] == host.ends[0]
    assert host.first_tokens[2] >= host.first_tokens[1]
    assert host.most_memory <= 2100


def test_a_held_cache_keeps_memory_until_it_is_released() -> None:
    host = RecordingHost().start(kv_capacity_tokens=1500)
    first = host.submit_at(0, 0.0, PREFILL, 1000, 9)
    host.submit_at(1, 0.0, PREFILL, 1000, 9)
    host.events.at(5.0, lambda _: host.engine.release(first, 5.0))
    host.run()
    assert host.prefills == pytest.approx({0: 0.110, 1: 5.110})


def test_fetching_at_the_boundary_waits_for_the_iteration_under_way() -> None:
    found = []
    for at_boundary in (False, True):
        host = RecordingHost(transfer_seconds=0.015).start(fetch_at_boundary=at_boundary)
        host.submit_at(0, 0.0, DECODE, 1000, 100)
        host.submit_at(1, 0.016, DECODE, 1000, 10)
        host.run()
        found.append(host.first_tokens[1])
    step = 0.010 + 1e-4 + 1e-7 * 1001
    # The first one joins at 15 ms. With room at once, the cache of the second is there at 31 ms: after two steps.
    assert found[0] == pytest.approx(0.015 + run_seconds(step, 1e-7, 2), abs=1e-9)
    # Else it is asked for after the step that begins at 15 ms, and is there 15 ms later.
    assert found[1] == pytest.approx(0.015 + run_seconds(step, 1e-7, 3), abs=1e-9)


def test_reports_come_at_the_token_that_was_asked_for() -> None:
    host = RecordingHost().start()
    sequence = host.submit_at(0, 0.0, DECODE, 1000, 100)
    sequence.next_report = 21
    host.run()
    step = 0.010 + 1e-4 + 1e-7 * 1001
    assert [(number, tokens) for number, tokens, _ in host.reports] == [(0, 21), (0, 42), (0, 84)]
    assert host.reports[0][2] == pytest.approx(run_seconds(step, 1e-7, 20), abs=1e-9)


def test_usage_counts_every_token_and_every_busy_second() -> None:
    host = RecordingHost().start()
    host.submit_at(0, 0.0, WHOLE, 1000, 11)
    host.submit_at(1, 10.0, DECODE, 1000, 21)
    host.events.at(10.1, lambda _: host.engine.account(10.1))
    host.run()
    usage = host.engine.usage
    assert usage.decoded_tokens == host.stepped_tokens == 10 + 20
    assert usage.prefill_seconds == pytest.approx(0.110)
    assert usage.decode_seconds == pytest.approx(host.ends[0] - 0.110 + host.ends[1] - 10.0)
    assert usage.sequence_seconds == pytest.approx(usage.decode_seconds)
    assert usage.kv_token_seconds == pytest.approx(1006 * 0.102 + 1011 * 0.204, rel=0.02)


def test_memory_that_runs_out_preempts_the_newest_and_computes_its_context_again() -> None:
    host = RecordingHost().start(kv_capacity_tokens=2101, optimistic=True)
    host.submit_at(0, 0.0, WHOLE, 1000, 201)
    host.submit_at(1, 0.0, WHOLE, 1000, 101)
    host.run()
    assert host.engine.usage.preemptions == 1
    assert host.most_memory <= 2101
    # It comes back when the older one has ended, and loses the tokens of nobody.
    assert host.ends[1] > host.ends[0]
    assert host.first_tokens[1] < host.ends[0]
    assert host.stepped_tokens == 200 + 99


@given(
    st.lists(
        st.tuples(phases, st.floats(0, 3), st.integers(1, 900), st.integers(2, 400)),
        min_size=1,
        max_size=12,
    ),
    st.booleans(),
)
def test_memory_is_never_exceeded_and_everybody_ends(
    items: list[tuple[Phase, float, int, int]], optimistic: bool
) -> None:
    capacity = 1400
    host = RecordingHost().start(kv_capacity_tokens=capacity, optimistic=optimistic)
    sequences = [
        host.submit_at(number, time, phase, prompt, output)
        for number, (phase, time, prompt, output) in enumerate(items)
    ]
    prefilled = host.prefilled

    def release_later(sequence: object, now: float) -> None:
        prefilled(sequence, now)  # type: ignore[arg-type]  # an engine's sequence
        host.events.at(now + 0.5, lambda _: host.engine.release(sequence, host.events.now))  # type: ignore[arg-type]

    host.prefilled = release_later  # type: ignore[method-assign]
    host.run()
    assert host.most_memory <= capacity
    assert host.engine.held_tokens == 0
    assert len(host.prefills) + len(host.ends) == len(items)
    assert all(sequence.preemptions <= MAX_PREEMPTIONS for sequence in sequences)
    assert host.engine.running_requests == host.engine.waiting_requests == 0
    assert host.engine.resident_tokens(math.inf) == 0


@pytest.mark.parametrize(
    ("phase", "at"),
    [
        pytest.param(PREFILL, 0.05, id="a prompt that waits"),
        pytest.param(PREFILL, 0.15, id="a prompt under way"),
        pytest.param(PREFILL, 5.0, id="a held cache"),
        pytest.param(DECODE, 0.05, id="a cache on its way"),
        pytest.param(DECODE, 0.109, id="a cache that has just come"),
    ],
)
def test_a_cancelled_sequence_gives_its_memory_back_and_is_heard_of_no_more(phase: Phase, at: float) -> None:
    host = RecordingHost(transfer_seconds=0.1).start()
    host.submit_at(0, 0.0, WHOLE, 1000, 2000)
    sequence = host.submit_at(1, 0.001, phase, 1000, 50)
    host.events.at(at, lambda _: host.engine.cancel(sequence, at))
    host.run()
    assert host.engine.held_tokens == 0
    assert 1 not in host.ends
    assert host.ends[0] > 0.0


def test_a_cancelled_sequence_that_waits_never_begins() -> None:
    host = RecordingHost().start(kv_capacity_tokens=1500)
    host.submit_at(0, 0.0, WHOLE, 1000, 100)
    waiting = [host.submit_at(1, 0.0, WHOLE, 1000, 9), host.submit_at(2, 0.0, DECODE, 1000, 9)]
    host.events.at(0.01, lambda _: host.engine.cancel(waiting[0], 0.01))
    host.events.at(0.01, lambda _: host.engine.cancel(waiting[1], 0.01))
    host.events.at(0.02, lambda _: host.engine.cancel(waiting[1], 0.02))
    host.run()
    assert set(host.ends) == {0}
    assert host.engine.waiting_requests == 0


def test_a_dead_engine_calls_nobody() -> None:
    host = RecordingHost().start()
    host.submit_at(0, 0.0, WHOLE, 1000, 100)
    host.events.at(0.5, lambda _: host.engine.die(0.5))
    host.run()
    assert host.first_tokens == pytest.approx({0: 0.110})
    assert host.ends == {}
    assert host.engine.usage.decode_seconds == pytest.approx(0.390)


def test_a_request_that_no_memory_can_hold_does_not_fit() -> None:
    engine = RecordingHost().start(kv_capacity_tokens=1000).engine
    assert engine.fits(900, 100)
    assert not engine.fits(900, 101)

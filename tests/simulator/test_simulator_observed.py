"""Requests that are drawn from what a live cluster counted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Flow
from inferencecluster.simulator.chance import chance
from inferencecluster.simulator.observed import OUTPUT_SPREAD, SMALLEST_COUNT, Lengths, drawn
from inferencecluster.simulator.workload import MAX_TOKENS

SECONDS = 60.0
GAP = Missing("NoSeries", "none")
DEVIATIONS = 6.0
"""Beyond them lies a draw in a thousand million."""


def flow(requests: float, prompt: float = 1000.0, spread: float = 0.8, output: float = 200.0) -> Flow:
    square = prompt * prompt * math.exp(spread * spread)
    return Flow(SECONDS, requests, requests * prompt, requests * square, requests, requests * output)


FLOWS = st.lists(
    st.one_of(
        st.just(GAP),
        st.builds(
            flow,
            st.floats(0.0, 50.0),
            st.floats(1.0, 5000.0),
            st.floats(0.0, 1.5),
            st.floats(1.0, 1000.0),
        ),
    ),
    min_size=1,
    max_size=6,
).filter(lambda flows: any(isinstance(item, Flow) and item.completed >= SMALLEST_COUNT for item in flows))


@given(FLOWS, st.integers(0, 2**32))
def test_requests_ascend_lie_in_their_steps_and_repeat_with_the_seed(
    flows: list[Flow | Missing], seed: int
) -> None:
    found = list(drawn(flows, seed=seed))
    assert [item.arrival for item in found] == sorted(item.arrival for item in found)
    assert found == list(drawn(flows, seed=seed))
    for item in found:
        step = flows[min(int(item.arrival / SECONDS), len(flows) - 1)]
        assert isinstance(step, Flow)
        assert step.requests > 0
        assert item.prompt_tokens >= 1
        assert item.output_tokens >= 1


@given(FLOWS, st.integers(0, 2**32))
def test_there_are_as_many_requests_as_a_poisson_process_of_the_rates_has(
    flows: list[Flow | Missing], seed: int
) -> None:
    expected = sum(item.requests for item in flows if isinstance(item, Flow))
    count = sum(1 for _ in drawn(flows, seed=seed))
    # The deviation of a Poisson count is its root; small ones are skewed by a few.
    assert abs(count - expected) <= DEVIATIONS * math.sqrt(expected) + DEVIATIONS


@given(st.floats(1.0, 3000.0), st.floats(0.0, 1.0), st.integers(0, 2**32))
@settings(max_examples=30)
def test_lengths_have_the_observed_mean_however_short(mean: float, spread: float, seed: int) -> None:
    source, count = chance(seed, "test"), 2000
    lengths = Lengths(mean, spread)
    total = sum(lengths.draw(source) for _ in range(count))
    deviation = (mean - 1) * math.sqrt(math.expm1(spread * spread)) + 0.5
    # The mean of a skewed length is spread more than that of an even one.
    assert abs(total / count - mean) <= 2 * DEVIATIONS * deviation / math.sqrt(count)


def test_prompts_have_the_spread_that_the_squares_tell() -> None:
    found = [item.prompt_tokens for item in drawn([flow(20_000.0, spread=0.8)], seed=1)]
    mean = sum(found) / len(found)
    variance = sum((tokens - mean) ** 2 for tokens in found) / len(found)
    assert mean == pytest.approx(1000, rel=0.03)
    assert math.sqrt(variance) / mean == pytest.approx(math.sqrt(math.expm1(0.64)), rel=0.1)


def test_equal_prompts_stay_equal_and_answers_spread_as_in_the_field() -> None:
    found = list(drawn([flow(5000.0, prompt=700.0, spread=0.0)], seed=1))
    assert {item.prompt_tokens for item in found} <= {700, 701}
    logarithms = [math.log(item.output_tokens) for item in found]
    mean = sum(logarithms) / len(found)
    spread = math.sqrt(sum((value - mean) ** 2 for value in logarithms) / len(found))
    assert spread == pytest.approx(OUTPUT_SPREAD, rel=0.1)


def test_each_step_has_its_own_means_and_another_step_does_not_move_it() -> None:
    short, long = flow(3000.0, prompt=100.0, output=20.0), flow(3000.0, prompt=4000.0, output=400.0)
    found = list(drawn([short, GAP, long], seed=3))
    first = [item for item in found if item.arrival < SECONDS]
    last = [item for item in found if item.arrival >= 2 * SECONDS]
    assert len(first) + len(last) == len(found)
    for part, prompt, output in ((first, 100.0, 20.0), (last, 4000.0, 400.0)):
        assert sum(item.prompt_tokens for item in part) / len(part) == pytest.approx(prompt, rel=0.06)
        assert sum(item.output_tokens for item in part) / len(part) == pytest.approx(output, rel=0.06)
    assert [item for item in drawn([GAP, GAP, long], seed=3) if item.arrival >= 2 * SECONDS] == last


def test_answers_of_a_step_in_which_none_ended_have_the_mean_of_all() -> None:
    starting = replace(flow(3000.0), completed=0.0, completed_output_tokens=0.0)
    found = [item for item in drawn([starting, flow(3000.0, output=50.0)], seed=1) if item.arrival < SECONDS]
    assert sum(item.output_tokens for item in found) / len(found) == pytest.approx(50.0, rel=0.06)


@given(st.lists(st.floats(0.0, 1e300), min_size=7, max_size=7), st.integers(0, 9))
def test_no_counter_however_wrong_ends_the_drawing(values: list[float], seed: int) -> None:
    requests, completed = 20.0, max(SMALLEST_COUNT, values[3])
    strange = Flow(SECONDS, requests, values[1], values[2], completed, *values[4:])
    for item in drawn([strange], seed=seed):
        assert 1 <= item.prompt_tokens <= MAX_TOKENS
        assert 1 <= item.output_tokens <= MAX_TOKENS
        assert 0 <= item.cached_tokens <= item.prompt_tokens


def test_the_share_of_prompts_that_engines_had_cached_is_cached() -> None:
    cached = replace(flow(100.0), prefilled_prompt_tokens=80_000.0, cached_prompt_tokens=20_000.0)
    for item in drawn([cached], seed=1):
        assert item.cached_tokens == round(item.prompt_tokens / 4)

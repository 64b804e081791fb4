from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferencecluster.core.errors import SpecError
from inferencecluster.planner.traffic import LENGTH_RATIO, MAX_WINDOWS, from_requests, steady
from inferencecluster.simulator.workload import Request


def test_a_steady_rate_is_one_hour_of_equal_requests() -> None:
    traffic = steady(rate=2.0, prompt_tokens=1000, output_tokens=101)
    (window,) = traffic.windows
    assert (traffic.hours, traffic.requests, window.rate) == (1.0, 7200.0, 2.0)
    assert (window.prompt_tokens, window.steps) == (1000.0, 100.0)
    assert window.context == pytest.approx(1000 + 50.5)
    assert window.final_context == pytest.approx(1100.5)


@pytest.mark.parametrize(
    ("rate", "prompt", "output", "field"),
    [
        (0.0, 1, 1, "--rate"),
        (float("nan"), 1, 1, "--rate"),
        (1.0, 0, 1, "--prompt-tokens"),
        (1.0, 1, -1, "--output-tokens"),
    ],
)
def test_figures_that_are_not_positive_are_refused(rate: float, prompt: int, output: int, field: str) -> None:
    with pytest.raises(SpecError) as caught:
        steady(rate=rate, prompt_tokens=prompt, output_tokens=output)
    assert caught.value.field == field


def test_an_empty_trace_is_refused() -> None:
    with pytest.raises(SpecError, match="no request"):
        from_requests([], name="empty.csv")


def test_windows_last_a_minute_and_the_incomplete_last_one_is_dropped() -> None:
    requests = [Request(float(second), 10, 2) for second in range(150)]
    traffic = from_requests(requests, name="t")
    assert [window.requests for window in traffic.windows] == [60.0, 60.0]


def test_a_silent_minute_is_a_window_without_requests() -> None:
    traffic = from_requests([Request(0.0, 10, 2), Request(125.0, 20, 3)], name="t")
    assert [window.requests for window in traffic.windows] == [1.0, 0.0]
    assert traffic.mean_over_requests(lambda window: window.prompt_tokens) == 10.0


def test_a_short_trace_is_one_window() -> None:
    assert len(from_requests([Request(0.0, 10, 2)], name="t").windows) == 1


def test_a_long_trace_has_longer_windows() -> None:
    traffic = from_requests([Request(float(hour * 3600), 10, 2) for hour in range(25)], name="t")
    assert len(traffic.windows) <= MAX_WINDOWS
    assert traffic.window_seconds == 360.0


REQUESTS = st.lists(
    st.builds(Request, st.floats(0, 59.0), st.integers(1, 20_000), st.integers(1, 3000)), min_size=1
)


@given(REQUESTS)
def test_moments_are_exact_and_histograms_keep_mean_and_shape(requests: list[Request]) -> None:
    (window,) = from_requests(requests, name="t").windows
    count = len(requests)
    assert window.prompt_tokens == pytest.approx(sum(one.prompt_tokens for one in requests) / count)
    assert window.prompt_tokens_squared == pytest.approx(
        sum(one.prompt_tokens**2 for one in requests) / count
    )
    assert sum(share for _, share in window.prompts) == pytest.approx(1.0)
    assert sum(tokens * share for tokens, share in window.prompts) == pytest.approx(window.prompt_tokens)
    squares = sum(tokens**2 * share for tokens, share in window.prompts)
    assert squares <= window.prompt_tokens_squared * (1 + 1e-9)
    assert squares >= window.prompt_tokens_squared / LENGTH_RATIO
    assert sum(tokens * share for tokens, share in window.outputs) == pytest.approx(window.steps + 1)


def test_scaling_multiplies_requests_and_nothing_else() -> None:
    traffic = steady(rate=2.0, prompt_tokens=1000, output_tokens=101)
    assert traffic.scaled(3.0).requests == 3 * traffic.requests
    assert traffic.scaled(3.0).windows[0].context == traffic.windows[0].context

"""Durations: exact sums, and the inverse that lets a run of steps be interrupted at any moment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulated_engine.timing import DecodeModel, Pace, PrefillModel

PREFILL = PrefillModel(0.008, 6e-5, 9e-10)


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=8))
def test_chunks_of_a_prompt_cost_what_the_whole_prompt_costs(chunks: list[int]) -> None:
    done, seconds = 0, 0.0
    for chunk in chunks:
        seconds += PREFILL.chunk_seconds(done, chunk)
        done += chunk
    assert seconds == pytest.approx(6e-5 * done + 9e-10 * done**2)


@given(
    first=st.floats(1e-4, 1.0),
    growth=st.just(0.0) | st.floats(1e-9, 1e-3),
    steps=st.integers(0, 3000),
    share=st.floats(0.01, 0.99),
)
def test_completed_steps_are_the_inverse_of_elapsed_time(
    first: float, growth: float, steps: int, share: float
) -> None:
    pace = Pace(first, growth)
    inside = pace.elapsed(steps) + share * (pace.elapsed(steps + 1) - pace.elapsed(steps))
    assert pace.completed(inside) == steps
    assert pace.completed(pace.elapsed(steps)) == steps


def test_a_step_depends_on_batch_and_context() -> None:
    model = DecodeModel(0.01, 1e-4, 1e-6)
    assert model.batch_seconds(8, 8000) == pytest.approx(8e-4 + 8e-3)

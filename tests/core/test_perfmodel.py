import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferencecluster.core.perfmodel import DecodeModel, PerformanceModel, PrefillModel

PREFILL = PrefillModel(0.010, 1e-4, 1e-8)
DECODE = DecodeModel(0.010, 1e-4, 1e-7)


@pytest.mark.parametrize(
    ("tokens", "seconds"),
    [
        pytest.param(0, 0.010, id="nothing costs the launch"),
        pytest.param(1000, 0.120, id="linear part dominates"),
        pytest.param(10_000, 2.010, id="attention counts"),
    ],
)
def test_prefill_seconds(tokens: float, seconds: float) -> None:
    assert PREFILL.seconds(tokens) == pytest.approx(seconds)


def test_step_seconds_depend_on_batch_and_context() -> None:
    assert DECODE.step_seconds(50, 50_000) == pytest.approx(0.020)


@given(st.lists(st.integers(1, 32_768), min_size=1, max_size=50))
def test_prefill_work_from_moments_is_the_sum_over_the_requests(lengths: list[int]) -> None:
    work = PREFILL.work(
        requests=len(lengths), tokens=sum(lengths), tokens_squared=sum(length**2 for length in lengths)
    )
    assert work == pytest.approx(sum(PREFILL.seconds(length) for length in lengths))


@pytest.mark.parametrize(
    ("itl", "context", "capacity", "batch"),
    [
        pytest.param(0.020, 1000, 1_000_000, 50.0, id="bound by latency"),
        pytest.param(0.020, 1000, 30_000, 30.0, id="bound by KV memory"),
        pytest.param(1.0, 1, 1_000_000, 256.0, id="bound by the engine's batch"),
        pytest.param(0.005, 1000, 1_000_000, 0.0, id="a single step is too slow"),
        pytest.param(0.020, 0, 1_000_000, 0.010 / 1.001e-4, id="a context counts at least one token"),
    ],
)
def test_max_batch(itl: float, context: float, capacity: int, batch: float) -> None:
    model = PerformanceModel(PREFILL, DECODE, kv_capacity_tokens=capacity)
    assert model.max_batch(itl_seconds=itl, mean_context_tokens=context) == pytest.approx(batch)


@given(st.floats(0.011, 0.1), st.floats(1, 30_000))
def test_a_batch_within_the_limit_keeps_the_itl(itl: float, context: float) -> None:
    model = PerformanceModel(PREFILL, DECODE, kv_capacity_tokens=10_000_000)
    batch = model.max_batch(itl_seconds=itl, mean_context_tokens=context)
    assert DECODE.step_seconds(batch, batch * context) <= itl * (1 + 1e-9)

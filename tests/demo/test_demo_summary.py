"""What the demo's verdict is made of: a fault ends it with an exit code other than 0."""

from __future__ import annotations

import pytest
from e2e.demo.load import Answer
from e2e.demo.monitor import POOLS, PoolSample, Sample
from e2e.demo.summary import Slo, summarise

SLO = Slo(ttft=1.0, itl=0.04, unloaded_prefill=lambda tokens: tokens / 10_000)


def sample(at: float, gpus: int, budget: int, *, ready: int = 1) -> Sample:
    pool = PoolSample(desired=ready, ready=ready, draining=0, borrowed=0)
    return Sample(at, dict.fromkeys(POOLS, pool), gpus, budget, 0, 0, "", ())


def answer(*, error: str = "") -> Answer:
    return Answer(
        at=0.0,
        late=0.0,
        sent_at=0.0,
        prompt_tokens=100,
        output_tokens=10,
        received_tokens=10,
        ttft=0.2,
        seconds=0.4,
        error=error,
    )


def faults(levels: list[tuple[int, int]], *, planned: int = 1, error: str = "") -> tuple[str, ...]:
    """Of a run with so many GPUs of so large a budget in each second; every pool moves."""
    samples = [sample(float(at), *level, ready=1 + at % 2) for at, level in enumerate(levels)]
    return summarise(samples, [answer(error=error)], slo=SLO, planned=planned).faults


@pytest.mark.parametrize(
    ("levels", "told"),
    [
        pytest.param([(8, 16), (16, 16), (8, 16)], (), id="never above"),
        pytest.param([(8, 16), (20, 16), (8, 16)], ("20 GPUs of 16 at 1 s",), id="grown above"),
        pytest.param([(16, 16), (16, 8), (12, 8), (8, 8)], (), id="a lowered budget is reached by draining"),
        pytest.param(
            [(16, 16), (16, 8), (20, 8), (8, 8)], ("20 GPUs of 8 at 2 s",), id="grown while draining"
        ),
        pytest.param([(16, 16), (16, 8), (12, 8)], ("12 GPUs of 8 at 2 s",), id="never reached"),
        pytest.param([(0, 0), (8, 0), (8, 16)], (), id="the budget was not seen yet"),
    ],
)
def test_the_budget_is_broken_by_what_comes_and_not_by_what_drains(
    levels: list[tuple[int, int]], told: tuple[str, ...]
) -> None:
    assert faults(levels) == told


def test_a_failed_request_and_one_that_never_ended_are_faults() -> None:
    assert faults([(8, 16), (8, 16)], error="reset", planned=2) == (
        "1 requests failed, the first: reset",
        "1 of 2 requests never ended",
    )


def test_a_pool_that_never_moved_is_a_fault() -> None:
    still = [sample(0.0, 8, 16), sample(1.0, 8, 16)]
    assert summarise(still, [answer()], slo=SLO, planned=1).faults == tuple(
        f"the {name} pool never moved" for name in POOLS
    )

from __future__ import annotations

import pytest

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.observation import PoolUtilization
from inferencecluster.core.useful import useful_gpus

PROMPTS = PoolUtilization(tensor_active=0.92, dram_active=0.30)
TOKENS = PoolUtilization(tensor_active=0.28, dram_active=0.90)


@pytest.mark.parametrize(
    ("pool", "seen", "expected"),
    [
        pytest.param(PoolName.PREFILL, PROMPTS, 46.0, id="prefill counts by its tensor pipe"),
        pytest.param(PoolName.PREFILL, TOKENS, 14.0, id="a prefill pool that decodes is idle by that count"),
        pytest.param(PoolName.DECODE, TOKENS, 45.0, id="decode counts by its memory bus"),
        pytest.param(PoolName.MIXED, PROMPTS, 46.0, id="a mixed pool full of prompts"),
        pytest.param(PoolName.MIXED, TOKENS, 45.0, id="a mixed pool full of tokens"),
    ],
)
def test_a_gpu_is_useful_while_what_bounds_its_phase_is_busy(
    pool: PoolName, seen: PoolUtilization, expected: float
) -> None:
    assert useful_gpus(pool, 50, seen) == pytest.approx(expected)


def test_the_published_twenty_of_sixty_four_count_arithmetic_alone() -> None:
    assert 3 * PROMPTS.tensor_active + 61 * TOKENS.tensor_active == pytest.approx(20.0, abs=0.5)
    assert useful_gpus(PoolName.PREFILL, 3, PROMPTS) + useful_gpus(PoolName.DECODE, 61, TOKENS) > 57

"""Tokens of one iteration: prompts in pieces that leave decoding sequences inside their ITL."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.perfmodel import DecodeModel, PerformanceModel, PrefillModel
from inferencecluster.core.profiles import PROFILES, profile
from inferencecluster.core.spec import PoolSpec
from inferencecluster.core.token_budget import (
    LEAST_PROMPT_TOKENS,
    PREFILL_TOKENS,
    fits_target,
    iteration_tokens,
    queue_tokens,
)

P, D, M = PoolName
H200 = profile("llama-3.1-70b-fp8/h200-tp2").performance
A100 = profile("llama-3.1-70b-bf16/a100-tp4").performance


@pytest.mark.parametrize(
    ("performance", "pool", "itl", "tokens"),
    [
        pytest.param(H200, P, 0.040, 8192, id="nobody decodes on a prefill replica"),
        # (40 - 12.34) ms / (0.06117 + 8192 * 8.92e-7) ms = 404
        pytest.param(H200, D, 0.040, 384, id="as many as fit, in whole tiles"),
        pytest.param(H200, M, 0.040, 384, id="mixed as decode"),
        pytest.param(H200, D, 0.041, 384, id="another millisecond changes no configuration"),
        pytest.param(H200, D, 0.050, 512, id="a longer ITL allows more"),
        pytest.param(H200, D, 10.0, 8192 + 256, id="never more than prefill beside a whole batch"),
        pytest.param(A100, D, 0.030, 256 + 32, id="hardly any fit: a block beside a whole batch"),
        pytest.param(A100, D, 0.010, 256 + 32, id="a target that a step alone misses"),
    ],
)
def test_tokens_of_an_iteration(
    performance: PerformanceModel, pool: PoolName, itl: float, tokens: int
) -> None:
    assert iteration_tokens(pool, performance, itl_seconds=itl) == tokens


@pytest.mark.parametrize(
    ("pool", "ttft", "itl", "tokens"),
    [
        # 8192 tokens take 8.32 + 501.1 + 59.9 = 569.3 ms
        pytest.param(P, 1.0, 0.040, 4317, id="prefill at its own pace"),
        pytest.param(P, 0.5, 0.040, 2158, id="half the target, half the queue"),
        # 384 tokens in 40 ms
        pytest.param(D, 1.0, 0.040, 2880, id="decode beside its tokens"),
        pytest.param(M, 1.0, 0.050, 3072, id="a longer ITL takes longer pieces"),
        pytest.param(D, 1.0, 0.010, 4317, id="a target that a step alone misses makes prompts no faster"),
        # 8448 tokens take 12.34 + 578.5 = 590.8 ms
        pytest.param(M, 1.0, 10.0, 4290, id="no slower because nobody is in a hurry"),
    ],
)
def test_tokens_that_may_wait_are_worked_off_within_a_part_of_the_target(
    pool: PoolName, ttft: float, itl: float, tokens: int
) -> None:
    assert queue_tokens(pool, H200, ttft_seconds=ttft, itl_seconds=itl) == tokens


@given(
    st.sampled_from([D, M]),
    st.sampled_from([known.performance for known in PROFILES.values()]),
    st.floats(0.001, 10.0),
)
def test_no_more_may_wait_for_pieces_beside_tokens_than_on_a_prefill_replica(
    pool: PoolName, performance: PerformanceModel, itl: float
) -> None:
    alone = queue_tokens(P, performance, ttft_seconds=1.0, itl_seconds=itl)
    beside = queue_tokens(pool, performance, ttft_seconds=1.0, itl_seconds=itl)
    assert 0.4 * alone < beside <= alone


@pytest.mark.parametrize(
    ("performance", "pool", "itl", "fits"),
    [
        # 12.34 ms + 384 * 0.06848 ms = 38.6 ms
        pytest.param(H200, D, 0.040, True, id="as many tokens as fit"),
        pytest.param(H200, M, 10.0, True, id="a target that leaves room for all"),
        pytest.param(H200, P, 0.040, False, id="prefill, and engines whose replicas convert"),
        # 26.2 ms + 288 * 0.1776 ms = 77 ms
        pytest.param(A100, D, 0.035, False, id="the fewest tokens are too many"),
        pytest.param(A100, D, 0.100, True, id="the same engine with time"),
    ],
)
def test_whether_streams_beside_prompts_keep_their_target(
    performance: PerformanceModel, pool: PoolName, itl: float, fits: bool
) -> None:
    assert fits_target(pool, performance, itl_seconds=itl) is fits


@pytest.mark.parametrize("pool", PoolName)
def test_engines_whose_replicas_convert_make_iterations_as_long_as_prefill_ones(pool: PoolName) -> None:
    alone = PoolSpec(pool, 0, 8, 2, H200)
    moving = replace(alone, interchangeable=True)
    assert (alone.iterates_like, alone.tuned_for) == (pool, pool)
    assert (moving.iterates_like, moving.tuned_for) == (P, M)
    assert iteration_tokens(moving.iterates_like, H200, itl_seconds=0.040) == PREFILL_TOKENS


@given(
    st.sampled_from(PoolName),
    st.sampled_from([known.performance for known in PROFILES.values()]),
    st.floats(0.001, 1.0),
    st.floats(0.0, 1.0),
)
def test_a_looser_target_never_allows_fewer_tokens_and_a_batch_always_fits(
    pool: PoolName, performance: PerformanceModel, itl: float, more: float
) -> None:
    tokens = iteration_tokens(pool, performance, itl_seconds=itl)
    assert tokens % LEAST_PROMPT_TOKENS == 0
    assert tokens >= performance.max_batch_size
    assert tokens <= iteration_tokens(pool, performance, itl_seconds=itl + more)


@given(st.integers(0, 256), st.floats(0.020, 0.2), st.integers(0, PREFILL_TOKENS))
def test_an_iteration_over_any_batch_and_any_piece_of_a_usual_prompt_takes_no_longer_than_the_target(
    batch: int, itl: float, done: int
) -> None:
    """As the simulator times iterations, with short contexts and the mean cost of a prompt's tokens."""
    tokens = iteration_tokens(D, H200, itl_seconds=itl)
    if tokens == H200.max_batch_size + LEAST_PROMPT_TOKENS:
        return
    prompt = min(tokens - min(batch, tokens), PREFILL_TOKENS - done)
    model = H200.prefill
    mean = model.per_token_seconds + model.per_token_squared_seconds * PREFILL_TOKENS
    assert H200.decode.step_seconds(batch, 0) + prompt * mean <= itl + 1e-9


def test_prompts_that_cost_nothing_are_not_limited() -> None:
    free = PerformanceModel(PrefillModel(0.0, 0.0, 0.0), DecodeModel(0.01, 0.0, 0.0), 10**6, 64)
    assert iteration_tokens(D, free, itl_seconds=0.02) == 64 + PREFILL_TOKENS

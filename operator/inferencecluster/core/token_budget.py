"""Tokens that one iteration of an engine may hold (TensorRT-LLM's `max_num_tokens`), and that may wait for one, by pool.

An iteration makes one step of every decoding sequence and fills what is left with prompt chunks. On a prefill replica it
holds as many as compute keeps busy with. On decode and mixed replicas somebody waits for the next token meanwhile: there it
holds as many prompt tokens as fit the ITL target, so that a borrowed or mixed replica answers its streams in time and only
the prompts, which are many, take longer (chunked prefill: Sarathi-Serve, arXiv 2403.02310). Engines whose replicas move between
pools are asked for as prefill ones (`PoolSpec.iterates_like`).

Simulated on the Azure conversation trace (24 mixed replicas, Llama-3.1-70B-FP8 on pairs of H200, ITL 40 ms): at 22 times the
trace's load 99.9 % of requests are inside the SLO with 384 tokens, and 98.9 % with 8,448; the code trace at 8 times 97 and 89 %.
"""

from __future__ import annotations

from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.perfmodel import PerformanceModel

PREFILL_TOKENS: Final = 8192
"""Prompt tokens of one iteration: TensorRT-LLM's own default, where prefill is compute bound on every profiled GPU."""
TILE_TOKENS: Final = 128
"""Rows of a matrix tile on every profiled GPU: less than a tile costs as much as one. A multiple of the KV block (32), and
coarse enough that a small change of the ITL target does not change the configuration of running engines."""
LEAST_PROMPT_TOKENS: Final = 32
"""One KV block beside a full batch, or prompts would never begin there."""

QUEUE_SHARE: Final = 0.3
"""Of the TTFT target. A prompt waits for those in front, and then for the iteration that it shares with those who came
meanwhile, which are about as many: 0.6 in the worst case, and a wait in the router may take what is left (docs/decisions/0015)."""


def iteration_tokens(pool: PoolName, performance: PerformanceModel, *, itl_seconds: float) -> int:
    """`max_num_tokens` of the pool's engines, decoding sequences included; a multiple of `LEAST_PROMPT_TOKENS`.

    Every token is counted as one of a prompt of `PREFILL_TOKENS`, which is as long as prompts usually get: a decoding
    sequence costs about as much (its context), so the same number is right for any batch.
    """
    least = _blocks(performance.max_batch_size + LEAST_PROMPT_TOKENS)
    most = _most_tokens(performance)
    if pool is PoolName.PREFILL:
        return _blocks(max(PREFILL_TOKENS, performance.max_batch_size))
    per_token = _token_seconds(performance)
    left = max(0.0, itl_seconds - performance.decode.base_seconds)
    if left >= most * per_token:
        return most
    return max(least, int(left / per_token) // TILE_TOKENS * TILE_TOKENS)


def fits_target(pool: PoolName, performance: PerformanceModel, *, itl_seconds: float) -> bool:
    """Whether an iteration full of prompts ends within the ITL target. Where it does not, streams beside prompts miss it: prefill
    iterations are long, and where a step alone takes most of the target not even the fewest tokens fit.
    """
    tokens = iteration_tokens(pool, performance, itl_seconds=itl_seconds)
    return performance.decode.base_seconds + tokens * _token_seconds(performance) <= itl_seconds


def queue_tokens(
    pool: PoolName, performance: PerformanceModel, *, ttft_seconds: float, itl_seconds: float
) -> int:
    """Prompt tokens that may wait on a replica whose engine iterates like this pool's: what it computes in `QUEUE_SHARE` of the
    TTFT target. Requests beyond wait in the router, where they can still go to whoever is free first.
    """
    pace = _pace(pool, performance, itl_seconds=itl_seconds)
    return round(pace * QUEUE_SHARE * ttft_seconds)


def prompt_share(performance: PerformanceModel, *, itl_seconds: float) -> float:
    """Share of its time that a mixed replica without sequences gives to prompts while some wait.

    The rest is the pass over the weights that every iteration makes: prompts in short pieces pay for it often.
    """
    tokens = iteration_tokens(PoolName.MIXED, performance, itl_seconds=itl_seconds)
    prompts = tokens * _token_seconds(performance)
    return prompts / (performance.decode.base_seconds + prompts) if prompts > 0 else 1.0


def _pace(pool: PoolName, performance: PerformanceModel, *, itl_seconds: float) -> float:
    """Prompt tokens a second. Beside tokens an iteration takes as long as the ITL target, or as the most tokens take; where a
    target is too short for the fewest, prompts are still no faster than on a prefill replica.
    """
    tokens = iteration_tokens(pool, performance, itl_seconds=itl_seconds)
    if pool is PoolName.PREFILL:
        return tokens / performance.prefill.seconds(tokens)
    longest = performance.decode.base_seconds + _most_tokens(performance) * _token_seconds(performance)
    return min(
        tokens / min(itl_seconds, longest), _pace(PoolName.PREFILL, performance, itl_seconds=itl_seconds)
    )


def _token_seconds(performance: PerformanceModel) -> float:
    """Of one prompt token, on average over a prompt of `PREFILL_TOKENS`."""
    prefill = performance.prefill
    return prefill.per_token_seconds + prefill.per_token_squared_seconds * PREFILL_TOKENS


def _most_tokens(performance: PerformanceModel) -> int:
    """Of an iteration on a decode or mixed replica: as many prompt tokens as on a prefill replica beside a whole batch."""
    return _blocks(performance.max_batch_size + PREFILL_TOKENS)


def _blocks(tokens: int) -> int:
    """Rounded up to whole KV blocks."""
    return -(-tokens // LEAST_PROMPT_TOKENS) * LEAST_PROMPT_TOKENS

"""What decode and mixed replicas have left for prompts beside the tokens that they make.

Their iterations take as long as the ITL target allows while prompts wait (`token_budget`): `a` of it is the pass over the
weights, every decoding sequence takes `b + c * context`, and prompts get the rest. Of `n` replicas that make `rate` tokens/s
together, prompts have

    n * (1 - a / ITL) - rate * (b + c * context)

replicas' worth of time. A reserve for bursts of prompts needs to be held only as far as decode replicas could not lend that.
"""

from __future__ import annotations

from inferencecluster.core.perfmodel import PerformanceModel
from inferencecluster.core.spec import PoolSpec
from inferencecluster.core.token_budget import fits_target


def lends(pool: PoolSpec, *, itl_seconds: float) -> bool:
    """Whether replicas of `pool` take prompts beside the streams of others: routing borrows them, and sizing counts on it."""
    return fits_target(pool.iterates_like, pool.performance, itl_seconds=itl_seconds)


def lendable(
    performance: PerformanceModel,
    *,
    replicas: float,
    itl_seconds: float,
    tokens_per_second: float,
    context: float,
) -> float:
    """Replicas' worth of time that `replicas` of them can give to prompts of others; 0 where a step alone exceeds the ITL."""
    spare = replicas * max(0.0, 1.0 - performance.decode.base_seconds / itl_seconds)
    return max(0.0, spare - tokens_per_second * performance.decode.sequence_seconds(context))

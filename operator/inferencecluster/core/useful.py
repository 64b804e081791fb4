"""Useful GPUs of N: a pool's GPUs times the activity of what bounds its phase.

    prefill   GPUs * tensor pipe active      arithmetic bounds prompts
    decode    GPUs * memory bus active       reading weights and cache bounds tokens
    mixed     GPUs * the larger of the two   both phases share them

The published figure (scenario "Utilisation" of docs/scenarios.md) counts arithmetic in every phase: at 92 % in prefill and 28 %
in decode, 3 prefill and 61 decode H100 do the work of 3 * 0.92 + 61 * 0.28 = 20 of 64. That count is GPUs * tensor pipe active.

It tells that GPUs work, not how well: a pipe is active in every cycle in which it does anything, and a batch of one reads the weights
as busily as a full one. So nothing is sized by it. Decode replicas that lend themselves to prompts count by the memory bus
all the same, and a mixed pool whose phases take turns does more than the larger of the two.
"""

from __future__ import annotations

from typing import assert_never

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.observation import PoolUtilization


def useful_gpus(pool: PoolName, gpus: float, utilization: PoolUtilization) -> float:
    """Of `gpus` GPUs of `pool`, over which `utilization` is the mean."""
    match pool:
        case PoolName.PREFILL:
            active = utilization.tensor_active
        case PoolName.DECODE:
            active = utilization.dram_active
        case PoolName.MIXED:
            active = max(utilization.tensor_active, utilization.dram_active)
        case _:
            assert_never(pool)
    return gpus * active

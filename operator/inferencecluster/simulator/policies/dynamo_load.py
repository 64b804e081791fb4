"""NVIDIA Dynamo's planner in load mode: one replica up or down by the latency that every engine is about to show.

Source: ai-dynamo/dynamo `components/src/dynamo/planner/core/{load_scaling,perf_model/prefill,perf_model/decode}.py` and
`config/defaults.py`, mid 2026, `optimization_target` sla: every 5 s, and nothing while a replica of either pool is on
its way,

    +1   all engines' estimated TTFT (decode: ITL) is above its target
    -1   with the load of N engines on N - 1, every engine would stay below 80 % of the target: for prefill of what the
         target leaves beside the prompt itself; decode's KV would also have to fit

Estimates come from regressions of step times on prompt tokens and on sequences and KV tokens; here they are the
performance model, at the mean lengths seen so far. Queued prompts are batched into passes of `BATCHED_TOKENS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.perfmodel import PerformanceModel
from inferencecluster.core.spec import PoolSpec
from inferencecluster.simulator.policies.capacity import BATCHED_TOKENS
from inferencecluster.simulator.policies.context import Lengths, PolicyContext, bounded, with_mixed_minimum
from inferencecluster.simulator.signals import PoolSignals, ReplicaSignals, Signals

ADJUSTMENT_SECONDS: Final = 5.0
"""`load_adjustment_interval`."""
DOWN_SENSITIVITY: Final = 0.8
"""`load_scaling_down_sensitivity`, 80 of 100."""
BASE: Final = (PoolName.PREFILL, PoolName.DECODE)


def estimated_ttft(performance: PerformanceModel, queued_tokens: float, mean_prompt: float) -> float:
    """Seconds until one more mean prompt has its first token behind `queued_tokens` of mean prompts."""
    tokens = queued_tokens + mean_prompt
    passes = max(1, math.ceil(tokens / BATCHED_TOKENS))
    # Prompts in one pass do not attend to each other: their quadratic parts add up by their own lengths.
    per_token = (
        performance.prefill.per_token_seconds + performance.prefill.per_token_squared_seconds * mean_prompt
    )
    return passes * performance.prefill.base_seconds + per_token * tokens


def estimated_itl(performance: PerformanceModel, sequences: float, kv_tokens: float, context: float) -> float:
    """Seconds of the next decode step with one more mean sequence."""
    return performance.decode.step_seconds(sequences + 1, kv_tokens + context)


class DynamoLoad:
    """Reactive, one step at a time, prefill and decode apart. Knob: the down-sensitivity, 80 % by default."""

    name: Final = "dynamo-load"
    interval_seconds: Final = ADJUSTMENT_SECONDS

    def __init__(self, context: PolicyContext) -> None:
        self._spec = context.spec
        self._sensitivity = DOWN_SENSITIVITY if context.target is None else context.target
        self._lengths = Lengths(context.prompt_tokens, context.output_tokens)

    def sizes(self, signals: Signals) -> Mapping[PoolName, int]:
        """One adjustment."""
        self._lengths.learn(signals.flow)
        pools = {name: signals.pools[name] for name in BASE}
        if any(pool.members and pool.replicas != pool.serving for pool in pools.values()):
            return with_mixed_minimum(self._spec, {})
        sizes = {
            name: bounded(
                self._spec.pool(name),
                observed.replicas
                + (self._prefill_step(observed) if name is PoolName.PREFILL else self._decode_step(observed)),
            )
            for name, observed in pools.items()
            if observed.members
        }
        return with_mixed_minimum(self._spec, sizes)

    def _prefill_step(self, observed: PoolSignals) -> int:
        pool, target = self._spec.pool(PoolName.PREFILL), self._spec.slo.ttft_seconds
        prompt = self._lengths.prompt
        if all(
            estimated_ttft(pool.performance, member.queued_tokens, prompt) > target
            for member in observed.members
        ):
            return 1
        alone = estimated_ttft(pool.performance, 0.0, prompt)
        allowance = (target - alone) * self._sensitivity
        factor = _consolidation(observed)
        stays_fast = all(
            estimated_ttft(pool.performance, member.queued_tokens * factor, prompt) - alone < allowance
            for member in observed.members
        )
        return -1 if factor > 0 and stays_fast else 0

    def _decode_step(self, observed: PoolSignals) -> int:
        pool, target = self._spec.pool(PoolName.DECODE), self._spec.slo.itl_seconds
        if all(self._itl(pool, member, 1.0) > target for member in observed.members):
            return 1
        factor = _consolidation(observed)
        fits = all(self._kv(member) * factor < member.kv_capacity_tokens for member in observed.members)
        stays_fast = all(
            self._itl(pool, member, factor) < target * self._sensitivity for member in observed.members
        )
        return -1 if factor > 0 and fits and stays_fast else 0

    def _itl(self, pool: PoolSpec, member: ReplicaSignals, factor: float) -> float:
        sequences = (member.running_requests + member.waiting_requests) * factor
        return estimated_itl(pool.performance, sequences, self._kv(member) * factor, self._context)

    def _kv(self, member: ReplicaSignals) -> float:
        """Tokens in memory, and those of the sequences that wait."""
        return member.resident_kv_tokens + member.waiting_requests * self._context

    @property
    def _context(self) -> float:
        return self._lengths.prompt + self._lengths.output / 2


def _consolidation(observed: PoolSignals) -> float:
    """Load of each remaining engine over its present one when one goes; 0 when none would remain."""
    count = len(observed.members)
    return count / (count - 1) if count > 1 else 0.0

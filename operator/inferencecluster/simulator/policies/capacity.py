"""What one replica can do inside the latency targets: the stress test that published systems ask for, done on paper."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.perfmodel import PerformanceModel
from inferencecluster.core.spec import ClusterSpec

BATCHED_TOKENS: Final = 8192
"""Prompt tokens of one forward pass at most: TensorRT-LLM's default `max_num_tokens`."""


def prefill_seconds(performance: PerformanceModel, prompt_tokens: float) -> float:
    """Seconds to prefill one prompt in passes of at most `BATCHED_TOKENS`.

    Attention looks back over the whole prompt however it is cut, so that a cut costs one more base time and no more.
    """
    passes = max(1, math.ceil(prompt_tokens / BATCHED_TOKENS))
    return performance.prefill.seconds(prompt_tokens) + (passes - 1) * performance.prefill.base_seconds


@dataclass(frozen=True, slots=True)
class ReplicaCapacity:
    """One prefill and one decode replica under requests of one length."""

    prompt_tokens: float
    output_tokens: float
    prefill_seconds: float
    ttft_seconds: float
    """The target."""
    batch: int
    """Sequences in a decode step within the ITL target, memory and the engine's batch limit; at least 1."""
    step_seconds: float
    """Of a step over `batch` sequences: the ITL target or less, when the batch limit or memory binds first; more only
    where a single sequence is too slow already."""

    @classmethod
    def of(cls, spec: ClusterSpec, *, prompt_tokens: float, output_tokens: float) -> ReplicaCapacity:
        """Of the cluster's prefill and decode hardware, or of the mixed one where both of those are off."""
        alone = spec.pool(PoolName.PREFILL).max_replicas == spec.pool(PoolName.DECODE).max_replicas == 0
        prefill = spec.pool(PoolName.MIXED if alone else PoolName.PREFILL).performance
        decode = spec.pool(PoolName.MIXED if alone else PoolName.DECODE).performance
        context = prompt_tokens + output_tokens / 2
        limit = decode.max_batch(itl_seconds=spec.slo.itl_seconds, mean_context_tokens=context)
        batch = max(1, math.floor(limit + 1e-9))
        return cls(
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            prefill_seconds=prefill_seconds(prefill, prompt_tokens),
            ttft_seconds=spec.slo.ttft_seconds,
            batch=batch,
            step_seconds=decode.decode.step_seconds(batch, batch * context),
        )

    @property
    def prefills_per_second(self) -> float:
        """Prompts that one prefill replica finishes per second."""
        return 1.0 / self.prefill_seconds

    @property
    def decodes_per_second(self) -> float:
        """Requests that one decode replica finishes per second (Little's law)."""
        return self.batch / (max(self.output_tokens, 1.0) * self.step_seconds)

    @property
    def decode_tokens_per_second(self) -> float:
        """Output tokens of one decode replica per second."""
        return self.batch / self.step_seconds

    @property
    def queue_within_ttft(self) -> float:
        """Prompts that may stand in one prefill replica so that the last of them starts within the target; at least 1."""
        return max(1.0, self.ttft_seconds / self.prefill_seconds)

    def concurrency(self, pool: PoolName) -> float:
        """Requests that one replica of a pool holds at once inside the targets; a mixed one holds a decode batch."""
        return self.queue_within_ttft if pool is PoolName.PREFILL else float(self.batch)

"""What one replica carries of each phase, and what share of requests stays inside their latency targets on a pool of them.

Decode, per replica, at `rate` requests/s that take `s` steps each in contexts of `x` tokens (Little's law; a, b, c of `core.perfmodel`):

    tau = a / (1 - rate * w - rate * s * (b + c*x))        B = rate * s * tau

`w` is the prefill work of a request on the same replica: 0 in a decode pool. So prefill does not only take its own time
from a mixed replica, it stretches the steps of everybody who decodes there; that is the price of aggregation (`chunked`).

The batch varies from moment to moment. Linear noise around that point gives Var(B) = B * (1 + B*(b + c*x)/a): more than
Poisson, because a fuller batch is slower and empties later. `n` replicas behind one queue share it: Var / n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from inferencecluster.core.perfmodel import PerformanceModel, PrefillModel
from inferencecluster.planner.queueing import Wait, normal_below
from inferencecluster.planner.traffic import Window


@dataclass(frozen=True, slots=True)
class Target:
    """The SLO: `share` of requests meet both latencies."""

    share: float
    ttft_seconds: float
    itl_seconds: float


@dataclass(frozen=True, slots=True)
class TokenPhase:
    """One replica's decode batch in equilibrium."""

    seconds_per_token: float
    """Mean time between two tokens of a request, pauses for prefill included."""
    batch: float
    """Mean sequences."""
    step_seconds: float
    """An iteration without a prompt in it."""
    gain: float
    """d(seconds per token) / d(batch)."""
    spread: float
    """Var(batch) / batch of one replica alone."""

    @classmethod
    def of(
        cls, performance: PerformanceModel, window: Window, *, rate: float, prompt_share: float = 0.0
    ) -> TokenPhase | None:
        """At `rate` requests/s for this replica, `prompt_share` of whose time goes to prefill; None when it cannot keep up."""
        decode = performance.decode
        slope = decode.sequence_seconds(window.context)
        free = 1.0 - prompt_share - rate * window.steps * slope
        if free <= 0:
            return None
        per_token = decode.base_seconds / free
        batch = rate * window.steps * per_token
        return cls(
            seconds_per_token=per_token,
            batch=batch,
            step_seconds=decode.base_seconds + batch * slope,
            gain=slope / (1.0 - prompt_share),
            spread=1.0 + batch * slope / decode.base_seconds,
        )

    def within(self, limit: float, *, replicas: int) -> float:
        """Probability that a replica's batch is at most `limit`."""
        return normal_below(limit, mean=self.batch, deviation=self.deviation(replicas))

    def meets_itl(self, window: Window, itl_seconds: float, *, replicas: int) -> float:
        """Share of requests whose mean time between tokens is at most `itl_seconds`; requests of one token have none."""
        mean = self.seconds_per_token
        # The last factor is the skew of a first passage: who is late stays in the full batch for longer.
        deviation = self.gain * self.deviation(replicas) * math.sqrt(max(1.0, itl_seconds / mean))
        fluent = normal_below(itl_seconds, mean=mean, deviation=deviation)
        return sum(share * (1.0 if output < 2 else fluent) for output, share in window.outputs)

    def deviation(self, replicas: int) -> float:
        """Of the batch, on `replicas` that share a queue."""
        return math.sqrt(self.batch * self.spread / replicas)


@dataclass(frozen=True, slots=True)
class PromptTime:
    """Seconds that one prompt of L tokens takes of a replica."""

    prefill: PrefillModel
    per_iteration: float
    """In place of the model's base, for each iteration that the prompt takes."""
    chunk_tokens: float = math.inf
    """Prompt tokens of an iteration."""

    def seconds(self, tokens: float) -> float:
        """For a prompt of `tokens`."""
        work = self.prefill.seconds(tokens) - self.prefill.base_seconds
        return work + self.iterations(tokens) * self.per_iteration

    def iterations(self, tokens: float) -> int:
        """That a prompt of `tokens` takes."""
        return max(1, math.ceil(tokens / self.chunk_tokens))

    def mean(self, window: Window) -> float:
        """Over the window's requests."""
        return sum(share * self.seconds(tokens) for tokens, share in window.prompts)

    def mean_squared(self, window: Window) -> float:
        """Of the square of the seconds."""
        return sum(share * self.seconds(tokens) ** 2 for tokens, share in window.prompts)

    def in_time(self, window: Window, *, wait: Wait, seconds: float, per_token: float = 0.0) -> float:
        """Share of prompts that wait and are done within `seconds`; each of its tokens costs `per_token` afterwards."""
        return sum(
            share * wait.within(seconds - self.seconds(tokens) - per_token * tokens)
            for tokens, share in window.prompts
        )


def batch_limit(performance: PerformanceModel, window: Window) -> float:
    """Sequences that a replica admits: its configured batch, and the KV memory that it sets aside for each."""
    return min(
        float(performance.max_batch_size), performance.kv_capacity_tokens / max(window.final_context, 1.0)
    )


def prefill_prompt(performance: PerformanceModel) -> PromptTime:
    """A prompt alone on a prefill replica."""
    return PromptTime(performance.prefill, performance.prefill.base_seconds)


def highest_rate_prefill(performance: PerformanceModel, window: Window) -> float:
    """Requests/s of one prefill replica that is always busy."""
    return 1.0 / prefill_prompt(performance).mean(window)


def highest_rate_decode(performance: PerformanceModel, window: Window, itl_seconds: float) -> float:
    """Requests/s of one decode replica whose *mean* step takes `itl_seconds`, or whose batch is full; 0 when it is too slow."""
    limit = min(
        batch_limit(performance, window),
        performance.max_batch(itl_seconds=itl_seconds, mean_context_tokens=window.context),
    )
    if limit < 1.0 or window.steps <= 0:
        return 0.0 if window.steps > 0 else math.inf
    return limit / (window.steps * performance.decode.step_seconds(limit, limit * window.context))

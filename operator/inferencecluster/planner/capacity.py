"""What one replica carries, and what share of requests stays inside their latency targets on a pool of them.

Decode, per replica, at `rate` requests/s that take `s` steps each in contexts of `x` tokens (Little's law; a, b, c of `core.perfmodel`):

    tau = a / (1 - rate * w - rate * s * (b + c*x))        B = rate * s * tau

`w` is the prefill work of a request on the same replica: 0 in a decode pool. So prefill does not only take its own time
from a mixed replica, it stretches the steps of everybody who decodes there; that is the price of aggregation.

The batch varies from moment to moment. Linear noise around that point gives Var(B) = B * (1 + B*(b + c*x)/a): more than
Poisson, because a fuller batch is slower and empties later. `n` replicas behind one queue share it: Var / n.
A request of a mixed pool also meets more or fewer prompts than the mean while it decodes, and the longer that takes, the more
of them: its mean time per token varies by rate * tau * E[w**2] / (s * (1 - rate*w)**2), the variance of an M/G/1 busy period. This is
shared, too: a router that sends each prompt to the emptiest replica deals them out evenly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from inferencecluster.core.perfmodel import PerformanceModel, PrefillModel
from inferencecluster.planner.queueing import Queue, Wait, normal_below
from inferencecluster.planner.traffic import Window
from inferencecluster.simulator.hardware import PREFILL_TOKENS

BISECTIONS: Final = 50
"""Halvings of a range of rates: below any figure that is shown."""


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
    prompt_share: float
    """Of the replica's time, prefill of others."""

    @classmethod
    def of(
        cls, performance: PerformanceModel, window: Window, *, rate: float, prompt_share: float = 0.0
    ) -> TokenPhase | None:
        """At `rate` requests/s for this replica, `prompt_share` of whose time goes to prefill; None when it cannot keep up."""
        decode = performance.decode
        slope = decode.per_sequence_seconds + decode.per_context_token_seconds * window.context
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
            prompt_share=prompt_share,
        )

    def within(self, limit: float, *, replicas: int) -> float:
        """Probability that a replica's batch is at most `limit`."""
        return normal_below(limit, mean=self.batch, deviation=self._deviation(replicas))

    def meets_itl(
        self, window: Window, itl_seconds: float, *, replicas: int, prompt_noise: float = 0.0
    ) -> float:
        """Share of requests whose mean time between tokens is at most `itl_seconds`; requests of one token have none.

        `prompt_noise` is rate * E[w**2] of a mixed replica.
        """
        of_batch = self.gain * self._deviation(replicas)
        mean = self.seconds_per_token
        # The last factor is the skew of a first passage: who is late meets even more prompts.
        late = math.sqrt(max(1.0, itl_seconds / mean))
        met = 0.0
        for output, share in window.outputs:
            steps = output - 1
            if steps < 1:
                met += share
                continue
            of_prompts = math.sqrt(prompt_noise * mean / steps / replicas) / (1.0 - self.prompt_share)
            # Not independent: the arrivals that bring prompts fill the batch as well.
            deviation = (of_batch + of_prompts) * late
            met += share * normal_below(itl_seconds, mean=mean, deviation=deviation)
        return met

    def _deviation(self, replicas: int) -> float:
        return math.sqrt(self.batch * self.spread / replicas)


@dataclass(frozen=True, slots=True)
class PromptTime:
    """Seconds that one prompt of L tokens takes of a replica."""

    prefill: PrefillModel
    fixed: float
    """In place of the model's base."""
    per_chunk: float = 0.0
    """On top, for each iteration that the prompt takes."""

    def seconds(self, tokens: float) -> float:
        """For a prompt of `tokens`."""
        chunks = math.ceil(tokens / PROMPT_CHUNK)
        work = self.prefill.seconds(tokens) - self.prefill.base_seconds
        return work + self.fixed + chunks * self.per_chunk

    def mean(self, window: Window) -> float:
        """Over the window's requests."""
        return sum(share * self.seconds(tokens) for tokens, share in window.prompts)

    def mean_squared(self, window: Window) -> float:
        """Of the square of the seconds."""
        return sum(share * self.seconds(tokens) ** 2 for tokens, share in window.prompts)

    def wait(self, window: Window, *, servers: int) -> Wait:
        """How long the window's prompts queue before `servers` replicas."""
        return Queue(servers, window.rate, self.mean(window), self.mean_squared(window)).wait()

    def in_time(self, window: Window, *, wait: Wait, seconds: float, per_token: float = 0.0) -> float:
        """Share of prompts that wait and are done within `seconds`; each of its tokens costs `per_token` afterwards."""
        return sum(
            share * wait.within(seconds - self.seconds(tokens) - per_token * tokens)
            for tokens, share in window.prompts
        )


PROMPT_CHUNK: Final = PREFILL_TOKENS
"""Prompt tokens that an iteration takes: `max_num_tokens` of prefill engines, and of mixed ones beside a full batch."""


def batch_limit(performance: PerformanceModel, window: Window) -> float:
    """Sequences that a replica admits: its configured batch, and the KV memory that it sets aside for each."""
    return min(
        float(performance.max_batch_size), performance.kv_capacity_tokens / max(window.final_context, 1.0)
    )


def prefill_prompt(performance: PerformanceModel) -> PromptTime:
    """A prompt alone on a prefill replica."""
    return PromptTime(performance.prefill, performance.prefill.base_seconds)


def mixed_prompt(performance: PerformanceModel, *, step_seconds: float = 0.0) -> PromptTime:
    """What a prompt adds to the iterations of a mixed replica; with `step_seconds` of its batch, how long it takes itself.

    One pass over the weights serves both phases, so that only the part of prefill's base above decode's is extra.
    """
    extra = max(0.0, performance.prefill.base_seconds - performance.decode.base_seconds)
    return PromptTime(performance.prefill, extra, step_seconds)


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


def highest_rate_mixed(performance: PerformanceModel, window: Window, itl_seconds: float) -> float:
    """Requests/s of one mixed replica whose *mean* time per token is `itl_seconds`, or whose batch is full; 0 when too slow."""
    prompt = mixed_prompt(performance).mean(window)
    limit = batch_limit(performance, window)

    def holds(rate: float) -> bool:
        phase = TokenPhase.of(performance, window, rate=rate, prompt_share=rate * prompt)
        return phase is not None and phase.seconds_per_token <= itl_seconds and phase.batch <= limit

    low, high = 0.0, 1.0 / prompt
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low if performance.decode.step_seconds(1.0, window.context) <= itl_seconds else 0.0

"""What one mixed replica makes of its prompts and its tokens: chunked prefill (Sarathi-Serve, arXiv 2403.02310) in closed form.

`N` tokens fit an iteration (`core.token_budget`), `B` of them are the batch's own, so prompts are computed in chunks of
C = N - B. With `S` tokens of context in the batch and `v` seconds per prompt token:

    T = a + b*B + c*S              an iteration without prompts
    F = A + b*B + c*S + C*v        one filled with them, about the ITL; A = the larger base of both phases
    p = rate * L/C * F             share of the time with prompts present, 1 when the replica is overloaded

Every sequence advances once per iteration, whichever it is. So 1/tau = p/F + (1-p)/T, which is `TokenPhase`'s equilibrium
with the work of the prompts as its prompt share: a replica's mean time per token does not depend on the chunks. What they
change is the worst of it, F instead of a whole prompt, and the price, which prompts pay: they are served at C tokens per F.

TTFT: the queue of the prompts at that speed, then a prompt's own chunks. A prompt that finds no other fills its last
iteration in part (L/C is rounded up); in a queue the next one uses the rest.

ITL: a request of `s` steps is late when less than j of the first t = s * ITL seconds were without prompts,

    j = t * (1 - (1/T - 1/ITL) / (1/T - 1/F))

and never when F is within the ITL. Time without prompts is what the queue's reflection adds (Harrison, Brownian Motion and
Stochastic Flow Systems, 1985): the highest point of a walk that rises by 1 - p and has the variance rate * E[s**2] of an
M/G/1 queue, above the work that is there at the start. `n` replicas that share their queue have 1/n of both variances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.perfmodel import PerformanceModel
from inferencecluster.core.token_budget import LEAST_PROMPT_TOKENS, iteration_tokens
from inferencecluster.planner.capacity import PromptTime, Target, TokenPhase, batch_limit
from inferencecluster.planner.queueing import Queue, Work
from inferencecluster.planner.traffic import Window

BISECTIONS: Final = 50
"""Halvings of a range of rates: below any figure that is shown."""


@dataclass(frozen=True, slots=True)
class MixedPhase:
    """One mixed replica in equilibrium."""

    rate: float
    """Requests per second of this replica."""
    tokens: TokenPhase
    """Its batch; `step_seconds` is T."""
    filled_seconds: float
    """F."""
    own: PromptTime
    """A prompt alone beside the batch: its last iteration is its own, however little it holds."""
    prompt_seconds: float
    """E[s] of prompts in a queue, of which some share iterations."""
    prompt_seconds_squared: float
    """E[s**2]."""

    @classmethod
    def of(
        cls, performance: PerformanceModel, window: Window, *, rate: float, itl_seconds: float
    ) -> MixedPhase | None:
        """At `rate` requests/s, with engines configured for `itl_seconds`; None when the replica cannot keep up."""
        budget = iteration_tokens(PoolName.MIXED, performance, itl_seconds=itl_seconds)
        tokens = _equilibrium(performance, window, rate=rate, budget=budget)
        if tokens is None:
            return None
        chunk = _chunk(budget, tokens.batch)
        per_iteration = tokens.step_seconds + _extra_base(performance)
        own = PromptTime(performance.prefill, per_iteration, chunk)
        work = PromptTime(performance.prefill, 0.0).mean(window)
        packed = work + window.prompt_tokens / chunk * per_iteration
        if rate * packed >= 1.0:
            return None
        alone = own.mean(window)
        # A share p = rate * E[s] of the prompts is packed, the others are alone: E[s] = (1 - p) * alone + p * packed.
        share = 1.0 / (1.0 + rate * (alone - packed))
        return cls(
            rate=rate,
            tokens=tokens,
            filled_seconds=per_iteration + chunk * work / window.prompt_tokens,
            own=own,
            prompt_seconds=share * alone,
            prompt_seconds_squared=share**2 * own.mean_squared(window),
        )

    @property
    def busy(self) -> float:
        """Share of the time with prompts present, p."""
        return self.rate * self.prompt_seconds

    def meets_ttft(self, window: Window, target: Target, *, replicas: int) -> float:
        """Share of the prompts that are done in time on `replicas` like this one."""
        queue = Queue(replicas, window.rate, self.prompt_seconds, self.prompt_seconds_squared)
        # An iteration is under way when a request arrives: half of it is left on average.
        under_way = (1.0 - self.busy) * self.tokens.step_seconds + self.busy * self.filled_seconds
        return self.own.in_time(window, wait=queue.wait(), seconds=target.ttft_seconds - under_way / 2)

    def meets_itl(self, window: Window, target: Target, *, replicas: int) -> float:
        """Share of requests whose mean time between tokens is in time; requests of one token have none."""
        if self.filled_seconds <= target.itl_seconds:
            return 1.0
        variance = self.rate * self.prompt_seconds_squared
        work = Work(1.0 - self.busy, variance / replicas)
        plain, filled, itl = (
            1.0 / seconds for seconds in (self.tokens.step_seconds, self.filled_seconds, target.itl_seconds)
        )
        without_prompts = 1.0 - (plain - itl) / (plain - filled)
        # A noise of tau is one of j / t by d(tau) / d(share of time with prompts) = tau**2 * (1/T - 1/F).
        noise = self.tokens.gain * self.tokens.deviation(replicas) * itl**2 / (plain - filled)
        # Tokens begin where a prompt ends, which leaves more work behind than an arrival meets (M/G/1).
        left_behind = max(0.0, self.busy * self.prompt_seconds - variance / 2) / replicas
        met = 0.0
        for output, share in window.outputs:
            if output < 2:
                met += share
                continue
            seconds = (output - 1) / itl
            level = seconds * without_prompts + left_behind
            met += share * work.idle_at_least(level, seconds=seconds, noise=seconds * noise)
        return met


def idle_prompt(performance: PerformanceModel, *, itl_seconds: float) -> PromptTime:
    """A prompt on an idle mixed replica, whose iterations have no batch."""
    budget = iteration_tokens(PoolName.MIXED, performance, itl_seconds=itl_seconds)
    return PromptTime(performance.prefill, performance.prefill.base_seconds, budget)


def highest_rate_mixed(performance: PerformanceModel, window: Window, itl_seconds: float) -> float:
    """Requests/s of one mixed replica whose *mean* time per token is `itl_seconds`, or that is full; 0 when too slow."""
    if performance.decode.step_seconds(1.0, window.context) > itl_seconds:
        return 0.0
    limit = batch_limit(performance, window)

    def holds(rate: float) -> bool:
        phase = MixedPhase.of(performance, window, rate=rate, itl_seconds=itl_seconds)
        return (
            phase is not None
            and phase.tokens.seconds_per_token <= itl_seconds
            and phase.tokens.batch <= limit
        )

    low, high = 0.0, 1.0 / PromptTime(performance.prefill, 0.0).mean(window)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _equilibrium(
    performance: PerformanceModel, window: Window, *, rate: float, budget: int
) -> TokenPhase | None:
    """The batch beside prompts, whose every iteration may need a larger base than the batch alone."""
    work = PromptTime(performance.prefill, 0.0).mean(window)
    tokens = TokenPhase.of(performance, window, rate=rate, prompt_share=rate * work)
    extra = _extra_base(performance)
    if tokens is None or extra <= 0:
        return tokens
    work += window.prompt_tokens / _chunk(budget, tokens.batch) * extra
    return TokenPhase.of(performance, window, rate=rate, prompt_share=rate * work)


def _extra_base(performance: PerformanceModel) -> float:
    """One pass over the weights serves both phases: only the part of prefill's base above decode's is extra."""
    return max(0.0, performance.prefill.base_seconds - performance.decode.base_seconds)


def _chunk(budget: int, batch: float) -> float:
    """C. A fuller batch than the engine admits waits, and takes no tokens."""
    return max(float(LEAST_PROMPT_TOKENS), budget - batch)

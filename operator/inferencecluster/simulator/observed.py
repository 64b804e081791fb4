"""Requests as a live cluster may have had them: drawn, where only sums over steps were observed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Flow
from inferencecluster.simulator.chance import chance
from inferencecluster.simulator.workload import MAX_TOKENS, Request

OUTPUT_SPREAD: Final = 0.85
"""Standard deviation of the logarithm of answer lengths, which no metric tells: 0.86 in the conversation and 0.85 in the code
trace of Azure 2023. That of prompts is observed: routers export the sum of the squared lengths."""

SMALLEST_COUNT: Final = 1e-6
"""Less growth of a counter in a step is a rounding of Prometheus' extrapolation, and no part of a request."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """A log-normal length in tokens above 1, so that the mean holds for answers of a few tokens, too."""

    mean: float
    """At least 1."""
    spread: float
    """Standard deviation of the logarithm."""

    @classmethod
    def of_moments(cls, mean: float, mean_square: float) -> Lengths:
        """The length with this mean, at least 1, and this mean of its square."""
        above = mean - 1.0
        variance = max(0.0, min(mean_square, MAX_TOKENS**2) - mean * mean)
        # Var = (mean**2)(exp(spread**2) - 1) of a log-normal.
        return cls(mean, math.sqrt(math.log1p(variance / (above * above))) if above > 0 else 0.0)

    def draw(self, source: random.Random) -> int:
        """One length. The fraction decides how likely it is rounded up: rounding moves no mean."""
        above = self.mean - 1.0
        if above <= 0.0:
            return 1
        middle = math.log(above) - self.spread * self.spread / 2
        length = math.exp(source.gauss(middle, self.spread))
        return min(MAX_TOKENS, 1 + math.floor(length + source.random()))


def drawn(flows: Sequence[Flow | Missing], *, seed: int) -> Iterator[Request]:
    """Poisson arrivals of each step's rate, with lengths of each step's means, in ascending order.

    Time begins with the first step. A step that is Missing brings nothing and takes as long as the others. Answers of a step in which none
    ended have the mean of all steps; at least one step has an answer (`SMALLEST_COUNT`). Of each prompt, the share that engines had cached in that
    step is cached.
    """
    known = [flow for flow in flows if isinstance(flow, Flow)]
    mean_output = _mean(
        sum(flow.completed_output_tokens for flow in known), sum(flow.completed for flow in known)
    )
    seconds = known[0].seconds
    for number, flow in enumerate(flows):
        if isinstance(flow, Flow) and flow.requests >= SMALLEST_COUNT:
            # A source for each step: what one step draws does not move the next.
            yield from _step(flow, number * seconds, mean_output, chance(seed, "observed", number))


def _step(flow: Flow, start: float, mean_output: float, source: random.Random) -> Iterator[Request]:
    prompts = Lengths.of_moments(
        _mean(flow.prompt_tokens, flow.requests), flow.prompt_tokens_squared / flow.requests
    )
    if flow.completed >= SMALLEST_COUNT:
        mean_output = _mean(flow.completed_output_tokens, flow.completed)
    outputs = Lengths(mean_output, OUTPUT_SPREAD)
    cached_share = 0.0
    if flow.prefilled_prompt_tokens > 0:
        cached_share = min(1.0, flow.cached_prompt_tokens / flow.prefilled_prompt_tokens)
    rate = flow.requests / flow.seconds
    time = source.expovariate(rate)
    while time < flow.seconds:
        prompt = prompts.draw(source)
        yield Request(start + time, prompt, outputs.draw(source), round(prompt * cached_share))
        time += source.expovariate(rate)


def _mean(tokens: float, requests: float) -> float:
    """Of a length; Prometheus may have seen a counter of tokens and that of its requests grow in different steps."""
    return min(float(MAX_TOKENS), max(1.0, tokens / requests))

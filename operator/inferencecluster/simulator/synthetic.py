"""Workloads that no trace holds: Poisson arrivals whose rate and lengths follow a plan."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from inferencecluster.simulator.chance import chance
from inferencecluster.simulator.workload import Request


@dataclass(frozen=True, slots=True)
class Shape:
    """What requests look like: medians and spreads of log-normal lengths."""

    prompt_tokens: float
    output_tokens: float
    prompt_spread: float = 0.9
    output_spread: float = 0.9
    """Standard deviations of the logarithms. 0.9 has its 90th percentile at 3.2 times the median, as prompts of the Azure
    conversation trace have about theirs."""
    longest: int = 32_768
    """Lengths are cut here: the context window of many a model."""

    def draw(self, arrival: float, source: random.Random) -> Request:
        """One request."""
        prompt = _length(self.prompt_tokens, self.prompt_spread, self.longest, source)
        return Request(arrival, prompt, _length(self.output_tokens, self.output_spread, self.longest, source))


def _length(median: float, spread: float, longest: int, source: random.Random) -> int:
    return min(longest, max(1, round(median * math.exp(source.gauss(0.0, spread)))))


@dataclass(frozen=True, slots=True)
class Phase:
    """Some time of constant load."""

    shape: Shape
    requests_per_second: float


def alternating(
    phases: Sequence[Phase], *, phase_seconds: float, duration_seconds: float, seed: int
) -> Iterator[Request]:
    """The phases in turn, each for `phase_seconds`, until `duration_seconds`; at least one phase has a rate."""
    source = chance(seed, "alternating")

    def phase_at(time: float) -> Phase:
        return phases[int(time / phase_seconds) % len(phases)]

    fastest = max(phase.requests_per_second for phase in phases)
    for time in _arrivals(lambda time: phase_at(time).requests_per_second, fastest, duration_seconds, source):
        yield phase_at(time).shape.draw(time, source)


DAY_SECONDS = 86_400.0


def diurnal(
    shape: Shape,
    *,
    peak_requests_per_second: float,
    trough_share: float,
    duration_seconds: float = DAY_SECONDS,
    seed: int,
) -> Iterator[Request]:
    """A sine with one period per day: trough at 0, peak after half a day; `trough_share` is the trough over the peak."""
    source = chance(seed, "diurnal")

    def rate(time: float) -> float:
        height = (1 - math.cos(2 * math.pi * time / DAY_SECONDS)) / 2
        return peak_requests_per_second * (trough_share + (1 - trough_share) * height)

    for time in _arrivals(rate, peak_requests_per_second, duration_seconds, source):
        yield shape.draw(time, source)


def _arrivals(
    rate: Callable[[float], float], fastest: float, until: float, source: random.Random
) -> Iterator[float]:
    """A Poisson process of the given rate, never above `fastest`, by thinning (Lewis and Shedler, 1979)."""
    time = source.expovariate(fastest)
    while time < until:
        if source.random() * fastest < rate(time):
            yield time
        time += source.expovariate(fastest)

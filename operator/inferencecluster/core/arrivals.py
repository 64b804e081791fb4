"""A short history of arrivals as rates: level, mean, peak and spread.

Work is described by its moments (requests, tokens, tokens^2 per second), so that any mix of prompt lengths is sized
exactly (`PrefillModel.work`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from inferencecluster.core.trend import MIN_POINTS, Point, fit_line

LEVEL_REQUESTS: Final = 200.0
"""Arrivals that make a rate: 7 % standard error for Poisson arrivals, below the 10 % that sizes tolerate."""
LEVEL_SECONDS: Final = 120.0
"""Longest window for a rate, however few requests arrive: replicas that boot within it follow the load closer, none has to look
back further."""
LEVEL_INTERVALS: Final = 4
"""Looks that such a window has at least: a request in one of four is a rate."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Moments of arriving prompts, per second."""

    requests: float
    tokens: float
    """Sum of uncached prompt tokens L."""
    tokens_squared: float
    """Sum of L**2."""

    def scaled(self, requests: float, tokens: float) -> Arrivals:
        """The request rate times `requests`; both token moments times `tokens`."""
        return Arrivals(self.requests * requests, self.tokens * tokens, self.tokens_squared * tokens)

    def plus(self, other: Arrivals) -> Arrivals:
        """Both together."""
        return Arrivals(
            self.requests + other.requests,
            self.tokens + other.tokens,
            self.tokens_squared + other.tokens_squared,
        )

    def at_least(self, other: Arrivals) -> Arrivals:
        """The larger of each moment."""
        return Arrivals(
            max(self.requests, other.requests),
            max(self.tokens, other.tokens),
            max(self.tokens_squared, other.tokens_squared),
        )


NOTHING: Final = Arrivals(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Bin:
    """Arrivals counted within `seconds` up to `end`."""

    end: float
    seconds: float
    requests: float
    tokens: float
    tokens_squared: float

    @property
    def rates(self) -> Arrivals:
        """Per second."""
        return Arrivals(
            self.requests / self.seconds, self.tokens / self.seconds, self.tokens_squared / self.seconds
        )

    def joined(self, later: Bin) -> Bin:
        """Both as one."""
        return Bin(
            later.end,
            self.seconds + later.seconds,
            self.requests + later.requests,
            self.tokens + later.tokens,
            self.tokens_squared + later.tokens_squared,
        )


def level_seconds(interval: float, boot: float) -> float:
    """The longest window for a rate: a boot, so that a lull which is shorter is not mistaken for an end."""
    return min(LEVEL_SECONDS, max(boot, LEVEL_INTERVALS * interval))


def level_of(history: Sequence[Bin], interval: float, *, longest: float) -> Arrivals:
    """The rate at the end of the history, over at most about `longest` seconds; nothing when it is empty."""
    if not history:
        return NOTHING
    total = history[-1]
    for earlier in reversed(history[:-1]):
        counted = total.requests >= LEVEL_REQUESTS and total.seconds >= interval / 2
        if counted or total.seconds >= longest:
            break
        total = earlier.joined(total)
    return total.rates


def peak_of(history: Sequence[Bin], *, since: float, interval: float, longest: float) -> Arrivals:
    """The largest level that ended after `since`, moment by moment."""
    largest = NOTHING
    for index, item in enumerate(history):
        if item.end > since:
            largest = largest.at_least(level_of(history[: index + 1], interval, longest=longest))
    return largest


def mean_of(history: Sequence[Bin], *, since: float) -> Arrivals:
    """The mean rate of the bins that ended after `since`; nothing when there are none."""
    total: Bin | None = None
    for item in history:
        if item.end > since:
            total = total.joined(item) if total else item
    return total.rates if total else NOTHING


def burstiness_of(recent: Sequence[Bin]) -> float:
    """Standard deviation of the token rate around its line, over its mean; 0 below `trend.MIN_POINTS` bins."""
    if len(recent) < MIN_POINTS:
        return 0.0
    line = fit_line(
        [Point(item.end - item.seconds / 2, item.tokens / item.seconds, item.seconds) for item in recent]
    )
    return line.spread / line.mean if line.mean > 0 else 0.0

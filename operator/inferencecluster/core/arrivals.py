"""A short history of arrivals as rates: level, trend, peak and spread.

Work is described by its moments (requests, tokens, tokens^2 per second), so that any mix of prompt lengths is sized
exactly (`PrefillModel.work`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from inferencecluster.core.trend import MIN_POINTS, Point, fit_line, growth_per_second

LEVEL_REQUESTS: Final = 200.0
"""Arrivals that make a rate: 7 % standard error for Poisson arrivals, below the 10 % that sizes tolerate."""
LEVEL_SECONDS: Final = 120.0
"""Longest window for a rate, however few requests arrive; a usual boot, so that a lull is not mistaken for an end."""

MAX_GROWTH: Final = 2.0
"""A trend is extrapolated to a doubling at most. Whatever grows faster is a jump, which queue age and the mixed pool
answer; a straight line through a jump overshoots."""


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

    def joined(self, later: Bin) -> Bin:
        """Both as one."""
        return Bin(
            later.end,
            self.seconds + later.seconds,
            self.requests + later.requests,
            self.tokens + later.tokens,
            self.tokens_squared + later.tokens_squared,
        )


def level_of(history: Sequence[Bin], interval: float) -> tuple[Arrivals, float]:
    """The rate at the end of the history, and the seconds it was counted over; nothing in 0 s when it is empty."""
    if not history:
        return NOTHING, 0.0
    total = history[-1]
    for earlier in reversed(history[:-1]):
        counted = total.requests >= LEVEL_REQUESTS and total.seconds >= interval / 2
        if counted or total.seconds >= LEVEL_SECONDS:
            break
        total = earlier.joined(total)
    seconds = total.seconds
    return Arrivals(total.requests / seconds, total.tokens / seconds, total.tokens_squared / seconds), seconds


def peak_of(history: Sequence[Bin], *, since: float, interval: float) -> Arrivals:
    """The largest level that ended after `since`, moment by moment."""
    largest = NOTHING
    for index, item in enumerate(history):
        if item.end > since:
            largest = largest.at_least(level_of(history[: index + 1], interval)[0])
    return largest


def _points(history: Sequence[Bin], *, tokens: bool) -> tuple[Point, ...]:
    """The history as rates of tokens or of requests, each at the middle of its bin."""
    return tuple(
        Point(
            item.end - item.seconds / 2,
            (item.tokens if tokens else item.requests) / item.seconds,
            item.seconds,
        )
        for item in history
    )


def forecast_of(recent: Sequence[Bin], now: Arrivals, *, ahead: float) -> Arrivals:
    """The level `now`, `ahead` seconds after the middle of its own window; `recent` shows the trend."""

    def growth(rate: float, points: Sequence[Point]) -> float:
        return min(MAX_GROWTH, 1.0 + growth_per_second(points) * ahead / rate) if rate > 0 else 1.0

    return now.scaled(
        requests=growth(now.requests, _points(recent, tokens=False)),
        tokens=growth(now.tokens, _points(recent, tokens=True)),
    )


def burstiness_of(recent: Sequence[Bin]) -> float:
    """Standard deviation of the token rate around its line, over its mean; 0 below `trend.MIN_POINTS` bins."""
    if len(recent) < MIN_POINTS:
        return 0.0
    line = fit_line(_points(recent, tokens=True))
    return line.spread / line.mean if line.mean > 0 else 0.0

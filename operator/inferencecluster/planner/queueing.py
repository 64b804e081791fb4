"""How long work waits: the queue in front of a pool, in closed form.

    P(no server is free) = Erlang C
    P(W > t) = Erlang C * exp(-2 (n - a) t / ((1 + cv^2) E[S]))        M/G/n, two-moment approximation

Exact for exponential service times, within some per cent of simulation for constant ones (Lee and Longton's
approximation, as in every textbook of queues). Arrivals are a Poisson process inside a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

MILLS_LIMIT: Final = 25.0
"""Deviations beyond which a normal tail nears the smallest float and its asymptotic series is exact to seven digits."""


@dataclass(frozen=True, slots=True)
class Queue:
    """First come, first served, before `servers` equal servers."""

    servers: int
    rate: float
    """Arrivals per second."""
    service_seconds: float
    """E[S]."""
    service_seconds_squared: float
    """E[S**2]."""

    @property
    def load(self) -> float:
        """Servers that are busy on average; the queue grows for ever when it reaches `servers`."""
        return self.rate * self.service_seconds

    def wait(self) -> Wait:
        """The distribution of the wait."""
        if self.load >= self.servers:
            return Wait(1.0, 0.0)
        if self.load <= 0:
            return Wait(0.0, 0.0)
        variation = max(0.0, self.service_seconds_squared / self.service_seconds**2 - 1.0)
        decay = 2.0 * (self.servers - self.load) / ((1.0 + variation) * self.service_seconds)
        return Wait(erlang_c(self.servers, self.load), decay)


@dataclass(frozen=True, slots=True)
class Wait:
    """P(W > t) = probability * exp(-decay * t)."""

    probability: float
    decay: float
    """Per second; 0 when the queue never ends."""

    def within(self, seconds: float) -> float:
        """P(W <= seconds); 0 for negative times."""
        if seconds < 0:
            return 0.0
        return 1.0 - self.probability * math.exp(-self.decay * seconds)

    @property
    def mean(self) -> float:
        """Seconds; infinite when the queue never ends."""
        if self.probability <= 0:
            return 0.0
        return self.probability / self.decay if self.decay > 0 else math.inf


def erlang_c(servers: int, load: float) -> float:
    """Probability that an arrival finds all servers busy; `load` below `servers`."""
    blocking = 1.0
    for number in range(1, servers + 1):
        blocking = load * blocking / (number + load * blocking)
    return blocking / (1.0 - load / servers * (1.0 - blocking))


def normal_below(value: float, *, mean: float, deviation: float) -> float:
    """P(X <= value) of a normal variable; a step when it does not vary."""
    if deviation <= 0:
        return 1.0 if mean <= value else 0.0
    return 0.5 * math.erfc((mean - value) / (deviation * math.sqrt(2.0)))


@dataclass(frozen=True, slots=True)
class Work:
    """What a queue's server has before it, in heavy traffic: Brownian motion with drift load - 1, reflected at 0."""

    drift: float
    """1 - load, above 0: seconds of work that disappear per second."""
    variance: float
    """Of the work that arrives, per second: rate * E[S**2], above 0."""

    def idle_at_least(self, level: float, *, seconds: float, noise: float = 0.0) -> float:
        """Probability that the server is idle for `level` of the next `seconds`, whatever work there is now.

        Idle time is the highest point of a walk with this drift d and variance v per second (an inverse Gaussian first
        passage), less the work at the start, which is exponential with mean v / (2 * d). With e = 2 * d / v, M Mills' ratio,
        D the variance of the walk and of `noise`, a normal error of the level, and y = (d*t - level) / sqrt(D):

            Phi(y) + phi(y) * (e * sqrt(D) - (1 + e * x) * M(x / sqrt(D)))        x = level - d*t + e*D
        """
        if level <= 0:
            return 1.0
        variance = self.variance * seconds + noise * noise
        deviation = math.sqrt(variance)
        short = level - self.drift * seconds
        decay = 2.0 * self.drift / self.variance
        above = short + decay * variance
        density = math.exp(-short * short / (2.0 * variance)) / math.sqrt(2.0 * math.pi)
        boundary = density * (decay * deviation - (1.0 + decay * above) * _mills_ratio(above / deviation))
        return min(1.0, max(0.0, normal_below(-short, mean=0.0, deviation=deviation) + boundary))


def _mills_ratio(value: float) -> float:
    """Tail over density of a normal variable; `value` above 0."""
    if value > MILLS_LIMIT:
        return (1.0 - 1.0 / value**2 + 3.0 / value**4) / value
    tail = 0.5 * math.erfc(value / math.sqrt(2.0))
    return tail * math.sqrt(2.0 * math.pi) * math.exp(value * value / 2.0)

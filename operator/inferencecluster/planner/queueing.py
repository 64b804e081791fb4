"""How long work waits: the queue in front of a pool, in closed form.

    P(no server is free) = Erlang C
    P(W > t) = Erlang C * exp(-2 (n - a) t / ((1 + cv^2) E[S]))        M/G/n, two-moment approximation

Exact for exponential service times, within some per cent of simulation for constant ones (Lee and Longton's
approximation, as in every textbook of queues). Arrivals are a Poisson process inside a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


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

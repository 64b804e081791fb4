"""What went through this router: plain counters, which `/state` and `/metrics` both read."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

ITL_BOUNDS: Final = tuple(
    milliseconds / 1000
    for milliseconds in (
        *(2, 4, 6, 8, 10, 12.5, 15, 17.5, 20, 22.5, 25, 27.5, 30, 35, 40, 45, 50, 60, 70, 80, 90, 100),
        *(125, 150, 200, 300, 500, 1000, 2000),
    )
)
"""Seconds. Targets lie between 10 and 100 ms, and percentiles interpolate inside of a bucket: steps of 10 to 25 % there."""

TTFT_BOUNDS: Final = tuple(
    milliseconds / 1000
    for milliseconds in (
        *(
            10,
            20,
            30,
            40,
            50,
            60,
            80,
            100,
            125,
            150,
            175,
            200,
            250,
            300,
            350,
            400,
            450,
            500,
            600,
            700,
            800,
            1000,
        ),
        *(
            1250,
            1500,
            1750,
            2000,
            2500,
            3000,
            3500,
            4000,
            5000,
            6000,
            8000,
            10_000,
            15_000,
            20_000,
            30_000,
            60_000,
        ),
    )
)
"""Seconds. Targets lie between 100 ms and some seconds; beyond 10 s only whether it is a queue matters."""

ADDED_LATENCY_BOUNDS: Final = tuple(
    milliseconds / 1000 for milliseconds in (0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 20, 50, 100)
)
"""Seconds. The aim is a 99th percentile below 2 ms."""


class Outcome(StrEnum):
    """How a request ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    """Engines failed it, before or after its first token."""
    REFUSED = "refused"
    """No capacity: 429 or 503."""
    REJECTED = "rejected"
    """The request is wrong (4xx)."""
    CANCELLED = "cancelled"
    """The client went away."""


class Histogram:
    """Counts per bucket; as `prometheus_client`'s, at a tenth of the cost per observation (30,000 a second)."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are upper bounds in ascending order, without infinity."""
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    @property
    def total(self) -> float:
        """Sum of all values."""
        return self._sum

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, observations up to it), in Prometheus' own form."""
        found, count = [], 0
        for bound, inside in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            count += inside
            found.append((bound, float(count)))
        return found


@dataclass(slots=True, eq=False)
class Journey:
    """A request that has no first token yet."""

    arrived_at: float


@dataclass(slots=True)
class Traffic:
    """Counters since the start. Times are the stopwatch's."""

    requests: int = 0
    """Admitted to replicas or to the queue."""
    prompt_tokens: int = 0
    prompt_tokens_squared: int = 0
    completed: int = 0
    completed_output_tokens: int = 0
    output_tokens: int = 0
    """Those of requests that did not complete included."""
    prefilled_prompt_tokens: int = 0
    """Of prompts whose prefill ended, as engines counted them."""
    cached_prompt_tokens: int = 0
    """Of those, what engines had in their prefix cache."""
    retries: int = 0
    outcomes: Counter[tuple[Outcome, str]] = field(default_factory=Counter)
    """By outcome and path; the path is `none` for requests that never got replicas."""
    ttft: Histogram = field(default_factory=lambda: Histogram(TTFT_BOUNDS))
    """Of streams: from the whole request in memory to its first event."""
    itl: Histogram = field(default_factory=lambda: Histogram(ITL_BOUNDS))
    """Of streams: between tokens."""
    added_latency: Histogram = field(default_factory=lambda: Histogram(ADDED_LATENCY_BOUNDS))
    """The router's own time until the first byte, without queue and engines."""
    journeys: dict[Journey, None] = field(default_factory=dict)
    """Requests without a first token, oldest first."""

    def admitted(self, prompt_tokens: Sequence[int]) -> None:
        """A request was given replicas or a place in the queue; `prompt_tokens` of each of its prompts."""
        self.requests += 1
        self.prompt_tokens += sum(prompt_tokens)
        self.prompt_tokens_squared += sum(tokens * tokens for tokens in prompt_tokens)

    def prefilled(self, prompt_tokens: int, *, cached_tokens: int) -> None:
        """A prefill ended; the engine found `cached_tokens` of its prompt."""
        self.prefilled_prompt_tokens += prompt_tokens
        self.cached_prompt_tokens += cached_tokens

    def ended(self, outcome: Outcome, path: str, *, output_tokens: int) -> None:
        """A request is over."""
        self.outcomes[outcome, path] += 1
        self.output_tokens += output_tokens
        if outcome is Outcome.COMPLETED:
            self.completed += 1
            self.completed_output_tokens += output_tokens

    def count(self, outcome: Outcome) -> int:
        """Requests that ended so, over all paths."""
        return sum(count for (ended, _), count in self.outcomes.items() if ended is outcome)

    def head_age_seconds(self, now: float) -> float:
        """Age of the oldest request without a first token; 0 when there is none."""
        oldest = next(iter(self.journeys), None)
        return 0.0 if oldest is None else max(0.0, now - oldest.arrived_at)

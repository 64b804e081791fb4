"""What the routers and engines count, as operator and policies read it: totals, and their growth between two looks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Flow

_STEP: Final = 1.1
LATENCY_BOUNDS: Final = tuple(0.001 * _STEP**power for power in range(128))
"""Upper bounds of latency buckets: 1 ms to three minutes in steps of 10 %, about as fine as the router's own around
usual targets."""


class Histogram:
    """Counts per bucket of `LATENCY_BOUNDS`, and the sum of what was counted."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BOUNDS) + 1)
        self.total = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count a latency, `times` times."""
        self.counts[bisect_left(LATENCY_BOUNDS, seconds)] += times
        self.total += seconds * times


def quantile(counts: Sequence[int], share: float) -> float | Missing:
    """As Prometheus' `histogram_quantile`: linear inside of the bucket in which `share` of all lie below."""
    total = sum(counts)
    if total == 0:
        return Missing("NothingCompleted", "no request within the window")
    rank, below = share * total, 0
    for number, count in enumerate(counts[:-1]):
        if count and below + count >= rank:
            lower = LATENCY_BOUNDS[number - 1] if number else 0.0
            return lower + (LATENCY_BOUNDS[number] - lower) * (rank - below) / count
        below += count
    return LATENCY_BOUNDS[-1]


@dataclass(frozen=True, slots=True)
class Totals:
    """All counters at one moment."""

    time: float
    requests: int
    prompt_tokens: int
    prompt_tokens_squared: int
    prefilled_prompt_tokens: int
    cached_prompt_tokens: int
    completed: int
    completed_output_tokens: int
    completed_tokens: int
    decoded_tokens: int
    first_tokens: int
    ttft: tuple[int, ...]
    ttft_seconds: float
    gaps: tuple[int, ...]
    gap_seconds: float

    def flow_since(self, before: Totals) -> Flow:
        """What arrived and ended in between."""
        return Flow(
            seconds=self.time - before.time,
            requests=float(self.requests - before.requests),
            prompt_tokens=float(self.prompt_tokens - before.prompt_tokens),
            prompt_tokens_squared=float(self.prompt_tokens_squared - before.prompt_tokens_squared),
            completed=float(self.completed - before.completed),
            completed_output_tokens=float(self.completed_output_tokens - before.completed_output_tokens),
            prefilled_prompt_tokens=float(self.prefilled_prompt_tokens - before.prefilled_prompt_tokens),
            cached_prompt_tokens=float(self.cached_prompt_tokens - before.cached_prompt_tokens),
        )

    def ttft_since(self, before: Totals, percentile: float) -> float | Missing:
        """Percentile (0-100) of the times to first token in between."""
        return quantile(_grown(self.ttft, before.ttft), percentile / 100)

    def itl_since(self, before: Totals, percentile: float) -> float | Missing:
        """Percentile (0-100) of the gaps between tokens in between."""
        return quantile(_grown(self.gaps, before.gaps), percentile / 100)

    def mean_ttft_since(self, before: Totals) -> float | Missing:
        """Mean time to first token in between."""
        return _mean(self.ttft_seconds - before.ttft_seconds, self.first_tokens - before.first_tokens)

    def mean_itl_since(self, before: Totals) -> float | Missing:
        """Mean gap between tokens in between."""
        return _mean(self.gap_seconds - before.gap_seconds, sum(self.gaps) - sum(before.gaps))


class Counters:
    """Counters since the beginning."""

    __slots__ = (
        "_gaps",
        "_ttft",
        "cached_prompt_tokens",
        "completed",
        "completed_output_tokens",
        "completed_tokens",
        "decoded_tokens",
        "first_tokens",
        "prefilled_prompt_tokens",
        "prompt_tokens",
        "prompt_tokens_squared",
        "requests",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.prompt_tokens = 0
        self.prompt_tokens_squared = 0
        self.prefilled_prompt_tokens = 0
        self.cached_prompt_tokens = 0
        self.completed = 0
        self.completed_output_tokens = 0
        self.completed_tokens = 0
        """Prompt and output of the completed requests."""
        self.decoded_tokens = 0
        """Output of requests that have ended or not, without their first tokens."""
        self.first_tokens = 0
        self._ttft = Histogram()
        self._gaps = Histogram()

    def arrived(self, prompt_tokens: int) -> None:
        """A request came."""
        self.requests += 1
        self.prompt_tokens += prompt_tokens
        self.prompt_tokens_squared += prompt_tokens * prompt_tokens

    def prefilled(self, prompt_tokens: int, cached_tokens: int) -> None:
        """A prompt is done, `cached_tokens` of which were there before."""
        self.prefilled_prompt_tokens += prompt_tokens
        self.cached_prompt_tokens += cached_tokens

    def began(self, ttft_seconds: float) -> None:
        """A first token came."""
        self.first_tokens += 1
        self._ttft.observe(ttft_seconds)

    def stepped(self, seconds: float, tokens: int) -> None:
        """`tokens` came, each `seconds` after the one before it."""
        self.decoded_tokens += tokens
        self._gaps.observe(seconds, tokens)

    def ended(self, prompt_tokens: int, output_tokens: int) -> None:
        """A request was answered in full."""
        self.completed += 1
        self.completed_output_tokens += output_tokens
        self.completed_tokens += prompt_tokens + output_tokens

    def totals(self, now: float) -> Totals:
        """As they are."""
        return Totals(
            time=now,
            requests=self.requests,
            prompt_tokens=self.prompt_tokens,
            prompt_tokens_squared=self.prompt_tokens_squared,
            prefilled_prompt_tokens=self.prefilled_prompt_tokens,
            cached_prompt_tokens=self.cached_prompt_tokens,
            completed=self.completed,
            completed_output_tokens=self.completed_output_tokens,
            completed_tokens=self.completed_tokens,
            decoded_tokens=self.decoded_tokens,
            first_tokens=self.first_tokens,
            ttft=tuple(self._ttft.counts),
            ttft_seconds=self._ttft.total,
            gaps=tuple(self._gaps.counts),
            gap_seconds=self._gaps.total,
        )


def _grown(now: Sequence[int], before: Sequence[int]) -> list[int]:
    return [after - earlier for after, earlier in zip(now, before, strict=True)]


def _mean(total: float, count: int) -> float | Missing:
    return total / count if count else Missing("NothingCompleted", "no token within the window")

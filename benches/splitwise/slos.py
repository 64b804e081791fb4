"""Splitwise's nine SLOs: slowdown against the same request alone on a DGX-A100, at three percentiles of three latencies.

TTFT is the prompt's, TBT is (end - first token) / output tokens, and E2E is from arrival to end: splitwise-sim's
definitions, with the division by all tokens although the first one is not among the gaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from benches.splitwise.table import Curve, Row
from inferencecluster.simulator.journeys import Journey
from inferencecluster.simulator.report import PERCENTILES, percentile

LIMITS: Final[Mapping[str, tuple[float, float, float]]] = {
    "ttft": (2.0, 3.0, 6.0),
    "tbt": (1.25, 1.5, 5.0),
    "e2e": (1.25, 1.5, 5.0),
}
"""Largest slowdowns at P50, P90 and P99 (Splitwise, ISCA'24, section VI)."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of one request, in seconds."""

    ttft: float
    tbt: float
    e2e: float

    @classmethod
    def of(cls, journey: Journey) -> Latencies:
        """Of one that was answered."""
        ttft, e2e = journey.ttft_seconds, journey.ended_at - journey.arrived_at
        return cls(ttft, (e2e - ttft) / journey.output_tokens, e2e)


@dataclass(frozen=True, slots=True)
class Reference:
    """The uncontended DGX-A100: batch one, by prompt length."""

    prompts: Curve
    tokens: Curve

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Reference:
        """From its profiles; by prompt tokens of the whole batch, as splitwise-sim's notebooks ask."""
        known = tuple(rows)
        return cls(
            Curve.of_medians((row.prompt_tokens * row.batch, row.prompt_seconds) for row in known),
            Curve.of_medians((row.prompt_tokens * row.batch, row.token_seconds) for row in known),
        )

    def latencies(self, prompt_tokens: int, output_tokens: int) -> Latencies:
        """What a request takes alone."""
        ttft, tbt = self.prompts.at(prompt_tokens), self.tokens.at(prompt_tokens)
        return Latencies(ttft, tbt, ttft + tbt * (output_tokens - 1))


@dataclass(frozen=True, slots=True)
class Slowdowns:
    """At P50, P90 and P99, by latency. Nothing at all has no slowdown."""

    values: Mapping[str, tuple[float, ...]]

    @classmethod
    def of(cls, pairs: Iterable[tuple[Latencies, Latencies]]) -> Slowdowns:
        """From what requests took and what each would have taken alone."""
        found: dict[str, list[float]] = {name: [] for name in LIMITS}
        for taken, alone in pairs:
            found["ttft"].append(taken.ttft / alone.ttft)
            found["tbt"].append(taken.tbt / alone.tbt)
            found["e2e"].append(taken.e2e / alone.e2e)
        return cls({name: _percentiles(values) for name, values in found.items()})

    @property
    def broken(self) -> tuple[str, ...]:
        """The SLOs that do not hold, such as `tbt P90`; a slowdown that is equal to its limit does not."""
        return tuple(
            f"{name} P{percent}"
            for name, limits in LIMITS.items()
            for percent, limit, value in zip(PERCENTILES, limits, self.values[name], strict=True)
            if not value < limit
        )


def _percentiles(values: list[float]) -> tuple[float, ...]:
    values.sort()
    return tuple(percentile(values, percent) or 0.0 for percent in PERCENTILES)

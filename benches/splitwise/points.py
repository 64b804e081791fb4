"""One run: a design at a rate, and whether it holds the nine SLOs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benches.splitwise.cluster import PHYSICS, scenario
from benches.splitwise.designs import A100, MODELS, Design
from benches.splitwise.slos import LIMITS, Latencies, Reference, Slowdowns
from benches.splitwise.table import Profiles, read_table
from benches.splitwise.traces import SECONDS, generate, lengths
from inferencecluster.simulator.journeys import Journey, Outcome
from inferencecluster.simulator.journeys import Path as Route
from inferencecluster.simulator.report import PERCENTILES, percentile
from inferencecluster.simulator.simulation import simulate


@dataclass(frozen=True, slots=True)
class Place:
    """What every run of a search shares."""

    table: Path
    traces: Path
    model: str = "bloom-176b"
    trace: str = "conv"
    seed: int = 0
    seconds: float = SECONDS


@dataclass(frozen=True, slots=True)
class Point:
    """What is run."""

    place: Place
    design: Design
    physics: str
    rate: float
    """Requests a second."""

    @property
    def name(self) -> str:
        """Of this run among all of one table and one folder of traces."""
        place = self.place
        return f"{place.model} {place.trace} {place.seconds:g}s seed{place.seed} {self.design.name} {self.physics} {self.rate:g}"


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What came of it."""

    requests: int
    unanswered: int
    whole: int
    """Requests served whole on one machine."""
    seconds: dict[str, tuple[float, ...]]
    """P50, P90, P99 by latency."""
    slowdowns: Slowdowns

    @property
    def broken(self) -> tuple[str, ...]:
        """The SLOs that do not hold; a request that is not answered breaks them all."""
        return ("unanswered",) if self.unanswered else self.slowdowns.broken

    @property
    def holds(self) -> bool:
        """All nine."""
        return not self.broken

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "requests": self.requests,
            "unanswered": self.unanswered,
            "whole": self.whole,
            "holds": self.holds,
            "broken": list(self.broken),
            "seconds": {name: list(values) for name, values in self.seconds.items()},
            "slowdowns": {name: list(values) for name, values in self.slowdowns.values.items()},
        }

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Outcomes:
        """What `document` wrote."""
        return cls(
            document["requests"],
            document["unanswered"],
            document["whole"],
            {name: tuple(values) for name, values in document["seconds"].items()},
            Slowdowns({name: tuple(values) for name, values in document["slowdowns"].items()}),
        )


_table = lru_cache(maxsize=2)(read_table)


def measure(point: Point) -> Outcomes:
    """Run it. Raises `SpecError` and `OSError` for a table or traces that cannot be read."""
    place = point.place
    profiles: Profiles = _table(place.table)
    model = MODELS[place.model]
    workload = generate(
        lengths(place.traces, place.trace), rate=point.rate, seed=place.seed, seconds=place.seconds
    )
    journeys: list[Journey] = []
    plan = scenario(point.design, model, PHYSICS[point.physics], profiles)
    report = simulate(plan, workload, record=journeys.append)
    reference = Reference.of(profiles[model.name, A100.hardware])
    answered = [journey for journey in journeys if journey.outcome is Outcome.COMPLETED]
    taken = [Latencies.of(journey) for journey in answered]
    alone = [reference.latencies(journey.prompt_tokens, journey.output_tokens) for journey in answered]
    return Outcomes(
        requests=len(journeys),
        unanswered=len(journeys) - len(answered),
        whole=report.paths[Route.MIXED] + report.paths[Route.BORROWED],
        seconds={name: _percentiles([getattr(item, name) for item in taken]) for name in LIMITS},
        slowdowns=Slowdowns.of(zip(taken, alone, strict=True)),
    )


def _percentiles(values: list[float]) -> tuple[float, ...]:
    values.sort()
    return tuple(percentile(values, percent) or 0.0 for percent in PERCENTILES)

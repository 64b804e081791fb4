"""From cells to rows: means over seeds, their spread, and what everything is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, Final

from benches.policy.cluster import INSIDE
from benches.policy.contenders import TUNED, contender
from benches.policy.facts import Facts

EQUAL: Final = 0.001
"""Attainments that differ by a tenth of a per cent are equal: about the spread over seeds."""
_HOUR: Final = 3600.0

Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """One cell of question (i) and the facts of its load."""

    seed: int
    result: Result
    facts: Facts


@dataclass(frozen=True, slots=True)
class ElasticRow:
    """One contender on one workload at one boot time, over all seeds."""

    workload: str
    boot_seconds: float
    contender: str
    runs: tuple[Run, ...]

    def mean(self, value: Callable[[Result], float | None]) -> float | None:
        """Over seeds; None where a seed has no value."""
        values = [value(run.result) for run in self.runs]
        known = [number for number in values if number is not None]
        return mean(known) if len(known) == len(values) else None

    @property
    def attainment(self) -> float:
        """Mean share of requests inside the SLO."""
        return mean(self.attainments)

    @property
    def attainments(self) -> tuple[float, ...]:
        """Of each seed."""
        return tuple(float(run.result["slo_attainment"]) for run in self.runs)

    @property
    def gpu_hours(self) -> float:
        """Mean."""
        return mean(float(run.result["gpu_hours"]) for run in self.runs)

    def ratio(self, bound: Callable[[Facts], float]) -> float:
        """Mean of the cost over a bound of the same seed."""
        return mean(float(run.result["gpu_hours"]) / bound(run.facts) for run in self.runs)

    @property
    def to_scheduled(self) -> float:
        """To the oracle that pays for boots: the one of all targets."""
        return self.ratio(lambda facts: facts.scheduled_gpu_hours(self.boot_seconds))

    @property
    def to_bootless(self) -> float:
        """To the oracle whose boots are free."""
        return self.ratio(lambda facts: facts.scheduled_gpu_hours(0.0))

    @property
    def to_split(self) -> float:
        """To the proven bound for whole replicas of one phase."""
        return self.ratio(lambda facts: facts.split_gpu_hours)

    @property
    def events_per_hour(self) -> float:
        """Changes of a pool's size."""
        return mean(
            float(run.result["scale_events"]) * _HOUR / float(run.result["seconds"]) for run in self.runs
        )

    def spotlights(self) -> dict[str, float]:
        """Attainment within the parts of the workload that are judged by themselves."""
        names = self.runs[0].result["spotlights"]
        return {name: mean(float(run.result["spotlights"][name]) for run in self.runs) for name in names}


@dataclass(frozen=True, slots=True)
class Compared:
    """A row beside the best baseline that has its attainment."""

    row: ElasticRow
    title: str
    best: ElasticRow | None
    """None: no baseline reaches this attainment."""

    @property
    def to_best(self) -> float | None:
        """GPU-hours over the best baseline's."""
        return None if self.best is None else self.row.gpu_hours / self.best.gpu_hours


def compare(rows: Sequence[ElasticRow]) -> list[Compared]:
    """The rows of one workload and boot time; of a tuned baseline only its best setting."""
    baselines = [row for row in rows if contender(row.contender).is_baseline]
    tuned = _tuned([row for row in rows if _is_tuned(row)])
    return [
        Compared(row, _title(row), _best(baselines, row))
        for row in rows
        if not _is_tuned(row) or row is tuned
    ]


def by_place(rows: Iterable[ElasticRow]) -> dict[tuple[str, float], list[ElasticRow]]:
    """By workload and boot time, in their order."""
    places: dict[tuple[str, float], list[ElasticRow]] = {}
    for row in rows:
        places.setdefault((row.workload, row.boot_seconds), []).append(row)
    return places


def _is_tuned(row: ElasticRow) -> bool:
    return row.contender.startswith(f"{TUNED}@")


def _tuned(rows: Sequence[ElasticRow]) -> ElasticRow | None:
    """The cheapest setting that holds the SLO, else the one that holds it best."""
    holding = [row for row in rows if row.attainment >= INSIDE]
    if holding:
        return min(holding, key=lambda row: row.gpu_hours)
    return max(rows, key=lambda row: row.attainment, default=None)


def _title(row: ElasticRow) -> str:
    if not _is_tuned(row):
        return row.contender
    found = contender(row.contender)
    variant = f" {found.variant.name}" if found.variant else ""
    return f"{TUNED}{variant}, tuned here ({found.target:g})"


def _best(baselines: Iterable[ElasticRow], row: ElasticRow) -> ElasticRow | None:
    equal = [
        baseline
        for baseline in baselines
        if baseline.contender != row.contender and baseline.attainment >= row.attainment - EQUAL
    ]
    return min(equal, key=lambda baseline: baseline.gpu_hours, default=None)


@dataclass(frozen=True, slots=True)
class FixedRow:
    """One row of question (ii) on one workload at one boot time, over all seeds."""

    workload: str
    boot_seconds: float
    name: str
    results: tuple[Result, ...]

    @property
    def criteria(self) -> tuple[str, ...]:
        """What was asked for."""
        return tuple(self.results[0]["criteria"])

    def load(self, criterion: str) -> float:
        """Mean highest load."""
        return mean(float(result["criteria"][criterion]["load"]) for result in self.results)

    def loads(self, criterion: str) -> tuple[float, ...]:
        """Of each seed."""
        return tuple(float(result["criteria"][criterion]["load"]) for result in self.results)

    def splits(self, criterion: str) -> str:
        """The best splits of the seeds; empty where sizes change."""
        found = [result["criteria"][criterion]["split"] for result in self.results]
        return ", ".join(dict.fromkeys("+".join(map(str, split[:2])) for split in found if split))

    def conversions(self, criterion: str) -> float:
        """Mean at the highest load."""
        outcomes = [result["criteria"][criterion]["outcome"] for result in self.results]
        return mean(float(outcome["conversions"]) if outcome else 0.0 for outcome in outcomes)

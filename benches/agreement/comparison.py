"""The figures of both sides, by the same code, and how far they are apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final

from e2e.demo.load import Answer
from e2e.demo.summary import Slo, percentile

from benches.agreement.recorded import Demo
from benches.agreement.simulated import Simulated
from inferencecluster.core.fleet import PoolName

AIM: Final = 0.10
"""Largest relative error that is aimed at: of latencies, of GPU-hours, and of pool sizes over time."""

Sizes = Mapping[PoolName, Sequence[float]]
"""One value per second of traffic."""


@dataclass(frozen=True, slots=True)
class Side:
    """One run, measured or simulated."""

    answers: Sequence[Answer]
    ready: Sizes
    desired: Sizes
    gpu_hours: float


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: the demo's, and those of the simulated runs."""

    name: str
    demo: float
    simulated: tuple[float, ...]
    is_share: bool = False
    """Compared by difference, not by ratio."""
    is_aimed_at: bool = False

    @property
    def middle(self) -> float:
        """Of the simulated runs."""
        return median(self.simulated)

    @property
    def error(self) -> float:
        """(simulated - demo) / demo; of shares, simulated - demo. Infinite where the demo has nothing to compare with."""
        difference = self.middle - self.demo
        if self.is_share or not difference:
            return difference
        return difference / self.demo if self.demo else math.inf

    @property
    def holds(self) -> bool:
        """The aim is met, or there is none."""
        return not self.is_aimed_at or abs(self.error) <= AIM


@dataclass(frozen=True, slots=True)
class PoolDifference:
    """Ready replicas of one pool or of all, second by second. Replica-minutes are sums over the run."""

    name: str
    demo_minutes: float
    simulated_minutes: float
    mean_difference: float
    """Mean of |simulated - demo|, in replicas."""
    difference_minutes: float

    @property
    def error(self) -> float:
        """Replica-minutes of |simulated - demo| over those of the demo. Infinite where only the simulator has replicas."""
        if not self.difference_minutes:
            return 0.0
        return self.difference_minutes / self.demo_minutes if self.demo_minutes else math.inf

    @property
    def holds(self) -> bool:
        """The aim is met."""
        return self.error <= AIM


def side_of_demo(demo: Demo) -> Side:
    """Samples come about once a second: each second shows the latest."""
    seconds = int(demo.seconds)
    ready: dict[PoolName, list[float]] = {name: [] for name in PoolName}
    desired: dict[PoolName, list[float]] = {name: [] for name in PoolName}
    remaining, latest = list(demo.samples), demo.samples[0]
    for second in range(seconds):
        while remaining and remaining[0].at <= second:
            latest = remaining.pop(0)
        for name in PoolName:
            ready[name].append(float(latest.pools[name.value].ready))
            desired[name].append(float(latest.pools[name.value].desired))
    gpu_seconds = sum(
        before.gpus * (after.at - before.at)
        for before, after in pairwise(demo.samples)
        if 0 <= before.at < demo.seconds
    )
    return Side(demo.answers, ready, desired, gpu_seconds / 3600)


def side_of(simulated: Simulated, seconds: int) -> Side:
    """Cut to the seconds that the demo has."""
    return Side(
        simulated.answers,
        {name: values[:seconds] for name, values in simulated.ready.items()},
        {name: values[:seconds] for name, values in simulated.desired.items()},
        simulated.gpu_hours,
    )


def figures(demo: Side, simulated: Sequence[Side], slo: Slo) -> tuple[Figure, ...]:
    """TTFT and ITL (mean time per output token of a request, the first left out), attainment, GPU-hours."""

    def figure(
        name: str, value: Callable[[Side], float], *, share: bool = False, aimed: bool = False
    ) -> Figure:
        return Figure(name, value(demo), tuple(value(side) for side in simulated), share, aimed)

    def latency(name: str, of: Callable[[Answer], float | None], percent: int) -> Figure:
        return figure(
            f"{name} p{percent}, ms",
            lambda side: _milliseconds(side.answers, of, percent),
            aimed=percent in (50, 90),
        )

    return (
        *(latency("TTFT", lambda answer: answer.ttft, percent) for percent in (50, 90, 99)),
        *(latency("ITL", lambda answer: answer.tpot, percent) for percent in (50, 90, 99)),
        figure("inside the SLO", lambda side: _attainment(side.answers, slo), share=True),
        figure("GPU-hours", lambda side: side.gpu_hours, aimed=True),
    )


def pool_differences(demo: Side, simulated: Side) -> tuple[PoolDifference, ...]:
    """How the ready replicas of both sides lie apart over time."""
    return tuple(_pool_difference(name, demo.ready[name], simulated.ready[name]) for name in PoolName)


def all_pools(pools: Sequence[PoolDifference]) -> PoolDifference:
    """The sums over the pools: what one pool has too much does not make up for what another one lacks."""
    return PoolDifference(
        name="all",
        demo_minutes=sum(item.demo_minutes for item in pools),
        simulated_minutes=sum(item.simulated_minutes for item in pools),
        mean_difference=sum(item.mean_difference for item in pools),
        difference_minutes=sum(item.difference_minutes for item in pools),
    )


def _pool_difference(pool: PoolName, demo: Sequence[float], simulated: Sequence[float]) -> PoolDifference:
    apart = [abs(theirs - ours) for ours, theirs in zip(demo, simulated, strict=False)]
    return PoolDifference(
        name=pool.value,
        demo_minutes=sum(demo) / 60,
        simulated_minutes=sum(simulated) / 60,
        mean_difference=sum(apart) / max(1, len(apart)),
        difference_minutes=sum(apart) / 60,
    )


def _milliseconds(answers: Sequence[Answer], of: Callable[[Answer], float | None], percent: float) -> float:
    values = [value for answer in answers if (value := of(answer)) is not None]
    return 1000 * (percentile(values, percent) or 0.0)


def _attainment(answers: Sequence[Answer], slo: Slo) -> float:
    return sum(map(slo.holds, answers)) / max(1, len(answers))

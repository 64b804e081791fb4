"""Frontiers: the highest rate at which a design holds the nine SLOs, and the best design that a budget buys.

Both take for granted that what holds at a rate holds at every lower one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from benches.splitwise.designs import Design, Kind, splits
from benches.splitwise.points import Outcomes, Place, Point

STEP: Final = 10.0
"""Requests/s: the grid of Splitwise's searches."""
_FIRST_STEPS: Final = 8
"""Where a bisection begins: runs far beyond a frontier cost most, so that it is approached from below."""
_CANDIDATES: Final = 10
"""Splits of a budget that are tried: they differ by about a tenth of the machines."""


class Measure(Protocol):
    """Whoever runs points."""

    def __call__(self, title: str, points: Sequence[Point]) -> dict[Point, Outcomes]:
        """The outcome of each."""
        ...


@dataclass(frozen=True, slots=True)
class Frontier:
    """What a design carries."""

    design: Design
    physics: str
    seed: int
    rate: float
    """Highest requests/s inside the nine SLOs, on the grid; 0 when the lowest one is outside already."""
    broken: tuple[str, ...]
    """The SLOs that break one step above."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a cluster may cost and draw."""

    name: str
    dollars_per_hour: float
    power: float


@dataclass(frozen=True, slots=True)
class Purchase:
    """The best split of one kind of design that a budget buys."""

    budget: Budget
    kind: Kind
    physics: str
    design: Design
    rate: float
    """0 when no split holds the SLOs at the lowest rate."""
    holding: tuple[Design, ...]
    """Every tried split that carries that rate, fewest prompt machines first; `design` is the middle one."""


def find_frontiers(
    place: Place, wanted: Sequence[tuple[Design, str, int]], measure: Measure
) -> tuple[Frontier, ...]:
    """Of each design under its physics and seed, by bisection of the grid, all of them side by side."""
    holds = dict.fromkeys(wanted, 0)
    breaks: dict[tuple[Design, str, int], int] = {}
    why: dict[tuple[Design, str, int], tuple[str, ...]] = {}
    rounds = 0
    while open_ := [item for item in holds if breaks.get(item, holds[item] + 2) - holds[item] > 1]:
        rounds += 1
        points = {
            item: Point(
                replace(place, seed=item[2]), item[0], item[1], _between(holds[item], breaks.get(item)) * STEP
            )
            for item in open_
        }
        found = measure(f"frontiers, round {rounds}", tuple(points.values()))
        for item, point in points.items():
            steps = round(point.rate / STEP)
            if found[point].holds:
                holds[item] = steps
            else:
                breaks[item] = steps
                why[item] = found[point].broken
    return tuple(Frontier(*item, holds[item] * STEP, why.get(item, ())) for item in holds)


def _between(holds: int, breaks: int | None) -> int:
    """The steps to try next: halfway, or half as much again while nothing has broken."""
    return (holds + breaks) // 2 if breaks is not None else max(_FIRST_STEPS, holds + holds // 2)


def candidates(kind: Kind, budget: Budget, *, also: Sequence[Design] = ()) -> tuple[Design, ...]:
    """Some splits over the whole range that the budget buys, and those of `also`; fewest prompt machines first."""
    every = splits(kind, dollars_per_hour=budget.dollars_per_hour, power=budget.power)
    stride = max(1, -(-len(every) // _CANDIDATES))
    # From the middle of the first stride on: the ends are a cluster without prompts, or without tokens.
    chosen = {*every[stride // 2 :: stride], *also}
    return tuple(sorted(chosen, key=lambda design: design.prompts))


@dataclass(frozen=True, slots=True)
class Choice:
    """Splits of one kind among which the best is sought."""

    place: Place
    budget: Budget
    physics: str
    tried: tuple[Design, ...]
    """Fewest prompt machines first; not empty."""


def find_best(choice: Choice, *, start: float, measure: Measure) -> Purchase:
    """The split that carries most. The search begins at `start` requests/s, on the grid."""
    place, budget, physics, tried = choice.place, choice.budget, choice.physics, choice.tried

    def holding(designs: Sequence[Design], steps: int) -> tuple[Design, ...]:
        points = [Point(place, design, physics, steps * STEP) for design in designs]
        found = measure(f"{budget.name}, {tried[0].kind.name}, {physics}: {steps * STEP:g}/s", points)
        return tuple(point.design for point in points if found[point].holds)

    steps = max(1, round(start / STEP))
    best = holding(tried, steps)
    while not best and steps > 1:
        steps -= 1
        best = holding(tried, steps)
    while best and (better := holding(best, steps + 1)):
        best, steps = better, steps + 1
    chosen = best or tried
    return Purchase(
        budget,
        tried[0].kind,
        physics,
        chosen[len(chosen) // 2],
        steps * STEP if best else 0.0,
        best,
    )

"""What is asked: published designs and what budgets buy, under the peer's physics and under ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benches.splitwise.cluster import ALONE, HONEST, PEER
from benches.splitwise.designs import (
    AA,
    BASE_A100,
    BASE_H100,
    CODE_OPTIMUM,
    CODE_RATE,
    HA,
    HH,
    HHCAP,
    ISO_COST,
    ISO_POWER,
    Design,
)
from benches.splitwise.points import Outcomes, Place, Point
from benches.splitwise.search import (
    Budget,
    Choice,
    Frontier,
    Measure,
    Purchase,
    candidates,
    find_best,
    find_frontiers,
)

SEEDS: Final = (0, 1, 2)
BASE_A100_70: Final = Design(BASE_A100, 70)
BASE_H100_40: Final = Design(BASE_H100, 40)
CHEAPER: Final = Budget(
    f"80 % of the cost of {BASE_H100_40.name}, any power",
    0.8 * BASE_H100_40.dollars_per_hour,
    float("inf"),
)
AS_A100: Final = Budget(
    f"cost and power of {BASE_A100_70.name}", BASE_A100_70.dollars_per_hour, BASE_A100_70.power
)
_KINDS: Final = (AA, HH, HA, HHCAP)
_PHYSICS: Final = (PEER.name, HONEST.name)


@dataclass(frozen=True, slots=True)
class Study:
    """Every answer."""

    place: Place
    seeds: tuple[int, ...]
    frontiers: tuple[Frontier, ...]
    purchases: tuple[Purchase, ...]
    code: Mapping[Point, Outcomes]
    """Splitwise's cheapest cluster for the code trace: under both physics, for each seed."""

    def rates(self, design: Design, physics: str) -> tuple[float, ...]:
        """Its frontier by seed; nothing where it was not asked."""
        return tuple(
            item.rate for item in self.frontiers if item.design == design and item.physics == physics
        )

    def rate(self, design: Design, physics: str) -> float:
        """Its frontier with the first seed, which is that of the purchases, too."""
        return self.rates(design, physics)[0]

    def bought(self, budget: Budget, physics: str) -> tuple[Purchase, ...]:
        """By kind."""
        return tuple(item for item in self.purchases if item.budget == budget and item.physics == physics)


def as_published(design: Design) -> Budget:
    """The budget that a design uses up."""
    return Budget(f"cost and power of {design.name}", design.dollars_per_hour, design.power)


def conduct(place: Place, seeds: Sequence[int], measure: Measure) -> Study:
    """Run everything. Takes some thousand seconds of one core."""
    wanted = [(design, physics, seed) for seed in seeds for physics in _PHYSICS for design in ISO_POWER]
    wanted += [(design, physics, seeds[0]) for physics in _PHYSICS for design in ISO_COST]
    wanted += [(design, physics.name, seeds[0]) for physics in ALONE for design in ISO_POWER]
    frontiers = find_frontiers(place, wanted, measure)
    first = Study(place, tuple(seeds), frontiers, (), {})
    home = _at(place, seeds[0])
    purchases = [
        find_best(
            Choice(
                home,
                as_published(design),
                physics,
                candidates(design.kind, as_published(design), also=(design,)),
            ),
            start=first.rate(design, physics),
            measure=measure,
        )
        for physics in _PHYSICS
        for design in ISO_POWER
        if not design.kind.is_baseline
    ]
    purchases += [
        find_best(
            Choice(home, budget, physics, candidates(kind, budget)),
            start=max(item.rate for item in purchases if item.kind == kind and item.physics == physics),
            measure=measure,
        )
        for budget in (CHEAPER, AS_A100)
        for physics in _PHYSICS
        for kind in _KINDS
    ]
    points = [
        Point(_at(place, seed, trace="code"), CODE_OPTIMUM, physics, CODE_RATE)
        for physics in _PHYSICS
        for seed in seeds
    ]
    return Study(place, tuple(seeds), frontiers, tuple(purchases), measure("code, figure 12", points))


def _at(place: Place, seed: int, *, trace: str | None = None) -> Place:
    return Place(place.table, place.traces, place.model, trace or place.trace, seed, place.seconds)

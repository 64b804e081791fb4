"""What the scenarios share: lengths, targets, shapes, and the highest rate of a fleet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from inferencecluster.core.missing import Missing
from inferencecluster.core.profiles import PROFILES
from inferencecluster.planner.capacity import Target
from inferencecluster.planner.catalogue import PricedGpu
from inferencecluster.planner.designs import Design, PoolShape, Sizes
from inferencecluster.planner.search import fit
from inferencecluster.planner.traffic import Window, steady
from inferencecluster.simulator.hardware import GPU_FACTS

CONVERSATION: Final = (1155, 211)
"""Mean prompt and output tokens of the Azure conversation trace (2023)."""
TARGET: Final = Target(0.9, 1.0, 0.04)
BISECTIONS: Final = 30
HIGHEST_RATE: Final = 1e6


def shape(profile: str, dollars_per_hour: float | None = None) -> PoolShape:
    """A profile at its default price or another one."""
    found = PROFILES[profile]
    name = found.gpu.name
    return PoolShape(found, PricedGpu(name, dollars_per_hour or GPU_FACTS[name].dollars_per_hour))


def window(prompt_tokens: int, output_tokens: int, *, rate: float = 1.0) -> Window:
    """Requests of one length."""
    return steady(rate=rate, prompt_tokens=prompt_tokens, output_tokens=output_tokens).windows[0]


def highest(holds: Callable[[float], bool]) -> float:
    """The highest rate that holds, by bisection; 0 when none does."""
    low, high = 0.0, HIGHEST_RATE
    for _ in range(BISECTIONS * 2):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def highest_rate(design: Design, target: Target, lengths: tuple[int, int], *, budget: float) -> float:
    """Requests/s that the design serves inside the SLO when its replicas may cost `budget` per hour."""

    def holds(rate: float) -> bool:
        fitted = fit(design, steady(rate=rate, prompt_tokens=lengths[0], output_tokens=lengths[1]), target)
        return not isinstance(fitted, Missing) and price(design, fitted.peak) <= budget

    return highest(holds)


def price(design: Design, sizes: Sizes) -> float:
    """Dollars per hour."""
    return sum(size * one.dollars_per_hour for size, (_, one) in zip(sizes, design.pools, strict=True))

"""The smallest pools that hold the SLO, window by window, and the largest load that a number of GPUs holds.

DistServe (OSDI'24) finds the best rate of one instance of each phase and divides the load by it. Here a pool is sized as
a whole: replicas that share a queue need less room than each of them alone, which decides small clusters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from inferencecluster.api.scalars import MAX_REPLICAS
from inferencecluster.core.missing import Missing
from inferencecluster.core.profiles import Profile
from inferencecluster.planner.capacity import Target
from inferencecluster.planner.catalogue import PricedGpu
from inferencecluster.planner.designs import Design, Disaggregated, Mixed, PoolShape, Sizes
from inferencecluster.planner.traffic import Traffic

CLOSE: Final = 0.995
"""How near a loaded pool may have to come to an idle one. Beyond, pools grow without bound for nothing that a user notices."""
SCALE_STEPS: Final = 24
"""Halvings of the range of loads: below a thousandth of a request per second."""
LARGEST_SCALE: Final = 2.0**20


@dataclass(frozen=True, slots=True)
class Fitted:
    """A design with its size in every window."""

    design: Design
    sizes: tuple[Sizes, ...]
    """As many as the traffic has windows; zeros in a silent one."""
    attainment: float
    """Share of all requests that meet both latencies at these sizes."""

    @property
    def peak(self) -> Sizes:
        """Per pool, its largest size."""
        return tuple(max(column) for column in zip(*self.sizes, strict=True))

    @property
    def quietest(self) -> Sizes:
        """Per pool, its smallest size, at least one replica: scaling to zero is the user's choice."""
        return tuple(max(1, min(column)) for column in zip(*self.sizes, strict=True))

    @property
    def peak_gpus(self) -> int:
        """With every pool at its largest."""
        return gpus_of(self.design, self.peak)


def gpus_of(design: Design, sizes: Sizes) -> int:
    """GPUs of so many replicas."""
    return sum(size * shape.gpus for size, (_, shape) in zip(sizes, design.pools, strict=True))


def candidates(profiles: Iterable[Profile], gpus: Iterable[PricedGpu]) -> tuple[Design, ...]:
    """Every mixed design, then every pair; pairs of unlike hardware included, because engines convert the cache's layout."""
    priced = {gpu.name: gpu for gpu in gpus}
    shapes = [PoolShape(profile, priced[profile.gpu.name]) for profile in profiles]
    pairs = (Disaggregated(prefill, decode) for prefill in shapes for decode in shapes)
    return (*(Mixed(shape) for shape in shapes), *pairs)


def fit(design: Design, traffic: Traffic, target: Target) -> Fitted | Missing:
    """The smallest sizes at which `target.share` of all requests meet their latencies; Missing says why there are none."""
    share = _share_of_unloaded(design, traffic, target)
    if isinstance(share, Missing):
        return share
    sizes: list[Sizes] = []
    met = 0.0
    for window in traffic.windows:
        if window.requests <= 0:
            sizes.append((0,) * len(design.pools))
            continue
        found = design.smallest(window, target, share=share * design.unloaded(window, target).both)
        if found is None:
            return Missing(
                "TooMuchLoad", f"{MAX_REPLICAS} replicas of a pool do not carry {window.rate:.1f} requests/s"
            )
        sizes.append(found)
        met += window.requests * design.attainment(window, target, found).both
    return Fitted(design, tuple(sizes), met / traffic.requests)


def largest_scale(design: Design, traffic: Traffic, target: Target, *, gpus: int) -> float:
    """How often the traffic may be multiplied before its busiest moment needs more than `gpus`; 0 when it never fits."""
    share = _share_of_unloaded(design, traffic, target)
    if isinstance(share, Missing):
        return 0.0

    def holds(scale: float) -> bool:
        fitted = fit(design, traffic.scaled(scale), target)
        return not isinstance(fitted, Missing) and fitted.peak_gpus <= gpus

    high = 1.0
    while high < LARGEST_SCALE and holds(high):
        high *= 2
    low = high / 2 if high > 1.0 else 0.0
    for _ in range(SCALE_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _share_of_unloaded(design: Design, traffic: Traffic, target: Target) -> float | Missing:
    """Of the requests that idle replicas serve in time, the share that loaded ones have to."""
    ttft = traffic.mean_over_requests(lambda window: design.unloaded(window, target).ttft)
    itl = traffic.mean_over_requests(lambda window: design.unloaded(window, target).itl)
    both = traffic.mean_over_requests(lambda window: design.unloaded(window, target).both)
    if both * CLOSE >= target.share:
        return target.share / both
    if itl * CLOSE < target.share:
        return Missing(
            "ItlOutOfReach",
            f"a step over one sequence is longer than the ITL of {target.itl_seconds * 1000:.0f} ms",
        )
    return Missing(
        "TtftOutOfReach",
        f"on idle replicas {ttft:.1%} of first tokens come within {target.ttft_seconds * 1000:.0f} ms",
    )

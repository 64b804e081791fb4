"""What a fitted design costs: sized for its peak all the time, and following the demand."""

from __future__ import annotations

import math
from dataclasses import dataclass

from inferencecluster.core.demand import HOLD_BOOTS
from inferencecluster.planner.designs import Design, Sizes
from inferencecluster.planner.search import Fitted
from inferencecluster.planner.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Bill:
    """Over the whole traffic."""

    gpu_hours: float
    dollars: float
    kilowatt_hours: float
    """At the thermal design power: what has to be provisioned, as Splitwise counts it, not what a meter would show."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The two ways to run a fitted design."""

    static: Bill
    """Every pool at its peak all the time."""
    autoscaled: Bill
    """Every pool at the largest size that it needs between one boot ago and one boot from now: what an autoscaler
    that is never surprised pays. A forecast that errs costs more, or misses the SLO; the simulator shows that."""

    @property
    def saving(self) -> float:
        """Share of the static dollars that following the demand saves."""
        return 1.0 - self.autoscaled.dollars / self.static.dollars


def charge(fitted: Fitted, traffic: Traffic, *, boot_seconds: float) -> Cost:
    """Both bills; boots are charged from the creation of a replica."""
    windows = len(fitted.sizes)
    back = math.ceil(HOLD_BOOTS * boot_seconds / traffic.window_seconds)
    ahead = math.ceil(boot_seconds / traffic.window_seconds)
    floor = fitted.quietest
    followed = []
    for index in range(windows):
        span = fitted.sizes[max(0, index - back) : index + ahead + 1]
        largest = (max(column) for column in zip(*span, strict=True))
        followed.append(tuple(max(sizes) for sizes in zip(largest, floor, strict=True)))
    hours = traffic.window_seconds / 3600
    return Cost(
        static=_bill(fitted.design, [fitted.peak] * windows, hours),
        autoscaled=_bill(fitted.design, followed, hours),
    )


def _bill(design: Design, sizes: list[Sizes], hours: float) -> Bill:
    """`hours` with each of `sizes`."""
    totals = [sum(column) * hours for column in zip(*sizes, strict=True)]
    shapes = [shape for _, shape in design.pools]
    return Bill(
        gpu_hours=sum(total * shape.gpus for total, shape in zip(totals, shapes, strict=True)),
        dollars=sum(total * shape.dollars_per_hour for total, shape in zip(totals, shapes, strict=True)),
        kilowatt_hours=sum(total * shape.watts for total, shape in zip(totals, shapes, strict=True)) / 1000,
    )

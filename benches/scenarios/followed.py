"""Loads as windows for the ideal bill and as requests for the operator's own, which the simulator serves with the product's sizing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from benches.scenarios.load import TARGET
from inferencecluster.core.missing import Missing
from inferencecluster.planner.answer import Option, Question, evaluate
from inferencecluster.planner.catalogue import find_model
from inferencecluster.planner.designs import Mixed
from inferencecluster.planner.manifest import manifest
from inferencecluster.planner.traffic import Traffic, Window
from inferencecluster.planner.verify import SimulatorVerifier
from inferencecluster.simulator.synthetic import DAY_SECONDS, Phase, Shape, alternating, diurnal
from inferencecluster.simulator.workload import Request, scaled_time

BOOT_SECONDS: Final = 120.0
HOURS: Final = 1.0
"""In which the day passes: a whole one would be simulated for minutes. Boots take 24 times the share of it that they take of a real
day, so that following it costs more here."""
WINDOWS: Final = 60
SEED: Final = 0
_ENGINE: Final = "1.2.1"


def height(share_of_day: float, *, trough_share: float) -> float:
    """Load over the peak's: a sine, lowest at midnight."""
    return trough_share + (1 - trough_share) * (1 - math.cos(2 * math.pi * share_of_day)) / 2


def day(peak: Window, *, trough_share: float) -> Traffic:
    """The short day in windows of equal length."""
    seconds = HOURS * 3600 / WINDOWS
    heights = (height((index + 0.5) / WINDOWS, trough_share=trough_share) for index in range(WINDOWS))
    windows = tuple(replace(peak, seconds=seconds, requests=peak.rate * one * seconds) for one in heights)
    return Traffic(windows, "one day")


def day_requests(lengths: tuple[int, int], *, peak_rate: float, trough_share: float) -> tuple[Request, ...]:
    """Arrivals of such a day, at random."""
    speed = DAY_SECONDS / (HOURS * 3600)
    prompt, output = lengths
    arrivals = diurnal(
        Shape(prompt, output, 0.0, 0.0),
        peak_requests_per_second=peak_rate / speed,
        trough_share=trough_share,
        seed=SEED,
    )
    return tuple(scaled_time(arrivals, 1 / speed))


def steady_requests(lengths: tuple[int, int], *, rate: float, seconds: float) -> tuple[Request, ...]:
    """Arrivals of an even load, at random."""
    prompt, output = lengths
    phases = [Phase(Shape(prompt, output, 0.0, 0.0), rate)]
    return tuple(alternating(phases, phase_seconds=seconds, duration_seconds=seconds, seed=SEED))


@dataclass(frozen=True, slots=True)
class Followed:
    """The load of one cluster, ideal and simulated."""

    option: Option
    dollars: float
    """Of the operator, over the time of the traffic."""
    requests: int
    in_time: float
    """Share of them."""


def follow(
    design: Mixed, traffic: Traffic, requests: Iterable[Request], *, planned_for: Traffic | None = None
) -> Followed:
    """Serve `requests`, which `traffic` describes, with the cluster that `kubectl-ic plan` would write for `planned_for`, or for it."""
    option, question = _planned(design, traffic)
    bounds, _ = (option, question) if planned_for is None else _planned(design, planned_for)
    arrivals = tuple(requests)
    written = manifest(question, bounds, engine_version=_ENGINE)
    served = SimulatorVerifier(lambda _: arrivals).autoscaled(option, written, TARGET)
    if served.dollars_per_hour is None:
        raise ValueError("a load holds more than one request")
    # The simulator charges until the last arrival. What is left of a day is quiet: the least size serves it.
    charged = arrivals[-1].arrival / 3600
    quiet = max(0.0, traffic.hours - charged) * bounds.fitted.quietest[0] * design.shape.dollars_per_hour
    return Followed(option, served.dollars_per_hour * charged + quiet, served.requests, served.attainment)


def _planned(design: Mixed, traffic: Traffic) -> tuple[Option, Question]:
    shape = design.shape
    question = Question(
        find_model(shape.profile.model.name), (shape.gpu,), TARGET, traffic, boot_seconds=BOOT_SECONDS
    )
    option = evaluate(design, question)
    if isinstance(option, Missing):
        raise TypeError(option.message)
    return option, question

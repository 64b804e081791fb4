"""A weighted straight line through a short history, and the spread around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MIN_POINTS: Final = 6
"""Fewest points whose spread is judged: a line through fewer follows their noise."""


@dataclass(frozen=True, slots=True)
class Point:
    """A rate measured around `time`, counted `weight` times (seconds of measurement)."""

    time: float
    value: float
    weight: float


@dataclass(frozen=True, slots=True)
class Line:
    """Least squares through some points."""

    mean: float
    spread: float
    """Weighted standard deviation of the points around the line."""


def fit_line(points: Sequence[Point]) -> Line:
    """The weighted least-squares line through three points or more; level when all were taken at the same time."""
    weight = math.fsum(point.weight for point in points)
    middle = math.fsum(point.weight * point.time for point in points) / weight
    mean = math.fsum(point.weight * point.value for point in points) / weight
    width = math.fsum(point.weight * (point.time - middle) ** 2 for point in points) / weight
    lean = math.fsum(point.weight * (point.time - middle) * (point.value - mean) for point in points) / weight
    if width <= 0:
        return Line(mean, 0.0)
    slope = lean / width
    residual = (
        math.fsum(
            point.weight * (point.value - mean - slope * (point.time - middle)) ** 2 for point in points
        )
        / weight
    )
    return Line(mean, math.sqrt(residual))

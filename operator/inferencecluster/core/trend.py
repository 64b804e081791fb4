"""A weighted straight line through a short history: its slope, how sure the slope is, and the spread around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MIN_POINTS: Final = 6
"""Fewest points that are judged: their later half, three, is the fewest that leave a residual around a line."""


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
    slope: float
    """Per second."""
    slope_error: float
    """Standard error of the slope."""
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
        return Line(mean, 0.0, 0.0, 0.0)
    slope = lean / width
    residual = (
        math.fsum(
            point.weight * (point.value - mean - slope * (point.time - middle)) ** 2 for point in points
        )
        / weight
    )
    return Line(mean, slope, math.sqrt(residual / width / (len(points) - 2)), math.sqrt(residual))


def growth_per_second(points: Sequence[Point]) -> float:
    """The upward slope that the points leave little doubt about; 0 for fewer than `MIN_POINTS`.

    The smaller of two slopes, through all points and through their later half, each less its standard error: a jump
    that is over has a flat later half, and noise seldom exceeds its own error in both. Never negative, because
    shrinking waits for the level itself.
    """
    if len(points) < MIN_POINTS:
        return 0.0
    lines = (fit_line(points), fit_line(points[len(points) // 2 :]))
    return max(0.0, min(line.slope - line.slope_error for line in lines))

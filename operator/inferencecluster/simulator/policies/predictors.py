"""One-step forecasts of a series, as Dynamo's planner makes them for requests, prompt and output lengths.

Source: ai-dynamo/dynamo `components/src/dynamo/planner/core/load/predictors.py`. Its default is `arima`: pmdarima's
`auto_arima`, fitted first to five points. The one here is an honest part of that in plain Python, ARIMA(p, d, 0):
d by the KPSS test for a level at 5 % (auto_arima's own choice of d), p up to 5 by AIC, coefficients by least squares.
There are no moving-average terms, and the order is chosen anew for each forecast instead of once at five points, which
can only help. As upstream: the last value until five points are known, the value itself if all are equal, never below
zero, and zeros before the first traffic are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Protocol

MIN_POINTS: Final = 5
MAX_ORDER: Final = 5
"""auto_arima's `max_p`."""
MAX_DIFFERENCES: Final = 2
"""auto_arima's `max_d`."""
KPSS_CRITICAL: Final = 0.463
"""Level stationarity at 5 % (Kwiatkowski, Phillips, Schmidt and Shin 1992, table 1)."""
MAX_POINTS: Final = 240
"""Twelve hours of Dynamo's intervals: older load says nothing about the next one, and fits stay cheap."""


class Predictor(Protocol):
    """Learns a series value by value."""

    def add(self, value: float) -> None:
        """One more value."""
        ...

    def next_value(self) -> float:
        """The forecast of the next value; 0 before any."""
        ...


class LastValue:
    """Dynamo's `constant`: the next value is the last one."""

    def __init__(self) -> None:
        self._value = 0.0

    def add(self, value: float) -> None:
        """Keep it."""
        self._value = value

    def next_value(self) -> float:
        """The last value."""
        return self._value


class AutoRegressive:
    """ARIMA(p, d, 0), see the module."""

    def __init__(self) -> None:
        self._values: list[float] = []

    def add(self, value: float) -> None:
        """One more value; zeros before the first other value are skipped."""
        if self._values or value != 0:
            self._values = [*self._values, value][-MAX_POINTS:]

    def next_value(self) -> float:
        """The forecast, at least 0."""
        values = self._values
        if len(values) < MIN_POINTS:
            return values[-1] if values else 0.0
        if len(set(values)) == 1:
            return values[-1]
        levels: list[float] = []
        series = values
        while len(levels) < MAX_DIFFERENCES and len(series) > MIN_POINTS and _kpss(series) > KPSS_CRITICAL:
            levels.append(series[-1])
            series = [later - earlier for earlier, later in pairwise(series)]
        return max(0.0, _forecast(series, with_mean=not levels) + math.fsum(levels))


def _kpss(series: Sequence[float]) -> float:
    """The KPSS statistic around a level, with a Newey-West variance of the usual 4*(n/100)^(1/4) lags."""
    count = len(series)
    mean = math.fsum(series) / count
    errors = [value - mean for value in series]
    variance = math.fsum(error * error for error in errors)
    lags = int(4 * (count / 100) ** 0.25)
    for lag in range(1, lags + 1):
        covariance = math.fsum(errors[index] * errors[index - lag] for index in range(lag, count))
        variance += 2 * (1 - lag / (lags + 1)) * covariance
    partial = total = 0.0
    for error in errors:
        partial += error
        total += partial * partial
    return total / (count * variance) if variance > 0 else 0.0


def _forecast(series: Sequence[float], *, with_mean: bool) -> float:
    """The best autoregression's next value; a differenced series has no mean, so that no drift is extrapolated."""
    mean = math.fsum(series) / len(series) if with_mean else 0.0
    centred = [value - mean for value in series]
    # All orders are judged on the same points, or their likelihoods could not be compared.
    highest = min(MAX_ORDER, max(0, len(centred) // 2 - 1))
    best: tuple[float, list[float]] | None = None
    for order in range(highest + 1):
        weights = _least_squares(centred, order, first=highest)
        if weights is None:
            continue
        score = _aic(centred, weights, first=highest)
        if best is None or score < best[0] - 1e-9:
            best = (score, weights)
    weights = best[1] if best is not None else []
    return mean + math.fsum(weight * centred[-1 - lag] for lag, weight in enumerate(weights))


def _aic(series: Sequence[float], weights: Sequence[float], *, first: int) -> float:
    """Akaike's criterion of an autoregression over the points from `first` on."""
    squares = math.fsum(
        (series[index] - math.fsum(weight * series[index - 1 - lag] for lag, weight in enumerate(weights)))
        ** 2
        for index in range(first, len(series))
    )
    count = len(series) - first
    return count * math.log(max(squares / count, 1e-12)) + 2 * (len(weights) + 1)


def _least_squares(series: Sequence[float], order: int, *, first: int) -> list[float] | None:
    """Weights of the last `order` values; None where they are not determined."""
    rows = [[series[index - 1 - lag] for lag in range(order)] for index in range(first, len(series))]
    goals = series[first:]
    matrix = [
        [
            *(math.fsum(row[left] * row[right] for row in rows) for right in range(order)),
            math.fsum(row[left] * goal for row, goal in zip(rows, goals, strict=True)),
        ]
        for left in range(order)
    ]
    return _solve(matrix)


def _solve(matrix: list[list[float]]) -> list[float] | None:
    """Gauss-Jordan with pivots, on n rows of n + 1 numbers; None for a singular system."""
    size = len(matrix)
    scale = max((abs(value) for row in matrix for value in row[:size]), default=0.0)
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(matrix[row][column]))
        if abs(matrix[pivot][column]) <= 1e-12 * scale:
            return None
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        for row in range(size):
            if row != column:
                factor = matrix[row][column] / matrix[column][column]
                matrix[row] = [
                    value - factor * top for value, top in zip(matrix[row], matrix[column], strict=True)
                ]
    return [matrix[row][size] / matrix[row][row] for row in range(size)]

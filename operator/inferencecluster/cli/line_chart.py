"""Small step charts as SVG, drawn by hand: no library, no script, colours from the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_WIDTH: Final = 900
_HEIGHT: Final = 220
_LEFT: Final = 48
_RIGHT: Final = 12
_TOP: Final = 22
_BOTTOM: Final = 24
_TICKS: Final = 5


@dataclass(frozen=True, slots=True)
class Series:
    """One line; values are means over intervals."""

    name: str
    color: str
    """Name of one of the page's custom properties."""
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Chart:
    """Some lines with one unit."""

    unit: str
    series: tuple[Series, ...]
    filled: bool = False


def svg(chart: Chart, starts: Sequence[float], width: float) -> str:
    """Steps over time. `starts` are the beginnings of the intervals in minutes, each `width` long."""
    end = (starts[-1] + width) if starts else width
    top = nice_ceiling(max((value for series in chart.series for value in series.values), default=0.0))

    def x(time: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * time / end

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / top

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(chart.unit, quote=True)}">'
    ]
    for index in range(_TICKS):
        value = top * index / (_TICKS - 1)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="var(--line)"/>'
            f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    parts += [
        f'<text x="{x(minute):.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{minute:g} min</text>'
        for minute in _minutes(end)
    ]
    parts.append(f'<text x="{_LEFT}" y="12">{escape(chart.unit)}</text>')
    for number, series in enumerate(chart.series):
        points = [
            (x(moment), y(value))
            for start, value in zip(starts, series.values, strict=True)
            for moment in (start, start + width)
        ]
        parts.append(_line(points, series.color, base=y(0.0) if chart.filled else None))
        parts.append(
            f'<text x="{_WIDTH - _RIGHT - 90 * (len(chart.series) - number - 1)}" y="12" text-anchor="end" '
            f'style="fill: var(--{series.color})">{escape(series.name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _line(points: Sequence[tuple[float, float]], color: str, *, base: float | None) -> str:
    if not points:
        return ""
    path = "M" + "L".join(f"{horizontal:.1f} {vertical:.1f}" for horizontal, vertical in points)
    line = f'<path d="{path}" fill="none" stroke="var(--{color})" stroke-width="1.6"/>'
    if base is None:
        return line
    area = f"{path}L{points[-1][0]:.1f} {base:.1f}L{points[0][0]:.1f} {base:.1f}Z"
    return f'<path d="{area}" fill="var(--{color})" opacity="0.25"/>{line}'


def nice_ceiling(value: float) -> float:
    """The next of 1, 2, 4, 8 or 10 times a power of ten: quarters of it are short numbers. 1 for nothing."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(power * factor for factor in (1, 2, 4, 8, 10, 20) if power * factor >= value)


def _minutes(end: float) -> list[float]:
    """Some round times within the picture."""
    step = max(nice_ceiling(end / 8), 1.0)
    return [step * index for index in range(int(end / step) + 1)]

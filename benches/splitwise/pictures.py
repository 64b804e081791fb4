"""The frontiers as bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

_SERIES: Final = (
    ("splitwise-sim", "#b8b8b8"),
    ("its physics, here", "#3b6fb6"),
    ("honest", "#b03a3a"),
    ("honest, best split", "#d98032"),
)
_WIDTH: Final = 0.2
"""Of a bar, where designs are 1 apart: four and a gap."""


@dataclass(frozen=True, slots=True)
class Bars:
    """One design; requests/s inside the nine SLOs."""

    design: str
    published: float | None
    peer: float
    honest: float
    best: float


def draw_frontiers(path: Path, rows: Sequence[Bars]) -> None:
    """Write an SVG file; equal rows give equal files."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for number, (title, color) in enumerate(_SERIES):
        heights = [(row.published or 0.0, row.peer, row.honest, row.best)[number] for row in rows]
        places = [index + (number - 1.5) * _WIDTH for index in range(len(rows))]
        bars = axes.bar(places, heights, _WIDTH, label=title, color=color)
        axes.bar_label(bars, fmt="{:g}", fontsize=7)
    axes.set_xticks(range(len(rows)), [row.design for row in rows])
    axes.set_ylabel("requests/s inside the nine SLOs")
    axes.legend(fontsize=8, ncols=len(_SERIES), loc="upper left")
    axes.margins(y=0.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "bench-splitwise", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})

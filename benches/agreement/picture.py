"""Pool sizes of both sides over time, as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

from benches.agreement.comparison import Side
from inferencecluster.core.fleet import PoolName

COLOURS: Final = {PoolName.PREFILL: "#d1495b", PoolName.DECODE: "#00798c", PoolName.MIXED: "#edae49"}


def draw(path: Path, title: str, demo: Side, simulated: Side) -> None:
    """Write an SVG or PNG (by suffix): a panel per pool; full lines are the demo's, broken ones simulated, thin ones desired."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    panels = figure.subplots(len(PoolName), 1, sharex=True)
    for panel, name in zip(panels, PoolName, strict=True):
        for side, style, label in ((demo, "-", "demo"), (simulated, "--", "simulator")):
            ready, desired = side.ready[name], side.desired[name]
            panel.step(
                range(len(ready)), ready, where="post", color=COLOURS[name], linestyle=style, label=label
            )
            panel.step(
                range(len(desired)), desired, where="post", color="#30343f", linestyle=style, linewidth=0.6
            )
        panel.set_ylabel(f"{name.value}, ready")
        panel.set_ylim(bottom=0)
        panel.legend(loc="upper right", fontsize=8)
    panels[-1].set_xlabel("seconds of the replay (thin: desired)")
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Equal figures give equal files: no dates, no random names.
    with mpl.rc_context({"svg.hashsalt": "bench-agreement", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)

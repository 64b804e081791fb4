"""Pictures: demand, pool sizes and misses over time; cost against attainment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benches.policy.cluster import INSIDE
from benches.policy.contenders import HINDSIGHT, PRODUCT
from benches.policy.facts import Facts
from benches.policy.summary import Compared, Run
from benches.policy.workloads import WARM_UP_SECONDS
from inferencecluster.simulator.policies.oracle import INTERVAL_SECONDS

_COLORS: Final = {"prefill": "#3b6fb6", "decode": "#d98032", "mixed": "#7a9e4d"}
_MINUTE: Final = 60.0
_LEAST_SHOWN: Final = 0.5
"""Attainments below one half are drawn at it."""


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Equal figures give equal files: no dates, no random names.
    with mpl.rc_context({"svg.hashsalt": "bench-policy", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def timeline(path: Path, title: str, run: Run) -> None:
    """One run: what arrives, what exists beside what hindsight needs, and how much is outside of the SLO."""
    intervals: list[dict[str, Any]] = run.result["timeline"]
    until = run.result["seconds"]
    intervals = [item for item in intervals if item["start"] < until]
    minutes = [item["start"] / _MINUTE for item in intervals]
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    demand, sizes, misses = figure.subplots(3, 1, sharex=True, height_ratios=(2, 3, 2))
    figure.suptitle(title, fontsize=11)
    demand.plot(
        minutes, [item["prompt_tokens"] / _MINUTE / 1000 for item in intervals], color=_COLORS["prefill"]
    )
    demand.set_ylabel("prompt\n1,000 tokens/s")
    output = demand.twinx()
    output.plot(
        minutes, [item["output_tokens"] / _MINUTE / 1000 for item in intervals], color=_COLORS["decode"]
    )
    output.set_ylabel("output\n1,000 tokens/s")
    for pool, color in _COLORS.items():
        sizes.step(
            minutes, [item["replicas"][pool] for item in intervals], color=color, label=pool, where="post"
        )
    for pool, needed in (("prefill", run.facts.prefill), ("decode", run.facts.decode)):
        times, levels = _needed(needed, run.facts)
        sizes.plot(times, levels, color=_COLORS[pool], linewidth=0.7, alpha=0.7, linestyle=":")
    sizes.set_ylabel("replicas\n(dotted: hindsight)")
    sizes.legend(loc="upper right", fontsize=8, ncols=3)
    missed = [100 * item["slo_missed"] / item["requests"] if item["requests"] else 0.0 for item in intervals]
    misses.bar(minutes, missed, width=0.9, align="edge", color="#b03a3a")
    misses.set_ylabel("outside SLO\n% of requests")
    misses.set_ylim(0, max(5.0, *missed))
    misses.set_xlabel("minutes")
    _save(figure, path)


def _needed(sizes: Sequence[int], facts: Facts) -> tuple[list[float], list[float]]:
    """The oracle's sizes after the warm-up, as means per minute."""
    first = int(WARM_UP_SECONDS / INTERVAL_SECONDS)
    last = int(facts.last_arrival / INTERVAL_SECONDS)
    scored = sizes[first:last]
    width = int(_MINUTE / INTERVAL_SECONDS)
    groups = [scored[index : index + width] for index in range(0, len(scored), width)]
    return [index + 0.5 for index in range(len(groups))], [sum(group) / len(group) for group in groups]


def scatter(path: Path, places: Sequence[tuple[str, Sequence[Compared]]]) -> None:
    """Cost against attainment, one panel per workload: right and low is good."""
    columns = min(2, len(places))
    lines = -(-len(places) // columns)
    figure = Figure(figsize=(6.2 * columns, 4.2 * lines), layout="constrained")
    for number, (title, compared) in enumerate(places):
        _panel(figure.add_subplot(lines, columns, number + 1), title, compared)
    _save(figure, path)


def _panel(axes: Axes, title: str, compared: Sequence[Compared]) -> None:
    for item in compared:
        row = item.row
        missed = 100 * min(_LEAST_SHOWN, 1 - row.attainment)
        special = row.contender in (PRODUCT, HINDSIGHT)
        axes.scatter(
            missed, row.to_scheduled, s=45 if special else 22, color="#b03a3a" if special else "#3b6fb6"
        )
        axes.annotate(
            item.title,
            (missed, row.to_scheduled),
            xytext=(4, 3),
            textcoords="offset points",
            fontsize=7,
            fontweight="bold" if special else "normal",
        )
    axes.axvline(100 * (1 - INSIDE), color="gray", linewidth=0.7, linestyle="--")
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlim(left=0)
    axes.invert_xaxis()
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("outside SLO, % of requests (better to the right)")
    axes.set_ylabel("GPU-hours / oracle")
    axes.set_title(title, fontsize=9)

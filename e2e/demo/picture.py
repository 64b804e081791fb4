"""Demand and pool sizes over time, as one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from e2e.demo.monitor import POOLS, Sample
from e2e.demo.scenario import Scenario

COLOURS = {"prefill": "#d1495b", "decode": "#00798c", "mixed": "#edae49"}
BIN_SECONDS = 10.0
"""Width of a demand bin: some hundred requests, so that Poisson noise does not hide the shape."""


def draw(scenario: Scenario, samples: Sequence[Sample], path: Path) -> None:
    """Write an SVG or PNG (by suffix): offered load above, ready replicas and GPUs below."""
    import matplotlib as mpl  # noqa: PLC0415  (a second of imports that only the end of a run needs)

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, (demand, sizes, gpus) = plt.subplots(
        3, 1, figsize=(11, 8), sharex=True, height_ratios=(2, 3, 1.5)
    )
    for label, colour, weights in (
        ("prompt tokens/s (prefill)", COLOURS["prefill"], [r.prompt_tokens for r in scenario.requests]),
        ("output tokens/s (decode)", COLOURS["decode"], [r.output_tokens for r in scenario.requests]),
    ):
        times, rates = _rates([request.at for request in scenario.requests], weights, scenario.seconds)
        mean = sum(weights) / scenario.seconds
        # Each phase relative to its own mean: the two differ by a factor of ten, their shapes are what matters.
        shares = [rate / mean for rate in rates]
        demand.step(times, shares, where="post", color=colour, label=f"{label}, mean {mean:,.0f}")
    demand.set_ylabel("offered / mean")
    demand.set_ylim(bottom=0)
    demand.legend(loc="upper right", fontsize=8)
    at = [sample.at for sample in samples]
    for name in POOLS:
        ready = [sample.pools[name].ready for sample in samples]
        desired = [sample.pools[name].desired for sample in samples]
        sizes.step(at, ready, where="post", color=COLOURS[name], label=f"{name} ready")
        sizes.step(at, desired, where="post", color=COLOURS[name], linestyle=":", linewidth=1)
    sizes.set_ylabel("replicas (dotted: desired)")
    sizes.legend(loc="upper right", fontsize=8)
    gpus.step(at, [sample.gpus for sample in samples], where="post", color="#30343f", label="held by Pods")
    gpus.step(
        at,
        [sample.budget for sample in samples],
        where="post",
        color="#30343f",
        linestyle="--",
        label="budget",
    )
    gpus.set_ylabel("GPUs")
    gpus.set_ylim(bottom=0)
    gpus.set_xlabel(f"seconds of the replay ({scenario.compression:.1f}x faster than recorded)")
    gpus.legend(loc="upper right", fontsize=8)
    figure.suptitle(scenario.name)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _rates(times: Sequence[float], weights: Sequence[int], seconds: float) -> tuple[list[float], list[float]]:
    edges = [index * BIN_SECONDS for index in range(math.ceil(seconds / BIN_SECONDS) + 1)]
    totals = [0.0] * (len(edges) - 1)
    for time, weight in zip(times, weights, strict=True):
        totals[min(int(time / BIN_SECONDS), len(totals) - 1)] += weight
    return edges[:-1], [total / (b - a) for total, (a, b) in zip(totals, pairwise(edges), strict=True)]

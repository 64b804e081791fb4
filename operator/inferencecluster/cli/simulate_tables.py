"""The outcome of a simulation for people at a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console

from inferencecluster.cli.paper import compact_table, tell
from inferencecluster.core.spec import ScalingMode

BARS: Final = " ▁▂▃▄▅▆▇█"
WIDTH: Final = 60
"""Characters of a line over time: an hour of minutes."""
_BESIDE_TIMELINE: Final = 37
"""Characters of the other columns of that table, with sizes below 1,000."""
_HOUR: Final = 3600.0
_MINUTE: Final = 60.0
POOLS: Final = ("prefill", "decode", "mixed")


def print_tables(document: Mapping[str, Any], console: Console) -> None:
    """What was served, how fast, at which cost, and with which sizes."""
    tell(console, headline(document))
    latencies = compact_table("", "p50", "p90", "p99", "target", "inside")
    for name, kind in (("time to first token", "ttft"), ("time per output token", "tpot")):
        target = document["slo"]["ttft_ms" if kind == "ttft" else "itl_ms"]
        cells = [milliseconds(document[f"{kind}_ms"][percent]) for percent in ("p50", "p90", "p99")]
        inside = percent_of(document[f"{kind}_attainment"])
        latencies.add_row(
            name, *cells, f"{milliseconds(target)}{' + own prefill' if kind == 'ttft' else ''}", inside
        )
    console.print(latencies)
    for line in costs(document):
        tell(console, line)
    shown = compact_table("replicas", "least", "mean", "most", "over time")
    width = min(WIDTH, console.width - _BESIDE_TIMELINE)
    scored = timeline(document)
    for pool in POOLS:
        values = [item["replicas"][pool] for item in scored]
        if any(values):
            mean = sum(values) / len(values)
            shown.add_row(
                pool,
                f"{min(values):.1f}",
                f"{mean:.1f}",
                f"{max(values):.1f}",
                sparkline(values, width=width),
            )
    demand = [float(item["prompt_tokens"]) for item in scored]
    shown.add_row("prompt tokens", "", "", "", sparkline(demand, width=width))
    missed = [item["slo_missed"] / item["requests"] if item["requests"] else 0.0 for item in scored]
    shown.add_row("outside of the SLO", "", "", "", sparkline(missed, width=width))
    console.print(shown)
    for note in document["notes"]:
        tell(console, f"note: {note}")


def headline(document: Mapping[str, Any]) -> str:
    """One sentence."""
    refused = f", {document['refused']:,} refused" if document["refused"] else ""
    policy = document["policy"]
    if policy in (ScalingMode.EXTERNAL, ScalingMode.RECOMMEND):
        who = f"nobody ({policy})"
    else:
        who = f"the operator ({policy})" if policy in set(ScalingMode) else policy
    return (
        f"{document['cluster']}, sized by {who}: {percent_of(document['slo_attainment'])} of "
        f"{document['requests']:,} requests inside the SLO, {document['failed']:,} failed{refused}; "
        f"{document['seconds'] / _MINUTE:,.0f} minutes, boot {document['boot_seconds']:g} s, seed {document['seed']}"
    )


def costs(document: Mapping[str, Any]) -> list[str]:
    """GPU-hours, how many of the GPUs did work, and what changed."""
    hours, static = document["gpu_hours"], document["gpu_hours_static_peak"]
    saved = f" ({1 - hours / static:.0%} less)" if static else ""
    money = f", ${document['dollars']:,.2f}" if document["dollars"] else ""
    return [
        f"{hours:,.1f} GPU-hours{money}; its peak of {document['peak_gpus']} GPUs all the time: {static:,.1f}{saved}",
        *_useful(document["utilization"]),
        (
            f"{document['scale_events']} changes of size, {document['conversions']} conversions, "
            f"{document['preemptions']} preemptions, {document['replica_failures']} replicas failed"
        ),
    ]


def _useful(pools: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One line (`core.useful` defines the figure), or none where nothing was held."""
    if not pools:
        return []
    parts = [
        f"{name} {use['useful_gpus']:.1f} of {use['gpus']:.1f} (tensor pipe {use['tensor_active']:.0%}, "
        f"memory bus {use['dram_active']:.0%} active)"
        for name, use in pools.items()
    ]
    useful, held = (sum(use[key] for use in pools.values()) for key in ("useful_gpus", "gpus"))
    return [f"useful GPUs: {useful:.1f} of {held:.1f} on average: {', '.join(parts)}"]


def timeline(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The whole intervals up to the last arrival; of a run that is shorter than one, what there is."""
    items: list[Mapping[str, Any]] = document["timeline"]
    if len(items) < 2:
        return items
    width = items[1]["start"] - items[0]["start"]
    return [item for item in items if item["start"] + width <= document["seconds"]] or items[:1]


def milliseconds(value: float | None) -> str:
    """`-` of nothing."""
    return "-" if value is None else f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms"


def percent_of(share: float) -> str:
    """Never rounded up to a whole that it is not."""
    return "100 %" if share == 1.0 else f"{min(share, 0.9999):.2%}"


def sparkline(values: Sequence[float], *, width: int = WIDTH) -> str:
    """Largest values of `width` equal parts, as bars of an eighth."""
    if not values:
        return ""
    width = min(width, len(values))
    parts = [
        values[len(values) * index // width : len(values) * (index + 1) // width] for index in range(width)
    ]
    peaks = [max(part) for part in parts]
    top = max(peaks)
    if top <= 0:
        return BARS[0] * width
    # A little is not nothing.
    return "".join(BARS[max(round(peak / top * (len(BARS) - 1)), 1 if peak > 0 else 0)] for peak in peaks)

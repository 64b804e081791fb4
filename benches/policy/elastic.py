"""Question (i): what does each policy cost when GPUs can be had, and how many requests are inside the SLO?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from benches.policy.cluster import elastic
from benches.policy.contenders import Contender
from benches.policy.facts import Facts
from benches.policy.loads import Load
from benches.policy.workloads import Spotlight
from inferencecluster.simulator.report import Interval, Report
from inferencecluster.simulator.simulation import Simulation

_KEPT: Final = (
    "seconds",
    "requests",
    "completed",
    "failed",
    "refused",
    "slo_attainment",
    "ttft_attainment",
    "tpot_attainment",
    "ttft_ms",
    "tpot_ms",
    "e2e_ms",
    "paths",
    "gpu_hours",
    "gpu_hours_by_pool",
    "gpu_hours_static_peak",
    "peak_gpus",
    "scale_events",
    "conversions",
    "preemptions",
    "timeline",
)
"""Of the report's document: sizes and decisions of every tick would make a cell large."""


def run_elastic(load: Load, facts: Facts, contender: Contender, *, boot_seconds: float) -> dict[str, Any]:
    """One run, ready for JSON."""
    scenario = elastic(boot_seconds=boot_seconds, initial=facts.initial, peak=facts.peak, seed=load.seed)
    variant = contender.variant
    if variant is not None:
        scenario = variant.scenario(scenario)
    context = facts.context(boot_seconds=boot_seconds, spec=scenario.spec, target=contender.target)
    with contender.applied():
        policy = contender.build(replace(context, workload=load.requests()))
        simulation = Simulation(scenario, policy)
        if variant is not None:
            variant.prepare(simulation)
        simulation.serve(load.requests())
    report = simulation.report()
    document = report.document()
    return {name: document[name] for name in _KEPT} | {
        "spotlights": {spot.name: attainment(report, spot) for spot in load.workload.spotlights}
    }


def attainment(report: Report, spot: Spotlight) -> float:
    """Share of the requests that arrive within a part of the workload that are inside the SLO; 1 when there are none."""
    inside = [item for item in report.timeline if _is_within(item, spot)]
    requests = sum(item.requests for item in inside)
    return 1.0 - sum(item.slo_missed for item in inside) / requests if requests else 1.0


def _is_within(item: Interval, spot: Spotlight) -> bool:
    return spot.start <= item.start < spot.end

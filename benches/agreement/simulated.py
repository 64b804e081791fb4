"""The demo's run, once more in the simulator: the same cluster, arrivals, engines, boots and interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

from e2e.demo.load import Answer

from benches.agreement.recorded import Demo
from inferencecluster.cli.simulate_inputs import cluster_of
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.perfmodel import DecodeModel, PerformanceModel, PrefillModel
from inferencecluster.simulator.hardware import Hardware
from inferencecluster.simulator.journeys import Journey, Outcome
from inferencecluster.simulator.report import Report
from inferencecluster.simulator.scenario import TERMINATION_SECONDS, Boot, Operations, Scenario
from inferencecluster.simulator.signals import Signals
from inferencecluster.simulator.simulation import simulate
from inferencecluster.simulator.workload import Request

IDLE_SECONDS: Final = 60.0
"""Simulated before the first request, so that the operator's windows are as empty as in a demo that has just become ready."""
PHASES: Final = 5
"""How often a run is simulated: the operator's ticks fall differently each time, by a share of its interval."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """One simulated run, in the demo's own terms. Seconds count from the first second of traffic."""

    answers: Sequence[Answer]
    ready: Mapping[PoolName, Sequence[float]]
    """Mean of each second."""
    desired: Mapping[PoolName, Sequence[float]]
    """At each second."""
    gpu_hours: float


@dataclass(frozen=True, slots=True)
class Setting:
    """What the simulator was given besides the cluster's own spec."""

    hardware: Mapping[PoolName, Hardware]
    boot_seconds: float
    boots: int
    """Replicas that it was measured on; 0: none grew, and it is the declared one."""
    termination_seconds: float


def setting_of(demo: Demo) -> Setting:
    """Engines as they were told; boots and terminations as they were seen, the median of each."""
    declared = cluster_of(demo.cluster, boot_seconds=None)
    boots, terminations = demo.boots(), demo.terminations()
    return Setting(
        hardware={
            name: _as_told(hardware, demo.engines[name]) if name in demo.engines else hardware
            for name, hardware in declared.hardware.items()
        },
        boot_seconds=median(boots) if boots else declared.spec.boot_seconds,
        boots=len(boots),
        termination_seconds=median(terminations) if terminations else TERMINATION_SECONDS,
    )


def _as_told(hardware: Hardware, engine: Mapping[str, Any]) -> Hardware:
    performance = PerformanceModel(
        PrefillModel(**engine["prefill"]),
        DecodeModel(**engine["decode"]),
        engine["kv_capacity_tokens"],
        engine["max_batch_size"],
    )
    return replace(
        hardware,
        performance=performance,
        max_num_tokens=engine["max_num_tokens"],
        kv_bytes_per_token=float(engine["kv_bytes_per_token"]),
        link_bytes_per_second=float(engine["kv_bandwidth_bytes_per_second"]),
    )


class RecordedSizes:
    """A `SizingPolicy` that wants what the demo's operator wanted, second by second."""

    name = "recorded"
    interval_seconds = 1.0

    def __init__(self, demo: Demo, first_second: float) -> None:
        """`first_second`: when the demo's traffic begins on the simulator's clock."""
        self._samples = demo.samples
        self._first_second = first_second

    def sizes(self, signals: Signals) -> Mapping[PoolName, int]:
        """As of now; before the first sample, as of the first."""
        now = signals.now - self._first_second
        latest = self._samples[0]
        for sample in self._samples:
            if sample.at > now:
                break
            latest = sample
        return {name: latest.pools[name.value].desired for name in PoolName}


def simulate_demo(demo: Demo, setting: Setting, *, phase: float, recorded_sizes: bool = False) -> Simulated:
    """`phase`: from 0 to 1, which share of the interval the operator's ticks come later.

    With `recorded_sizes` the pools follow the demo's, so that engines and router are compared by themselves.
    """
    spec = cluster_of(demo.cluster, boot_seconds=None).spec
    first = IDLE_SECONDS + phase * spec.interval_seconds
    scenario = Scenario(
        spec,
        setting.hardware,
        initial=demo.initial,
        warm_up_seconds=first,
        boot=Boot.of(setting.boot_seconds),
        operations=Operations(termination_seconds=setting.termination_seconds),
        timeline_seconds=1.0,
    )
    workload = [
        Request(first + max(0.0, answer.at + answer.late), answer.prompt_tokens, answer.output_tokens)
        for answer in demo.answers
    ]
    journeys: list[Journey] = []
    policy = RecordedSizes(demo, first) if recorded_sizes else None
    report = simulate(scenario, sorted(workload), policy, record=journeys.append)
    return Simulated(
        answers=[answer_of(journey, first) for journey in journeys],
        ready={name: [item.serving[name] for item in report.timeline] for name in PoolName},
        desired=_desired(report, first),
        gpu_hours=report.total_gpu_hours,
    )


def answer_of(journey: Journey, first: float) -> Answer:
    """As the demo's client would have written it."""
    completed = journey.outcome is Outcome.COMPLETED
    return Answer(
        at=journey.arrived_at - first,
        late=0.0,
        sent_at=journey.arrived_at,
        prompt_tokens=journey.prompt_tokens,
        output_tokens=journey.output_tokens,
        received_tokens=journey.output_tokens if completed else 0,
        ttft=journey.ttft_seconds if journey.first_token_at >= 0 else None,
        seconds=journey.ended_at - journey.arrived_at,
        error="" if completed else journey.outcome.value,
    )


def _desired(report: Report, first: float) -> Mapping[PoolName, Sequence[float]]:
    found: dict[PoolName, list[float]] = {name: [] for name in PoolName}
    for second in range(len(report.timeline)):
        latest = report.sizes[0]
        for sizes in report.sizes:
            if sizes.time - first > second:
                break
            latest = sizes
        for name in PoolName:
            found[name].append(float(getattr(latest, name.value)))
    return found

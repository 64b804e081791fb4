"""The outcome of a run, as numbers and as JSON."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.observation import PoolUtilization
from inferencecluster.core.status import DecisionRecord
from inferencecluster.core.useful import useful_gpus
from inferencecluster.simulator.journeys import Path

PERCENTILES = (50, 90, 99)


def percentile(ordered: array[float] | list[float], percent: float) -> float | None:
    """Percentile of ascending values, linear between neighbours; None of nothing."""
    if not ordered:
        return None
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


@dataclass(frozen=True, slots=True)
class Sizes:
    """The wanted sizes from `time` on."""

    time: float
    prefill: int
    decode: int
    mixed: int


@dataclass(frozen=True, slots=True)
class Interval:
    """One interval of the timeline. Requests count where they arrived."""

    start: float
    """Seconds after the warm-up."""
    requests: int
    prompt_tokens: int
    output_tokens: int
    slo_missed: int
    """Requests outside of the SLO, failed and refused ones included."""
    replicas: Mapping[PoolName, float]
    """Mean number that existed."""
    serving: Mapping[PoolName, float]
    gpus: float
    """Mean number held."""


@dataclass(frozen=True, slots=True)
class RequestLatencies:
    """Seconds, one value per completed request, in the order in which they ended."""

    ttft: array[float]
    tpot: array[float]
    """Of answers of two tokens and more."""
    e2e: array[float]


@dataclass(frozen=True, slots=True)
class Report:
    """One run. Costs are those from the end of the warm-up to the last arrival; boots and drains are charged."""

    policy: str
    seconds: float
    """What costs are counted over."""
    requests: int
    completed: int
    failed: int
    too_large: int
    """Those of the failed and refused requests that the KV memory of their replicas, or of any, could never hold."""
    refused: int
    slo_met: int
    """Requests inside of both targets."""
    ttft_met: int
    tpot_met: int
    latencies: RequestLatencies
    paths: Mapping[Path, int]
    utilization: Mapping[PoolName, PoolUtilization]
    """Means over the GPUs and the time that each pool held them, boots and drains included; pools that held none are absent."""
    gpu_hours: Mapping[PoolName, float]
    gpu_hours_static_peak: float
    """What its largest fleet would have cost all the time."""
    dollars: float
    kilowatt_hours: float
    peak_gpus: int
    scale_events: int
    """Changes of a pool's wanted size."""
    conversions: int
    preemptions: int
    failures: int
    """Replicas that failed."""
    sizes: tuple[Sizes, ...]
    decisions: tuple[DecisionRecord, ...]
    timeline: tuple[Interval, ...]

    @property
    def slo_attainment(self) -> float:
        """Share of all requests inside of both targets; 1 when there were none."""
        return self.slo_met / self.requests if self.requests else 1.0

    @property
    def total_gpu_hours(self) -> float:
        """Of all pools."""
        return sum(self.gpu_hours.values())

    def mean_gpus(self, name: PoolName) -> float:
        """GPUs that a pool held on average; 0 of a run without length."""
        return self.gpu_hours[name] * 3600 / self.seconds if self.seconds > 0 else 0.0

    @property
    def useful_gpus(self) -> Mapping[PoolName, float]:
        """Of those, the useful ones (`core.useful`), for every pool of `utilization`."""
        return {name: useful_gpus(name, self.mean_gpus(name), use) for name, use in self.utilization.items()}

    def document(self) -> dict[str, Any]:
        """Everything but the single latencies, ready for JSON."""
        return {
            "policy": self.policy,
            "seconds": self.seconds,
            "requests": self.requests,
            "completed": self.completed,
            "failed": self.failed,
            "too_large": self.too_large,
            "refused": self.refused,
            "slo_attainment": self.slo_attainment,
            "ttft_attainment": self.ttft_met / self.requests if self.requests else 1.0,
            "tpot_attainment": self.tpot_met / self.requests if self.requests else 1.0,
            "ttft_ms": _milliseconds(self.latencies.ttft),
            "tpot_ms": _milliseconds(self.latencies.tpot),
            "e2e_ms": _milliseconds(self.latencies.e2e),
            "paths": {path.value: count for path, count in self.paths.items()},
            "utilization": self._utilization(),
            "gpu_hours": self.total_gpu_hours,
            "gpu_hours_by_pool": {name.value: hours for name, hours in self.gpu_hours.items()},
            "gpu_hours_static_peak": self.gpu_hours_static_peak,
            "dollars": self.dollars,
            "kilowatt_hours": self.kilowatt_hours,
            "peak_gpus": self.peak_gpus,
            "scale_events": self.scale_events,
            "conversions": self.conversions,
            "preemptions": self.preemptions,
            "replica_failures": self.failures,
            "sizes": [
                {"time": sizes.time, "prefill": sizes.prefill, "decode": sizes.decode, "mixed": sizes.mixed}
                for sizes in self.sizes
            ],
            "decisions": [_decision(record) for record in self.decisions],
            "timeline": [_interval(item) for item in self.timeline],
        }

    def _utilization(self) -> dict[str, dict[str, float]]:
        useful = self.useful_gpus
        return {
            name.value: {
                "gpus": self.mean_gpus(name),
                "useful_gpus": useful[name],
                "tensor_active": use.tensor_active,
                "dram_active": use.dram_active,
            }
            for name, use in self.utilization.items()
        }

    def to_json(self) -> str:
        """`document` as text; equal runs give equal texts."""
        return json.dumps(self.document(), indent=2, allow_nan=False)


def _milliseconds(values: array[float]) -> dict[str, float | None]:
    ordered = sorted(values)
    found = {f"p{percent}": percentile(ordered, percent) for percent in PERCENTILES}
    return {name: None if value is None else value * 1000 for name, value in found.items()}


def _decision(record: DecisionRecord) -> dict[str, Any]:
    return {
        "time": record.time,
        "pool": record.pool.value,
        "from": record.before,
        "to": record.after,
        "reason": record.reason,
        "message": record.message,
        "limited_by": record.limited_by,
    }


def _interval(item: Interval) -> dict[str, Any]:
    return {
        "start": item.start,
        "requests": item.requests,
        "prompt_tokens": item.prompt_tokens,
        "output_tokens": item.output_tokens,
        "slo_missed": item.slo_missed,
        "replicas": {name.value: count for name, count in item.replicas.items()},
        "serving": {name.value: count for name, count in item.serving.items()},
        "gpus": item.gpus,
    }

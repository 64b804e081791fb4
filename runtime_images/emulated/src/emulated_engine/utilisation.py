"""`/dcgm/metrics`: what a DCGM exporter would show of the emulated GPUs.

What real GPUs show is the reason not to scale on it: utilisation is near 100 % while any kernel runs. The profiling
ratios tell the phases apart, and are made from the busy time of each.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

SLOT_SECONDS: Final = 1.0
SLOTS: Final = 5
"""Values are means over five whole seconds: a scrape sees the present, not one iteration."""
DELAY_SLOTS: Final = 1
"""The window ends this long ago: what runs now is reported when it ends, after `LONGEST_RUN_SECONDS` at most."""

TENSOR_ACTIVE_PREFILL: Final = 0.92
TENSOR_ACTIVE_DECODE: Final = 0.28
"""Share of a phase's busy time with active tensor cores (InfoWorld, 2026-04-23, Llama 70B on H100)."""
DRAM_ACTIVE_PREFILL: Final = 0.30
DRAM_ACTIVE_DECODE: Final = 0.90
"""Share of a phase's busy time with an active memory bus: about 30 % in prefill, near full in decode."""


@dataclass(frozen=True, slots=True)
class BusyShares:
    """Shares of the window, 0 to 1, that went into each phase."""

    prefill: float
    decode: float

    @property
    def tensor_active(self) -> float:
        """DCGM_FI_PROF_PIPE_TENSOR_ACTIVE."""
        return TENSOR_ACTIVE_PREFILL * self.prefill + TENSOR_ACTIVE_DECODE * self.decode

    @property
    def dram_active(self) -> float:
        """DCGM_FI_PROF_DRAM_ACTIVE."""
        return DRAM_ACTIVE_PREFILL * self.prefill + DRAM_ACTIVE_DECODE * self.decode

    @property
    def gpu_utilisation_percent(self) -> float:
        """DCGM_FI_DEV_GPU_UTIL: time with any kernel running."""
        return 100.0 * min(1.0, self.prefill + self.decode)


class UtilisationWindow:
    """Busy seconds of both phases in slots of one second; times are the engine's clock."""

    def __init__(self) -> None:
        self._slots: dict[int, list[float]] = {}

    def add(self, *, end: float, seconds: float, prefill_seconds: float) -> None:
        """The engine was busy for `seconds` until `end`."""
        start = end - seconds
        share = prefill_seconds / seconds if seconds > 0 else 0.0
        oldest = int(end // SLOT_SECONDS) - SLOTS - DELAY_SLOTS
        for number in range(max(oldest, int(start // SLOT_SECONDS)), int(end // SLOT_SECONDS) + 1):
            overlap = min(end, (number + 1) * SLOT_SECONDS) - max(start, number * SLOT_SECONDS)
            slot = self._slots.setdefault(number, [0.0, 0.0])
            slot[0] += overlap * share
            slot[1] += overlap * (1 - share)
        for number in [number for number in self._slots if number < oldest]:
            del self._slots[number]

    def shares(self, now: float) -> BusyShares:
        """Shares of `SLOTS` whole slots before `now`."""
        current = int(now // SLOT_SECONDS) - DELAY_SLOTS
        window = [self._slots.get(number, (0.0, 0.0)) for number in range(current - SLOTS, current)]
        length = SLOTS * SLOT_SECONDS
        return BusyShares(
            prefill=min(1.0, sum(slot[0] for slot in window) / length),
            decode=min(1.0, sum(slot[1] for slot in window) / length),
        )


@dataclass(frozen=True, slots=True)
class GpuLabels:
    """The exporter's labels of one GPU, in its order."""

    values: Mapping[str, str]

    @classmethod
    def of(cls, gpu: int, model_name: str, environment: Mapping[str, str]) -> GpuLabels:
        """Labels of GPU number `gpu`; Pod and namespace come from POD_NAME and POD_NAMESPACE, the node from
        NODE_NAME (downward API).
        """
        pod = environment.get("POD_NAME") or environment.get("HOSTNAME", "")
        digest = zlib.crc32(f"{pod}/{gpu}".encode())
        return cls(
            {
                "gpu": str(gpu),
                "UUID": f"GPU-{digest:08x}-0000-0000-0000-{gpu:012x}",
                "device": f"nvidia{gpu}",
                "modelName": model_name,
                "hostname": environment.get("NODE_NAME", ""),
                "container": "engine",
                "namespace": environment.get("POD_NAMESPACE", ""),
                "pod": pod,
            }
        )


class _GpuCollector(Collector):
    def __init__(self, gpus: tuple[GpuLabels, ...], shares: BusyShares) -> None:
        self._gpus = gpus
        self._shares = shares

    def collect(self) -> Iterator[GaugeMetricFamily]:
        values = {
            "DCGM_FI_DEV_GPU_UTIL": (
                self._shares.gpu_utilisation_percent,
                "Per cent of time with a running kernel.",
            ),
            "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": (
                self._shares.tensor_active,
                "Ratio of time with active tensor cores, 0 to 1.",
            ),
            "DCGM_FI_PROF_DRAM_ACTIVE": (
                self._shares.dram_active,
                "Ratio of time with an active memory bus, 0 to 1.",
            ),
        }
        for name, (value, text) in values.items():
            family = GaugeMetricFamily(name, text, labels=list(self._gpus[0].values))
            for gpu in self._gpus:
                family.add_metric(list(gpu.values.values()), value)
            yield family


def exposition(gpus: tuple[GpuLabels, ...], shares: BusyShares) -> bytes:
    """Prometheus text format: every GPU of the engine shows the same, as under tensor parallelism."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_GpuCollector(gpus, shares))
    return generate_latest(registry)

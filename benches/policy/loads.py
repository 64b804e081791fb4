"""One workload at one load with one seed: what a cell serves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benches.policy.traces import Traces
from benches.policy.workloads import WORKLOADS, Workload
from inferencecluster.simulator.workload import Request


@dataclass(frozen=True, slots=True)
class Load:
    """A small value that travels to worker processes."""

    workload_name: str
    traces: Traces
    load: float
    """1 is the full load."""
    seed: int

    @property
    def workload(self) -> Workload:
        """What it is one of."""
        return WORKLOADS[self.workload_name]

    @property
    def name(self) -> str:
        """In file names."""
        origin = "azure" if self.traces.folder else "stand-in"
        return f"{self.workload_name}/{origin}-load{self.load:g}-seed{self.seed}"

    def requests(self, *, scale: float = 1.0) -> Iterator[Request]:
        """Warm-up and scored part, at `scale` times the load."""
        return self.workload.requests(self.traces, load=self.load * scale, seed=self.seed)

    def scored(self) -> Iterator[Request]:
        """Without the warm-up."""
        return self.workload.build(self.traces, self.load, self.seed)

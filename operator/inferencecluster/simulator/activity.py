"""How busy the GPUs were over the scored time, pool by pool, as DCGM's profiling counters would tell it.

Engines count seconds of each phase; which share of those keeps the tensor pipe and the memory bus active is not modelled but
assumed, with the published figures below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.observation import PoolUtilization
from inferencecluster.simulator.mixed_engine import Engine
from inferencecluster.simulator.replicas import SimulatedReplica

TENSOR_ACTIVE_PREFILL: Final = 0.92
TENSOR_ACTIVE_DECODE: Final = 0.28
"""Share of a phase's busy time with active tensor cores (InfoWorld, 2026-04-23, Llama 70B on H100)."""
DRAM_ACTIVE_PREFILL: Final = 0.30
DRAM_ACTIVE_DECODE: Final = 0.90
"""Share of a phase's busy time with an active memory bus: about 30 % in prefill, near full in decode."""


def utilization(*, prefill: float, decode: float) -> PoolUtilization:
    """Of GPUs that spend these shares of their time in the phases."""
    return PoolUtilization(
        tensor_active=TENSOR_ACTIVE_PREFILL * prefill + TENSOR_ACTIVE_DECODE * decode,
        dram_active=DRAM_ACTIVE_PREFILL * prefill + DRAM_ACTIVE_DECODE * decode,
    )


@dataclass(slots=True)
class _Known:
    """An engine as it was at the last look."""

    engine: Engine
    home: PoolName
    gpus: int
    prefill_seconds: float
    decode_seconds: float


class Activity:
    """Sums GPU-seconds of both phases between looks. Between two looks a replica counts where the first one saw it."""

    def __init__(self, start: float) -> None:
        """`start`: when the scored time begins. The look across it counts in proportion."""
        self._start = start
        self._looked_at = 0.0
        self._known: dict[str, _Known] = {}
        self._prefill = dict.fromkeys(PoolName, 0.0)
        self._decode = dict.fromkeys(PoolName, 0.0)

    def look(self, now: float, replicas: Iterable[SimulatedReplica]) -> None:
        """Add what was done since the last look. Engines have been accounted up to `now`, or ended before."""
        elapsed = now - self._looked_at
        scored = now - max(self._looked_at, self._start)
        share = min(1.0, max(0.0, scored / elapsed)) if elapsed > 0 else 0.0
        before = self._known
        self._known = {}
        for replica in replicas:
            if replica.entry is not None and replica.entry.alive:
                engine, usage = replica.entry.engine, replica.entry.engine.usage
                before.setdefault(replica.uid, _Known(engine, replica.home, replica.gpus, 0.0, 0.0))
                self._known[replica.uid] = _Known(
                    engine, replica.home, replica.gpus, usage.prefill_seconds, usage.decode_seconds
                )
        for known in before.values():
            usage = known.engine.usage
            weight = known.gpus * share
            self._prefill[known.home] += weight * (usage.prefill_seconds - known.prefill_seconds)
            self._decode[known.home] += weight * (usage.decode_seconds - known.decode_seconds)
        self._looked_at = now

    def over(self, gpu_seconds: Mapping[PoolName, float]) -> dict[PoolName, PoolUtilization]:
        """Shares of the GPU-seconds that each pool held, boots and drains included; pools that held none are absent."""
        return {
            name: utilization(prefill=self._prefill[name] / held, decode=self._decode[name] / held)
            for name, held in gpu_seconds.items()
            if held > 0
        }

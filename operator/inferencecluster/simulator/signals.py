"""What a sizing policy may look at, and the one interface that all of them stand behind.

Every policy is what an autoscaler on a real cluster is: something that writes the sizes of the three pools now and
then (`EnginePool` /scale, mode `External`). Bounds, the GPU budget, drains and trades are the operator's in every case,
because the simulator passes the sizes through the same `core.decision.decide`. Policies therefore differ in sizes only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Flow
from inferencecluster.core.spec import ClusterSpec


@dataclass(frozen=True, slots=True)
class ReplicaSignals:
    """One serving replica, at the moment of the sample."""

    name: str
    queued_tokens: int
    """Prompt tokens whose prefill has not begun or not ended: sent to it, and its part of the line (`queues`)."""
    waiting_requests: int
    """Requests in its queue, of either phase, that do not run yet: its own, and its part of the line."""
    running_requests: int
    resident_kv_tokens: int
    kv_capacity_tokens: int
    ttft_estimate_seconds: float
    """Prefill of what is queued plus one mean prompt, by the performance model."""
    itl_estimate_seconds: float
    """Length of its next decode step; of a step over one sequence while it is empty."""


@dataclass(frozen=True, slots=True)
class PoolSignals:
    """One pool. Shares are means over its serving replicas and over the policy's last interval; 0 for an empty pool."""

    replicas: int
    """That count towards the pool's size: serving, starting, unready; not leaving."""
    serving: int
    kernel_utilization: float
    """Share of time in which any kernel ran (`DCGM_FI_DEV_GPU_UTIL`): near 1 as soon as one sequence decodes."""
    busy_share: float
    """Honest busy share: prefill seconds per second; decode sequences over the batch that holds the ITL target; for
    mixed replicas their sum. May exceed 1 under overload."""
    kv_share: float
    """Share of KV memory in use."""
    concurrency: float
    """Requests in the pool, running and waiting: mean over the interval, summed over replicas; and now waiting in line
    for it."""
    unserved_requests: int
    """Requests that wait while none of the pool's replicas serves; 0 as soon as one does, which then counts them."""
    members: tuple[ReplicaSignals, ...]
    """Serving replicas by name."""

    @property
    def waiting_requests(self) -> int:
        """Requests that wait for the pool now, whether it has replicas or not."""
        return self.unserved_requests + sum(member.waiting_requests for member in self.members)


@dataclass(frozen=True, slots=True)
class Signals:
    """One look of a policy at the cluster. Everything but `now`, `members` and what waits is over its last interval."""

    now: float
    spec: ClusterSpec
    pools: Mapping[PoolName, PoolSignals]
    flow: Flow
    """What arrived and what ended."""
    decoded_tokens: float
    """Output tokens that the engines produced in the interval, of requests that have ended or not."""
    completed_tokens: float
    """Prompt and output tokens of the requests that ended: KV memory that was freed."""
    mean_ttft_seconds: float | Missing
    """Of first tokens in the interval."""
    mean_itl_seconds: float | Missing


class SizingPolicy(Protocol):
    """Chooses pool sizes from what it sees. One instance per run; it keeps its own windows and cool-downs.

    `sizes` is called every `interval_seconds` and may leave pools out: those keep their size. Sizes beyond bounds
    or budget are cut by the operator's own rules.
    """

    @property
    def name(self) -> str:
        """As tables show it."""
        ...

    @property
    def interval_seconds(self) -> float:
        """Time between two calls."""
        ...

    def sizes(self, signals: Signals) -> Mapping[PoolName, int]:
        """The sizes that the policy wants now."""
        ...

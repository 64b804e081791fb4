"""What one look at the world yields: the input of `decide`. Anything that could not be seen is `Missing`."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from inferencecluster.core.missing import Missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferencecluster.core.fleet import PoolName, Replica
    from inferencecluster.core.spec import ClusterSpec

NOT_CONFIGURED: Final = "NotConfigured"
"""Reason of `Observation.metrics` that are Missing because the operator was given no Prometheus: nobody is silent."""


@dataclass(frozen=True, slots=True)
class Flow:
    """Work that arrived and ended within `seconds`, summed over all routers. Counts may be fractional."""

    seconds: float
    requests: float
    """Requests that arrived (admitted or held, not those refused)."""
    prompt_tokens: float
    """Sum of L over the arrivals: prompt tokens, cached ones included."""
    prompt_tokens_squared: float
    """Sum of L**2 over the arrivals; with the two above it gives prefill work exactly (`PrefillModel.work`)."""
    completed: float
    """Requests whose answer ended."""
    completed_output_tokens: float
    """Output tokens of the completed requests: their ratio is the mean output length."""
    prefilled_prompt_tokens: float = 0.0
    """Prompt tokens of the prefills that ended; 0 where the source does not tell."""
    cached_prompt_tokens: float = 0.0
    """Those among them that engines reported as found in their prefix cache."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """What waits at this moment, over all routers."""

    held_requests: int
    """Requests that a router holds because no replica may take them yet."""
    held_tokens: int
    """Prompt tokens of those."""
    head_age_seconds: float
    """Age of the oldest request without a first token (held or sent); 0 when nothing waits."""
    pending_prefill_tokens: int
    """Prompt tokens sent to replicas whose prefill has not ended."""
    decoding_sequences: int
    """Requests in their token phase."""
    resident_kv_tokens: int
    """Context tokens that those hold in KV memory."""
    mixed_requests: int
    """Requests served whole by one replica (overflow in the mixed pool, or on a borrowed replica)."""
    borrowed_replicas: tuple[str, ...] = ()
    """Names of the replicas that routers borrow from the opposite pool right now."""


@dataclass(frozen=True, slots=True)
class RouterSample:
    """The fresh signals, read from every router of the cluster directly."""

    queue: QueueState
    flow: Flow | Missing
    """Arrivals since the previous observation; Missing on the first look and after a router restarted."""


@dataclass(frozen=True, slots=True)
class PoolUtilization:
    """Busy fractions of a pool's GPUs, 0-1, averaged over replicas (DCGM profiling counters or emulated ones)."""

    tensor_active: float
    """Tensor pipe busy (`DCGM_FI_PROF_PIPE_TENSOR_ACTIVE`): the honest figure for prefill."""
    dram_active: float
    """Memory bus busy (`DCGM_FI_PROF_DRAM_ACTIVE`): the honest figure for decode."""


@dataclass(frozen=True, slots=True)
class MetricsSample:
    """What Prometheus knows, as rates over `window_seconds`."""

    flow: Flow
    ttft_seconds: float | Missing
    """At the SLO's percentile; Missing when nothing completed in the window."""
    itl_seconds: float | Missing
    utilization: Mapping[PoolName, PoolUtilization] = field(default_factory=lambda: MappingProxyType({}))
    """Pools without a series are absent."""


@dataclass(frozen=True, slots=True)
class PoolCapacity:
    """GPUs of the nodes that a pool's nodeSelector, affinity and tolerations admit."""

    pool: PoolName
    nodes: int
    allocatable_gpus: int
    used_gpus: int
    """Requested by all Pods bound to those nodes, ours included."""
    free_gpus: int
    largest_free_block: int
    """Most free GPUs on one single node: a replica never spans nodes."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The API server would not create a replica that the last decision asked for."""

    pool: PoolName
    reason: str
    """One CamelCase word: NamespaceTerminating, QuotaExceeded, Forbidden or InvalidPod."""
    message: str
    """The API server's own words."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at one cluster. `now` is the only time that a decision may use."""

    now: float
    spec: ClusterSpec
    replicas: tuple[Replica, ...]
    """Every existing Pod of the cluster, ordered by name."""
    routers: RouterSample | Missing
    metrics: MetricsSample | Missing
    capacity: tuple[PoolCapacity, ...] | Missing
    external: Mapping[PoolName, int] | Missing = Missing("NotExternal")
    """`EnginePool.spec.replicas` in `External` mode."""
    sizing_due: bool = True
    """False on a wake-up between two sizing ticks: sizes stay, transitions and status go on."""
    refusals: tuple[Refusal, ...] = ()
    """Creates that were refused since the last observation."""

    @property
    def has_prometheus(self) -> bool:
        """There is a Prometheus to ask, whether or not it answers."""
        return not isinstance(self.metrics, Missing) or self.metrics.reason != NOT_CONFIGURED

    def capacity_of(self, name: PoolName) -> PoolCapacity | Missing:
        """What the nodes of one pool hold; Missing when it is not listed, because the pool is off."""
        if isinstance(self.capacity, Missing):
            return self.capacity
        listed = (capacity for capacity in self.capacity if capacity.pool is name)
        return next(listed, Missing("NotListed", f"nothing is known about the nodes of {name}"))

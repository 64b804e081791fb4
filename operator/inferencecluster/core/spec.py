"""What the user asked for, as the core sees it: validated, defaulted, in seconds and whole GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.perfmodel import PerformanceModel


class ScalingMode(StrEnum):
    """Who decides pool sizes."""

    AUTOMATIC = "Automatic"
    RECOMMEND = "Recommend"
    """Shadow: decide and explain, leave sizes alone."""
    EXTERNAL = "External"
    """HPA, KEDA or a person write each EnginePool's /scale."""
    FIXED = "Fixed"
    """Every pool stays at `minReplicas`."""


class Objective(StrEnum):
    """What to spare where the budget leaves a choice."""

    COST = "Cost"
    THROUGHPUT = "Throughput"
    """Nothing: pools share in proportion to what they lack."""
    POWER = "Power"


class PolicyType(StrEnum):
    """HPA's `HPAScalingPolicy.type`; `Pods` counts replicas."""

    PODS = "Pods"
    PERCENT = "Percent"


class SelectPolicy(StrEnum):
    """HPA's `selectPolicy`: which of several policies binds."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """At most `value` (replicas or percent) of change within `period_seconds`."""

    type: PolicyType
    value: int
    period_seconds: float


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """One direction of `behavior`, with the HPA's own meaning (autoscaling/v2 `HPAScalingRules`)."""

    stabilization_window_seconds: float
    select_policy: SelectPolicy
    policies: tuple[ScalingPolicy, ...]


@dataclass(frozen=True, slots=True)
class Behavior:
    """Both directions of scaling."""

    scale_up: ScalingRules
    scale_down: ScalingRules


@dataclass(frozen=True, slots=True)
class Slo:
    """Latency targets that `percentile` per cent of requests should meet."""

    percentile: int
    ttft_seconds: float
    itl_seconds: float


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """Bounds, shape and speed of one pool."""

    name: PoolName
    min_replicas: int
    max_replicas: int
    gpus_per_replica: int
    performance: PerformanceModel
    template: str = ""
    """Hash of what the user chose for the pool's Pods beside the revision: shape, placement, resources."""
    interchangeable: bool = False
    """Its engines take every phase and are as fast as those of the other interchangeable pools: replicas may move between
    those of one template (`conversion`)."""
    price_per_gpu_hour: float | None = None
    """In the user's currency; None where it is not told."""
    watts_per_gpu: float | None = None

    @property
    def tuned_for(self) -> PoolName:
        """The work that the pool's engines take: any work where their replicas move between pools."""
        return PoolName.MIXED if self.interchangeable else self.name

    @property
    def iterates_like(self) -> PoolName:
        """The pool whose iterations its engines make: where replicas move between pools, as long as those of prefill.

        In short pieces prompts would take two fifths longer on every replica. A pool that is short gets a replica in seconds
        and need not borrow for long (docs/decisions/0014).
        """
        return PoolName.PREFILL if self.interchangeable else self.name


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """One InferenceCluster's spec. `pools` holds prefill, decode, mixed, in that order."""

    generation: int
    revision: str
    """Hash of what makes engines compatible: model, engine image, engine config (per cluster)."""
    budget_gpus: int
    slo: Slo
    pools: tuple[PoolSpec, PoolSpec, PoolSpec]
    mode: ScalingMode
    behavior: Behavior
    interval_seconds: float
    """Time between two sizing decisions."""
    boot_seconds: float
    """Expected time from creating a replica to its readiness, until measured boots replace it."""
    startup_deadline_seconds: float
    """A replica Pending or starting for longer is given up."""
    drain_deadline_seconds: float
    """A fenced replica is deleted after this long even with work in flight (the override shows in status)."""
    overflow_tokens: int | None
    """Prompt tokens waiting on a replica above which its queue is too long; None: what it works off in time
    (`token_budget.queue_tokens`)."""
    kept_gpus: int = 0
    """Demand removes no replica while all of them together hold no more GPUs than these, because they are paid for."""
    objective: Objective = Objective.COST

    def pool(self, name: PoolName) -> PoolSpec:
        """The pool called `name`."""
        return self.pools[_ORDER[name]]


_ORDER = {PoolName.PREFILL: 0, PoolName.DECODE: 1, PoolName.MIXED: 2}

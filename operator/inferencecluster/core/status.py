"""What a decision reports: pool sizes, conditions, the record of each change of size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import PoolCapacity


class ConditionType(StrEnum):
    """kstatus conditions (Ready, Reconciling, Stalled) and our own."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    METRICS_AVAILABLE = "MetricsAvailable"
    SCALING_LIMITED = "ScalingLimited"
    DISAGGREGATED = "Disaggregated"


class ConditionStatus(StrEnum):
    """Kubernetes' three answers."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


NORMAL: Final[Mapping[ConditionType, ConditionStatus]] = MappingProxyType(
    {
        ConditionType.READY: ConditionStatus.TRUE,
        ConditionType.RECONCILING: ConditionStatus.FALSE,
        ConditionType.STALLED: ConditionStatus.FALSE,
        ConditionType.METRICS_AVAILABLE: ConditionStatus.TRUE,
        ConditionType.SCALING_LIMITED: ConditionStatus.FALSE,
        ConditionType.DISAGGREGATED: ConditionStatus.TRUE,
    }
)
"""What each condition is where nobody has to look."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition; the report sets `lastTransitionTime` only when `status` flips."""

    type: ConditionType
    status: ConditionStatus
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """One pool's sizes: none of them changes faster than the fleet itself does."""

    name: PoolName
    desired: int
    """Replicas this pool should have now."""
    recommended: int
    """What sizing would choose; differs from `desired` in Recommend, External and Fixed mode."""
    ready: int
    starting: int
    draining: int
    borrowed: int
    gpus: int
    """GPUs of all existing replicas whose home is this pool."""
    capacity: PoolCapacity | Missing


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """Why a pool's size changed: every number that bound the decision."""

    time: float
    pool: PoolName
    before: int
    after: int
    reason: str
    """One CamelCase word, the Event's reason."""
    message: str
    inputs: tuple[tuple[str, float], ...]
    """Name and value of each input that bound the size, in a fixed order."""
    limited_by: str = ""
    """What kept the size from what was wanted: `maxReplicas`, `budget`, `behavior`, `nodes`... (`Target.limited_by`)."""


@dataclass(frozen=True, slots=True)
class DrainStatus:
    """A replica on its way out, for status and for people."""

    replica: str
    pool: PoolName
    since: float
    deadline: float
    waiting_for: str
    """What the deletion waits for, e.g. `router confirmation` or `2 requests, 1 KV transfer`."""


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """Everything `decide` wants to say about a cluster."""

    pools: tuple[PoolStatus, PoolStatus, PoolStatus]
    conditions: tuple[Condition, ...]
    gpus: int
    budget_gpus: int
    draining: tuple[DrainStatus, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Answer of one policy of a chain: the reason and the message that go unchanged into condition and Event."""

    reason: str
    message: str

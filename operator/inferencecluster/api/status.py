"""`status` of an InferenceCluster. Nothing in it grows with the number of Pods or changes every second."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from inferencecluster.api.scalars import MAX_BUDGET_GPUS, LabelValue, ShortText, Text
from inferencecluster.api.schema import ATOMIC, ApiModel, list_map
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.status import ConditionStatus

MAX_DECISIONS = 10
"""Enough to see why the sizes are what they are; the Events and the log hold the rest."""

MAX_DRAINING = 50
"""Longest-waiting first; the pools' `draining` holds the full count."""

Count = Annotated[int, Field(ge=0, le=1_000_000)]
Gpus = Annotated[int, Field(ge=0, le=10 * MAX_BUDGET_GPUS)]
Generation = Annotated[int, Field(ge=0, le=2**53)]
Reason = Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]


class Condition(ApiModel):
    """meta/v1 `Condition`."""

    type: Annotated[str, Field(max_length=316)]
    """Ready, Reconciling, Stalled (kstatus), MetricsAvailable, ScalingLimited or Disaggregated."""
    status: ConditionStatus
    """True, False or Unknown."""
    reason: Reason
    """One CamelCase word for programs."""
    message: Annotated[str, Field(max_length=32_768)]
    """One sentence for people."""
    last_transition_time: datetime
    """When `status` last changed."""
    observed_generation: Generation | None = None
    """Generation of the object that the condition speaks of."""


class PoolSizes(ApiModel):
    """Sizes of one pool, in replicas, and what its nodes hold."""

    name: PoolName
    """prefill, decode or mixed."""
    desired: Count
    """Replicas that the pool should have now."""
    recommended: Count
    """Replicas that sizing would choose; differs from `desired` unless the mode is Automatic."""
    ready: Count
    """Replicas that serve."""
    starting: Count
    """Replicas that are Pending or boot."""
    draining: Count
    """Replicas that are fenced or terminating."""
    borrowed: Count
    """Replicas that do mixed work for the opposite phase at the moment of the report."""
    gpus: Gpus
    """GPUs of all existing replicas of the pool."""
    nodes: Count | None = None
    """Nodes that the pool's selector, affinity and tolerations admit; absent when nodes cannot be seen."""
    allocatable_gpus: Gpus | None = None
    """GPUs that those nodes offer."""
    used_gpus: Gpus | None = None
    """GPUs of those nodes that any Pod requests, this cluster's included."""
    free_gpus: Gpus | None = None
    """GPUs of those nodes that nothing requests."""


class DecisionInput(ApiModel):
    """A number that bound a decision."""

    name: ShortText
    """What was measured or computed, with its unit."""
    value: ShortText
    """The number, written out."""


class Decision(ApiModel):
    """Why a pool's size changed."""

    time: datetime
    """When it was decided."""
    pool: PoolName
    """The pool."""
    from_: Annotated[Count, Field(alias="from")]
    """Replicas before."""
    to: Count
    """Replicas after."""
    reason: Reason
    """One CamelCase word, the same as the Event's reason."""
    message: Text
    """One sentence for people."""
    inputs: Annotated[tuple[DecisionInput, ...], Field(max_length=32), ATOMIC] = ()
    """Every number that bound the decision."""
    limited_by: ShortText | None = None
    """What kept the size from what was wanted: minReplicas, maxReplicas, budget, minGpus, stabilization, behavior, pair, nodes, quota or
    backOff."""


class Draining(ApiModel):
    """A replica on its way out."""

    replica: ShortText
    """Name of the Pod."""
    pool: PoolName
    """Its home pool."""
    since: datetime
    """When the fence was asked for."""
    deadline: datetime
    """When it is deleted even with work in flight."""
    waiting_for: Text
    """What the deletion waits for."""


class Summary(ApiModel):
    """What the columns of kubectl get print."""

    prefill: ShortText
    """Ready/desired replicas of prefill."""
    decode: ShortText
    """Ready/desired replicas of decode."""
    mixed: ShortText
    """Ready/desired replicas of mixed."""
    gpus: ShortText
    """GPUs held/budget."""


class InferenceClusterStatus(ApiModel):
    """What the operator last saw and did."""

    observed_generation: Generation | None = None
    """Generation of the object that this status speaks of."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16), list_map("type")] = ()
    """Ready, Reconciling and Stalled in the sense of kstatus, and MetricsAvailable, ScalingLimited, Disaggregated."""
    revision: LabelValue | None = None
    """Hash of model, engine image and engine configuration that new replicas get."""
    endpoint: Text | None = None
    """URL of the router inside Kubernetes."""
    pools: Annotated[tuple[PoolSizes, ...], Field(max_length=3), list_map("name")] = ()
    """Sizes of the three pools."""
    summary: Summary | None = None
    """The same in short, for kubectl get."""
    draining: Annotated[tuple[Draining, ...], Field(max_length=MAX_DRAINING), ATOMIC] = ()
    """Replicas on their way out and what each waits for, longest-waiting first; at most 50."""
    decisions: Annotated[tuple[Decision, ...], Field(max_length=MAX_DECISIONS), ATOMIC] = ()
    """The last ten changes of size, newest first."""

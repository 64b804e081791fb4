"""Report: a decision as the cluster's status, written only when it says something new, and what Events come of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from inferencecluster.adapters.kube_resources import Manifest
from inferencecluster.api import status as api
from inferencecluster.api.names import API_VERSION, CLUSTER_KIND
from inferencecluster.api.scalars import MAX_TEXT
from inferencecluster.controller.events import Event, EventType
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.status import (
    ClusterStatus,
    Condition,
    ConditionStatus,
    ConditionType,
    DecisionRecord,
    PoolStatus,
)

INVALID_SPEC: Final = "InvalidSpec"
INTERNAL_ERROR: Final = "InternalError"

_WORRYING: Final = {
    ConditionType.READY: ConditionStatus.FALSE,
    ConditionType.STALLED: ConditionStatus.TRUE,
    ConditionType.METRICS_AVAILABLE: ConditionStatus.FALSE,
    ConditionType.SCALING_LIMITED: ConditionStatus.TRUE,
}
"""Conditions whose Event is a warning, and the status that makes it one."""


@dataclass(frozen=True, slots=True)
class Report:
    """What there is to say about one cluster after one look."""

    generation: int
    revision: str
    endpoint: str
    status: ClusterStatus
    records: tuple[DecisionRecord, ...]
    """Changes of size of this look, oldest first."""


def endpoint_of(name: str, namespace: str) -> str:
    """URL of the routers inside Kubernetes."""
    return f"http://{name}.{namespace}.svc"


def build_status(
    report: Report, previous: api.InferenceClusterStatus | None, *, now: float
) -> api.InferenceClusterStatus:
    """The status to show; times of conditions and earlier decisions come from `previous`."""
    core = report.status
    earlier = previous.decisions if previous else ()
    newest = tuple(_decision(record) for record in reversed(report.records))
    return api.InferenceClusterStatus(
        observed_generation=report.generation,
        conditions=merge_conditions(core.conditions, previous, generation=report.generation, now=now),
        revision=report.revision,
        endpoint=report.endpoint,
        pools=tuple(_sizes(pool) for pool in core.pools),
        summary=_summary(core),
        draining=tuple(
            api.Draining(
                replica=drain.replica,
                pool=drain.pool,
                since=_moment(drain.since),
                deadline=_moment(drain.deadline),
                waiting_for=drain.waiting_for[:MAX_TEXT],
            )
            for drain in sorted(core.draining, key=lambda drain: (drain.since, drain.replica))[
                : api.MAX_DRAINING
            ]
        ),
        decisions=(*newest, *earlier)[: api.MAX_DECISIONS],
    )


def build_stalled_status(
    error: SpecError,
    previous: api.InferenceClusterStatus | None,
    *,
    generation: int,
    now: float,
) -> api.InferenceClusterStatus:
    """The status of a cluster whose spec is wrong: everything else stays as it was last told."""
    conditions = invalid_spec_conditions(error, serving_generation=None)
    told = previous or api.InferenceClusterStatus()
    return told.model_copy(
        update={
            "observed_generation": generation,
            "conditions": merge_conditions(conditions, previous, generation=generation, now=now),
        }
    )


def build_defect_status(
    error: Exception,
    previous: api.InferenceClusterStatus | None,
    *,
    generation: int,
    now: float,
) -> api.InferenceClusterStatus:
    """The status while a defect of ours ends every look: nobody knows how the cluster is, all else is as last told."""
    told = previous or api.InferenceClusterStatus()
    conditions = merge_conditions(defect_conditions(error), previous, generation=generation, now=now)
    named = {condition.type for condition in conditions}
    kept = (condition for condition in told.conditions if condition.type not in named)
    return told.model_copy(update={"conditions": (*conditions, *kept)})


def defect_conditions(error: Exception) -> tuple[Condition, ...]:
    """Conditions of a cluster whose look was ended by a defect. Equal from look to look."""
    message = (
        f"the operator failed at this cluster by a defect of its own ({type(error).__name__}) and tries again; "
        "existing replicas keep serving: report it with the operator's log"
    )
    return (
        Condition(ConditionType.READY, ConditionStatus.UNKNOWN, INTERNAL_ERROR, message),
        Condition(ConditionType.STALLED, ConditionStatus.UNKNOWN, INTERNAL_ERROR, message),
    )


def invalid_spec_conditions(error: SpecError, *, serving_generation: int | None) -> tuple[Condition, ...]:
    """Conditions of a spec that no fleet can be built from, in the sense of kstatus: failed, not in progress."""
    keeps = (
        f"; the fleet of generation {serving_generation} keeps serving"
        if serving_generation is not None
        else "; existing replicas keep serving, none is made or removed"
    )
    message = f"{error}{keeps}"
    return (
        Condition(ConditionType.READY, ConditionStatus.FALSE, INVALID_SPEC, message),
        Condition(ConditionType.RECONCILING, ConditionStatus.FALSE, INVALID_SPEC, message),
        Condition(ConditionType.STALLED, ConditionStatus.TRUE, INVALID_SPEC, message),
    )


def override_conditions(
    conditions: Sequence[Condition], overriding: Sequence[Condition]
) -> tuple[Condition, ...]:
    """`conditions` with those of the same type replaced."""
    by_type = {condition.type: condition for condition in overriding}
    kept = [by_type.pop(condition.type, condition) for condition in conditions]
    return (*kept, *by_type.values())


def merge_conditions(
    conditions: Sequence[Condition],
    previous: api.InferenceClusterStatus | None,
    *,
    generation: int,
    now: float,
) -> tuple[api.Condition, ...]:
    """Conditions with their times: `lastTransitionTime` moves only when the status flips."""
    known = {condition.type: condition for condition in previous.conditions} if previous else {}
    merged = []
    for condition in conditions:
        before = known.get(condition.type.value)
        is_same = before is not None and before.status is condition.status
        merged.append(
            api.Condition(
                type=condition.type.value,
                status=condition.status,
                reason=condition.reason,
                message=condition.message,
                last_transition_time=before.last_transition_time if before and is_same else _moment(now),
                observed_generation=generation,
            )
        )
    return tuple(merged)


def is_news(
    status: api.InferenceClusterStatus, previous: api.InferenceClusterStatus | None, *, thorough: bool
) -> bool:
    """`status` says something that `previous` does not.

    Unless `thorough`, what moves with every request (borrowed replicas, what a drain waits for, the use of nodes by
    others) is no news: it is told along with the next sizing tick.
    """
    if previous is None:
        return True
    return status != previous if thorough else _steady(status) != _steady(previous)


def status_manifest(name: str, namespace: str, uid: str, status: api.InferenceClusterStatus) -> Manifest:
    """The body of the server-side apply; the uid makes a cluster of the same name refuse it."""
    return {
        "apiVersion": API_VERSION,
        "kind": CLUSTER_KIND,
        "metadata": {"name": name, "namespace": namespace, "uid": uid},
        "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def events_of(
    status: api.InferenceClusterStatus,
    previous: api.InferenceClusterStatus | None,
    records: Sequence[DecisionRecord],
) -> tuple[Event, ...]:
    """One Event per change of size and per condition whose reason changed."""
    events = [Event(EventType.NORMAL, record.reason, _told(record)) for record in records]
    known = {condition.type: condition.reason for condition in previous.conditions} if previous else {}
    for condition in status.conditions:
        if known.get(condition.type) != condition.reason:
            is_worrying = (
                _WORRYING.get(ConditionType(condition.type)) is condition.status
                or condition.reason == INTERNAL_ERROR
            )
            kind = EventType.WARNING if is_worrying else EventType.NORMAL
            message = f"{condition.type} is {condition.status.value}: {condition.message}"
            events.append(Event(kind, condition.reason, message))
    return tuple(events)


def targets_of(status: api.InferenceClusterStatus) -> dict[PoolName, int]:
    """Sizes that the status says were wanted."""
    return {pool.name: pool.desired for pool in status.pools}


def settled_generation_of(status: api.InferenceClusterStatus) -> int:
    """Generation that the status calls rolled out; -1 when it calls none so."""
    for condition in status.conditions:
        if condition.type == ConditionType.RECONCILING and condition.status is ConditionStatus.FALSE:
            return condition.observed_generation if condition.observed_generation is not None else -1
    return -1


def records_of(status: api.InferenceClusterStatus) -> tuple[DecisionRecord, ...]:
    """Decisions that the status still holds, newest first."""
    return tuple(
        DecisionRecord(
            time=decision.time.timestamp(),
            pool=decision.pool,
            before=decision.from_,
            after=decision.to,
            reason=decision.reason,
            message=decision.message,
            inputs=tuple((entry.name, _number(entry.value)) for entry in decision.inputs),
            limited_by=decision.limited_by or "",
        )
        for decision in status.decisions
    )


def _steady(status: api.InferenceClusterStatus) -> api.InferenceClusterStatus:
    return status.model_copy(
        update={
            "pools": tuple(
                pool.model_copy(update={"borrowed": 0, "used_gpus": None, "free_gpus": None})
                for pool in status.pools
            ),
            "draining": tuple(drain.model_copy(update={"waiting_for": ""}) for drain in status.draining),
        }
    )


def _sizes(pool: PoolStatus) -> api.PoolSizes:
    sizes = api.PoolSizes(
        name=pool.name,
        desired=pool.desired,
        recommended=pool.recommended,
        ready=pool.ready,
        starting=pool.starting,
        draining=pool.draining,
        borrowed=pool.borrowed,
        gpus=pool.gpus,
    )
    capacity = pool.capacity
    if isinstance(capacity, Missing):
        return sizes
    return sizes.model_copy(
        update={
            "nodes": capacity.nodes,
            "allocatable_gpus": capacity.allocatable_gpus,
            "used_gpus": capacity.used_gpus,
            "free_gpus": capacity.free_gpus,
        }
    )


def _summary(core: ClusterStatus) -> api.Summary:
    told = {pool.name: f"{pool.ready}/{pool.desired}" for pool in core.pools}
    return api.Summary(
        prefill=told[PoolName.PREFILL],
        decode=told[PoolName.DECODE],
        mixed=told[PoolName.MIXED],
        gpus=f"{core.gpus}/{core.budget_gpus}",
    )


def _decision(record: DecisionRecord) -> api.Decision:
    return api.Decision(
        time=_moment(record.time),
        pool=record.pool,
        from_=record.before,
        to=record.after,
        reason=record.reason,
        message=record.message[:MAX_TEXT],
        inputs=tuple(api.DecisionInput(name=name, value=f"{value:.6g}") for name, value in record.inputs),
        limited_by=record.limited_by or None,
    )


def _told(record: DecisionRecord) -> str:
    return f"{record.pool} {record.before} -> {record.after}: {record.message}"


def _moment(seconds: float) -> datetime:
    """Whole seconds, which is what metav1.Time keeps."""
    return datetime.fromtimestamp(int(seconds), UTC)


def _number(text: str) -> float:
    """NaN for what another version wrote in another way: it is only shown."""
    try:
        return float(text)
    except ValueError:
        return float("nan")

"""Why each pool of an InferenceCluster has the size it has: from what status, Pods and Events tell, and nothing else.

Status records a decision when a size changes, with the numbers of that moment. What demand needs in between is not in it,
and is not guessed here: what would change a size is told by the rules of the spec instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from inferencecluster.adapters.kube_resources import Manifest
from inferencecluster.adapters.pods import EnginePod
from inferencecluster.adapters.timestamps import timestamp
from inferencecluster.cli.cluster_reading import (
    ClusterReading,
    ConditionReading,
    DecisionReading,
    DrainReading,
    PoolReading,
    moment,
    told,
)
from inferencecluster.cli.cluster_reading import text as one_line
from inferencecluster.cli.moments import age
from inferencecluster.cli.surroundings import Surroundings
from inferencecluster.core.fleet import Lifecycle
from inferencecluster.core.missing import Missing
from inferencecluster.core.spec import ScalingMode
from inferencecluster.core.status import ConditionType

MAX_EVENTS: Final = 10
MAX_REPLICAS: Final = 10
"""Of a pool, those that do not serve; more of them have one cause."""


@dataclass(frozen=True, slots=True)
class EventReading:
    """One Event of the cluster."""

    time: float | None
    type: str
    reason: str
    message: str
    count: int


@dataclass(frozen=True, slots=True)
class ReplicaReading:
    """A replica that does not serve, or is on its way out."""

    name: str
    state: str
    since: float
    """Its creation."""
    node: str
    detail: str
    """Why it failed, or was fenced."""


@dataclass(frozen=True, slots=True)
class PoolExplanation:
    """One pool."""

    sizes: PoolReading
    decision: DecisionReading | None
    """The change that made the present size, or the newest that status still has."""
    recommendation: DecisionReading | None
    why: str
    holds: tuple[str, ...]
    """What keeps it from having, or getting, what it wants."""
    changes: tuple[str, ...]
    """What would change its size."""
    replicas: tuple[ReplicaReading, ...]
    """Not serving or draining, at most `MAX_REPLICAS`."""
    more_replicas: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """One cluster."""

    cluster: ClusterReading
    summary: tuple[str, ...]
    not_normal: tuple[ConditionReading, ...]
    pools: tuple[PoolExplanation, ...]
    draining: tuple[DrainReading, ...]
    events: tuple[EventReading, ...]
    """Newest first, at most `MAX_EVENTS`."""
    notes: tuple[str, ...]
    """What could not be seen, and what is odd."""


def explain(cluster: ClusterReading, around: Surroundings, *, now: float) -> Explanation:
    """`now` is Unix seconds."""
    engines = _own_engines(cluster, around)
    wishes = _wishes(around.pools)
    return Explanation(
        cluster=cluster,
        summary=tuple(_summary(cluster, now)),
        not_normal=cluster.not_normal,
        pools=tuple(_pool(cluster, pool, wishes, engines, now=now) for pool in cluster.pools),
        draining=cluster.draining,
        events=_events(around.events),
        notes=tuple(_notes(cluster, around, engines)),
    )


def _own_engines(cluster: ClusterReading, around: Surroundings) -> tuple[EnginePod, ...] | Missing:
    if isinstance(around.pods, Missing):
        return around.pods
    return tuple(pod for pod in around.pods.engines if pod.owner_uid == cluster.uid)


def _wishes(pools: Sequence[Manifest] | Missing) -> Mapping[str, int] | Missing:
    """What the EnginePools ask for, by pool."""
    if isinstance(pools, Missing):
        return pools
    specs: list[Mapping[str, Any]] = [item.get("spec") or {} for item in pools]
    return {spec["pool"]: spec["replicas"] for spec in specs if "pool" in spec and "replicas" in spec}


def _summary(cluster: ClusterReading, now: float) -> list[str]:
    lines = [f"created {_ago(cluster.created, now)}, mode {cluster.mode}"]
    if cluster.deleted is not None:
        lines.append(
            f"its deletion was asked for {_ago(cluster.deleted, now)}: replicas drain, then the finalizer goes"
        )
    if not cluster.is_observed:
        lines.append(
            "the operator has not looked at it yet: look whether it runs and watches this namespace "
            "(IC_WATCH_NAMESPACES), and at its log"
        )
        return lines
    lines.append(f"GPUs: {told(cluster.gpus)} of budget.gpus {told(cluster.budget_gpus)} are held")
    if cluster.observed_generation != cluster.generation:
        lines.append(
            f"status speaks of generation {told(cluster.observed_generation)}, the spec is at "
            f"{told(cluster.generation)}: the operator has not acted on the newest spec"
        )
    return lines


def _pool(
    cluster: ClusterReading,
    pool: PoolReading,
    wishes: Mapping[str, int] | Missing,
    engines: tuple[EnginePod, ...] | Missing,
    *,
    now: float,
) -> PoolExplanation:
    decision = cluster.last_decision(pool.name)
    unsettled = () if isinstance(engines, Missing) else _unsettled(pool.name, engines)
    return PoolExplanation(
        sizes=pool,
        decision=decision,
        recommendation=cluster.last_decision(pool.name, recommendation=True),
        why=_why(cluster, pool, decision),
        holds=tuple(_holds(cluster, pool, decision)) if pool.desired is not None else (),
        changes=tuple(_changes(cluster, pool, decision, wishes, now)) if pool.desired is not None else (),
        replicas=unsettled[:MAX_REPLICAS],
        more_replicas=max(0, len(unsettled) - MAX_REPLICAS),
    )


def _why(cluster: ClusterReading, pool: PoolReading, decision: DecisionReading | None) -> str:
    """One sentence about the present size."""
    if pool.desired is None:
        return "status tells no size of this pool yet"
    if decision is None:
        kept = len(cluster.decisions)
        return f"no decision is told: none of the {kept} that status keeps changed this pool"
    if decision.after != pool.desired:
        return (
            f"the decision that led to {pool.desired} is not told; the newest one of this pool was "
            f"{decision.change}: {decision.message}"
        )
    return decision.message


def _holds(cluster: ClusterReading, pool: PoolReading, decision: DecisionReading | None) -> list[str]:
    lines = []
    if decision is not None and decision.limited_by and decision.after == pool.desired:
        lines.append(f"{decision.limited_by} set the size, not demand alone")
    existing = (pool.ready or 0) + (pool.starting or 0)
    lacking = (pool.desired or 0) - existing
    if lacking > 0:
        lines.append(f"{lacking} of {told(pool.desired)} replicas do not exist yet{_room(cluster, pool)}")
    elif lacking < 0:
        lines.append(f"{-lacking} replicas more than desired exist: they are to drain")
    metrics = cluster.condition(ConditionType.METRICS_AVAILABLE)
    if metrics is not None and not metrics.is_normal:
        lines.append(f"no pool shrinks while metrics are missing ({metrics.reason})")
    return lines


def _room(cluster: ClusterReading, pool: PoolReading) -> str:
    """Why replicas may be lacking, where the numbers say so."""
    if cluster.gpus is None or cluster.budget_gpus is None or pool.gpus_per_replica is None:
        return ""
    if cluster.budget_gpus - cluster.gpus >= pool.gpus_per_replica:
        return ""
    leaving = sum(item.draining or 0 for item in cluster.pools)
    waits = f", and {leaving} replicas still drain" if leaving else ""
    return f": budget.gpus {cluster.budget_gpus} is held by {cluster.gpus} GPUs{waits}"


def _changes(
    cluster: ClusterReading,
    pool: PoolReading,
    decision: DecisionReading | None,
    wishes: Mapping[str, int] | Missing,
    now: float,
) -> list[str]:
    match cluster.mode:
        case ScalingMode.FIXED:
            return ["mode Fixed: only minReplicas changes the size"]
        case ScalingMode.RECOMMEND:
            advice = "set scaling.mode to Automatic to let it"
            return [f"mode Recommend: the size stays; sizing would choose {told(pool.recommended)}: {advice}"]
        case ScalingMode.EXTERNAL:
            return [_asked(pool, wishes)]
    return [_growth(cluster, pool), _shrinkage(cluster, pool, decision, now)]


def _asked(pool: PoolReading, wishes: Mapping[str, int] | Missing) -> str:
    who = "HPA, KEDA or kubectl scale, inside the pool's bounds and the budget"
    if isinstance(wishes, Missing):
        return f"mode External: {who}; what its EnginePool asks for could not be read"
    if pool.name not in wishes:
        return f"mode External: {who}; its EnginePool does not exist yet"
    return f"mode External: {who}; its EnginePool asks for {wishes[pool.name]}"


def _growth(cluster: ClusterReading, pool: PoolReading) -> str:
    desired = pool.desired or 0
    if cluster.is_asleep:
        return "wakes with the first request that a router holds"
    if pool.maximum is not None and desired >= pool.maximum:
        return f"grows no further: maxReplicas is {pool.maximum}"
    if cluster.up.is_disabled:
        return "never grows by demand: behavior.scaleUp.selectPolicy is Disabled"
    room = _room(cluster, pool)
    if room:
        return f"grows when GPUs become free{room}; raise it, or lower minReplicas of other pools"
    return (
        f"grows at the next sizing tick{_every(cluster)} that finds a larger need{_pace(cluster, 'scaleUp')}"
    )


def _shrinkage(
    cluster: ClusterReading, pool: PoolReading, decision: DecisionReading | None, now: float
) -> str:
    desired = pool.desired or 0
    if pool.minimum is not None and desired <= pool.minimum:
        return f"shrinks no further: minReplicas is {pool.minimum}"
    if cluster.down.is_disabled:
        return "never shrinks by demand: behavior.scaleDown.selectPolicy is Disabled"
    metrics = cluster.condition(ConditionType.METRICS_AVAILABLE)
    if metrics is not None and not metrics.is_normal:
        return f"shrinks not before MetricsAvailable is True ({metrics.reason})"
    if cluster.kept_gpus > 0 and cluster.gpus is not None and cluster.gpus <= cluster.kept_gpus:
        return f"shrinks only in favour of another pool: budget.minGpus {cluster.kept_gpus} are kept in use"
    boot = (
        f" (expectedBootSeconds {cluster.boot_seconds}, until boots are measured)"
        if cluster.boot_seconds
        else ""
    )
    return (
        f"shrinks when fewer have been enough for one boot{boot}{_pace(cluster, 'scaleDown')}"
        f"{_not_before(cluster, pool, decision, now)}"
    )


def _every(cluster: ClusterReading) -> str:
    return f" (every {cluster.interval_seconds} s)" if cluster.interval_seconds else ""


def _pace(cluster: ClusterReading, direction: str) -> str:
    rules = cluster.up if direction == "scaleUp" else cluster.down
    window = (
        f", and for behavior.{direction}.stabilizationWindowSeconds {rules.window_seconds} as well"
        if rules.window_seconds
        else ""
    )
    return window + (f", at the rate of behavior.{direction}.policies" if rules.has_policies else "")


def _not_before(
    cluster: ClusterReading, pool: PoolReading, decision: DecisionReading | None, now: float
) -> str:
    """A size that was needed at a known moment is held for the window that begins then."""
    if decision is None or decision.time is None or decision.after != pool.desired or decision.limited_by:
        return ""
    end = decision.time + cluster.down.window_seconds
    return f"; not before {timestamp(end)}" if end > now else ""


def _unsettled(pool: str, engines: Sequence[EnginePod]) -> tuple[ReplicaReading, ...]:
    found = []
    for engine in engines:
        replica = engine.replica
        is_fenced = bool(engine.fence)
        if replica.home != pool or (replica.lifecycle is Lifecycle.READY and not is_fenced):
            continue
        detail = replica.failure or (
            f"fenced: {replica.fence_reason or 'no reason told'}" if is_fenced else ""
        )
        state = "draining" if is_fenced else replica.lifecycle.value.lower()
        found.append(
            ReplicaReading(replica.name, state, replica.created_at, replica.node or "", one_line(detail))
        )
    return tuple(found)


def _events(events: Sequence[Manifest] | Missing) -> tuple[EventReading, ...]:
    if isinstance(events, Missing):
        return ()
    read = [
        EventReading(
            time=moment(item.get("lastTimestamp")) or moment(item.get("eventTime")),
            type=one_line(item.get("type")),
            reason=one_line(item.get("reason")),
            message=one_line(item.get("message")),
            count=item.get("count") or 1,
        )
        for item in events
    ]
    return tuple(sorted(read, key=lambda event: event.time or 0.0, reverse=True)[:MAX_EVENTS])


def _notes(
    cluster: ClusterReading, around: Surroundings, engines: tuple[EnginePod, ...] | Missing
) -> list[str]:
    parts = {"Pods": around.pods, "EnginePools": around.pools, "Events": around.events}
    notes = [
        f"{name} are not shown: {one_line(part.message)}"
        for name, part in parts.items()
        if isinstance(part, Missing)
    ]
    if cluster.decisions:
        notes.append(
            "inputs are those of the moment of the decision: status has no later ones. With IC_RECORD_FILE the operator "
            "records every look, for kubectl-ic replay"
        )
    if not isinstance(engines, Missing) and cluster.is_observed:
        serving = sum(pod.replica.lifecycle is Lifecycle.READY and not pod.fence for pod in engines)
        ready = sum(pool.ready or 0 for pool in cluster.pools)
        if serving != ready:
            notes.append(
                f"{serving} Pods are ready now, and status tells {ready}: it is older, or is not kept current"
            )
    return notes


def _ago(at: float | None, now: float) -> str:
    return "at an unknown time" if at is None else f"{age(at, now=now)} ago"

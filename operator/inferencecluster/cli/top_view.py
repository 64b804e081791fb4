"""What `kubectl-ic top` shows of one InferenceCluster: a headline, a table of its pools, and why the sizes changed last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from inferencecluster.cli.cluster_reading import BUSY_SHARE, ClusterReading, DecisionReading, told
from inferencecluster.cli.explanation_text import condition_line
from inferencecluster.cli.live_traffic import Traffic
from inferencecluster.cli.moments import age
from inferencecluster.cli.sizes_table import sizes_table
from inferencecluster.core.missing import Missing


@dataclass(frozen=True, slots=True)
class ClusterLook:
    """One cluster at one moment."""

    cluster: ClusterReading
    traffic: Traffic | Missing


def view(looks: Sequence[ClusterLook], *, now: float, detailed: bool) -> list[str | Table]:
    """Lines and tables, in order. `now` is Unix seconds; `detailed` tells the last change of each pool, not only the newest."""
    parts: list[str | Table] = []
    for look in looks:
        parts += ["", *_cluster(look, now, detailed=detailed)]
    unseen = {look.traffic.message for look in looks if isinstance(look.traffic, Missing)}
    parts += [
        f"note: queue, requests in flight and KV use are not told: {message}" for message in sorted(unseen)
    ]
    return parts[1:]


def _cluster(look: ClusterLook, now: float, *, detailed: bool) -> Iterator[str | Table]:
    cluster, traffic = look.cluster, look.traffic
    yield _headline(cluster, traffic, now)
    if cluster.pools:
        yield sizes_table({pool.name: pool for pool in cluster.pools}, _work(cluster, traffic))
    for decision in _decisions(cluster, detailed=detailed):
        yield decision_line(decision, now=now)
    for condition in cluster.not_normal:
        yield f"! {condition_line(condition, now=now)}"


def _headline(cluster: ClusterReading, traffic: Traffic | Missing, now: float) -> str:
    parts = [
        f"{cluster.namespace}/{cluster.name}",
        f"mode {cluster.mode}",
        f"GPUs {told(cluster.gpus)} of {told(cluster.budget_gpus)}",
    ]
    if isinstance(traffic, Traffic):
        parts.append(f"queue {traffic.queued_tokens:,} tokens")
        if traffic.held_requests:
            parts.append(
                f"{traffic.held_requests:,} requests held, the oldest for {traffic.head_age_seconds:.1f} s"
            )
        parts.append(f"in flight {traffic.total.in_flight:,}")
    parts.append(f"age {age(cluster.created, now=now)}")
    if cluster.deleted is not None:
        parts.append(f"deletion asked for {age(cluster.deleted, now=now)} ago")
    if not cluster.is_observed:
        parts.append("not looked at by the operator yet")
    elif cluster.observed_generation != cluster.generation:
        parts.append("the newest spec is not acted on yet")
    return ", ".join(parts)


def _work(cluster: ClusterReading, traffic: Traffic | Missing) -> dict[str, list[int | str | None]]:
    """Columns beside the sizes; those of the routers are left out while they cannot be read."""
    columns: dict[str, list[int | str | None]] = {"GPUs": [pool.gpus for pool in cluster.pools]}
    if isinstance(traffic, Missing):
        return columns
    works = [traffic.pools.get(pool.name) for pool in cluster.pools]
    columns["in flight"] = [work.in_flight if work else 0 for work in works]
    columns["queue"] = [work.queued_tokens if work else 0 for work in works]
    columns["KV"] = [_percent(work.kv_share if work else 0.0) for work in works]
    return columns


def _percent(share: float | None) -> int | str | None:
    return None if share is None else (f"{share:.0%}" if share else 0)


def _decisions(cluster: ClusterReading, *, detailed: bool) -> Sequence[DecisionReading]:
    if not detailed:
        return cluster.decisions[:1]
    newest = (cluster.last_decision(pool.name) for pool in cluster.pools)
    return [decision for decision in newest if decision is not None]


def decision_line(decision: DecisionReading, *, now: float) -> str:
    """What changed, when and why; with the utilisation that the decision saw."""
    busy = dict(decision.inputs).get(BUSY_SHARE)
    seen = f", GPUs {_share(busy)} busy then" if busy is not None else ""
    limit = f", limited by {decision.limited_by}" if decision.limited_by else ""
    when = f"{age(decision.time, now=now)} ago"
    return f"{decision.pool} {decision.change}, {when}, {decision.reason}{limit}{seen}: {decision.message}"


def _share(written: str) -> str:
    try:
        return f"{float(written):.0%}"
    except ValueError:
        return written

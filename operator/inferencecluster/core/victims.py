"""Who goes first when replicas have to go, and what sets replicas apart on their way out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from inferencecluster.core.fleet import Lifecycle, Replica, ReplicaLoad
from inferencecluster.core.spec import ClusterSpec

_CHEAPEST_FIRST: Final = (
    Lifecycle.FAILED,
    Lifecycle.PENDING,
    Lifecycle.STARTING,
    Lifecycle.UNREADY,
    Lifecycle.READY,
    Lifecycle.TERMINATING,
)


def cheapest_first(replicas: Iterable[Replica]) -> list[Replica]:
    """In the order in which they are given away: what has not started, then what is unready, then the least loaded.

    Among equals the newest, then the highest ordinal. A load that is not known counts as none, for the order only:
    whoever is chosen still drains.
    """

    def cost(replica: Replica) -> tuple[int, int, float, int]:
        load = replica.load
        held = load.in_flight + load.kv_transfers if isinstance(load, ReplicaLoad) else 0
        return _CHEAPEST_FIRST.index(replica.lifecycle), held, -replica.created_at, -ordinal_of(replica)

    return sorted(replicas, key=cost)


def never_served(replica: Replica) -> bool:
    """No router can have sent anything to it: it may be deleted without a drain."""
    return replica.ready_at is None and replica.lifecycle in (Lifecycle.PENDING, Lifecycle.STARTING)


def is_current(replica: Replica, spec: ClusterSpec) -> bool:
    """Of the newest revision, and of its pool's present shape and template.

    A replica that does not tell its template counts as current: it is of an operator that did not write it.
    """
    pool = spec.pool(replica.home)
    return (
        replica.revision == spec.revision
        and replica.gpus == pool.gpus_per_replica
        and replica.template in ("", pool.template)
    )


def ordinal_of(replica: Replica) -> int:
    """The number in `<cluster>-engine-<n>`; -1 for a name that is not ours."""
    suffix = replica.name.rpartition("-")[2]
    return int(suffix) if suffix.isdecimal() else -1

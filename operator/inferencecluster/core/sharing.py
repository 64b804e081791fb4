"""How one GPU budget is handed out replica by replica, and which pool gives way by what the user minds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.spec import ClusterSpec, Objective, PoolSpec


def burdens(spec: ClusterSpec) -> Mapping[PoolName, float]:
    """What one GPU of each pool costs in terms of the objective: price per hour, or watts.

    Equal (0) for Throughput, and unless every pool that is on tells: a price cannot be compared with an unknown one.
    """
    told = {pool.name: _told(pool, spec.objective) for pool in spec.pools if pool.max_replicas > 0}
    known = {name: value for name, value in told.items() if value is not None}
    is_comparable = len(known) == len(told)
    return MappingProxyType({name: known.get(name, 0.0) if is_comparable else 0.0 for name in PoolName})


def _told(pool: PoolSpec, objective: Objective) -> float | None:
    match objective:
        case Objective.COST:
            return pool.price_per_gpu_hour
        case Objective.POWER:
            return pool.watts_per_gpu
        case Objective.THROUGHPUT:
            return None


def fill_tier(
    sizes: dict[PoolName, int],
    members: Sequence[tuple[PoolSpec, int]],
    *,
    free: int,
    burden: Mapping[PoolName, float] | None = None,
) -> None:
    """Raise `sizes` towards each member's goal out of `free` GPUs.

    The pool with the smallest `burden` comes first; among equals, and without burdens, whoever lacks the largest share of
    its goal, so that none starves.
    """
    missing = sum(max(0, goal - sizes[pool.name]) * pool.gpus_per_replica for pool, goal in members)
    if missing <= free:
        sizes.update({pool.name: max(goal, sizes[pool.name]) for pool, goal in members})
        return
    while True:
        short = [
            (pool, goal)
            for pool, goal in members
            if sizes[pool.name] < goal and pool.gpus_per_replica <= free
        ]
        if not short:
            return
        pool, _ = max(
            short,
            key=lambda member: (
                -burden[member[0].name] if burden else 0.0,
                (member[1] - sizes[member[0].name]) / member[1],
            ),
        )
        sizes[pool.name] += 1
        free -= pool.gpus_per_replica

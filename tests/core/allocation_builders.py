"""Wishes, memories and answers of `allocate`, for its tests."""

from __future__ import annotations

from collections.abc import Mapping

from tests.core.sizing_builders import cluster

from inferencecluster.core.allocation import AllocationMemory, AllocationRequest, Target
from inferencecluster.core.fleet import PoolName, Replica
from inferencecluster.core.missing import Missing
from inferencecluster.core.replacement import BackOff
from inferencecluster.core.sizing import Wanted
from inferencecluster.core.spec import ClusterSpec

Three = tuple[int, int, int]
P, D, M = PoolName


def wanted(sizes: Three) -> tuple[Wanted, Wanted, Wanted]:
    prefill, decode, mixed = (
        Wanted(name, size, "Work", f"{size} wanted", (("work", float(size)),), max(0.0, size - 0.5))
        for name, size in zip(PoolName, sizes, strict=True)
    )
    return prefill, decode, mixed


def request(
    sizes: Three | Missing,
    *,
    now: float = 1000.0,
    spec: ClusterSpec | None = None,
    replicas: tuple[Replica, ...] = (),
    shrink_allowed: bool = True,
    back_offs: Mapping[PoolName, BackOff] | None = None,
) -> AllocationRequest:
    wishes = sizes if isinstance(sizes, Missing) else wanted(sizes)
    return AllocationRequest(
        now, spec or cluster(), replicas, wishes, shrink_allowed, Missing("NotListed"), back_offs or {}
    )


def back_off(reason: str, *, replicas: int = 2, is_refusal: bool = False) -> BackOff:
    return BackOff(
        began=1000.0,
        until=1030.0,
        seconds=30.0,
        replicas=replicas,
        uids=frozenset(),
        reason=reason,
        message=f"{reason} happened; mend it",
        generation=1,
        free_gpus=Missing("NotAboutNodes"),
        is_refusal=is_refusal,
    )


def restored(sizes: Three, now: float = 0.0) -> AllocationMemory:
    return AllocationMemory.restored(dict(zip(PoolName, sizes, strict=True)), now)


def sizes_of(targets: tuple[Target, Target, Target]) -> Three:
    prefill, decode, mixed = (target.replicas for target in targets)
    return prefill, decode, mixed


def limits_of(targets: tuple[Target, Target, Target]) -> tuple[str, ...]:
    return tuple(target.limited_by for target in targets)

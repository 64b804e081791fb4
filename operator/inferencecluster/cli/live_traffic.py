"""What the routers of a cluster hold, added up: the queue, and the work on each pool's replicas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from inferencecluster.api.router_state import ReplicaState, RouterState


@dataclass(frozen=True, slots=True)
class Work:
    """Of some replicas."""

    in_flight: int
    """Requests."""
    queued_tokens: int
    """Prompt tokens that were sent to them and are not prefilled yet."""
    kv_share: float | None
    """KV tokens that are resident, of what fits; None where it is not told what fits."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of one cluster."""

    held_requests: int
    """In the routers, before any replica."""
    held_tokens: int
    head_age_seconds: float
    pools: Mapping[str, Work]
    """By home pool of the replicas."""
    total: Work

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens that wait, in routers or at replicas."""
        return self.held_tokens + self.total.queued_tokens


@dataclass(frozen=True, slots=True)
class Home:
    """What a replica's Pod says of it."""

    pool: str
    kv_capacity_tokens: int | None


def traffic_of(states: Sequence[RouterState], homes: Mapping[str, Home]) -> Traffic:
    """All routers together. `homes` are by UID of the replica; work on others counts in the total only."""
    entries = [entry for state in states for entry in state.replicas]
    by_pool: dict[str, list[ReplicaState]] = {}
    for entry in entries:
        if entry.uid in homes:
            by_pool.setdefault(homes[entry.uid].pool, []).append(entry)
    return Traffic(
        held_requests=sum(state.held_requests for state in states),
        held_tokens=sum(state.held_tokens for state in states),
        head_age_seconds=max((state.head_age_seconds for state in states), default=0.0),
        pools={pool: _work(work, homes) for pool, work in by_pool.items()},
        total=_work(entries, homes),
    )


def _work(entries: Sequence[ReplicaState], homes: Mapping[str, Home]) -> Work:
    return Work(
        in_flight=sum(entry.in_flight for entry in entries),
        queued_tokens=sum(entry.pending_prefill_tokens for entry in entries),
        kv_share=_kv_share(entries, homes),
    )


def _kv_share(entries: Iterable[ReplicaState], homes: Mapping[str, Home]) -> float | None:
    """Several routers tell of one replica: its capacity counts once."""
    resident = {entry.uid: 0 for entry in entries}
    for entry in entries:
        resident[entry.uid] += entry.resident_kv_tokens
    capacities = [homes[uid].kv_capacity_tokens if uid in homes else None for uid in resident]
    known = [capacity for capacity in capacities if capacity]
    return sum(resident.values()) / sum(known) if known and len(known) == len(capacities) else None

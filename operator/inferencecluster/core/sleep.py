"""Scale to zero: a cluster whose minimums are all 0 sleeps when nothing is asked of it, and wakes for the first request.

falls asleep   when no pool wanted a replica for its whole stabilisation window (or, where that is shorter, for the hold
               of the peak); prefill and decode go together (`allocation`, step `pair`)
is asleep      every wanted size is 0; the routers stay, hold what arrives and say so
wakes          at the first look that shows a held request, sizing tick or not: every pool that a request needs in one
               decision. It stays awake for a stabilisation window at least, because that wish is remembered
is waking      until the first replica serves. It counts as ready: a request is held, not refused
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from inferencecluster.core.allocation import Target
from inferencecluster.core.fleet import PoolName, Replica
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Observation
from inferencecluster.core.spec import ClusterSpec, ScalingMode
from inferencecluster.core.status import DecisionRecord

SCALED_TO_ZERO: Final = "ScaledToZero"
"""Reason of the records with which a cluster falls asleep, and of `Ready` while it sleeps."""
WOKEN: Final = "Woken"
"""Reason of the records with which it wakes."""
WAKING: Final = "Waking"
"""Reason of `Ready` until the first replica serves."""

WAKE_BOOTS: Final = 2
"""Expected boots that a request is held for while the cluster wakes, before its usual time in the queue begins: a boot
that pulls the image first takes about twice as long as the next one on its node."""


def wake_hold_seconds(*, boot_seconds: float, max_queue_seconds: float) -> float:
    """How long a request waits for a cluster that wakes, where the user does not say."""
    return WAKE_BOOTS * boot_seconds + max_queue_seconds


def may_sleep(spec: ClusterSpec) -> bool:
    """Demand decides, and no pool has a minimum."""
    return spec.mode is ScalingMode.AUTOMATIC and not any(pool.min_replicas for pool in spec.pools)


def is_wake_due(observation: Observation, targets: tuple[Target, ...]) -> bool:
    """A request is held for a cluster that sleeps: its wake does not wait for a sizing tick."""
    routers = observation.routers
    if isinstance(routers, Missing) or any(target.replicas for target in targets):
        return False
    return may_sleep(observation.spec) and routers.queue.held_requests > 0


def is_waking(spec: ClusterSpec, replicas: tuple[Replica, ...]) -> bool:
    """Every replica that stays is on its way to its first readiness, or not even created."""
    staying = (replica for replica in replicas if not replica.is_leaving)
    return may_sleep(spec) and all(replica.is_starting and replica.ready_at is None for replica in staying)


def explained(
    records: tuple[DecisionRecord, ...], before: Mapping[PoolName, int], observation: Observation
) -> tuple[DecisionRecord, ...]:
    """The records of one decision, in the words of sleep and wake where they are that.

    `before` holds the size of every pool before the decision.
    """
    if not may_sleep(observation.spec):
        return records
    after = {**before, **{record.pool: record.after for record in records}}
    if any(before.values()) and not any(after.values()):
        why = "nothing is asked of the cluster: all pools sleep, and the first request wakes them"
        return tuple(replace(record, reason=SCALED_TO_ZERO, message=why) for record in records)
    if any(before.values()):
        return records
    return tuple(
        replace(record, reason=WOKEN, message=f"{_caller(observation)} wakes the cluster; {record.message}")
        for record in records
    )


def _caller(observation: Observation) -> str:
    routers = observation.routers
    held = 0 if isinstance(routers, Missing) else routers.queue.held_requests
    return f"the first of {held} held requests" if held else "demand"

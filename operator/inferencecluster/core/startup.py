"""Replicas that do not start: given up with a reason, waited for with a growing back-off, tried again.

A replica is given up when it is Pending or starting beyond the startup deadline, or when it failed before it was
ever ready. Its pool then backs off: until the back-off ends, or until nodes show more free GPUs than there were,
the pool's wish is lowered to what has a node (`allocation`). The first replica that becomes ready afterwards ends the
back-off for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from inferencecluster.core.fleet import Lifecycle, PoolName, Replica
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Observation, PoolCapacity

FIRST_BACK_OFF_SECONDS: Final = 30.0
"""About what a wrong image tag or a missing Secret takes a person to notice and mend at the earliest."""
BACK_OFF_FACTOR: Final = 2.0
LONGEST_BACK_OFF_SECONDS: Final = 1800.0
"""Half an hour: capacity that comes back unnoticed is used soon enough, and a broken pool costs two Pods an hour."""

UNSCHEDULABLE: Final = "Unschedulable"
STARTUP_TIMEOUT: Final = "StartupTimeout"
START_FAILED: Final = "StartFailed"


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A replica that is deleted because it did not start."""

    replica: Replica
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class BackOff:
    """One pool that waits before it tries again."""

    since: float
    until: float
    seconds: float
    """Length of this wait; the next one is longer."""
    replicas: int
    """Replicas given up in this round."""
    reason: str
    message: str
    free_gpus: int | Missing
    """Free GPUs of the pool's nodes when it began: more of them end the wait. Missing where a node was not the matter."""


@dataclass(frozen=True, slots=True)
class StartupMemory:
    """Back-offs by pool; pools without trouble are absent. Lost with the operator: it tries again, that is all."""

    pools: Mapping[PoolName, BackOff]

    @classmethod
    def empty(cls) -> StartupMemory:
        """No trouble known."""
        return cls(MappingProxyType({}))

    def waiting(self, now: float) -> Mapping[PoolName, int]:
        """Replicas given up, for each pool whose back-off has not ended."""
        return MappingProxyType(
            {name: back_off.replicas for name, back_off in self.pools.items() if now < back_off.until}
        )


def review_starts(
    memory: StartupMemory, observation: Observation
) -> tuple[StartupMemory, tuple[GivenUp, ...]]:
    """Who is given up now, and the back-offs after it."""
    given_up = tuple(
        verdict for replica in observation.replicas if (verdict := _give_up(replica, observation)) is not None
    )
    pools: dict[PoolName, BackOff] = {}
    for name in PoolName:
        failures = [item for item in given_up if item.replica.home is name]
        before = _still_valid(memory.pools.get(name), name, observation)
        if failures:
            pools[name] = _backed_off(before, failures, name, observation)
        elif before is not None:
            pools[name] = before
    return StartupMemory(MappingProxyType(pools)), given_up


def _give_up(replica: Replica, observation: Observation) -> GivenUp | None:
    if replica.ready_at is not None:
        return None
    if replica.lifecycle is Lifecycle.FAILED:
        return GivenUp(replica, START_FAILED, f"{replica.name} cannot start: {replica.failure}")
    age = observation.now - replica.created_at
    if not replica.is_starting or age < observation.spec.startup_deadline_seconds:
        return None
    if replica.lifecycle is Lifecycle.PENDING:
        message = f"{replica.name} found no node for {replica.gpus} GPUs within {age:.0f} s"
        return GivenUp(replica, UNSCHEDULABLE, message)
    return GivenUp(replica, STARTUP_TIMEOUT, f"{replica.name} was not ready within {age:.0f} s")


def _still_valid(back_off: BackOff | None, name: PoolName, observation: Observation) -> BackOff | None:
    """The back-off, ended early where capacity grew, or None once a replica became ready after it began."""
    if back_off is None:
        return None
    home = [replica for replica in observation.replicas if replica.home is name]
    if any(replica.ready_at is not None and replica.ready_at > back_off.since for replica in home):
        return None
    capacity = _capacity(observation, name)
    if isinstance(capacity, Missing) or isinstance(back_off.free_gpus, Missing):
        return back_off
    if capacity.free_gpus > back_off.free_gpus:
        return replace(back_off, until=min(back_off.until, observation.now))
    return back_off


def _backed_off(
    before: BackOff | None, failures: list[GivenUp], name: PoolName, observation: Observation
) -> BackOff:
    """A back-off that starts now: longer than the one before, if that had ended without success."""
    now, last = observation.now, failures[-1]
    same_round = before is not None and now < before.until
    seconds = FIRST_BACK_OFF_SECONDS
    if before is not None:
        longer = before.seconds if same_round else before.seconds * BACK_OFF_FACTOR
        seconds = min(longer, LONGEST_BACK_OFF_SECONDS)
    free: int | Missing = Missing("NotAboutNodes")
    if last.reason == UNSCHEDULABLE:
        capacity = _capacity(observation, name)
        free = capacity if isinstance(capacity, Missing) else capacity.free_gpus
    return BackOff(
        since=now,
        until=now + seconds,
        seconds=seconds,
        replicas=len(failures) + (before.replicas if before is not None and same_round else 0),
        reason=last.reason,
        message=last.message,
        free_gpus=free,
    )


def _capacity(observation: Observation, name: PoolName) -> PoolCapacity | Missing:
    if isinstance(observation.capacity, Missing):
        return observation.capacity
    for capacity in observation.capacity:
        if capacity.pool is name:
            return capacity
    return Missing("NoCapacity", f"nothing is known about the nodes of {name}")

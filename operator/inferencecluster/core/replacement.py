"""Replicas that fail, do not start or stop answering: given up with a reason, replaced after a growing back-off.

Given up is a replica that

    failed             its Pod ended, or its container cannot run; `Replica.failure` tells
    found no node, or is not ready, within the startup deadline
    served once and has not been ready again for as long: its engine hangs; it drains before it is deleted

A replica that had served (an evicted Pod, a lost node, a hung engine) is replaced at once: it proved that its like can
start. After others, and after crash loops, the pool backs off: nothing is created in it (`transition`), and its wish is lowered to the replicas that have a
node, so that other pools may use the GPUs (`allocation`). The back-off ends after its time, or as soon as the pool's nodes
have more free GPUs than when it began and one of them has room for a replica. A new generation of the spec forgets it.

Example, an image that does not exist: tries at 0, 30, 90, 210 and 450 s, then every ten minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from inferencecluster.core.fleet import Lifecycle, PoolName, Replica
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Observation

FIRST_BACK_OFF_SECONDS: Final = 30.0
"""Longer than a registry's or a node's hiccup, shorter than a boot."""
BACK_OFF_FACTOR: Final = 2.0
"""The kubelet's own for crashing containers."""
LONGEST_BACK_OFF_SECONDS: Final = 600.0
"""Whoever mends a Secret, a registry or a driver waits ten minutes at most; a broken pool costs six Pods an hour."""
TROUBLE_IS_OVER_SECONDS: Final = 600.0
"""The kubelet forgets a container's crashes after ten minutes without one; here, after what a start may take besides."""

UNSCHEDULABLE: Final = "Unschedulable"
STARTUP_TIMEOUT: Final = "StartupTimeout"
IMAGE_PULL_FAILED: Final = "ImagePullFailed"
CRASH_LOOP: Final = "CrashLoop"
REPLICA_FAILED: Final = "ReplicaFailed"
UNRESPONSIVE: Final = "Unresponsive"

_KUBELET_REASONS: Final = MappingProxyType(
    {
        "CrashLoopBackOff": CRASH_LOOP,
        "ErrImageNeverPull": IMAGE_PULL_FAILED,
        "ErrImagePull": IMAGE_PULL_FAILED,
        "ImageInspectError": IMAGE_PULL_FAILED,
        "ImagePullBackOff": IMAGE_PULL_FAILED,
        "InvalidImageName": IMAGE_PULL_FAILED,
    }
)
"""Why a container waits (kubernetes, pkg/kubelet/images/types.go and pkg/kubelet/container): first word of `failure`."""

_ADVICE: Final = MappingProxyType(
    {
        CRASH_LOOP: "check spec.engine.config and the model against the engine's log",
        IMAGE_PULL_FAILED: "check spec.engine.image and its pull secret",
        REPLICA_FAILED: "see the Pod's events",
    }
)


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A replica that is to go and to be replaced."""

    replica: Replica
    reason: str
    message: str

    @property
    def is_start_trouble(self) -> bool:
        """The next one may well fail, too; false for a replica that served until something happened to it."""
        return self.replica.ready_at is None or self.reason in (CRASH_LOOP, IMAGE_PULL_FAILED)


@dataclass(frozen=True, slots=True)
class BackOff:
    """A pool whose replicas failed not long ago."""

    until: float
    """Nothing is created before; seconds on the observation's clock."""
    seconds: float
    """Length of this wait; the next one is longer."""
    replicas: int
    """Given up since the last try."""
    uids: frozenset[str]
    """Those that existed when it began: a deletion takes a moment, and they are counted once."""
    reason: str
    message: str
    generation: int
    free_gpus: int | Missing
    """Free GPUs of the pool's nodes when it began; Missing where a node was not the matter, or not known."""


@dataclass(frozen=True, slots=True)
class ReplacementMemory:
    """What is remembered of trouble. Lost with the operator: then everything is tried once more, that is all."""

    pools: Mapping[PoolName, BackOff]
    """Pools without trouble are absent."""
    unready_since: Mapping[str, float]
    """uid -> when a replica that has served was first seen not ready."""

    @classmethod
    def empty(cls) -> ReplacementMemory:
        """No trouble known."""
        return cls(MappingProxyType({}), MappingProxyType({}))

    def waiting(self, now: float) -> Mapping[PoolName, BackOff]:
        """Pools whose back-off has not ended."""
        return MappingProxyType(
            {name: back_off for name, back_off in self.pools.items() if now < back_off.until}
        )


def review_replicas(
    memory: ReplacementMemory, observation: Observation
) -> tuple[ReplacementMemory, tuple[GivenUp, ...]]:
    """Who is given up now, and the back-offs after it. A replica stays given up until it is gone."""
    unready_since = {
        replica.uid: memory.unready_since.get(replica.uid, observation.now)
        for replica in observation.replicas
        if replica.ready_at is not None
        and replica.lifecycle in (Lifecycle.STARTING, Lifecycle.UNREADY)
        and not replica.is_leaving
    }
    given_up = tuple(
        verdict
        for replica in observation.replicas
        if (verdict := _give_up(replica, observation, unready_since.get(replica.uid))) is not None
    )
    pools: dict[PoolName, BackOff] = {}
    for name in PoolName:
        before = _still_known(memory.pools.get(name), name, observation)
        failures = [item for item in given_up if item.replica.home is name and item.is_start_trouble]
        back_off = _after(before, failures, observation)
        if back_off is not None:
            pools[name] = back_off
    return ReplacementMemory(MappingProxyType(pools), MappingProxyType(unready_since)), given_up


def _give_up(replica: Replica, observation: Observation, unready_since: float | None) -> GivenUp | None:
    now, deadline = observation.now, observation.spec.startup_deadline_seconds
    if replica.lifecycle is Lifecycle.FAILED:
        reason = _KUBELET_REASONS.get(replica.failure.partition(":")[0], REPLICA_FAILED)
        return GivenUp(replica, reason, f"{replica.name} failed: {replica.failure}: {_ADVICE[reason]}")
    if unready_since is not None:
        if now - unready_since < deadline:
            return None
        return GivenUp(
            replica, UNRESPONSIVE, f"{replica.name} served and is not ready again within {deadline:.0f} s"
        )
    if not replica.is_starting or now - replica.created_at < deadline:
        return None
    if replica.lifecycle is Lifecycle.PENDING:
        message = (
            f"{replica.name} found no node for {replica.gpus} GPUs within {deadline:.0f} s: add nodes, free GPUs, "
            f"or correct spec.pools.{replica.home}.nodeSelector and tolerations"
        )
        return GivenUp(replica, UNSCHEDULABLE, message)
    message = (
        f"{replica.name} was not ready within {deadline:.0f} s: read the engine's log, or raise "
        "spec.scaling.startupTimeoutSeconds for a large model"
    )
    return GivenUp(replica, STARTUP_TIMEOUT, message)


def _still_known(back_off: BackOff | None, name: PoolName, observation: Observation) -> BackOff | None:
    """The back-off, ended early where capacity grew, or None once trouble is over or the spec is another."""
    spec, now = observation.spec, observation.now
    if back_off is None or back_off.generation != spec.generation:
        return None
    if now >= back_off.until + spec.startup_deadline_seconds + TROUBLE_IS_OVER_SECONDS:
        return None
    capacity = observation.capacity_of(name)
    if isinstance(capacity, Missing) or isinstance(back_off.free_gpus, Missing):
        return back_off
    fits = capacity.largest_free_block >= spec.pool(name).gpus_per_replica
    if fits and capacity.free_gpus > back_off.free_gpus:
        return replace(back_off, until=min(back_off.until, now))
    return back_off


def _after(before: BackOff | None, failures: Sequence[GivenUp], observation: Observation) -> BackOff | None:
    """`before`, or a back-off that starts now if something failed that it does not know."""
    new = [item for item in failures if before is None or item.replica.uid not in before.uids]
    if not new:
        return before
    last = new[-1]
    free: int | Missing = Missing("NotAboutNodes")
    if last.reason == UNSCHEDULABLE:
        capacity = observation.capacity_of(last.replica.home)
        free = capacity if isinstance(capacity, Missing) else capacity.free_gpus
    seconds, earlier = FIRST_BACK_OFF_SECONDS, 0
    if before is not None and observation.now < before.until:
        # Replicas that fail one after the other after one try are one trouble.
        seconds, earlier = before.seconds, before.replicas
    elif before is not None:
        seconds = min(before.seconds * BACK_OFF_FACTOR, LONGEST_BACK_OFF_SECONDS)
    return BackOff(
        until=observation.now + seconds,
        seconds=seconds,
        replicas=earlier + len(new),
        uids=frozenset(item.replica.uid for item in failures),
        reason=last.reason,
        message=last.message,
        generation=observation.spec.generation,
        free_gpus=free,
    )

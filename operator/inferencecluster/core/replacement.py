"""Replicas that cannot be created, fail, do not start or stop answering: replaced after a growing back-off.

Given up is a replica that

    failed             its Pod ended, or its container cannot run; `Replica.failure` tells
    found no node, or is not ready, within the startup deadline
    served once and has not been ready again for `_return_seconds`: its engine hangs; it drains before it is deleted

A replica that had served (an evicted Pod, a lost node, a hung engine) is replaced at once: it proved that its like can
start. After others, and after crash loops, the pool backs off: nothing is created in it (`transition`), and above its
minimum its wish is lowered to the replicas that have a node, so that other pools may use the GPUs (`allocation`). The
back-off ends after its time, or as soon as the pool's nodes have more free GPUs than when it began and one of them has
room for a replica. A new generation of the spec forgets it.

Creates that the API server refuses (quota, rights, a namespace that goes) back off likewise, by pool and reason: a try
costs one request and no GPU, so the first wait is a second. It is forgotten once a create succeeds.

Examples. An image that does not exist: tries at 0, 30, 90, 210 and 450 s, then every ten minutes. A full quota: tries
at 0, 1, 3, 7, 15, ... 255 s, then every five minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from inferencecluster.core.fleet import Lifecycle, PoolName, Replica
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Observation, Refusal

FIRST_BACK_OFF_SECONDS: Final = 30.0
"""Longer than a registry's or a node's hiccup, shorter than a boot."""
BACK_OFF_FACTOR: Final = 2.0
"""The kubelet's own for crashing containers."""
LONGEST_BACK_OFF_SECONDS: Final = 600.0
"""Whoever mends a Secret, a registry or a driver waits ten minutes at most; a broken pool costs six Pods an hour."""
TROUBLE_IS_OVER_SECONDS: Final = 600.0
"""The kubelet forgets a container's crashes after ten minutes without one; here, after what a start may take besides."""

RETURN_BOOTS: Final = 2.0
"""A replica that stops being ready is given up after so many of its own boots: an engine that restarts loads weights that its node has
cached and pulls no image, so it needs less than one, while one that hangs in its start never comes."""
SHORTEST_RETURN_SECONDS: Final = 300.0
"""Kubernetes waits as long for a node that it has lost touch with (`node.kubernetes.io/unreachable`), whose engines may serve well."""

FIRST_REFUSAL_SECONDS: Final = 1.0
"""A quota that is just being freed, an admission webhook that restarts."""
LONGEST_REFUSAL_SECONDS: Final = 300.0
"""Whoever raises a quota or grants a right waits five minutes at most; a pool costs twelve requests an hour."""

NODES_EXHAUSTED: Final = "NodesExhausted"
STARTUP_DEADLINE_EXCEEDED: Final = "StartupDeadlineExceeded"
IMAGE_PULL_FAILED: Final = "ImagePullFailed"
ENGINE_CRASHED: Final = "EngineCrashed"
REPLICA_FAILED: Final = "ReplicaFailed"
UNRESPONSIVE: Final = "Unresponsive"

NAMESPACE_TERMINATING: Final = "NamespaceTerminating"
QUOTA_EXCEEDED: Final = "QuotaExceeded"
FORBIDDEN: Final = "Forbidden"
INVALID_POD: Final = "InvalidPod"

_KUBELET_REASONS: Final = MappingProxyType(
    {
        "CrashLoopBackOff": ENGINE_CRASHED,
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
        ENGINE_CRASHED: "check spec.engine.config and the model against the engine's log",
        IMAGE_PULL_FAILED: "check spec.engine.image and its pull secret",
        REPLICA_FAILED: "see the Pod's events",
        NAMESPACE_TERMINATING: "nothing can be created before the namespace is gone and made anew",
        QUOTA_EXCEEDED: "raise the namespace's ResourceQuota, or lower maxReplicas",
        FORBIDDEN: "grant the operator's ServiceAccount the right, or change the admission policy",
        INVALID_POD: "correct what the message names in spec.engine or spec.pools",
    }
)

_LIMITS: Final = MappingProxyType({NODES_EXHAUSTED: "nodes", QUOTA_EXCEEDED: "quota"})
"""What a pool is limited by while it backs off; `backOff` for all other reasons."""


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A replica that is to go and to be replaced."""

    replica: Replica
    reason: str
    message: str

    @property
    def is_start_trouble(self) -> bool:
        """The next one may well fail, too; false for a replica that served until something happened to it."""
        return self.replica.ready_at is None or self.reason in (ENGINE_CRASHED, IMAGE_PULL_FAILED)


@dataclass(frozen=True, slots=True)
class BackOff:
    """A pool whose replicas failed, or could not be created, not long ago."""

    began: float
    until: float
    """Nothing is created before; seconds on the observation's clock."""
    seconds: float
    """Length of this wait; the next one is longer."""
    replicas: int
    """Given up since the last try; 1 where creates were refused, because the first refusal ends a try."""
    uids: frozenset[str]
    """Of replicas: those that failed, because a deletion takes a moment and they are counted once. Of refused creates:
    the pool's replicas, because another one means that a create succeeded."""
    reason: str
    message: str
    generation: int
    free_gpus: int | Missing
    """Free GPUs of the pool's nodes when it began; Missing where a node was not the matter, or not known."""
    is_refusal: bool = False
    """The API server would not create replicas. Those that exist are as good as ever."""

    @property
    def limit(self) -> str:
        """What keeps the pool small: `nodes`, `quota` or `backOff`."""
        return _LIMITS.get(self.reason, "backOff")


@dataclass(frozen=True, slots=True)
class ReplacementMemory:
    """What is remembered of trouble. Lost with the operator: then everything is tried once more, that is all."""

    pools: Mapping[PoolName, BackOff]
    """Pools without replicas that failed are absent."""
    refusals: Mapping[tuple[PoolName, str], BackOff]
    """By pool and reason, creates that were refused."""
    unready_since: Mapping[str, float]
    """uid -> when a replica that has served was first seen not ready."""

    @classmethod
    def empty(cls) -> ReplacementMemory:
        """No trouble known."""
        return cls(MappingProxyType({}), MappingProxyType({}), MappingProxyType({}))

    @property
    def troubles(self) -> Mapping[PoolName, BackOff]:
        """What is known against each pool; of several things the one that is waited for longest."""
        known = [*self.pools.items(), *((name, back_off) for (name, _), back_off in self.refusals.items())]
        found: dict[PoolName, BackOff] = {}
        for name, back_off in known:
            if name not in found or back_off.until > found[name].until:
                found[name] = back_off
        return MappingProxyType(found)

    def waiting(self, now: float) -> Mapping[PoolName, BackOff]:
        """Pools whose back-off has not ended."""
        return MappingProxyType(
            {name: back_off for name, back_off in self.troubles.items() if now < back_off.until}
        )


def next_refusal_seconds(before: float) -> float:
    """The wait after another refusal; `before` is the last one, 0 when there was none."""
    return min(max(FIRST_REFUSAL_SECONDS, before * BACK_OFF_FACTOR), LONGEST_REFUSAL_SECONDS)


def _bounded(back_off: BackOff, now: float) -> BackOff:
    """Never longer than its wait: a clock that was set back would add as much to it."""
    return replace(back_off, until=min(back_off.until, now + back_off.seconds))


def review_replicas(
    memory: ReplacementMemory, observation: Observation
) -> tuple[ReplacementMemory, tuple[GivenUp, ...]]:
    """Who is given up now, and the back-offs after it. A replica stays given up until it is gone."""
    unready_since = {
        # No later than now: the clock may have been set back.
        replica.uid: min(memory.unready_since.get(replica.uid, observation.now), observation.now)
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
    refusals = _review_refusals(memory.refusals, observation)
    reviewed = ReplacementMemory(
        MappingProxyType(pools), MappingProxyType(refusals), MappingProxyType(unready_since)
    )
    return reviewed, given_up


def _review_refusals(
    memory: Mapping[tuple[PoolName, str], BackOff], observation: Observation
) -> dict[tuple[PoolName, str], BackOff]:
    """Those that still hold, and the new ones."""
    existing = {
        name: frozenset(replica.uid for replica in observation.replicas if replica.home is name)
        for name in PoolName
    }
    known = {
        (name, reason): _bounded(back_off, observation.now)
        for (name, reason), back_off in memory.items()
        if back_off.generation == observation.spec.generation
        and observation.now < back_off.until + TROUBLE_IS_OVER_SECONDS
        and existing[name] <= back_off.uids
    }
    for refusal in observation.refusals:
        key = refusal.pool, refusal.reason
        known[key] = _refused(known.get(key), refusal, existing[refusal.pool], observation)
    return known


def _refused(
    before: BackOff | None, refusal: Refusal, existing: frozenset[str], observation: Observation
) -> BackOff:
    seconds = next_refusal_seconds(before.seconds if before is not None else 0.0)
    advice = _ADVICE.get(refusal.reason, _ADVICE[FORBIDDEN])
    return BackOff(
        began=observation.now if before is None else before.began,
        until=observation.now + seconds,
        seconds=seconds,
        replicas=1,
        uids=existing,
        reason=refusal.reason,
        message=f"no replica can be created: {refusal.message}; {advice}",
        generation=observation.spec.generation,
        free_gpus=Missing("NotAboutNodes"),
        is_refusal=True,
    )


def _give_up(replica: Replica, observation: Observation, unready_since: float | None) -> GivenUp | None:
    now, deadline = observation.now, observation.spec.startup_deadline_seconds
    if replica.lifecycle is Lifecycle.FAILED:
        reason = _KUBELET_REASONS.get(replica.failure.partition(":")[0], REPLICA_FAILED)
        failure = replica.failure or "no reason given"
        return GivenUp(replica, reason, f"{replica.name} failed with {failure}; {_ADVICE[reason]}")
    if unready_since is not None:
        patience = _return_seconds(replica, deadline)
        if now - unready_since < patience:
            return None
        return GivenUp(
            replica, UNRESPONSIVE, f"{replica.name} served, and was not ready again within {patience:.0f} s"
        )
    if not replica.is_starting or now - replica.created_at < deadline:
        return None
    if replica.lifecycle is Lifecycle.PENDING:
        message = (
            f"{replica.name} could not be scheduled within {deadline:.0f} s, no node has {replica.gpus} GPUs free for it; "
            f"add nodes, free GPUs, or correct spec.pools.{replica.home}.nodeSelector and tolerations"
        )
        return GivenUp(replica, NODES_EXHAUSTED, message)
    message = (
        f"{replica.name} was not ready within {deadline:.0f} s; read the engine's log, or raise "
        "spec.scaling.startupTimeoutSeconds for a large model"
    )
    return GivenUp(replica, STARTUP_DEADLINE_EXCEEDED, message)


def _return_seconds(replica: Replica, startup_deadline: float) -> float:
    """How long a replica that has served may be unready. `startup_deadline` is the user's word for a boot: never longer."""
    # Where its first readiness was not seen this is more than its boot: then it is waited for longer.
    boot = replica.ready_at - replica.created_at if replica.ready_at is not None else startup_deadline
    return min(startup_deadline, max(SHORTEST_RETURN_SECONDS, RETURN_BOOTS * boot))


def _still_known(back_off: BackOff | None, name: PoolName, observation: Observation) -> BackOff | None:
    """The back-off, ended early where capacity grew, or None once trouble is over or the spec is another."""
    spec, now = observation.spec, observation.now
    if back_off is None or back_off.generation != spec.generation:
        return None
    if now >= back_off.until + spec.startup_deadline_seconds + TROUBLE_IS_OVER_SECONDS:
        return None
    back_off = _bounded(back_off, now)
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
    if last.reason == NODES_EXHAUSTED:
        capacity = observation.capacity_of(last.replica.home)
        free = capacity if isinstance(capacity, Missing) else capacity.free_gpus
    seconds, earlier = FIRST_BACK_OFF_SECONDS, 0
    if before is not None and observation.now < before.until:
        # Replicas that fail one after the other after one try are one trouble.
        seconds, earlier = before.seconds, before.replicas
    elif before is not None:
        seconds = min(before.seconds * BACK_OFF_FACTOR, LONGEST_BACK_OFF_SECONDS)
    return BackOff(
        began=observation.now,
        until=observation.now + seconds,
        seconds=seconds,
        replicas=earlier + len(new),
        uids=frozenset(item.replica.uid for item in failures),
        reason=last.reason,
        message=last.message,
        generation=observation.spec.generation,
        free_gpus=free,
    )

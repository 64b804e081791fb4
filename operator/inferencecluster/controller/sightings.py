"""What this process has itself seen of replicas, where their Pods alone do not tell or could be wrong.

first readiness    a Pod shows only the latest one; it is a boot to learn from only if it was seen to happen
fences             since when, by a clock that does not jump: a wall clock that was set, or another machine's after a
                   failover, must not end a drain; and a fence with a time that cannot be is one from now on
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from inferencecluster.adapters.pods import EnginePod
from inferencecluster.core.fleet import Lifecycle, Replica

CLOCK_SKEW_SECONDS: Final = 3600.0
"""How far a fence may lie before its Pod, or in the future: clocks of machines that nobody synchronises differ by
minutes, a clock in the wrong time zone by an hour. Beyond that it is no time of a fence."""


@dataclass(frozen=True, slots=True)
class _SeenFence:
    text: str
    since: float
    """Monotonic seconds."""


@dataclass(slots=True)
class Sightings:
    """Of one cluster's replicas, by uid, as long as their Pods exist."""

    ready_since: dict[str, float] = field(default_factory=dict)
    """First readiness."""
    odd_fences: frozenset[str] = frozenset()
    """Replicas whose fence tells no possible time: a proper one is to be written."""
    _booting: set[str] = field(default_factory=set)
    """Seen before they were ready."""
    _fences: dict[str, _SeenFence] = field(default_factory=dict)

    def see(
        self, pods: Iterable[tuple[EnginePod, Replica]], *, now: float, monotonic: float
    ) -> tuple[Replica, ...]:
        """The replicas with what is known beyond their Pods; those that are not among them are forgotten."""
        known = tuple(pods)
        odd: set[str] = set()
        fences: dict[str, _SeenFence] = {}
        seen: list[Replica] = []
        for pod, replica in known:
            completed = self._with_readiness(replica, now)
            if pod.fence:
                fence = self._fences.get(replica.uid)
                if fence is None or fence.text != pod.fence:
                    fence = _SeenFence(pod.fence, monotonic)
                fences[replica.uid] = fence
                fence_seen_at = now - (monotonic - fence.since)
                if not _is_possible(replica, now):
                    odd.add(replica.uid)
                    completed = replace(completed, fenced_at=fence_seen_at)
                completed = replace(completed, fence_seen_at=fence_seen_at)
            seen.append(completed)
        uids = {replica.uid for replica in seen}
        self.ready_since = {uid: at for uid, at in self.ready_since.items() if uid in uids}
        self._booting &= uids
        self._fences, self.odd_fences = fences, frozenset(odd)
        return tuple(seen)

    def _with_readiness(self, replica: Replica, now: float) -> Replica:
        """Kept as long as the Pod exists: one that failed or restarted shows no readiness, and had served all the same."""
        ready_at = replica.ready_at
        if ready_at is None and replica.lifecycle is Lifecycle.READY:
            # Ready, and its Pod does not tell since when.
            ready_at = now
        if ready_at is not None:
            self.ready_since.setdefault(replica.uid, ready_at)
        elif replica.uid not in self.ready_since:
            self._booting.add(replica.uid)
        return replace(
            replica,
            ready_at=self.ready_since.get(replica.uid),
            boot_seen=replica.uid in self._booting,
        )


def _is_possible(replica: Replica, now: float) -> bool:
    """The fence's time could be one."""
    earliest = min(replica.created_at, now) - CLOCK_SKEW_SECONDS
    return replica.fenced_at is not None and earliest <= replica.fenced_at <= now + CLOCK_SKEW_SECONDS

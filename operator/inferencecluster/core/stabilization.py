"""The HorizontalPodAutoscaler's `behavior`, to the letter (autoscaling/v2, `pkg/controller/podautoscaler`).

Stabilisation: shrink to no less than the largest, and grow to no more than the smallest recommendation of the
direction's window. Rate: within each policy's period at most `value` replicas or per cent of change, counted from
the size at the start of the period; `selectPolicy` takes the policy that allows most (Max), least (Min), or none.
Two differences: no policies means no rate limit, and per cents of an empty pool count from one replica, because the
HPA never scales from zero and our pools do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from inferencecluster.core.spec import Behavior, PolicyType, ScalingPolicy, ScalingRules, SelectPolicy


@dataclass(frozen=True, slots=True)
class Stamped:
    """A number of replicas at a time: a recommended size, or a change (negative when it shrank)."""

    time: float
    replicas: int


@dataclass(frozen=True, slots=True)
class PoolHistory:
    """A pool's last size, and what its stabilisation and its rate limits need to know of the past.

    `highs` and `lows` keep only recommendations that can still be the largest or the smallest of a window: each is
    strictly larger (smaller) than all later ones. A pool at rest remembers one of each.
    """

    size: int
    highs: tuple[Stamped, ...]
    lows: tuple[Stamped, ...]
    changes: tuple[Stamped, ...] = ()

    @classmethod
    def starting(cls, size: int, now: float) -> PoolHistory:
        """`size` was just recommended: it shrinks (grows) only after the window of that direction."""
        first = (Stamped(now, size),)
        return cls(size, first, first)

    def highest(self, since: float, recommended: int) -> int:
        """Largest recommendation after `since`, the present one included."""
        return max((item.replicas for item in self.highs if item.time > since), default=recommended)

    def lowest(self, since: float, recommended: int) -> int:
        """Smallest recommendation after `since`, the present one included."""
        return min((item.replicas for item in self.lows if item.time > since), default=recommended)

    def recommend(self, replicas: int, now: float, behavior: Behavior) -> PoolHistory:
        """With one more recommendation; those that no window can see any more are gone.

        A clock that was set back left times that are still to come: they count as now, so that no window grows.
        """
        if any(item.time > now for item in (*self.highs, *self.lows, *self.changes)):
            return self._until(now).recommend(replicas, now, behavior)
        item = Stamped(now, replicas)
        down = now - behavior.scale_down.stabilization_window_seconds
        up = now - behavior.scale_up.stabilization_window_seconds
        highs = tuple(old for old in self.highs if old.time > down and old.replicas > replicas)
        lows = tuple(old for old in self.lows if old.time > up and old.replicas < replicas)
        return replace(self, highs=(*highs, item), lows=(*lows, item))

    def _until(self, now: float) -> PoolHistory:
        """With nothing that is still to come."""

        def known(items: tuple[Stamped, ...]) -> tuple[Stamped, ...]:
            return tuple(replace(item, time=min(item.time, now)) for item in items)

        return replace(self, highs=known(self.highs), lows=known(self.lows), changes=known(self.changes))

    def resize(self, size: int, now: float, behavior: Behavior) -> PoolHistory:
        """After a change to `size`; changes older than the longest policy period are gone."""
        policies = (*behavior.scale_up.policies, *behavior.scale_down.policies)
        longest = max((policy.period_seconds for policy in policies), default=0.0)
        changes = (*self.changes, Stamped(now, size - self.size)) if size != self.size else self.changes
        return replace(self, size=size, changes=tuple(item for item in changes if item.time > now - longest))


def stabilized(history: PoolHistory, recommended: int, now: float, behavior: Behavior) -> int:
    """The size that both windows allow; `history` holds the present recommendation already."""
    ceiling = history.lowest(now - behavior.scale_up.stabilization_window_seconds, recommended)
    floor = history.highest(now - behavior.scale_down.stabilization_window_seconds, recommended)
    return min(max(history.size, ceiling), floor)


def rate_limited(history: PoolHistory, desired: int, now: float, behavior: Behavior) -> int:
    """`desired`, or as far on the way from the present size as the policies allow."""
    if desired > history.size:
        return min(desired, max(history.size, _limit(history, now, behavior.scale_up, grows=True)))
    return max(desired, min(history.size, _limit(history, now, behavior.scale_down, grows=False)))


def _limit(history: PoolHistory, now: float, rules: ScalingRules, *, grows: bool) -> int:
    """The largest (`grows`) or smallest size that one direction's rules allow now."""
    if rules.select_policy is SelectPolicy.DISABLED:
        return history.size
    proposed = [_proposal(history, now, policy, grows=grows) for policy in rules.policies]
    if not proposed:
        return _UNBOUNDED if grows else 0
    return max(proposed) if (rules.select_policy is SelectPolicy.MAX) is grows else min(proposed)


_UNBOUNDED = 2**31 - 1
"""The HPA's own MaxInt32."""


def _proposal(history: PoolHistory, now: float, policy: ScalingPolicy, *, grows: bool) -> int:
    """The size that one policy allows. The HPA rounds up when growing and down when shrinking."""
    changed = sum(item.replicas for item in history.changes if item.time > now - policy.period_seconds)
    start = history.size - changed
    if policy.type is PolicyType.PODS:
        return start + policy.value if grows else start - policy.value
    # Whole numbers first: 110/100 of 10 is not 11 in floating point.
    return (
        math.ceil(max(start, 1) * (100 + policy.value) / 100)
        if grows
        else start * max(100 - policy.value, 0) // 100
    )

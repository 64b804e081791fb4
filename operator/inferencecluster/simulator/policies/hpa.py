"""The HorizontalPodAutoscaler (autoscaling/v2), one object per pool, shared by all policies that deploy one.

Source: Kubernetes `pkg/controller/podautoscaler/{replica_calculator,horizontal}.go` and the HPA's documentation.
Stabilisation windows and rate limits are `core.stabilization`, which follows the same source; this module adds how a
metric becomes a recommendation:

    per Pod     ratio = mean over ready Pods / target;  no change while |ratio - 1| <= 0.1
                ready * ratio, rounded up; Pods that are not ready are left out, unless the pool would grow: then they
                count with 0, and growth that they will satisfy is not asked for again
    external    ratio = total / (target * Pods);  no change while |ratio - 1| <= 0.1;  total / target, rounded up

A replica of ours that still boots is a Pod in phase Pending or without samples. The HPA treats both alike on the way up;
on the way down a Pod without samples counts as exactly on target, one in phase Pending not at all. Images and weights
are most of a boot, so that not-ready replicas count as Pending here.
"""

from __future__ import annotations

from typing import Final

from inferencecluster.core.spec import (
    Behavior,
    PolicyType,
    PoolSpec,
    ScalingPolicy,
    ScalingRules,
    SelectPolicy,
)
from inferencecluster.core.stabilization import PoolHistory, rate_limited, stabilized
from inferencecluster.simulator.policies.context import ROUNDING, bounded, whole
from inferencecluster.simulator.signals import PoolSignals

SYNC_SECONDS: Final = 15.0
"""`--horizontal-pod-autoscaler-sync-period`."""
TOLERANCE: Final = 0.1
"""`--horizontal-pod-autoscaler-tolerance`."""
DEFAULT_BEHAVIOR: Final = Behavior(
    scale_up=ScalingRules(
        0.0,
        SelectPolicy.MAX,
        (ScalingPolicy(PolicyType.PODS, 4, 15.0), ScalingPolicy(PolicyType.PERCENT, 100, 15.0)),
    ),
    scale_down=ScalingRules(300.0, SelectPolicy.MAX, (ScalingPolicy(PolicyType.PERCENT, 100, 15.0),)),
)
"""What an HPA without `behavior` does."""


def replicas_for_pod_metric(current: int, observed: PoolSignals, *, mean: float, target: float) -> int:
    """The recommendation for a metric that each ready replica reports, `mean` over them; `current` to change nothing."""
    ready = observed.serving
    if ready == 0:
        return current
    ratio = mean / target
    not_ready = max(0, observed.replicas - ready)
    if ratio <= 1.0 or not_ready == 0:
        return current if _within_tolerance(ratio) else whole(ratio * ready)
    diluted = ratio * ready / (ready + not_ready)
    if diluted < 1.0 or _within_tolerance(diluted):
        return current
    return max(current, whole(ratio * ready))


def replicas_for_external_metric(current: int, replicas: int, *, total: float, target: float) -> int:
    """The recommendation for one number of the whole pool with an `AverageValue` target; `replicas` as in status."""
    if replicas == 0:
        return current
    if _within_tolerance(total / (target * replicas)):
        return current
    return whole(total / target)


def _within_tolerance(ratio: float) -> bool:
    return abs(1.0 - ratio) <= TOLERANCE + ROUNDING


class HorizontalPodAutoscaler:
    """The memory of one HPA object: its scale target's size, recommendations and recent changes."""

    def __init__(self, pool: PoolSpec, behavior: Behavior = DEFAULT_BEHAVIOR) -> None:
        self._pool = pool
        self._behavior = behavior
        self._history: PoolHistory | None = None

    def current(self, observed: PoolSignals, now: float) -> int:
        """Size that the HPA set last (`/scale` of its target); at first what is there.

        A pool that is found empty starts at its minimum, at least 1: an HPA never leaves zero by itself.
        """
        if self._history is None:
            return self.restart(observed.replicas or bounded(self._pool, 1), now)
        return self._history.size

    def restart(self, size: int, now: float) -> int:
        """Begin anew at a size that somebody else has set; that size."""
        self._history = PoolHistory.starting(size, now)
        return size

    def resize(self, recommended: int, now: float) -> int:
        """The size after windows, rates and bounds, in the HPA's order."""
        history = self._history or PoolHistory.starting(recommended, now)
        history = history.recommend(recommended, now, self._behavior)
        desired = stabilized(history, recommended, now, self._behavior)
        size = bounded(self._pool, rate_limited(history, desired, now, self._behavior))
        self._history = history.resize(size, now, self._behavior)
        return size

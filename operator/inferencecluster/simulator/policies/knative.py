"""Knative's pod autoscaler (KPA) on concurrency.

Source: Knative Serving `pkg/autoscaler/scaling/autoscaler.go` and the `config-autoscaler` defaults: every 2 s

    desired = ceil(mean concurrency / (target * 70 %)),  within [floor(ready / 2), 1000 * ready]

over a stable window of 60 s and a panic window of 10 % of it. Panic begins when the panic window wants at least twice
the ready replicas, never shrinks, and ends one stable window after that was last so. A scaler that finds more than one
replica begins in panic. Zero, where the pool's minimum is 0, takes a grace period of 30 s.

Knative's default target is 100 concurrent requests whatever the service; the documentation asks for the number that one
replica can handle. Here that is what the performance model holds inside the targets (`ReplicaCapacity.concurrency`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.spec import PoolSpec
from inferencecluster.simulator.policies.capacity import ReplicaCapacity
from inferencecluster.simulator.policies.context import PolicyContext, whole, with_mixed_minimum
from inferencecluster.simulator.queues import sized_pools
from inferencecluster.simulator.signals import PoolSignals, Signals

TICK_SECONDS: Final = 2.0
STABLE_SECONDS: Final = 60.0
PANIC_SECONDS: Final = 6.0
PANIC_THRESHOLD: Final = 2.0
TARGET_UTILIZATION: Final = 0.7
MAX_SCALE_UP_RATE: Final = 1000.0
MAX_SCALE_DOWN_RATE: Final = 2.0
GRACE_SECONDS: Final = 30.0
"""`scale-to-zero-grace-period`."""


class KnativeScaler:
    """The scaler of one pool; `target` is the concurrency of one replica that it steers at."""

    def __init__(self, pool: PoolSpec, target: float) -> None:
        self._pool = pool
        self._target = target
        self._samples: deque[tuple[float, float]] = deque()
        self._panic_since: float | None = None
        self._panic_size = 0
        self._idle_since: float | None = None
        self._started = False

    def size(self, observed: PoolSignals, now: float) -> int:
        """One tick. What waits while no replica serves is concurrency, too: Knative's activator counts its own."""
        if not self._started:
            self._started = True
            if observed.serving > 1:
                self._panic_since, self._panic_size = now, observed.serving
        self._samples.append((now, observed.concurrency))
        while self._samples[0][0] <= now - STABLE_SECONDS:
            self._samples.popleft()
        ready = max(1, observed.serving)
        stable = self._wanted(self._mean(now - STABLE_SECONDS), ready)
        over_panic = self._mean(now - PANIC_SECONDS) / self._target
        self._panic(whole(over_panic) / ready >= PANIC_THRESHOLD, now)
        desired = stable
        if self._panic_since is not None:
            panic = self._wanted(self._mean(now - PANIC_SECONDS), ready)
            self._panic_size = max(self._panic_size, stable, panic)
            desired = self._panic_size
        return min(max(desired, self._floor(desired, now)), self._pool.max_replicas)

    def _panic(self, over: bool, now: float) -> None:
        if over:
            self._panic_since = now
        elif self._panic_since is not None and now > self._panic_since + STABLE_SECONDS:
            self._panic_since, self._panic_size = None, 0

    def _mean(self, since: float) -> float:
        values = [value for time, value in self._samples if time > since]
        return math.fsum(values) / len(values)

    def _wanted(self, concurrency: float, ready: int) -> int:
        lowest = math.floor(ready / MAX_SCALE_DOWN_RATE)
        highest = math.ceil(ready * MAX_SCALE_UP_RATE)
        return min(max(whole(concurrency / self._target), lowest), highest)

    def _floor(self, desired: int, now: float) -> int:
        """The pool's minimum; 1 until the grace period of a pool that may go to zero has passed."""
        if desired > 0:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        idle = self._idle_since is not None and now - self._idle_since >= GRACE_SECONDS
        return self._pool.min_replicas if idle else max(1, self._pool.min_replicas)


class KnativeKpa:
    """One KPA per pool. Knob: the target utilisation, 70 % of the concurrency that one replica holds by default."""

    name: Final = "knative-kpa"
    interval_seconds: Final = TICK_SECONDS

    def __init__(self, context: PolicyContext) -> None:
        self._spec = context.spec
        utilization = TARGET_UTILIZATION if context.target is None else context.target
        capacity = ReplicaCapacity.of(
            context.spec, prompt_tokens=context.prompt_tokens, output_tokens=context.output_tokens
        )
        self._scalers = {
            name: KnativeScaler(context.spec.pool(name), utilization * capacity.concurrency(name))
            for name in sized_pools(context.spec)
        }

    def sizes(self, signals: Signals) -> Mapping[PoolName, int]:
        """One tick of each scaler."""
        sizes = {
            name: scaler.size(signals.pools[name], signals.now) for name, scaler in self._scalers.items()
        }
        return with_mixed_minimum(self._spec, sizes)

"""KEDA on queue length: an external metric with an average value per replica, and activation from and to zero.

Source: KEDA's ScaledObject reference (pollingInterval 30 s, cooldownPeriod 300 s, activationThreshold 0). From one
replica upwards KEDA only feeds an HPA, which asks for the metric at every sync; polling and cool-down concern zero
alone. Zero is reached only where the pool's minimum is 0. Then a pool is active while anything waits *or runs*: the
keep-alive trigger that vLLM's production-stack adds to the queue (its guide "Autoscaling with KEDA"), because a queue
alone is empty most of the time that engines work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.spec import PoolSpec
from inferencecluster.simulator.policies.context import PolicyContext, with_mixed_minimum
from inferencecluster.simulator.policies.hpa import (
    SYNC_SECONDS,
    HorizontalPodAutoscaler,
    replicas_for_external_metric,
)
from inferencecluster.simulator.queues import sized_pools
from inferencecluster.simulator.signals import PoolSignals, Signals

POLLING_SECONDS: Final = 30.0
COOLDOWN_SECONDS: Final = 300.0
QUEUE_TARGET: Final = 5.0
"""Waiting requests per replica. KEDA has no default; vLLM's production-stack guide uses 5 (`vllm:num_requests_waiting`)."""


@dataclass(slots=True)
class _Activation:
    """KEDA's own part: whether the pool is to exist at all."""

    asleep: bool
    polled: float
    busy: float
    """When it was last seen active."""


class QueueHpa:
    """One ScaledObject per pool on the requests that wait for it. Knob: waiting requests per replica, 5 by default."""

    name: Final = "hpa-queue"
    interval_seconds: Final = SYNC_SECONDS

    def __init__(self, context: PolicyContext) -> None:
        self._spec = context.spec
        self._target = QUEUE_TARGET if context.target is None else context.target
        self._scalers = {
            name: HorizontalPodAutoscaler(context.spec.pool(name)) for name in sized_pools(context.spec)
        }
        self._activations: dict[PoolName, _Activation] = {}

    def sizes(self, signals: Signals) -> Mapping[PoolName, int]:
        """One sync of each HPA, and KEDA's poll where it is due."""
        sizes = {
            name: self._size(self._spec.pool(name), scaler, signals) for name, scaler in self._scalers.items()
        }
        return with_mixed_minimum(self._spec, sizes)

    def _size(self, pool: PoolSpec, scaler: HorizontalPodAutoscaler, signals: Signals) -> int:
        observed, now = signals.pools[pool.name], signals.now
        if pool.min_replicas == 0 and self._sleeps(pool, scaler, signals):
            return 0
        current = scaler.current(observed, now)
        recommended = replicas_for_external_metric(
            current, observed.replicas, total=float(observed.waiting_requests), target=self._target
        )
        return scaler.resize(recommended, now)

    def _sleeps(self, pool: PoolSpec, scaler: HorizontalPodAutoscaler, signals: Signals) -> bool:
        """Whether the pool is at zero, after a poll if one is due."""
        observed, now = signals.pools[pool.name], signals.now
        state = self._activations.setdefault(
            pool.name, _Activation(observed.replicas == 0, now - POLLING_SECONDS, now)
        )
        if now < state.polled + POLLING_SECONDS:
            return state.asleep
        state.polled = now
        if observed.waiting_requests > 0 or _running(observed) > 0:
            state.busy = now
            if state.asleep:
                state.asleep = False
                scaler.restart(1, now)
        elif now - state.busy >= COOLDOWN_SECONDS:
            state.asleep = True
        return state.asleep


def _running(observed: PoolSignals) -> int:
    return sum(member.running_requests for member in observed.members)

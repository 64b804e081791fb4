"""AIBrix's application-specific pod autoscaler (APA).

Source: AIBrix `pkg/controller/podautoscaler/{algorithm/apa.go, context/context.go, podautoscaler_controller.go}`: every
10 s, with n replicas and the ratio r of the mean metric to its target

    r > 1.1:  min(ceil(n*r), ceil(2*n))        r < 0.9:  max(ceil(n*r), floor(n/2))        else n

and cool-downs of 0 s up and 300 s down that take the largest recommendation of their window.

AIBrix leaves metric and target to the user. TokenScale's evaluation (arXiv 2512.03416) deploys it on prefill and decode
as concurrency and 70 % of KV memory; both targets here are 70 %, for prefill of what one replica holds within the TTFT
target. A mixed pool goes by KV memory, AIBrix's usual metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.spec import Behavior, PoolSpec, ScalingRules, SelectPolicy
from inferencecluster.simulator.policies.capacity import ReplicaCapacity
from inferencecluster.simulator.policies.context import PolicyContext, whole, with_mixed_minimum
from inferencecluster.simulator.policies.hpa import HorizontalPodAutoscaler
from inferencecluster.simulator.queues import sized_pools
from inferencecluster.simulator.signals import Signals

RESYNC_SECONDS: Final = 10.0
FLUCTUATION_TOLERANCE: Final = 0.1
MAX_SCALE_UP_RATE: Final = 2.0
MAX_SCALE_DOWN_RATE: Final = 2.0
COOLDOWNS: Final = Behavior(
    scale_up=ScalingRules(0.0, SelectPolicy.MAX, ()),
    scale_down=ScalingRules(300.0, SelectPolicy.MAX, ()),
)
"""The cool-down windows mean what the HPA's stabilisation windows mean; the rates are in the algorithm itself."""
TARGET_SHARE: Final = 0.7


def apa_replicas(current: int, ratio: float) -> int:
    """The recommendation for `current` replicas whose metric is `ratio` times its target."""
    if ratio > 1.0 + FLUCTUATION_TOLERANCE:
        return min(whole(current * ratio), math.ceil(MAX_SCALE_UP_RATE * current))
    if ratio < 1.0 - FLUCTUATION_TOLERANCE:
        return max(whole(current * ratio), math.floor(current / MAX_SCALE_DOWN_RATE))
    return current


class AibrixApa:
    """One APA per pool. Knob: the target as a share of KV memory (decode) and of concurrency (prefill), 70 %."""

    name: Final = "aibrix-apa"
    interval_seconds: Final = RESYNC_SECONDS

    def __init__(self, context: PolicyContext) -> None:
        self._spec = context.spec
        self._target = TARGET_SHARE if context.target is None else context.target
        capacity = ReplicaCapacity.of(
            context.spec, prompt_tokens=context.prompt_tokens, output_tokens=context.output_tokens
        )
        self._queue = capacity.queue_within_ttft
        self._scalers = {
            name: HorizontalPodAutoscaler(context.spec.pool(name), COOLDOWNS)
            for name in sized_pools(context.spec)
        }

    def sizes(self, signals: Signals) -> Mapping[PoolName, int]:
        """One reconciliation of each pool; a pool without a serving replica has no metric and keeps its size."""
        sizes: dict[PoolName, int] = {}
        for name, scaler in self._scalers.items():
            current = scaler.current(signals.pools[name], signals.now)
            recommended = current
            if signals.pools[name].serving > 0:
                recommended = apa_replicas(
                    current, self._share(self._spec.pool(name), signals) / self._target
                )
            sizes[name] = scaler.resize(recommended, signals.now)
        return with_mixed_minimum(self._spec, sizes)

    def _share(self, pool: PoolSpec, signals: Signals) -> float:
        observed = signals.pools[pool.name]
        if pool.name is not PoolName.PREFILL:
            return observed.kv_share
        return observed.concurrency / observed.serving / self._queue

"""HeteroScale: one signal, decode tokens per second, scales both pools at a fixed ratio.

Source: "Taming the Chaos: Coordinated Autoscaling for Heterogeneous and Disaggregated LLM Inference", arXiv 2508.19559:
proportional control on decode TPS (out if R > 1 + theta, in if R < 1 - theta; prefill and decode always together, at the
ratio of the stress test), and a latency safety net that adds 10 % at a moderate and 20 % at a severe breach of TBT.

    R = decode TPS / (decode replicas * expected TPS per replica)        decode = ceil(replicas * R)
    prefill = ceil(decode * ratio)

The paper gives neither thresholds nor cool-downs. theta 0.1, severe at 1.2 times the target, and cool-downs of 180 s out
and 600 s in are those of a third-party implementation, as is the interval of 10 s. Expected TPS and the ratio come from
the performance model at the workload's mean lengths, which is what a stress test would measure. Replicas on their way
count, otherwise every interval of a boot would ask for them again. The paper's small step down on low latency cannot
act here: proportional control already decides when to shrink.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.simulator.policies.capacity import ReplicaCapacity
from inferencecluster.simulator.policies.context import (
    ROUNDING,
    PolicyContext,
    bounded,
    whole,
    with_mixed_minimum,
)
from inferencecluster.simulator.signals import Signals

INTERVAL_SECONDS: Final = 10.0
THRESHOLD: Final = 0.1
MODERATE_STEP: Final = 0.1
SEVERE_STEP: Final = 0.2
SEVERE_BREACH: Final = 1.2
OUT_COOLDOWN_SECONDS: Final = 180.0
IN_COOLDOWN_SECONDS: Final = 600.0
EXPECTED_SHARE: Final = 0.8
"""Share of the stress test's highest TPS that is expected of a replica: at 1.0 the scale-out threshold, 1.1 times as
much, would lie beyond what any replica can do. 0.8 leaves it at 88 %."""


class HeteroScale:
    """Coordinated scaling. Knob: the share of a replica's highest TPS to steer at, 80 % by default."""

    name: Final = "heteroscale"
    interval_seconds: Final = INTERVAL_SECONDS

    def __init__(self, context: PolicyContext) -> None:
        self._spec = context.spec
        capacity = ReplicaCapacity.of(
            context.spec, prompt_tokens=context.prompt_tokens, output_tokens=context.output_tokens
        )
        share = EXPECTED_SHARE if context.target is None else context.target
        self._expected = share * capacity.decode_tokens_per_second
        self._ratio = capacity.decodes_per_second / capacity.prefills_per_second
        self._out_at = -math.inf
        self._changed_at = -math.inf

    def sizes(self, signals: Signals) -> Mapping[PoolName, int]:
        """Both pools together, or neither."""
        replicas = signals.pools[PoolName.DECODE].replicas
        if replicas == 0 or signals.flow.seconds <= 0:
            return with_mixed_minimum(self._spec, {})
        now = signals.now
        load = signals.decoded_tokens / signals.flow.seconds / (replicas * self._expected)
        decode = replicas
        if abs(load - 1.0) > THRESHOLD + ROUNDING:
            decode = whole(replicas * load)
        decode = max(decode, whole(replicas * (1.0 + self._breach(signals))))
        if decode > replicas and now - self._out_at >= OUT_COOLDOWN_SECONDS:
            self._out_at = self._changed_at = now
        elif decode < replicas and now - self._changed_at >= IN_COOLDOWN_SECONDS:
            self._changed_at = now
        else:
            return with_mixed_minimum(self._spec, {})
        return with_mixed_minimum(
            self._spec,
            {
                PoolName.PREFILL: bounded(self._spec.pool(PoolName.PREFILL), whole(decode * self._ratio)),
                PoolName.DECODE: bounded(self._spec.pool(PoolName.DECODE), decode),
            },
        )

    def _breach(self, signals: Signals) -> float:
        """Growth that the measured time between tokens asks for: none, moderate or severe; never a step down."""
        measured, target = signals.mean_itl_seconds, self._spec.slo.itl_seconds
        if isinstance(measured, Missing) or measured <= target:
            # Without a breach nothing but proportional control may shrink the pool.
            return -1.0
        return SEVERE_STEP if measured > SEVERE_BREACH * target else MODERATE_STEP

"""NVIDIA Dynamo's planner in throughput (SLA) mode: forecast, divide by what one engine serves, round up.

Source: ai-dynamo/dynamo `components/src/dynamo/planner/core/{throughput_scaling,perf_model/prefill,perf_model/decode}.py`
and `config/defaults.py`, mid 2026:

    every 180 s, with forecasts of requests, prompt and output length for the next interval
    prefill = max(ceil(rps / prefills_per_second), ceil(TTFT alone / TTFT target) if that is missed, 1)
    decode  = max(ceil(rps / decodes_per_second), 1)

An engine's rates come from regressions on measured steps; here they are the performance model itself, which is what a
perfect regression would find. Nothing shrinks late and nothing holds: a lower forecast is followed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.simulator.policies.capacity import ReplicaCapacity
from inferencecluster.simulator.policies.context import PolicyContext, bounded, whole, with_mixed_minimum
from inferencecluster.simulator.policies.predictors import AutoRegressive, Predictor
from inferencecluster.simulator.signals import Signals

ADJUSTMENT_SECONDS: Final = 180.0
"""`throughput_adjustment_interval`."""


class DynamoThroughput:
    """Prefill and decode from one forecast. `predictor` makes the three predictors (Dynamo's default is ARIMA)."""

    name: Final = "dynamo-sla"
    interval_seconds: Final = ADJUSTMENT_SECONDS

    def __init__(
        self, context: PolicyContext, *, predictor: Callable[[], Predictor] = AutoRegressive
    ) -> None:
        self._spec = context.spec
        self._requests = predictor()
        self._prompt = predictor()
        self._output = predictor()

    def sizes(self, signals: Signals) -> Mapping[PoolName, int]:
        """One adjustment; sizes hold while the forecast has no requests with a length, as upstream."""
        flow = signals.flow
        self._requests.add(flow.requests)
        self._prompt.add(flow.prompt_tokens / flow.requests if flow.requests > 0 else 0.0)
        self._output.add(flow.completed_output_tokens / flow.completed if flow.completed > 0 else 0.0)
        prompt, output = self._prompt.next_value(), self._output.next_value()
        if flow.seconds <= 0 or prompt <= 0 or output <= 0:
            return with_mixed_minimum(self._spec, {})
        rate = self._requests.next_value() / flow.seconds
        capacity = ReplicaCapacity.of(self._spec, prompt_tokens=prompt, output_tokens=output)
        too_slow = capacity.prefill_seconds / capacity.ttft_seconds
        prefill = max(whole(rate / capacity.prefills_per_second), whole(too_slow) if too_slow > 1 else 1)
        decode = whole(rate / capacity.decodes_per_second)
        return with_mixed_minimum(
            self._spec,
            {
                PoolName.PREFILL: bounded(self._spec.pool(PoolName.PREFILL), prefill),
                PoolName.DECODE: bounded(self._spec.pool(PoolName.DECODE), decode),
            },
        )

"""HPAs on what Pods report: GPU utilisation as exporters have it, and an honest busy share.

Each pool has its own HPA (`hpa`), with the default behaviour.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.simulator.policies.context import PolicyContext, with_mixed_minimum
from inferencecluster.simulator.policies.hpa import (
    SYNC_SECONDS,
    HorizontalPodAutoscaler,
    replicas_for_pod_metric,
)
from inferencecluster.simulator.queues import sized_pools
from inferencecluster.simulator.signals import PoolSignals, Signals

UTILIZATION_TARGET: Final = 0.8
"""The usual target of a GPU HPA; HPA examples for CPU use 50 to 80 %."""


class _PodMetricHpa(ABC):
    """One HPA per pool on a share that every replica reports."""

    interval_seconds: Final = SYNC_SECONDS

    def __init__(self, context: PolicyContext) -> None:
        self._spec = context.spec
        self._target = UTILIZATION_TARGET if context.target is None else context.target
        self._scalers = {
            name: HorizontalPodAutoscaler(context.spec.pool(name)) for name in sized_pools(context.spec)
        }

    def sizes(self, signals: Signals) -> Mapping[PoolName, int]:
        """One sync of each HPA."""
        sizes: dict[PoolName, int] = {}
        for name, scaler in self._scalers.items():
            observed = signals.pools[name]
            recommended = replicas_for_pod_metric(
                scaler.current(observed, signals.now),
                observed,
                mean=self._share(observed),
                target=self._target,
            )
            sizes[name] = scaler.resize(recommended, signals.now)
        return with_mixed_minimum(self._spec, sizes)

    @abstractmethod
    def _share(self, observed: PoolSignals) -> float:
        """The metric: its mean over serving replicas."""


class GpuUtilizationHpa(_PodMetricHpa):
    """HPA on `DCGM_FI_DEV_GPU_UTIL`, the share of time with any kernel running: what people deploy.

    Knob: the target, 80 % by default. The metric is near 1 as soon as one sequence decodes, which is why llm-d and
    HeteroScale (arXiv 2508.19559, its study of signals) advise against it.
    """

    name: Final = "hpa-gpu-utilization"

    def _share(self, observed: PoolSignals) -> float:
        return observed.kernel_utilization


class BusyShareHpa(_PodMetricHpa):
    """HPA on the busy share that an ideal exporter would report: the strongest HPA there can be.

    Knob: the target, 80 % by default; the benchmark tunes it for each trace, with hindsight.
    """

    name: Final = "hpa-busy"

    def _share(self, observed: PoolSignals) -> float:
        return observed.busy_share

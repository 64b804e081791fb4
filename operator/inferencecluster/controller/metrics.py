"""The operator's own metrics, in a registry of their own: one object, so that tests and processes do not share any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.core.fleet import Lifecycle, PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import NOT_CONFIGURED, Observation
from inferencecluster.core.status import (
    ClusterStatus,
    Condition,
    ConditionStatus,
    ConditionType,
    DecisionRecord,
)
from inferencecluster.core.useful import useful_gpus

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
_PREFIX: Final = "inferencecluster"
_CLUSTER: Final = ("namespace", "cluster")
_POOL: Final = (*_CLUSTER, "pool")
_SIGNALS: Final = ("routers", "metrics", "capacity")
_STATES: Final = ("ready", "starting", "draining", "borrowed")
_DURATION_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""From one look without a write to one that waits for every timeout."""

_LONGEST_STEP_SECONDS: Final = 60.0
"""GPU seconds are counted between looks; a longer gap is one in which this process did not look."""


class OperatorMetrics:
    """What Prometheus reads from this process."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        self._about_the_process()
        self._about_sizes()
        self._about_health()
        self._counted_until: dict[ObjectKey, float] = {}
        self._reasons: dict[ObjectKey, dict[ConditionType, str]] = {}

    def _about_the_process(self) -> None:
        self.leader = self._gauge("operator_leader", "1 while this process leads, else 0.")
        self.reconciles = self._counter("reconcile_total", "Looks at clusters by how they ended.", "result")
        self.reconcile_seconds = Histogram(
            f"{_PREFIX}_reconcile_duration_seconds",
            "Time from observing a cluster to having reported.",
            buckets=_DURATION_BUCKETS,
            registry=self.registry,
        )
        self.writes = self._counter("write_errors_total", "Writes that the API server refused.", "error")

    def _about_sizes(self) -> None:
        self.decisions = self._counter("decisions_total", "Changes of a pool's size.", *_POOL, "reason")
        self.gpu_seconds = self._counter(
            "gpu_seconds_total", "GPUs held by existing replicas, over time.", *_CLUSTER
        )
        self._replicas = self._gauge("pool_replicas", "Replicas of a pool by state.", *_POOL, "state")
        self._desired = self._gauge("pool_desired_replicas", "Replicas that a pool should have.", *_POOL)
        self._recommended = self._gauge(
            "pool_recommended_replicas", "Replicas that sizing would choose.", *_POOL
        )
        self._gpus = self._gauge("gpus", "GPUs of all existing replicas.", *_CLUSTER)
        self._budget = self._gauge("budget_gpus", "The cluster's cap on GPUs.", *_CLUSTER)
        self._useful = self._gauge(
            "pool_useful_gpus",
            "Ready GPUs of a pool times the activity of what bounds its phase, where it is measured: the tensor pipe in prefill, "
            "the memory bus in decode, the busier one in mixed.",
            *_POOL,
        )
        self._price = self._gauge(
            "pool_price_per_hour",
            "Price of a pool's existing replicas for an hour, where pricePerGpuHour tells.",
            *_POOL,
        )
        self._watts = self._gauge(
            "pool_watts", "Power of a pool's existing replicas under load, where wattsPerGpu tells.", *_POOL
        )

    def _about_health(self) -> None:
        self._missing = self._gauge("signal_missing", "1 while a signal cannot be read.", *_CLUSTER, "signal")
        self._condition = self._gauge(
            "condition",
            "1 while a condition is True, 0 while it is not, with its reason.",
            *(*_CLUSTER, "type", "reason"),
        )
        self.forced_drains = self._counter(
            "forced_drains_total",
            "Replicas that were deleted at their drain deadline, with work in flight or unknown.",
            *_CLUSTER,
        )
        self._latency = self._gauge(
            "latency_seconds",
            "Latency at the percentile of the SLO, as sizing sees it.",
            *(*_CLUSTER, "latency"),
        )
        self._latency_target = self._gauge(
            "latency_target_seconds", "Latency that the SLO asks for.", *_CLUSTER, "latency"
        )

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"{_PREFIX}_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}_{name}", text, labels, registry=self.registry)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)

    def observed(self, key: ObjectKey, observation: Observation) -> None:
        """Which signals this look had, and the latencies that it saw beside their targets."""
        for signal in _SIGNALS:
            source = getattr(observation, signal)
            missing = isinstance(source, Missing) and source.reason != NOT_CONFIGURED
            self._missing.labels(key.namespace, key.name, signal).set(missing)
        self._spending(key, observation)
        self._use(key, observation)
        metrics, slo = observation.metrics, observation.spec.slo
        for latency, target in (("ttft", slo.ttft_seconds), ("itl", slo.itl_seconds)):
            labels = (key.namespace, key.name, latency)
            self._latency_target.labels(*labels).set(target)
            measured = metrics if isinstance(metrics, Missing) else getattr(metrics, f"{latency}_seconds")
            if isinstance(measured, Missing):
                self._latency.remove(*labels)
            else:
                self._latency.labels(*labels).set(measured)

    def _spending(self, key: ObjectKey, observation: Observation) -> None:
        """What the existing replicas cost and draw; no series of what the spec does not tell."""
        for pool in observation.spec.pools:
            gpus = sum(replica.gpus for replica in observation.replicas if replica.home is pool.name)
            labels = (key.namespace, key.name, pool.name.value)
            for gauge, each in ((self._price, pool.price_per_gpu_hour), (self._watts, pool.watts_per_gpu)):
                if each is None:
                    gauge.remove(*labels)
                else:
                    gauge.labels(*labels).set(gpus * each)

    def _use(self, key: ObjectKey, observation: Observation) -> None:
        """Useful GPUs; no series of a pool whose utilisation is not known. What boots is not counted: it may hold GPUs, but does nothing."""
        metrics = observation.metrics
        known = {} if isinstance(metrics, Missing) else metrics.utilization
        for pool in PoolName:
            labels = (key.namespace, key.name, pool.value)
            if pool not in known:
                self._useful.remove(*labels)
                continue
            ready = (
                replica.gpus
                for replica in observation.replicas
                if replica.home is pool and replica.lifecycle is Lifecycle.READY
            )
            self._useful.labels(*labels).set(useful_gpus(pool, sum(ready), known[pool]))

    def reported(self, key: ObjectKey, status: ClusterStatus, *, at: float) -> None:
        """Sizes after one look at monotonic time `at`, and the GPU time since the look before."""
        for pool in status.pools:
            labels = (key.namespace, key.name, pool.name.value)
            self._desired.labels(*labels).set(pool.desired)
            self._recommended.labels(*labels).set(pool.recommended)
            for state in _STATES:
                self._replicas.labels(*labels, state).set(getattr(pool, state))
        self._gpus.labels(key.namespace, key.name).set(status.gpus)
        self._budget.labels(key.namespace, key.name).set(status.budget_gpus)
        elapsed = min(_LONGEST_STEP_SECONDS, max(0.0, at - self._counted_until.get(key, at)))
        self._counted_until[key] = at
        self.gpu_seconds.labels(key.namespace, key.name).inc(status.gpus * elapsed)
        self.conditions(key, status.conditions)

    def conditions(self, key: ObjectKey, conditions: Sequence[Condition]) -> None:
        """What is told of the cluster; series of other reasons go."""
        told = {condition.type: condition.reason for condition in conditions}
        for kind, reason in self._reasons.get(key, {}).items():
            if told.get(kind) != reason:
                self._condition.remove(key.namespace, key.name, kind.value, reason)
        for condition in conditions:
            series = self._condition.labels(key.namespace, key.name, condition.type.value, condition.reason)
            series.set(condition.status is ConditionStatus.TRUE)
        self._reasons[key] = told

    def decided(self, key: ObjectKey, record: DecisionRecord) -> None:
        """One change of size."""
        self.decisions.labels(key.namespace, key.name, record.pool.value, record.reason).inc()

    def forget(self, key: ObjectKey) -> None:
        """Drop every series of a cluster that is gone."""
        self._counted_until.pop(key, None)
        self._reasons.pop(key, None)
        cluster = {"namespace": key.namespace, "cluster": key.name}
        for metric in (
            *(self._gpus, self._budget, self.gpu_seconds, self._missing, self.decisions),
            *(self._replicas, self._desired, self._recommended, self._useful, self._price, self._watts),
            *(self._condition, self.forced_drains, self._latency, self._latency_target),
        ):
            metric.remove_by_labels(cluster)

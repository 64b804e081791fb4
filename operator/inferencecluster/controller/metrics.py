"""The operator's own metrics, in a registry of their own: one object, so that tests and processes do not share any."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Observation
from inferencecluster.core.status import ClusterStatus, DecisionRecord

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
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
        prefix, registry = "inferencecluster", self.registry
        self.leader: Final = Gauge(
            f"{prefix}_operator_leader", "1 while this process leads, else 0.", registry=registry
        )
        self.reconciles: Final = Counter(
            f"{prefix}_reconcile_total",
            "Looks at clusters by how they ended.",
            ("result",),
            registry=registry,
        )
        self.reconcile_seconds: Final = Histogram(
            f"{prefix}_reconcile_duration_seconds",
            "Time from observing a cluster to having reported.",
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self.writes: Final = Counter(
            f"{prefix}_write_errors_total",
            "Writes that the API server refused.",
            ("error",),
            registry=registry,
        )
        self.decisions: Final = Counter(
            f"{prefix}_decisions_total", "Changes of a pool's size.", (*_POOL, "reason"), registry=registry
        )
        self.gpu_seconds: Final = Counter(
            f"{prefix}_gpu_seconds_total",
            "GPUs held by existing replicas, over time.",
            _CLUSTER,
            registry=registry,
        )
        self._replicas = Gauge(
            f"{prefix}_pool_replicas", "Replicas of a pool by state.", (*_POOL, "state"), registry=registry
        )
        self._desired = Gauge(
            f"{prefix}_pool_desired_replicas", "Replicas that a pool should have.", _POOL, registry=registry
        )
        self._recommended = Gauge(
            f"{prefix}_pool_recommended_replicas",
            "Replicas that sizing would choose.",
            _POOL,
            registry=registry,
        )
        self._gpus = Gauge(f"{prefix}_gpus", "GPUs of all existing replicas.", _CLUSTER, registry=registry)
        self._budget = Gauge(
            f"{prefix}_budget_gpus", "The cluster's cap on GPUs.", _CLUSTER, registry=registry
        )
        self._missing = Gauge(
            f"{prefix}_signal_missing",
            "1 while a signal cannot be read.",
            (*_CLUSTER, "signal"),
            registry=registry,
        )
        self._counted_until: dict[ObjectKey, float] = {}

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)

    def observed(self, key: ObjectKey, observation: Observation) -> None:
        """Which signals this look had."""
        for signal in _SIGNALS:
            missing = isinstance(getattr(observation, signal), Missing)
            self._missing.labels(key.namespace, key.name, signal).set(missing)

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

    def decided(self, key: ObjectKey, record: DecisionRecord) -> None:
        """One change of size."""
        self.decisions.labels(key.namespace, key.name, record.pool.value, record.reason).inc()

    def forget(self, key: ObjectKey) -> None:
        """Drop every series of a cluster that is gone."""
        self._counted_until.pop(key, None)
        cluster = {"namespace": key.namespace, "cluster": key.name}
        for metric in (self._gpus, self._budget, self.gpu_seconds, self._missing, self.decisions):
            metric.remove_by_labels(cluster)
        for metric in (self._replicas, self._desired, self._recommended):
            metric.remove_by_labels(cluster)

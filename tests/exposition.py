"""What Prometheus reads of an operator that knows one cluster, and of a router that knows one replica."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from tests.strategies import make_flow, make_observation, make_spec

from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.controller.metrics import OperatorMetrics
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import MetricsSample, PoolUtilization
from inferencecluster.core.status import (
    ClusterStatus,
    Condition,
    ConditionStatus,
    ConditionType,
    DecisionRecord,
    PoolStatus,
)
from inferencecluster.router.dispatcher import Dispatcher
from inferencecluster.router.ledger import Ledger
from inferencecluster.router.metrics import RouterMetrics
from inferencecluster.router.sources import ReplicaRecord
from inferencecluster.router.traffic import Traffic

REPLICA = ReplicaRecord(
    name="demo-engine-0",
    uid="u",
    home=PoolName.PREFILL,
    revision="r",
    url="http://127.0.0.1:1",
    ready=True,
    fenced=False,
    kv_capacity_tokens=1000,
    max_batch_size=4,
)


def operator_families() -> list[Metric]:
    """Everything that the operator exposes, with samples."""
    key = ObjectKey("team", "demo")
    operator = OperatorMetrics()
    use = dict.fromkeys(PoolName, PoolUtilization(0.3, 0.9))
    seen = MetricsSample(make_flow(1.0), ttft_seconds=0.3, itl_seconds=0.03, utilization=use)
    spec = make_spec()
    prefill, decode, mixed = (replace(pool, price_per_gpu_hour=2.5, watts_per_gpu=700) for pool in spec.pools)
    priced = replace(spec, pools=(prefill, decode, mixed))
    operator.observed(key, make_observation(priced, metrics=seen))
    told = tuple(Condition(kind, ConditionStatus.FALSE, "Reason", "") for kind in ConditionType)
    shown = [PoolStatus(name, 1, 1, 1, 0, 0, 0, 4, Missing("No")) for name in PoolName]
    operator.reported(key, ClusterStatus((shown[0], shown[1], shown[2]), told, 12, 16, ()), at=0.0)
    operator.decided(key, DecisionRecord(0.0, PoolName.DECODE, 1, 2, "Why", "", ()))
    operator.forced_drains.labels(key.namespace, key.name)
    operator.reconciles.labels("Success")
    operator.writes.labels("Conflict")
    return list(text_string_to_metric_families(operator.render().decode()))


def router_families() -> list[Metric]:
    """Everything that a router exposes, with samples."""
    return list(text_string_to_metric_families(asyncio.run(_router_text()).decode()))


async def _router_text() -> bytes:
    idle = cast("Dispatcher", SimpleNamespace(held_requests=0, held_tokens=0))
    ledger = Ledger(asyncio.get_running_loop())
    ledger.update(None, REPLICA)
    labels = {"cluster": "demo", "namespace": "team"}
    return RouterMetrics(Traffic(), ledger, idle, labels=labels, model=str).render(loop_time=0.0)

"""A cluster that is being deleted: every replica drains, whatever its spec says by now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from inferencecluster.api.scaling import Scaling
from inferencecluster.core.fleet import PoolName, Replica, gpus_held
from inferencecluster.core.missing import Missing
from inferencecluster.core.perfmodel import DecodeModel, PerformanceModel, PrefillModel
from inferencecluster.core.spec import (
    Behavior,
    ClusterSpec,
    PoolSpec,
    ScalingMode,
    ScalingRules,
    SelectPolicy,
    Slo,
)
from inferencecluster.core.status import (
    ClusterStatus,
    Condition,
    ConditionStatus,
    ConditionType,
    DrainStatus,
    PoolStatus,
)
from inferencecluster.core.transition import drain_deadline, waiting_for

DELETING: Final = "Deleting"


def spec_for_deletion(manifest: Mapping[str, Any]) -> ClusterSpec:
    """What a drain needs of a spec that this operator cannot read: its deadline, and no replica any more.

    So that a cluster with a broken spec can be deleted without cutting what it serves.
    """
    scaling = manifest.get("spec", {}).get("scaling", {})
    deadline = scaling.get("drainTimeoutSeconds", Scaling().drain_timeout_seconds)
    idle = PerformanceModel(PrefillModel(0.0, 0.0, 0.0), DecodeModel(0.0, 0.0, 0.0), kv_capacity_tokens=1)
    prefill, decode, mixed = (PoolSpec(name, 0, 0, 1, idle) for name in PoolName)
    still = ScalingRules(0.0, SelectPolicy.DISABLED, ())
    return ClusterSpec(
        generation=manifest["metadata"].get("generation", 0),
        revision="",
        budget_gpus=0,
        slo=Slo(percentile=90, ttft_seconds=1.0, itl_seconds=1.0),
        pools=(prefill, decode, mixed),
        mode=ScalingMode.FIXED,
        behavior=Behavior(still, still),
        interval_seconds=1.0,
        boot_seconds=1.0,
        startup_deadline_seconds=1.0,
        drain_deadline_seconds=float(deadline),
        overflow_tokens=0,
    )


def deletion_status(spec: ClusterSpec, replicas: tuple[Replica, ...]) -> ClusterStatus:
    """Sizes on their way to nothing, and what each replica waits for."""
    prefill, decode, mixed = (_leaving(name, replicas) for name in PoolName)
    message = f"the cluster is being deleted, {len(replicas)} replicas drain"
    return ClusterStatus(
        pools=(prefill, decode, mixed),
        conditions=(Condition(ConditionType.READY, ConditionStatus.FALSE, DELETING, message),),
        gpus=gpus_held(replicas),
        budget_gpus=spec.budget_gpus,
        draining=tuple(
            DrainStatus(
                replica=replica.name,
                pool=replica.home,
                since=replica.fenced_at,
                deadline=drain_deadline(replica.fenced_at, spec),
                waiting_for=waiting_for(replica),
            )
            for replica in replicas
            if replica.fenced_at is not None
        ),
    )


def _leaving(name: PoolName, replicas: tuple[Replica, ...]) -> PoolStatus:
    mine = [replica for replica in replicas if replica.home is name]
    return PoolStatus(
        name=name,
        desired=0,
        recommended=0,
        ready=sum(replica.is_serving for replica in mine),
        starting=sum(replica.is_starting for replica in mine),
        draining=sum(replica.is_leaving for replica in mine),
        borrowed=0,
        gpus=sum(replica.gpus for replica in mine),
        capacity=Missing(DELETING),
    )

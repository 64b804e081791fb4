"""What the builders need to know beside the custom resource."""

from __future__ import annotations

from dataclasses import dataclass

from inferencecluster.api.inferencecluster import InferenceCluster
from inferencecluster.api.pools import Pool
from inferencecluster.api.translate import revision_of, to_core
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.perfmodel import PerformanceModel
from inferencecluster.core.spec import PoolSpec


@dataclass(frozen=True, slots=True)
class Platform:
    """What the installation of the operator decides, and no user can."""

    router_image: str
    """Image of the routers of clusters that name none: the operator's own."""
    router_cluster_role: str
    """ClusterRole, made by the chart, that each cluster's router is bound to in its namespace."""
    emulated_faults: bool = False
    """Emulated engines serve /faults; for tests only, since everybody who reaches an engine can then break it."""


@dataclass(frozen=True, slots=True)
class PoolContext:
    """Everything that the replicas of one pool and revision have in common."""

    cluster: InferenceCluster
    pool: PoolName
    revision: str
    shape: PoolSpec
    """The pool as the core knows it."""
    platform: Platform

    @property
    def itl_seconds(self) -> float:
        """The cluster's target for the time between two tokens."""
        return self.cluster.spec.slo.itl_milliseconds / 1000

    @property
    def performance(self) -> PerformanceModel:
        """Speed and capacity of one replica of the pool."""
        return self.shape.performance

    @property
    def pool_spec(self) -> Pool:
        """The pool as the user wrote it. Raises `SpecError` when the cluster has no such pool."""
        pools = self.cluster.spec.pools
        found = {
            PoolName.PREFILL: pools.prefill,
            PoolName.DECODE: pools.decode,
            PoolName.MIXED: pools.mixed,
        }[self.pool]
        if found is None:
            raise SpecError(
                field=f"spec.pools.{self.pool}",
                value="absent",
                rule="only a pool that exists has replicas",
                advice="add the pool, or name one that the cluster has",
            )
        return found


def pool_context(cluster: InferenceCluster, pool: PoolName, platform: Platform) -> PoolContext:
    """The context of `pool`'s replicas under the cluster's present spec.

    Raises `SpecError` when the pool is absent, or when the speed of a pool cannot be told.
    """
    revision = revision_of(cluster)
    context = PoolContext(
        cluster=cluster,
        pool=pool,
        revision=revision,
        shape=to_core(cluster, revision=revision).pool(pool),
        platform=platform,
    )
    if context.pool_spec.max_replicas == 0:
        raise SpecError(
            field=f"spec.pools.{pool}.maxReplicas",
            value=0,
            rule="the pool is switched off and has no replicas",
            advice="raise maxReplicas, or name another pool",
        )
    return context

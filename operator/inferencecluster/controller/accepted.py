"""A spec that was read, translated and rendered without an error: what a cluster's fleet is built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inferencecluster.adapters.kube_resources import Manifest
from inferencecluster.adapters.nodes import Placement
from inferencecluster.api.inferencecluster import InferenceCluster
from inferencecluster.api.pools import Pool
from inferencecluster.api.translate import revision_of, to_core
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.render.context import Platform, PoolContext
from inferencecluster.render.replica import render_engine_config, render_replica
from inferencecluster.render.router import render_router


@dataclass(frozen=True, slots=True)
class AcceptedSpec:
    """One generation of a cluster, good to act on."""

    cluster: InferenceCluster
    spec: ClusterSpec
    contexts: Mapping[PoolName, PoolContext]
    """Pools that may have replicas."""
    placements: Mapping[PoolName, Placement]
    children: tuple[Manifest, ...]
    """Everything that the cluster owns beside replicas and EnginePools, in the order in which to apply it."""

    @property
    def gpu_resource_names(self) -> frozenset[str]:
        """Names that the cluster's GPUs are requested by."""
        return frozenset(placement.gpu_resource_name for placement in self.placements.values())


def accept(cluster: InferenceCluster, platform: Platform) -> AcceptedSpec:
    """Translate and render everything once. Raises `SpecError` for a spec that no fleet can be built from."""
    revision = revision_of(cluster)
    spec = to_core(cluster, revision=revision)
    contexts = {
        name: PoolContext(cluster, name, revision, spec.pool(name), platform)
        for name, pool in _pools(cluster).items()
        if pool.max_replicas > 0
    }
    # Interchangeable pools share one.
    configs = {config["metadata"]["name"]: config for config in map(render_engine_config, contexts.values())}
    return AcceptedSpec(
        cluster=cluster,
        spec=spec,
        contexts=contexts,
        placements={name: _placement(context) for name, context in contexts.items()},
        children=(
            *configs.values(),
            *render_router(cluster, platform),
        ),
    )


def _pools(cluster: InferenceCluster) -> dict[PoolName, Pool]:
    pools = cluster.spec.pools
    found = {PoolName.PREFILL: pools.prefill, PoolName.DECODE: pools.decode, PoolName.MIXED: pools.mixed}
    return {name: pool for name, pool in found.items() if pool is not None}


def _placement(context: PoolContext) -> Placement:
    pod = render_replica(context, ordinal=0)
    return Placement.of_pod_spec(pod["spec"], gpu_resource_name=context.pool_spec.gpu_resource_name)

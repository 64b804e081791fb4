"""The EnginePool: the child through which one pool is scaled in External mode."""

from __future__ import annotations

from inferencecluster.api.inferencecluster import InferenceCluster
from inferencecluster.api.names import API_VERSION, LABEL_POOL, POOL_KIND
from inferencecluster.core.fleet import PoolName
from inferencecluster.render.manifest import Manifest, component_labels, object_metadata


def enginepool_name(cluster_name: str, pool: PoolName) -> str:
    """Name of the pool's child."""
    return f"{cluster_name}-{pool}"


def render_enginepool(cluster: InferenceCluster, pool: PoolName, *, replicas: int | None) -> Manifest:
    """The child of `pool`. `replicas` is the size to seed or keep; None leaves the field to its other writer.

    A server-side apply without the field gives up its ownership, so External mode seeds once and then passes None.
    """
    specification: Manifest = {"clusterRef": {"name": cluster.metadata.name}, "pool": pool.value}
    if replicas is not None:
        specification["replicas"] = replicas
    return {
        "apiVersion": API_VERSION,
        "kind": POOL_KIND,
        "metadata": object_metadata(
            cluster,
            name=enginepool_name(cluster.metadata.name, pool),
            labels={**component_labels(cluster, "pool"), LABEL_POOL: pool.value},
        ),
        "spec": specification,
    }

"""Where a replica may run, in the fields of a Pod."""

from __future__ import annotations

from typing import Final

from inferencecluster.api.inferencecluster import InferenceCluster
from inferencecluster.api.names import COMPONENT_ENGINE, LABEL_POOL
from inferencecluster.api.placement import Toleration, TolerationOperator
from inferencecluster.api.pools import Pool
from inferencecluster.core.fleet import PoolName
from inferencecluster.render.manifest import Manifest, selector_labels

GPU_TAINT: Final = "nvidia.com/gpu"
"""Key of the taint that keeps other work off GPU nodes; its value differs between clouds, so none is asked for."""


def pool_tolerations(pool: Pool) -> tuple[Toleration, ...]:
    """What a replica tolerates, and what capacity is to be counted with.

    The taint of GPU nodes is tolerated unless the user speaks of it: then the user's own words hold.
    """
    if any(toleration.key in (None, GPU_TAINT) for toleration in pool.tolerations):
        return pool.tolerations
    return (*pool.tolerations, Toleration(key=GPU_TAINT, operator=TolerationOperator.EXISTS))


def placement(cluster: InferenceCluster, name: PoolName | None, pool: Pool) -> Manifest:
    """`nodeSelector`, `tolerations`, `affinity` and `topologySpreadConstraints` of a replica's Pod spec.

    Replicas are spread among those of the pool `name`; None: among all of the cluster.
    """
    fields: Manifest = {
        "tolerations": [
            toleration.model_dump(mode="json", by_alias=True, exclude_none=True)
            for toleration in pool_tolerations(pool)
        ]
    }
    if pool.node_selector:
        fields["nodeSelector"] = dict(pool.node_selector)
    if pool.affinity is not None:
        fields["affinity"] = pool.affinity.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    if pool.topology_spread:
        of_pool = {LABEL_POOL: name.value} if name is not None else {}
        selector = {"matchLabels": {**selector_labels(cluster, COMPONENT_ENGINE), **of_pool}}
        fields["topologySpreadConstraints"] = [
            {**constraint.model_dump(mode="json", by_alias=True), "labelSelector": selector}
            for constraint in pool.topology_spread
        ]
    return fields

"""Where a Pod may run and what it refers to, in its own fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from inferencecluster.api.engine import LocalObjectReference
from inferencecluster.api.inferencecluster import InferenceCluster
from inferencecluster.api.names import COMPONENT_ENGINE, LABEL_POOL
from inferencecluster.api.placement import Affinity, Toleration, TolerationOperator
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
    fields = admitted_nodes(pool.node_selector, pool_tolerations(pool), pool.affinity)
    if pool.topology_spread:
        of_pool = {LABEL_POOL: name.value} if name is not None else {}
        selector = {"matchLabels": {**selector_labels(cluster, COMPONENT_ENGINE), **of_pool}}
        fields["topologySpreadConstraints"] = [
            {**constraint.model_dump(mode="json", by_alias=True), "labelSelector": selector}
            for constraint in pool.topology_spread
        ]
    return fields


def admitted_nodes(
    node_selector: Mapping[str, str], tolerations: Iterable[Toleration], affinity: Affinity | None
) -> Manifest:
    """`nodeSelector`, `tolerations` and `affinity` of a Pod spec; absent where the user names none."""
    fields: Manifest = {}
    if tolerated := [item.model_dump(mode="json", by_alias=True, exclude_none=True) for item in tolerations]:
        fields["tolerations"] = tolerated
    if node_selector:
        fields["nodeSelector"] = dict(node_selector)
    if affinity is not None:
        fields["affinity"] = affinity.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return fields


def references(priority_class: str | None, pull_secrets: Iterable[LocalObjectReference]) -> Manifest:
    """`priorityClassName` and `imagePullSecrets` of a Pod spec; absent where the user names none."""
    fields: Manifest = {}
    if priority_class is not None:
        fields["priorityClassName"] = priority_class
    if secrets := [{"name": secret.name} for secret in pull_secrets]:
        fields["imagePullSecrets"] = secrets
    return fields

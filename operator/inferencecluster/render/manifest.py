"""What all rendered objects have in common: plain dicts, an owner, labels that operator and router select by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from inferencecluster.api.inferencecluster import InferenceCluster
from inferencecluster.api.names import (
    API_VERSION,
    CLUSTER_KIND,
    FIELD_MANAGER,
    LABEL_CLUSTER,
    LABEL_COMPONENT,
)

Manifest = dict[str, Any]
"""One Kubernetes object as the API server takes it: JSON values only."""

_LABEL_NAME: Final = "app.kubernetes.io/name"
_LABEL_INSTANCE: Final = "app.kubernetes.io/instance"
_LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"


def object_metadata(
    cluster: InferenceCluster,
    *,
    name: str,
    labels: Mapping[str, str],
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """Metadata of an object that the cluster owns: it is collected with the cluster."""
    metadata: Manifest = {"name": name, "namespace": cluster.metadata.namespace, "labels": dict(labels)}
    if annotations:
        metadata["annotations"] = dict(annotations)
    metadata["ownerReferences"] = [
        {
            "apiVersion": API_VERSION,
            "kind": CLUSTER_KIND,
            "name": cluster.metadata.name,
            "uid": cluster.metadata.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    return metadata


def selector_labels(cluster: InferenceCluster, component: str) -> dict[str, str]:
    """Labels that never change in the life of an object, fit for selectors."""
    return {LABEL_CLUSTER: cluster.metadata.name, LABEL_COMPONENT: component}


def component_labels(cluster: InferenceCluster, component: str) -> dict[str, str]:
    """`selector_labels` and the labels that Kubernetes recommends to tools and dashboards."""
    return {
        _LABEL_NAME: f"inferencecluster-{component}",
        _LABEL_INSTANCE: cluster.metadata.name,
        _LABEL_MANAGED_BY: FIELD_MANAGER,
        **selector_labels(cluster, component),
    }

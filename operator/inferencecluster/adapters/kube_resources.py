"""The kinds of objects that operator and router touch, and where the API server keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from inferencecluster.api.names import (
    CLUSTER_KIND,
    CLUSTER_PLURAL,
    GROUP,
    POOL_KIND,
    POOL_PLURAL,
    VERSION,
)

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object. `group` is empty for the core API."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """`apiVersion` of its manifests."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, *, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """URL path of the collection, of one object, or of its subresource.

        `namespace` None is all namespaces, or none for cluster-scoped kinds.
        """
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/" + "/".join(parts)


CLUSTERS: Final = Resource(GROUP, VERSION, CLUSTER_PLURAL, CLUSTER_KIND)
POOLS: Final = Resource(GROUP, VERSION, POOL_PLURAL, POOL_KIND)
PODS: Final = Resource("", "v1", "pods", "Pod")
NODES: Final = Resource("", "v1", "nodes", "Node", namespaced=False)
CONFIG_MAPS: Final = Resource("", "v1", "configmaps", "ConfigMap")
SERVICES: Final = Resource("", "v1", "services", "Service")
SERVICE_ACCOUNTS: Final = Resource("", "v1", "serviceaccounts", "ServiceAccount")
ROLE_BINDINGS: Final = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
DEPLOYMENTS: Final = Resource("apps", "v1", "deployments", "Deployment")
DISRUPTION_BUDGETS: Final = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease")
EVENTS: Final = Resource("", "v1", "events", "Event")

_BY_KIND: Final = {
    (resource.api_version, resource.kind): resource
    for resource in (
        CLUSTERS,
        POOLS,
        PODS,
        NODES,
        CONFIG_MAPS,
        SERVICES,
        SERVICE_ACCOUNTS,
        ROLE_BINDINGS,
        DEPLOYMENTS,
        DISRUPTION_BUDGETS,
        LEASES,
        EVENTS,
    )
}


def resource_of(manifest: Manifest) -> Resource:
    """The resource of a rendered manifest. Raises `KeyError` for a kind that this product never writes."""
    return _BY_KIND[manifest["apiVersion"], manifest["kind"]]


def describe(manifest: Manifest) -> str:
    """`Kind namespace/name`, for errors and logs."""
    metadata = manifest["metadata"]
    return f"{manifest['kind']} {metadata.get('namespace', '')}/{metadata['name']}"

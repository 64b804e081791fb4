"""The InferenceClusters as the watch last showed them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.adapters.kube_resources import Manifest
from inferencecluster.api.names import FINALIZER


@dataclass(frozen=True, slots=True)
class ClusterView:
    """One InferenceCluster: the whole object, and the little that is read before its spec."""

    key: ObjectKey
    uid: str
    generation: int
    resource_version: str
    is_deleting: bool
    finalizers: tuple[str, ...]
    manifest: Manifest

    @property
    def is_held(self) -> bool:
        """Our finalizer keeps the object until its replicas are drained."""
        return FINALIZER in self.finalizers

    @property
    def reference(self) -> dict[str, str]:
        """Name, namespace and uid, for Events."""
        return {"name": self.key.name, "namespace": self.key.namespace, "uid": self.uid}


def cluster_view(manifest: Mapping[str, Any]) -> ClusterView:
    """The view of an InferenceCluster as the API server returned it."""
    metadata = manifest["metadata"]
    return ClusterView(
        key=ObjectKey(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        resource_version=metadata["resourceVersion"],
        is_deleting=bool(metadata.get("deletionTimestamp")),
        finalizers=tuple(metadata.get("finalizers") or ()),
        manifest=dict(manifest),
    )


@dataclass(slots=True)
class ClusterStore:
    """What kopf's watch brings, by key."""

    _views: dict[ObjectKey, ClusterView] = field(default_factory=dict)

    def get(self, key: ObjectKey) -> ClusterView | None:
        """The cluster as last seen; None when it is gone."""
        return self._views.get(key)

    def put(self, view: ClusterView) -> bool:
        """Take in a view unless a newer one is known; True when it asks for a look, which our own status writes,
        when they come back, do not.
        """
        before = self._views.get(view.key)
        if before is not None and before.uid == view.uid and _is_older(view, before):
            return False
        self._views[view.key] = view
        if before is None or before.uid != view.uid:
            return True
        return (before.generation, before.is_deleting, before.finalizers) != (
            view.generation,
            view.is_deleting,
            view.finalizers,
        )

    def refresh(self, view: ClusterView) -> None:
        """Take in the answer to a write of our own, which may come late: it brings nothing back that is gone, and
        replaces no successor.
        """
        before = self._views.get(view.key)
        if before is not None and before.uid == view.uid:
            self.put(view)

    def remove(self, key: ObjectKey) -> None:
        """The object is gone."""
        self._views.pop(key, None)


def _is_older(one: ClusterView, other: ClusterView) -> bool:
    """Resource versions of one object are ordered integers (Kubernetes 1.35, KEP-5504, and every release before)."""
    versions = (one.resource_version, other.resource_version)
    return all(version.isdecimal() for version in versions) and int(versions[0]) < int(versions[1])

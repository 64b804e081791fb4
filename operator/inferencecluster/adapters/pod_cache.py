"""The Pods of clusters as the informers know them, kept honest by what our own writes were answered."""

from __future__ import annotations

from collections.abc import Mapping

from inferencecluster.adapters.informer import Informer, ObjectKey
from inferencecluster.adapters.kube import KubeClient, Page, Selection
from inferencecluster.adapters.kube_resources import PODS, Manifest
from inferencecluster.adapters.pods import (
    POD_SELECTOR,
    ClusterPod,
    EnginePod,
    PodIndex,
    controller_uid,
)
from inferencecluster.api.names import CLUSTER_KIND, LABEL_CLUSTER


class PodCache:
    """`index`, which the informers feed, and the ways past a watch that lags."""

    def __init__(
        self, client: KubeClient, index: PodIndex, informers: Mapping[str | None, Informer[ClusterPod]]
    ) -> None:
        """`informers` by the namespace that they watch; None watches all of them."""
        self.index = index
        self._client = client
        self._informers = informers

    def is_synced(self, namespace: str) -> bool:
        """Changes in the namespace arrive as they happen; otherwise nothing may be decided on what is known of it."""
        return self._informer(namespace).synced

    def version(self, namespace: str, name: str) -> str:
        """Resource version that a Pod is known in; empty for one that is not known."""
        return self._informer(namespace).version(ObjectKey(namespace, name))

    def take(self, pod: Manifest) -> None:
        """A Pod as the API server just answered it."""
        self._informer(pod["metadata"]["namespace"]).take(pod)

    def take_deletion(self, pod: Manifest) -> None:
        """`pod`, whose deletion the API server just accepted, stays, terminating, until the watch shows its end."""
        metadata = {**pod["metadata"]}
        # Which moment does not matter to anybody, and `kubectl` shows the true one.
        metadata.setdefault("deletionTimestamp", metadata["creationTimestamp"])
        self._informer(metadata["namespace"]).take_deletion({**pod, "metadata": metadata})

    async def refresh(self, cluster: ObjectKey) -> bool:
        """List the cluster's Pods afresh; True when something was not as known. Raises `ApiUnavailable`, `Forbidden`."""
        known = self._known(cluster)
        pods, version = await self._list(cluster)
        names = [
            ObjectKey(cluster.namespace, pod.replica.name if isinstance(pod, EnginePod) else pod.name)
            for pod in known
        ]
        self._informer(cluster.namespace).replace(pods, version, among=names)
        return self._known(cluster) != known

    async def has_engines(self, cluster: ObjectKey, owner_uid: str) -> bool:
        """The API server, asked now, has a replica that the cluster of this UID controls.

        Raises `ApiUnavailable` and `Forbidden`.
        """
        pods, _ = await self._list(cluster)
        return any(controller_uid(pod["metadata"], CLUSTER_KIND) == owner_uid for pod in pods)

    async def _list(self, cluster: ObjectKey) -> tuple[list[Manifest], str]:
        """All Pods of the cluster that the informers would see, and the version of the list."""
        selector = f"{LABEL_CLUSTER}={cluster.name},{POD_SELECTOR}"
        found: list[Manifest] = []
        page = Page([], "", "")
        while True:
            page = await self._client.list_page(
                Selection(PODS, cluster.namespace, selector), continue_token=page.continue_token
            )
            found += page.items
            if not page.continue_token:
                return found, page.resource_version

    def _known(self, cluster: ObjectKey) -> tuple[ClusterPod, ...]:
        return (*self.index.engines(cluster), *self.index.routers(cluster))

    def _informer(self, namespace: str) -> Informer[ClusterPod]:
        return self._informers.get(namespace) or self._informers[None]

"""Children: what a cluster owns beside its replicas. Written only when they are not as rendered, never taken from others."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.adapters.kube import DeleteGuard, KubeClient, Selection
from inferencecluster.adapters.kube_resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    POOLS,
    ROLE_BINDINGS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Manifest,
    Resource,
    describe,
    resource_of,
)
from inferencecluster.adapters.pods import controller_uid
from inferencecluster.api.inferencecluster import InferenceCluster
from inferencecluster.api.names import (
    ANNOTATION_RENDERED,
    API_VERSION,
    CLUSTER_KIND,
    COMPONENT_ENGINE,
    LABEL_CLUSTER,
    LABEL_COMPONENT,
    LABEL_POOL,
    POOL_KIND,
)
from inferencecluster.controller.accepted import AcceptedSpec
from inferencecluster.controller.difference import is_as_rendered
from inferencecluster.controller.state import ChildMemo
from inferencecluster.core.errors import ApplyError, Conflict
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.spec import ScalingMode
from inferencecluster.core.status import PoolStatus
from inferencecluster.render.enginepool import enginepool_name, render_enginepool
from inferencecluster.render.router import router_name

CHILD_KINDS: Final = (
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    POOLS,
    ROLE_BINDINGS,
    SERVICE_ACCOUNTS,
    SERVICES,
)
"""Kinds whose changes make a cluster's children worth comparing again."""

_DIGITS: Final = 16

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChildView:
    """A child, narrowed to whether it changed."""

    cluster: ObjectKey
    kind: str
    name: str
    uid: str
    version: str
    """Its generation where the kind counts them (status changes do not), else its resource version."""


def child_projection(resource: Resource) -> Callable[[Manifest], ChildView | None]:
    """What an informer over `resource` keeps; objects of nobody's cluster are not kept."""

    def project(manifest: Manifest) -> ChildView | None:
        metadata = manifest["metadata"]
        cluster = (metadata.get("labels") or {}).get(LABEL_CLUSTER)
        if cluster is None:
            return None
        version = str(metadata.get("generation") or metadata["resourceVersion"])
        key = ObjectKey(metadata["namespace"], cluster)
        # Items of a list come without their kind.
        return ChildView(key, resource.kind, metadata["name"], metadata["uid"], version)

    return project


@dataclass(frozen=True, slots=True)
class Settled:
    """What did not go smoothly."""

    foreign: tuple[str, ...]
    """Kind and name of objects of somebody else that stand in the way."""
    refused: tuple[ApplyError, ...]
    """What the API server would not write; it is tried again at the next look."""


@dataclass(frozen=True, slots=True)
class _Child:
    """What the API server has in place of a rendered child."""

    key: tuple[str, str]
    digest: str
    """Of the manifest, to know it again once it is settled."""
    observed: Manifest | None
    is_different: bool


class Children:
    """Keeps children as rendered."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def settle(
        self, accepted: AcceptedSpec, memo: ChildMemo, targets: Mapping[PoolName, int], *, now: float
    ) -> Settled:
        """Apply whatever is not as rendered, at monotonic time `now`. A refused child does not hold up the others, and
        is tried again after a growing wait.

        Raises `ApiUnavailable`; what was settled before stays settled.
        """
        cluster = accepted.cluster
        steps = [
            (_identity(manifest), partial(self._settle, manifest, cluster, memo))
            for manifest in accepted.children
        ]
        steps += [
            (
                (POOL_KIND, enginepool_name(cluster.metadata.name, pool)),
                partial(self._settle_pool, accepted, pool, memo, replicas),
            )
            for pool, replicas in targets.items()
        ]
        refused: list[ApplyError] = []
        for key, step in steps:
            if memo.waits.is_waiting(key, now):
                continue
            try:
                await step()
            except ApplyError as error:
                refused.append(error)
                if not isinstance(error, Conflict):
                    memo.waits.wait(key, now)
            else:
                memo.waits.forget(key)
        return Settled(tuple(sorted(" ".join(name) for name in memo.foreign)), tuple(refused))

    async def report_pools(
        self, cluster: InferenceCluster, memo: ChildMemo, pools: Collection[PoolStatus]
    ) -> None:
        """Write the status of EnginePools whose counts changed. Raises `ApplyError` and `ApiUnavailable`."""
        for pool in pools:
            name = enginepool_name(cluster.metadata.name, pool.name)
            counts = (pool.ready + pool.starting, pool.ready)
            is_ours = (POOL_KIND, name) in memo.settled and (POOL_KIND, name) not in memo.foreign
            if memo.pool_counts.get(pool.name) == counts or not is_ours:
                continue
            selector = {
                LABEL_CLUSTER: cluster.metadata.name,
                LABEL_COMPONENT: COMPONENT_ENGINE,
                LABEL_POOL: pool.name.value,
            }
            await self._client.apply_status(
                {
                    "apiVersion": API_VERSION,
                    "kind": POOL_KIND,
                    "metadata": {"name": name, "namespace": cluster.metadata.namespace},
                    "status": {
                        "replicas": counts[0],
                        "readyReplicas": counts[1],
                        "selector": ",".join(f"{key}={value}" for key, value in selector.items()),
                    },
                }
            )
            memo.pool_counts[pool.name] = counts

    async def collect(self, accepted: AcceptedSpec, mounted: Collection[str]) -> None:
        """Delete what the spec no longer renders: engine configurations that no replica mounts, by name, and a
        disruption budget that one router does not have. Raises `ApplyError` and `ApiUnavailable`.
        """
        cluster = accepted.cluster
        rendered = {_identity(child) for child in accepted.children}
        if ("PodDisruptionBudget", router_name(cluster.metadata.name)) not in rendered:
            budget = await self._client.get(
                DISRUPTION_BUDGETS, router_name(cluster.metadata.name), namespace=cluster.metadata.namespace
            )
            if budget is not None and _is_owned(budget, cluster):
                await self._delete(budget)
        selector = f"{LABEL_CLUSTER}={cluster.metadata.name},{LABEL_COMPONENT}={COMPONENT_ENGINE}"
        page = await self._client.list_page(Selection(CONFIG_MAPS, cluster.metadata.namespace, selector))
        for item in page.items:
            # Items of a list come without their type.
            config = {**item, "apiVersion": CONFIG_MAPS.api_version, "kind": CONFIG_MAPS.kind}
            is_used = item["metadata"]["name"] in mounted or _identity(config) in rendered
            if not is_used and _is_owned(config, cluster):
                await self._delete(config)

    async def _settle(self, manifest: Manifest, cluster: InferenceCluster, memo: ChildMemo) -> None:
        manifest = _marked(manifest)
        child = await self._look(manifest, cluster, memo)
        if child is None:
            return
        if child.is_different:
            await self._apply(manifest, child.observed)
        memo.settled[child.key] = child.digest

    async def _settle_pool(
        self, accepted: AcceptedSpec, pool: PoolName, memo: ChildMemo, replicas: int
    ) -> None:
        """An EnginePool has one writer of its size: the operator, or in External mode everybody else.

        There it is seeded with the present size, so that switching to External drains nothing (LWS KEP-849).
        """
        cluster = accepted.cluster
        is_external = accepted.spec.mode is ScalingMode.EXTERNAL
        manifest = render_enginepool(cluster, pool, replicas=None if is_external else replicas)
        child = await self._look(manifest, cluster, memo)
        if child is None:
            return
        observed = child.observed
        if child.is_different:
            # Applied without the field, a size that nobody else has written yet would be deleted with our claim to it.
            present = replicas if observed is None or not is_external else observed["spec"]["replicas"]
            await self._apply(render_enginepool(cluster, pool, replicas=present), observed)
        status = (observed or {}).get("status") or {}
        if "replicas" in status:
            memo.pool_counts[pool] = (status["replicas"], status.get("readyReplicas", 0))
        memo.settled[child.key] = child.digest

    async def _look(self, manifest: Manifest, cluster: InferenceCluster, memo: ChildMemo) -> _Child | None:
        """A child beside its manifest; None when it is settled already, or somebody else's (which is noted)."""
        key, digest = _identity(manifest), _digest(manifest)
        if memo.settled.get(key) == digest or key in memo.foreign:
            return None
        observed = await self._observed(manifest)
        if observed is not None and not _is_owned(observed, cluster):
            memo.foreign.add(key)
            return None
        is_different = observed is None or not is_as_rendered(manifest, observed)
        return _Child(key, digest, observed, is_different)

    async def _observed(self, manifest: Manifest) -> Manifest | None:
        metadata = manifest["metadata"]
        return await self._client.get(
            resource_of(manifest), metadata["name"], namespace=metadata["namespace"]
        )

    async def _apply(self, manifest: Manifest, observed: Manifest | None) -> None:
        if observed is not None and observed.get("roleRef") != manifest.get("roleRef"):
            # A role cannot be changed in place; a router that watches goes on watching between the two calls.
            await self._delete(observed)
            observed = None
        if observed is not None:
            # The uid makes the API server refuse when the object was made anew, by whomever, since it was read.
            metadata = {**manifest["metadata"], "uid": observed["metadata"]["uid"]}
            manifest = {**manifest, "metadata": metadata}
        await self._client.apply(manifest)
        _logger.info("applied", extra={"object": describe(manifest), "is_new": observed is None})

    async def _delete(self, observed: Manifest) -> None:
        """Of an object that is known to be the cluster's own."""
        metadata = observed["metadata"]
        guard = DeleteGuard(uid=metadata["uid"], resource_version=metadata["resourceVersion"])
        await self._client.delete(
            resource_of(observed), metadata["name"], namespace=metadata["namespace"], guard=guard
        )
        _logger.info("deleted", extra={"object": describe(observed)})


def _is_owned(observed: Manifest, cluster: InferenceCluster) -> bool:
    return controller_uid(observed["metadata"], CLUSTER_KIND) == cluster.metadata.uid


def _marked(manifest: Manifest) -> Manifest:
    """With its digest: a field that is rendered no more is no difference, and yet has to go."""
    metadata = manifest["metadata"]
    annotations = {**(metadata.get("annotations") or {}), ANNOTATION_RENDERED: _digest(manifest)[:_DIGITS]}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def _identity(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _digest(manifest: Manifest) -> str:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

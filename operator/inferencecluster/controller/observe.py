"""Observe: one look at one cluster, from the informers' caches, its routers and the shared metrics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from inferencecluster.adapters.clock import Clock
from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.adapters.kube_resources import Manifest
from inferencecluster.adapters.nodes import NodeView, Placement, pool_capacity
from inferencecluster.adapters.pod_cache import PodCache
from inferencecluster.adapters.pods import EnginePod, controller_uid
from inferencecluster.adapters.prometheus import MetricsBoard
from inferencecluster.adapters.routers import RouterClient, RouterView, look_at_routers
from inferencecluster.api.names import CLUSTER_KIND
from inferencecluster.controller.accepted import AcceptedSpec
from inferencecluster.controller.state import ClusterState
from inferencecluster.controller.workers import Workers
from inferencecluster.core.fleet import PoolName, Replica
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Observation, PoolCapacity
from inferencecluster.core.spec import ScalingMode


@dataclass(frozen=True, slots=True)
class PoolView:
    """An EnginePool, as far as sizes need it."""

    cluster: ObjectKey
    owner_uid: str
    pool: PoolName
    replicas: int


def project_pool(manifest: Manifest) -> PoolView | None:
    """The part of an EnginePool that matters here; None when this version cannot read it."""
    metadata, spec = manifest["metadata"], manifest.get("spec") or {}
    if spec.get("pool") not in set(PoolName) or not isinstance(spec.get("replicas"), int):
        return None
    return PoolView(
        cluster=ObjectKey(metadata["namespace"], spec["clusterRef"]["name"]),
        owner_uid=controller_uid(metadata, CLUSTER_KIND),
        pool=PoolName(spec["pool"]),
        replicas=spec["replicas"],
    )


@dataclass(slots=True)
class World:
    """Everything that can be seen, behind its adapters."""

    cache: PodCache
    routers: RouterClient
    metrics: MetricsBoard
    clock: Clock
    nodes: Callable[[], Iterable[NodeView] | Missing]
    """Nodes with devices; Missing when they may not be read, or have not been yet."""
    devices_used: Callable[[str, str], int]
    """Devices of one kind that Pods hold on a node."""
    pools: Callable[[ObjectKey], Iterable[PoolView]]
    """EnginePools of a cluster."""
    workers: Workers
    """Lent to others while Prometheus and routers are asked: those that cannot be reached take seconds to say nothing."""

    def engines(self, key: ObjectKey, uid: str) -> tuple[EnginePod, ...]:
        """Replicas that the cluster of this very UID controls; others are nobody's to count or to delete."""
        return tuple(pod for pod in self.cache.index.engines(key) if pod.owner_uid == uid)


async def observe(
    world: World, key: ObjectKey, state: ClusterState, accepted: AcceptedSpec, *, sizing_due: bool
) -> Observation:
    """One look. It remembers in `state` what the next look is compared with."""
    spec = accepted.spec
    if sizing_due:
        world.metrics.follow(key, spec.slo.percentile)
        # Before the replicas: a Prometheus that hangs must not make what is known of them old.
        async with world.workers.lent():
            state.metrics = await world.metrics.sample(key)
    view, replicas = await look_at_replicas(world, key, state, accepted.gpu_resource_names)
    now = world.clock.now()
    return Observation(
        now=now,
        spec=spec,
        replicas=replicas,
        routers=view.sample,
        metrics=state.metrics,
        capacity=_capacity(world, accepted.placements),
        external=_external(world, key, state.uid, spec.mode),
        sizing_due=sizing_due,
        refusals=state.refusals,
    )


async def look_at_replicas(
    world: World, key: ObjectKey, state: ClusterState, gpu_resource_names: Collection[str]
) -> tuple[RouterView, tuple[Replica, ...]]:
    """The routers' word, and every replica with the work that they hold on it, ordered by name."""
    async with world.workers.lent():
        view = await look_at_routers(
            world.routers,
            world.cache.index.routers(key),
            state.look,
            at=world.clock.monotonic(),
            now=world.clock.now(),
        )
    state.look = view.look
    # Read after the routers answered: a Pod that came meanwhile is unknown to them, and so not confirmed.
    pods = world.engines(key, state.uid)
    state.versions = {pod.replica.uid: world.cache.version(key.namespace, pod.replica.name) for pod in pods}
    now = world.clock.now()
    seen = state.sightings.see(
        ((pod, pod.counted(gpu_resource_names)) for pod in pods), now=now, monotonic=world.clock.monotonic()
    )
    return view, tuple(
        replace(replica, load=view.load(replica, now=now, fence=pod.fence))
        for pod, replica in zip(pods, seen, strict=True)
    )


def _capacity(world: World, placements: Mapping[PoolName, Placement]) -> tuple[PoolCapacity, ...] | Missing:
    nodes = world.nodes()
    if isinstance(nodes, Missing):
        return nodes
    known = tuple(nodes)
    return tuple(
        pool_capacity(name, placement, known, world.devices_used) for name, placement in placements.items()
    )


def _external(world: World, key: ObjectKey, uid: str, mode: ScalingMode) -> Mapping[PoolName, int] | Missing:
    if mode is not ScalingMode.EXTERNAL:
        return Missing("NotExternal")
    wished = {view.pool: view.replicas for view in world.pools(key) if view.owner_uid == uid}
    return wished or Missing("NoEnginePool", "the EnginePools of the cluster have not been seen yet")

"""One operator process, put together: informers, server, election, then kopf and the loops."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import kopf
from aiohttp import web

from inferencecluster.adapters.clock import Clock, SystemClock
from inferencecluster.adapters.credentials import Credentials, load_credentials
from inferencecluster.adapters.informer import Informer, Listener, ObjectKey, all_listed
from inferencecluster.adapters.kube import ApiClient, KubeClient, Selection
from inferencecluster.adapters.kube_resources import CLUSTERS, NODES, PODS, POOLS, Manifest
from inferencecluster.adapters.nodes import (
    BOUND_POD_SELECTOR,
    DeviceHolder,
    DeviceUse,
    NodeView,
    project_device_holder,
    project_node,
)
from inferencecluster.adapters.pod_cache import PodCache
from inferencecluster.adapters.pods import POD_SELECTOR, ClusterPod, PodIndex, project_pod
from inferencecluster.adapters.prometheus import MetricsBoard, PrometheusSource
from inferencecluster.adapters.routers import HttpRouterClient, RouterClient
from inferencecluster.api.names import LABEL_CLUSTER
from inferencecluster.controller.children import CHILD_KINDS, ChildView, child_projection
from inferencecluster.controller.clusters import ClusterStore
from inferencecluster.controller.election import Candidate, Elector, LeadershipLost
from inferencecluster.controller.events import EventRecorder
from inferencecluster.controller.loop import Loops, Pace
from inferencecluster.controller.metrics import OperatorMetrics
from inferencecluster.controller.observe import PoolView, World, project_pool
from inferencecluster.controller.reconcile import Hands, Reconciler
from inferencecluster.controller.recorder import Recorder
from inferencecluster.controller.reporter import Reporter
from inferencecluster.controller.server import build_app, scrape_targets
from inferencecluster.controller.settings import Settings
from inferencecluster.controller.sleepers import Sleepers
from inferencecluster.controller.wakeups import Wakeups
from inferencecluster.controller.wiring import build_registry, build_settings
from inferencecluster.controller.workers import Workers
from inferencecluster.core.errors import ApplyError, ObservationError
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import NOT_CONFIGURED

API_RETRY_SECONDS: Final = 2.0
"""Between two looks for our CRDs, while somebody is installing them."""

OPERATOR_SELECTOR: Final = "app.kubernetes.io/name=inferencecluster-operator"
"""Pods of the operator itself, as the chart labels them."""

_logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Watches:
    """The informers, by what they feed. All run in followers, too: a new leader starts with what it needs to know."""

    pods: tuple[Informer[ClusterPod], ...]
    pools: tuple[Informer[PoolView], ...]
    children: tuple[Informer[ChildView], ...]
    nodes: tuple[Informer[NodeView], ...]
    holders: tuple[Informer[DeviceHolder], ...]
    operators: tuple[Informer[tuple[str, str]], ...]

    def all(self) -> Iterator[Informer[Any]]:
        """Every informer."""
        for group in (self.pods, self.pools, self.children, self.nodes, self.holders, self.operators):
            yield from group

    @property
    def are_listed(self) -> bool:
        """Everything that a decision rests on has been seen once; nodes may be forbidden, and are only a help."""
        return all_listed(self.pods) and all_listed(self.pools)

    async def wait_listed(self) -> None:
        """Return once `are_listed`."""
        for pods in self.pods:
            await pods.wait_listed()
        for pools in self.pools:
            await pools.wait_listed()


@dataclass(slots=True)
class _Caches:
    """What the informers fill."""

    pods: PodIndex = field(default_factory=PodIndex)
    use: DeviceUse = field(default_factory=DeviceUse)
    pools: dict[ObjectKey, dict[ObjectKey, PoolView]] = field(default_factory=dict)


def _recorder(settings: Settings) -> Recorder | None:
    """None: nobody asked for a recording."""
    if not settings.record_file:
        return None
    return Recorder(Path(settings.record_file), limit_bytes=settings.record_megabytes * 2**20)


class Operator:
    """All parts of one process, wired; `run` makes them move."""

    def __init__(
        self,
        settings: Settings,
        client: KubeClient,
        routers: RouterClient,
        metrics: MetricsBoard,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self.metrics = OperatorMetrics()
        self.clusters = ClusterStore()
        self._client = client
        self._clock = clock
        self._caches = _Caches()
        self._wakeups = Wakeups()
        self.watches = self._build_watches()
        events = EventRecorder(client, clock, instance=settings.pod_name)
        workers = Workers(settings.workers)
        by_namespace = dict(zip(self._namespaces, self.watches.pods, strict=True))
        world = World(
            cache=PodCache(client, self._caches.pods, by_namespace),
            routers=routers,
            metrics=metrics,
            clock=clock,
            nodes=self._nodes,
            devices_used=self._caches.use.used,
            pools=self._pools,
            workers=workers,
        )
        reporter = Reporter(client, self.clusters, events, self.metrics, clock)
        self.sleepers = Sleepers(routers, self._wakeups.wake, clock)
        hands = Hands(client, reporter, self.metrics, _recorder(settings), self.sleepers)
        self.reconciler = Reconciler(self.clusters, world, hands, settings)
        self.loops = Loops(
            self.reconciler.reconcile,
            self._wakeups,
            self.metrics,
            clock,
            Pace(workers=workers, debounce_seconds=settings.debounce_seconds),
        )

    @property
    def _namespaces(self) -> tuple[str | None, ...]:
        """What is watched; None is all namespaces."""
        return self.settings.watch_namespaces or (None,)

    def app(self) -> web.Application:
        """The HTTP server's application."""
        return build_app(
            lambda: self.watches.are_listed,
            self.metrics,
            lambda: scrape_targets(self._caches.pods, self._operators()),
        )

    async def wait_for_api(self) -> None:
        """Return once the API server serves InferenceClusters: kopf never serves a CRD that came after its start."""
        namespace = next(iter(self.settings.watch_namespaces), None)
        while True:
            try:
                await self._client.list_page(Selection(CLUSTERS, namespace))
            except (ObservationError, ApplyError) as error:
                _logger.warning("InferenceClusters cannot be listed, retrying", extra={"error": str(error)})
                await self._clock.sleep(API_RETRY_SECONDS)
            else:
                return

    async def run_kopf(self, credentials: Credentials) -> None:
        """Watch the clusters until SIGTERM or SIGINT."""
        namespaces = self.settings.watch_namespaces
        await kopf.operator(
            registry=build_registry(self.clusters, self.loops, credentials),
            settings=build_settings(),
            standalone=True,
            clusterwide=not namespaces,
            namespaces=list(namespaces),
        )

    def _build_watches(self) -> Watches:
        settings, namespaces = self.settings, self._namespaces
        sees_itself = not settings.watch_namespaces or settings.pod_namespace in settings.watch_namespaces
        itself = Selection(PODS, settings.pod_namespace, label_selector=OPERATOR_SELECTOR)
        bound = Selection(PODS, field_selector=BOUND_POD_SELECTOR)
        return Watches(
            pods=tuple(
                self._follow(
                    Selection(PODS, namespace, label_selector=POD_SELECTOR), project_pod, self._pod_changed
                )
                for namespace in namespaces
            ),
            pools=tuple(
                self._follow(Selection(POOLS, namespace), project_pool, self._pool_changed)
                for namespace in namespaces
            ),
            children=tuple(
                self._follow(
                    Selection(resource, namespace, label_selector=LABEL_CLUSTER),
                    child_projection(resource),
                    self._child_changed,
                )
                for namespace in namespaces
                for resource in CHILD_KINDS
            ),
            nodes=(self._follow(Selection(NODES), project_node),) if settings.reads_nodes else (),
            holders=(self._follow(bound, project_device_holder, self._caches.use.changed),)
            if settings.reads_nodes
            else (),
            operators=(self._follow(itself, _project_operator),) if sees_itself else (),
        )

    def _follow(
        self,
        selection: Selection,
        project: Callable[[Manifest], T | None],
        on_change: Listener[T] | None = None,
    ) -> Informer[T]:
        return Informer(self._client, selection, project, on_change=on_change, clock=self._clock)

    def _pod_changed(self, before: ClusterPod | None, after: ClusterPod | None) -> None:
        self._caches.pods.changed(before, after)
        for pod in (before, after):
            if pod is not None:
                self._wakeups.wake(pod.cluster)

    def _pool_changed(self, before: PoolView | None, after: PoolView | None) -> None:
        for view, is_there in ((before, False), (after, True)):
            if view is None:
                continue
            name = ObjectKey(view.cluster.namespace, view.pool.value)
            of_cluster = self._caches.pools.setdefault(view.cluster, {})
            if is_there:
                of_cluster[name] = view
            else:
                of_cluster.pop(name, None)
            if not of_cluster:
                del self._caches.pools[view.cluster]
            self.reconciler.size_was_wished(view.cluster)
            self._wakeups.wake(view.cluster)

    def _child_changed(self, before: ChildView | None, after: ChildView | None) -> None:
        for view in (before, after):
            if view is not None:
                self.reconciler.child_changed(view)
                self._wakeups.wake(view.cluster)

    def _pools(self, key: ObjectKey) -> Iterable[PoolView]:
        return self._caches.pools.get(key, {}).values()

    def _nodes(self) -> Iterable[NodeView] | Missing:
        if not self.settings.reads_nodes:
            return Missing("NodesNotRead", "the operator was installed without the right to read nodes")
        if not all_listed(self.watches.nodes) or not all_listed(self.watches.holders):
            return Missing("NodesNotSeen", "nodes and the Pods on them have not been listed yet")
        return [node for informer in self.watches.nodes for node in informer.items.values()]

    def _operators(self) -> Iterable[tuple[str, str]]:
        return [pod for informer in self.watches.operators for pod in informer.items.values()]


async def run_process(settings: Settings, *, on_leadership_lost: Callable[[], None]) -> None:
    """Run until SIGTERM or SIGINT. `on_leadership_lost` ends the process: nothing may be written any more."""
    clock = SystemClock()
    # A first process ignores SIGTERM unless somebody listens; kopf does later, but a follower waits before it.
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with AsyncExitStack() as stack:
        credentials = await load_credentials()
        client = await stack.enter_async_context(ApiClient(credentials))
        routers = await stack.enter_async_context(HttpRouterClient())
        operator = Operator(settings, client, routers, _metrics_board(settings, clock, stack), clock)
        stack.push_async_callback(operator.sleepers.stop)
        runner = web.AppRunner(operator.app(), access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, port=settings.http_port).start()
        async with asyncio.TaskGroup() as group:
            await operator.wait_for_api()
            running = [group.create_task(informer.run()) for informer in operator.watches.all()]
            elector = Elector(
                client, Candidate(settings.pod_name, settings.pod_namespace, settings.lease_name), clock
            )
            if settings.lease_name:
                await elector.acquire()
                running.append(group.create_task(_keep(elector, on_leadership_lost)))
            operator.metrics.leader.set(1)
            await operator.watches.wait_listed()
            await operator.run_kopf(credentials)
            for task in running:
                task.cancel()
        if settings.lease_name:
            with suppress(ApplyError, ObservationError):
                # Only a favour to the next leader, who otherwise waits for the lease to run out.
                await elector.release()


async def _keep(elector: Elector, on_lost: Callable[[], None]) -> None:
    try:
        await elector.keep()
    except LeadershipLost as error:
        _logger.critical("leadership lost, ending the process", extra={"error": str(error)})
        on_lost()


def _metrics_board(settings: Settings, clock: Clock, stack: AsyncExitStack) -> MetricsBoard:
    source: PrometheusSource | Missing = Missing(
        NOT_CONFIGURED, "the operator was installed without prometheus.url"
    )
    if settings.prometheus_url:
        source = PrometheusSource(settings.prometheus_url)
        stack.callback(source.close)
    return MetricsBoard(
        source,
        clock,
        window_seconds=settings.prometheus_window_seconds,
        fresh_seconds=settings.prometheus_poll_seconds,
    )


def _project_operator(pod: Manifest) -> tuple[str, str] | None:
    """Name and address of a Pod of the operator; None before it has one."""
    address = (pod.get("status") or {}).get("podIP")
    return (pod["metadata"]["name"], address) if address else None

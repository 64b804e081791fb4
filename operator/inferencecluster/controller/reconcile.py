"""One look at one cluster: observe -> decide -> report -> act, from nothing but its key.

The status, which holds the wanted sizes, is written before the actions: an operator that dies in between finds in it
what it was about to do.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.adapters.kube import KubeClient
from inferencecluster.adapters.kube_resources import CLUSTERS
from inferencecluster.api.inferencecluster import parse_cluster
from inferencecluster.api.names import FINALIZER
from inferencecluster.controller.accepted import AcceptedSpec, accept
from inferencecluster.controller.act import Acted, Actor, Fleet, Target, missing_notes, target_of
from inferencecluster.controller.children import Children, ChildView
from inferencecluster.controller.clusters import ClusterStore, ClusterView, cluster_view
from inferencecluster.controller.deletion import deletion_status, spec_for_deletion
from inferencecluster.controller.events import Event, EventReason, EventType
from inferencecluster.controller.loop import NextLook
from inferencecluster.controller.metrics import OperatorMetrics
from inferencecluster.controller.observe import World, look_at_replicas, observe
from inferencecluster.controller.recorder import Recorder
from inferencecluster.controller.report import records_of, settled_generation_of, targets_of
from inferencecluster.controller.reporter import Look, Reporter, read_status
from inferencecluster.controller.settings import Settings
from inferencecluster.controller.sleepers import Sleepers
from inferencecluster.controller.state import ClusterState
from inferencecluster.core.actions import Action, Create, Delete
from inferencecluster.core.decision import Memory, decide
from inferencecluster.core.errors import ApplyError, Conflict, OperatorError, SpecError
from inferencecluster.core.fleet import Lifecycle, Replica
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Observation
from inferencecluster.core.sleep import may_sleep
from inferencecluster.core.spec import ScalingMode
from inferencecluster.core.transition import Progress, plan_deletion

TICK_SLACK: Final = 0.1
"""Timers fire a little early or late: a tick is due from nine tenths of its interval on."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hands:
    """Everything that writes."""

    client: KubeClient
    reporter: Reporter
    metrics: OperatorMetrics
    recorder: Recorder | None = None
    """None: nothing is recorded."""
    sleepers: Sleepers | None = None
    """None: a cluster that sleeps is woken by its sizing ticks alone."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where actions are carried out."""

    view: ClusterView
    state: ClusterState
    replicas: tuple[Replica, ...]
    """As they were observed."""
    accepted: AcceptedSpec | None
    """None where nothing is created any more."""


class Reconciler:
    """Looks at clusters. One call per cluster at a time; different clusters run concurrently."""

    def __init__(self, clusters: ClusterStore, world: World, hands: Hands, settings: Settings) -> None:
        self._clusters = clusters
        self._world = world
        self._client = hands.client
        self._reporter = hands.reporter
        self._metrics = hands.metrics
        self._recorder = hands.recorder
        self._sleepers = hands.sleepers
        self._settings = settings
        self._actor = Actor(hands.client, world.cache)
        self._children = Children(hands.client)
        self._states: dict[ObjectKey, ClusterState] = {}

    def child_changed(self, view: ChildView) -> None:
        """A child came, changed or went: the next look compares it."""
        state = self._states.get(view.cluster)
        if state is not None:
            state.children.distrust_one(view.kind, view.name)

    def size_was_wished(self, key: ObjectKey) -> None:
        """An EnginePool changed: where others write its size, the next look is a sizing tick."""
        state = self._states.get(key)
        if state is None or state.accepted is None:
            return
        if state.accepted.spec.mode is ScalingMode.EXTERNAL:
            state.sized_at = None

    async def reconcile(self, key: ObjectKey) -> NextLook:
        """One look. Raises `OperatorError`, and whatever a defect raises after having told of it in the status."""
        try:
            return await self._look(key)
        except OperatorError:
            raise
        except Exception as error:
            # A status that goes on telling what was true before the defect would hide it for ever.
            view, state = self._clusters.get(key), self._states.get(key)
            if view is not None and state is not None:
                with suppress(OperatorError):
                    await self._reporter.report_defect(view, state, error)
            raise

    async def _look(self, key: ObjectKey) -> NextLook:
        view = self._clusters.get(key)
        if view is None or (view.is_deleting and not view.is_held):
            return self._forget(key)
        if not view.is_deleting and not view.is_held:
            # Before the first replica exists: from then on nothing but a drain ends it.
            view = await self._write_finalizers(view, (*view.finalizers, FINALIZER))
            self._clusters.refresh(view)
        state = self._state(view)
        self._read_spec(view, state)
        if view.is_deleting:
            return await self._end(view, state)
        if state.accepted is None:
            if state.refused is not None:
                await self._reporter.report_stalled(view, state, state.refused)
            return NextLook(self._settings.resync_seconds)
        return await self._serve(view, state, state.accepted)

    async def _serve(self, view: ClusterView, state: ClusterState, accepted: AcceptedSpec) -> NextLook:
        """A cluster that exists and has a spec to act on."""
        observation = await self._observe(view, state, accepted)
        decision = decide(observation, state.memory)
        if self._recorder is not None:
            self._recorder.record(view.key, state.memory, observation, decision)
        state.memory, state.refusals = decision.memory, ()
        look = Look(view, state, accepted, observation, decision)
        await self._reporter.report(look)
        await self._settle_children(look)
        scene = Scene(view, state, observation.replicas, accepted)
        acted = await self._act(scene, decision.actions)
        state.refusals = tuple(uncreated.refusal for uncreated in acted.uncreated)
        self._watch_sleep(look)
        return self._next_look(look, acted)

    async def _end(self, view: ClusterView, state: ClusterState) -> NextLook:
        """A cluster that is being deleted: drain its replicas, then let it go. The routers stay until the last."""
        cache = self._world.cache
        if not self._world.engines(view.key, view.uid):
            # What the cache does not show may serve all the same, and nothing would hold it any more.
            if not await cache.has_engines(view.key, view.uid):
                kept = tuple(name for name in view.finalizers if name != FINALIZER)
                await self._write_finalizers(view, kept)
                return self._forget(view.key)
            await cache.refresh(view.key)
        accepted = state.accepted
        names = accepted.gpu_resource_names if accepted else frozenset[str]()
        spec = accepted.spec if accepted else spec_for_deletion(view.manifest)
        _, replicas = await look_at_replicas(self._world, view.key, state, names)
        outcome = plan_deletion(now=self._world.clock.now(), spec=spec, replicas=replicas)
        await self._reporter.report_deletion(view, state, deletion_status(spec, replicas))
        actions = outcome.actions if isinstance(outcome, Progress) else ()
        await self._act(Scene(view, state, replicas, None), actions)
        return NextLook(self._settings.follow_up_seconds)

    async def _observe(self, view: ClusterView, state: ClusterState, accepted: AcceptedSpec) -> Observation:
        now = self._world.clock.monotonic()
        interval = accepted.spec.interval_seconds
        is_due = state.sized_at is None or now - state.sized_at >= interval * (1 - TICK_SLACK)
        if is_due:
            state.sized_at = now
        observation = await observe(self._world, view.key, state, accepted, sizing_due=is_due)
        self._metrics.observed(view.key, observation)
        return observation

    def _watch_sleep(self, look: Look) -> None:
        """Have the routers of a cluster that sleeps tell when they hold a request."""
        if self._sleepers is None:
            return
        spec, key = look.accepted.spec, look.view.key
        sample = look.observation.routers
        # A cluster that cannot wake for what is held is asked about at its ticks alone.
        is_quiet = isinstance(sample, Missing) or not sample.queue.held_requests
        is_asleep = is_quiet and may_sleep(spec) and not any(look.decision.targets.values())
        routers = self._world.cache.index.routers(key) if is_asleep else ()
        self._sleepers.watch(key, [pod.address for pod in routers if pod.running and pod.address])

    async def _settle_children(self, look: Look) -> None:
        """Children come before replicas, which mount one of them. A refused write holds nothing else up."""
        state, accepted = look.state, look.accepted
        memo, now = state.children, self._world.clock.monotonic()
        is_full = memo.checked_at is None or now - memo.checked_at >= self._settings.resync_seconds
        if is_full:
            memo.distrust()
        pools = tuple(pool for pool in look.decision.status.pools if pool.name in accepted.contexts)
        targets = {pool.name: pool.desired for pool in pools}
        settled = await self._children.settle(accepted, memo, targets, now=now)
        if is_full:
            memo.checked_at = now
        refused = list(settled.refused)
        refused += await _refusals_of(self._children.report_pools(accepted.cluster, memo, pools))
        mounted = self._mounted(look.view)
        # Not in the look at a new spec: a Pod of the old one, created a moment ago, may not be seen yet.
        if not is_full and (memo.is_collection_due or not memo.mounted <= mounted):
            refused += await _refusals_of(self._children.collect(accepted, mounted))
        memo.mounted, memo.is_collection_due = mounted, is_full
        await self._reporter.refused(look.view, refused)
        for name in settled.foreign if is_full else ():
            message = f"{name} exists and belongs to somebody else: delete it, or rename the cluster"
            event = Event(EventType.WARNING, EventReason.FOREIGN_OBJECT, message)
            await self._reporter.tell(look.view, event)

    def _mounted(self, view: ClusterView) -> frozenset[str]:
        """Names of the engine configurations that replicas mount."""
        pods = self._world.engines(view.key, view.uid)
        return frozenset(name for pod in pods for name in pod.config_maps)

    async def _act(self, scene: Scene, actions: Sequence[Action]) -> Acted:
        """Carry out what may be, and tell what came of it."""
        view, waits = scene.view, scene.state.waits
        acted = await self._carry_out(scene, actions)
        now = self._world.clock.monotonic()
        for action in acted.done:
            if not isinstance(action, Create):
                waits.forget(target_of(action))
        for refused in acted.refused:
            if not isinstance(refused.error, Conflict):
                waits.wait(refused.target, now)
        await self._reporter.refused(view, [refused.error for refused in acted.refused])
        for uncreated in acted.uncreated:
            self._reporter.count_refused(uncreated.error)
        for event in acted.events:
            await self._reporter.tell(view, event)
        # Also 0: the series is there from the start, so that the first forced drain is an increase.
        forced = sum(isinstance(action, Delete) and action.forced for action in acted.done)
        self._metrics.forced_drains.labels(view.key.namespace, view.key.name).inc(forced)
        return acted

    async def _carry_out(self, scene: Scene, actions: Sequence[Action]) -> Acted:
        """Only on Pods that are known to be as they were seen. Raises `ApiUnavailable`, `Forbidden`."""
        state, cache, key, clock = scene.state, self._world.cache, scene.view.key, self._world.clock
        state.waits.keep_only({replica.uid for replica in scene.replicas})
        fleet = Fleet(
            key.namespace, key.name, scene.view.uid, scene.replicas, clock.now(), dict(state.versions)
        )
        spec = scene.accepted.spec if scene.accepted is not None else None

        def is_due(target: Target) -> bool:
            return not state.waits.is_waiting(target, clock.monotonic())

        due = [action for action in actions if isinstance(action, Create) or is_due(target_of(action))]
        missing = missing_notes(fleet, spec, state.sightings.odd_fences)
        notes = [note for note in missing if is_due(note.target)]
        if not due and not notes:
            return Acted()
        if not cache.is_synced(key.namespace):
            _logger.debug(
                "nothing is done while Pods cannot be watched",
                extra={"cluster": f"{key.namespace}/{key.name}"},
            )
            return Acted(is_put_off=True)
        if not state.is_confirmed:
            is_other = await cache.refresh(key)
            state.is_confirmed = True
            if is_other:
                return Acted(is_put_off=True)
        # Until every answer is there: after an outage nobody knows what was written.
        state.is_confirmed = False
        acted = await self._actor.carry_out(due, fleet, scene.accepted)
        unnoted = await self._actor.note(notes, fleet)
        state.is_confirmed = True
        return replace(acted, refused=(*acted.refused, *unnoted))

    def _next_look(self, look: Look, acted: Acted) -> NextLook:
        """Soon while a drain waits for routers, who tell only when asked; starting replicas wake by themselves."""
        is_draining = any(
            replica.fenced_at is not None and replica.lifecycle is not Lifecycle.TERMINATING
            for replica in look.observation.replicas
        )
        has_moved = bool(acted.done) or any(isinstance(item.error, Conflict) for item in acted.refused)
        if is_draining or has_moved or acted.uncreated or acted.is_put_off:
            return NextLook(self._settings.follow_up_seconds)
        clock, interval = self._world.clock, look.accepted.spec.interval_seconds
        sized_at, now = look.state.sized_at, clock.now()
        tick = interval - (clock.monotonic() - sized_at if sized_at is not None else 0.0)
        tries = [back_off.until - now for back_off in look.state.memory.replacement.waiting(now).values()]
        return NextLook(max(self._settings.follow_up_seconds, min([tick, *tries])))

    def _state(self, view: ClusterView) -> ClusterState:
        """What is remembered of this very cluster; for a new one, and after a restart, what its status tells."""
        state = self._states.get(view.key)
        if state is None or state.uid != view.uid:
            status = read_status(view.manifest)
            if status is None or not status.pools:
                memory = Memory.empty()
            else:
                now = self._world.clock.now()
                memory = Memory.restored(
                    targets_of(status),
                    records_of(status),
                    now,
                    settled_generation=settled_generation_of(status),
                )
            state = ClusterState(view.uid, memory, status, seen_version=view.resource_version)
            self._states[view.key] = state
        elif state.seen_version != view.resource_version:
            state.status = read_status(view.manifest)
            state.seen_version = view.resource_version
        return state

    def _read_spec(self, view: ClusterView, state: ClusterState) -> None:
        """Take in a new generation. One that is wrong leaves the last good one in force."""
        if state.generation == view.generation:
            return
        try:
            state.accepted = accept(parse_cluster(view.manifest), self._settings.platform)
        except SpecError as error:
            state.refused = error
        except Exception as error:
            # Boundary: a defect that one spec meets must not take the last good one out of force.
            _logger.exception(
                "spec cannot be read by a defect", extra={"cluster": f"{view.key.namespace}/{view.key.name}"}
            )
            state.refused = SpecError(
                field="spec",
                value=f"generation {view.generation}",
                rule=f"the operator fails at it by a defect of its own ({type(error).__name__})",
                advice="change what is new in it, and report the defect with the operator's log",
            )
        else:
            state.refused = None
        if state.refused is not None:
            about = {"cluster": f"{view.key.namespace}/{view.key.name}", "error": str(state.refused)}
            _logger.warning("spec refused", extra=about | {"generation": view.generation})
        # Only now: reading is deterministic, and is not repeated before the next generation.
        state.generation = view.generation
        # Other bounds and other children: both are looked at in full, at once.
        state.sized_at = None
        state.children.distrust()

    async def _write_finalizers(self, view: ClusterView, finalizers: tuple[str, ...]) -> ClusterView:
        """Guarded by the resource version, because the list is written whole."""
        body = {"metadata": {"resourceVersion": view.resource_version, "finalizers": list(finalizers)}}
        written = await self._client.patch(CLUSTERS, view.key.name, body, namespace=view.key.namespace)
        return cluster_view(written)

    def _forget(self, key: ObjectKey) -> NextLook:
        self._states.pop(key, None)
        if self._sleepers is not None:
            self._sleepers.watch(key, ())
        self._metrics.forget(key)
        self._world.metrics.forget(key)
        return NextLook(0.0, finished=True)


async def _refusals_of(step: Awaitable[None]) -> tuple[ApplyError, ...]:
    """What the API server would not do in this step. Raises `ApiUnavailable`."""
    try:
        await step
    except ApplyError as error:
        return (error,)
    return ()

"""Act: carry out the actions of a decision one by one, each safe to repeat and guarded against what changed since.

Every answer goes into the cache at once. The next look may come before the watch shows what this one did: decided on
Pods as they were, it would fence another victim, or create beyond the budget, and the look after it one more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, assert_never

from inferencecluster.adapters.kube import DeleteGuard, KubeClient
from inferencecluster.adapters.kube_resources import PODS, Manifest
from inferencecluster.adapters.pod_cache import PodCache
from inferencecluster.adapters.pods import EnginePod, controller_uid, project_pod
from inferencecluster.api.names import (
    ANNOTATION_FENCE_REASON,
    ANNOTATION_FENCED_AT,
    ANNOTATION_TEMPLATE,
    CLUSTER_KIND,
    LABEL_CLUSTER,
    LABEL_COMPONENT,
)
from inferencecluster.controller.accepted import AcceptedSpec
from inferencecluster.controller.events import Event, EventReason, EventType, because
from inferencecluster.core.actions import Action, Convert, Create, Delete, Fence, Unfence
from inferencecluster.core.errors import ApplyError, Conflict, Forbidden, Invalid
from inferencecluster.core.fleet import PoolName, Replica
from inferencecluster.core.observation import Refusal
from inferencecluster.core.replacement import FORBIDDEN, INVALID_POD
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.core.victims import is_current, ordinal_of
from inferencecluster.render.context import PoolContext
from inferencecluster.render.replica import DRAINED_GRACE_SECONDS, render_replica

_ANNOTATION_CHARACTERS: Final = 500
"""A reason is a sentence."""
_NAMES_TRIED: Final = 10
"""Names of others that one create passes over in one look; more of them are nobody's accident."""

_UNFENCED: Final = MappingProxyType({ANNOTATION_FENCED_AT: None, ANNOTATION_FENCE_REASON: None})
"""Annotations of a merge patch that takes a fence back; nothing where there is none."""

Target = tuple[str, str]
"""Kind of write and uid of the replica: what a refusal is remembered by."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Whose replicas are acted on, as they were when the decision was made."""

    namespace: str
    name: str
    uid: str
    replicas: tuple[Replica, ...]
    now: float
    """Unix seconds of the observation."""
    versions: dict[str, str] = field(default_factory=dict)
    """Replica uid -> resource version of its Pod as it was observed, or as our own last write left it."""

    def replica(self, uid: str) -> Replica | None:
        """The replica as it was observed."""
        return next((replica for replica in self.replicas if replica.uid == uid), None)


@dataclass(frozen=True, slots=True)
class Note:
    """Annotations that a replica's Pod should have and has not."""

    kind: str
    replica: Replica
    annotations: Mapping[str, str | None]

    @property
    def target(self) -> Target:
        """For refusals."""
        return self.kind, self.replica.uid


@dataclass(frozen=True, slots=True)
class Refused:
    """A write to a replica that the API server would not do."""

    target: Target
    error: ApplyError


@dataclass(frozen=True, slots=True)
class Uncreated:
    """A replica that may not be created, or not in this form. Repeating it soon would be refused again."""

    pool: PoolName
    error: Forbidden | Invalid

    @property
    def refusal(self) -> Refusal:
        """As the next decision sees it."""
        by_type = INVALID_POD if isinstance(self.error, Invalid) else FORBIDDEN
        return Refusal(self.pool, self.error.cause or by_type, self.error.detail)


@dataclass(frozen=True, slots=True)
class Acted:
    """What came of the actions."""

    done: tuple[Action, ...] = ()
    """Those that changed something."""
    events: tuple[Event, ...] = ()
    refused: tuple[Refused, ...] = ()
    """What the API server would not do, creates of replicas apart; the next look decides again."""
    uncreated: tuple[Uncreated, ...] = ()
    """Creates that the API server refused, one for each pool: the pool backs off."""
    is_put_off: bool = False
    """Nothing was tried: the decision was made on Pods that may not be as they were seen."""


def target_of(action: Fence | Unfence | Convert | Delete) -> Target:
    """What a refusal of the action is remembered by."""
    return type(action).__name__, action.uid


def missing_notes(fleet: Fleet, spec: ClusterSpec | None, odd_fences: frozenset[str]) -> tuple[Note, ...]:
    """What replicas should tell and do not.

    A proper time of a fence whose time cannot be one. And the present template, on current replicas that tell none, so
    that the next change of it replaces them: they are of an operator that did not write it, and are not replaced
    because of that. Not in interchangeable pools, where a template promises an engine that takes every phase.
    """
    notes = [
        Note("FenceTime", replica, {ANNOTATION_FENCED_AT: f"{replica.fenced_at:.3f}"})
        for replica in fleet.replicas
        if replica.uid in odd_fences
    ]
    if spec is None:
        return tuple(notes)
    for replica in fleet.replicas:
        pool = spec.pool(replica.home)
        is_silent = pool.template and not replica.template and replica.counts
        if is_silent and not pool.interchangeable and is_current(replica, spec):
            notes.append(Note("Template", replica, {ANNOTATION_TEMPLATE: pool.template}))
    return tuple(notes)


class Actor:
    """Carries out actions on Pods."""

    def __init__(self, client: KubeClient, cache: PodCache) -> None:
        self._client = client
        self._cache = cache

    async def carry_out(
        self, actions: Sequence[Action], fleet: Fleet, accepted: AcceptedSpec | None
    ) -> Acted:
        """In order; a refused action does not hold up the others. `accepted` may be None where nothing is created or
        converted.

        Raises `ApiUnavailable`: then nothing after the failing call has been tried.
        """
        done: list[Action] = []
        events: list[Event] = []
        refused: list[Refused] = []
        uncreated: dict[PoolName, Uncreated] = {}
        taken = {ordinal_of(replica) for replica in fleet.replicas}
        taken |= {action.ordinal for action in actions if isinstance(action, Create)}
        for action in actions:
            if not isinstance(action, Create):
                try:
                    event = await self._change(action, fleet, accepted)
                except ApplyError as error:
                    refused.append(Refused(target_of(action), error))
                else:
                    done += (action,) if event else ()
                    events += (event,) if event else ()
            # One that is equal to another that was just refused is not tried.
            elif accepted is not None and action.pool in accepted.contexts and action.pool not in uncreated:
                try:
                    created = await self._create(action, taken, fleet, accepted)
                except (Forbidden, Invalid) as error:
                    uncreated[action.pool] = Uncreated(action.pool, error)
                else:
                    done += created.done
                    events += created.events
        return Acted(tuple(done), tuple(events), tuple(refused), tuple(uncreated.values()))

    async def note(self, notes: Sequence[Note], fleet: Fleet) -> tuple[Refused, ...]:
        """Write annotations down. Returns what was refused. Raises `ApiUnavailable`."""
        refused: list[Refused] = []
        for note in notes:
            try:
                change = {"annotations": dict(note.annotations)}
                await self._patch(note.replica.name, note.replica.uid, fleet, change)
            except ApplyError as error:
                refused.append(Refused(note.target, error))
        return tuple(refused)

    async def _change(
        self, action: Fence | Unfence | Convert | Delete, fleet: Fleet, accepted: AcceptedSpec | None
    ) -> Event | None:
        """Something that exists; None when there is nothing to do any more."""
        match action:
            case Fence():
                annotations = {
                    ANNOTATION_FENCED_AT: f"{fleet.now:.3f}",
                    ANNOTATION_FENCE_REASON: action.reason[:_ANNOTATION_CHARACTERS],
                }
                await self._patch(action.replica, action.uid, fleet, {"annotations": annotations})
                message = f"{action.replica} gets no new requests, because {because(action.reason)}"
                return _event(EventReason.REPLICA_FENCED, message)
            case Unfence():
                await self._patch(action.replica, action.uid, fleet, {"annotations": dict(_UNFENCED)})
                message = f"{action.replica} serves again, because {because(action.reason)}"
                return _event(EventReason.REPLICA_UNFENCED, message)
            case Convert():
                if accepted is None or action.pool not in accepted.contexts:
                    return None
                change = _as_of(accepted.contexts[action.pool])
                await self._patch(action.replica, action.uid, fleet, change)
                message = f"{action.replica} moves to {action.pool}, because {because(action.reason)}"
                return _event(EventReason.REPLICA_CONVERTED, message)
            case Delete():
                return await self._delete(action, fleet)
            case _:
                assert_never(action)

    async def _create(self, action: Create, taken: set[int], fleet: Fleet, accepted: AcceptedSpec) -> Acted:
        """Under the action's name, or the next free one where somebody else's Pod has it. `taken` grows by those."""
        events: list[Event] = []
        ordinal = action.ordinal
        for _ in range(_NAMES_TRIED):
            manifest = render_replica(accepted.contexts[action.pool], ordinal=ordinal)
            name = manifest["metadata"]["name"]
            try:
                self._cache.take(await self._client.create(manifest))
            except Conflict:
                found = await self._client.get(PODS, name, namespace=fleet.namespace)
                if found is None:
                    break
                if controller_uid(found["metadata"], CLUSTER_KIND) == fleet.uid:
                    events += self._met_again(found)
                    break
                message = f"Pod {name} exists and belongs to somebody else: delete or rename it"
                events.append(Event(EventType.WARNING, EventReason.FOREIGN_OBJECT, message))
                ordinal = next(number for number in range(len(taken) + 1) if number not in taken)
                taken.add(ordinal)
            else:
                message = f"{name} joins {action.pool}, because {because(action.reason)}"
                events.append(_event(EventReason.REPLICA_CREATED, message))
                return Acted((replace(action, ordinal=ordinal),), tuple(events))
        return Acted(events=tuple(events))

    def _met_again(self, pod: Manifest) -> tuple[Event, ...]:
        """A name that is taken by our own: of a moment ago, which the cache did not show yet, or one that it never will."""
        labels = pod["metadata"].get("labels") or {}
        if LABEL_CLUSTER in labels and LABEL_COMPONENT in labels:
            self._cache.take(pod)
            return ()
        message = (
            f"Pod {pod['metadata']['name']} is a replica of this cluster that lost its labels, and is not seen: "
            f"restore {LABEL_CLUSTER} and {LABEL_COMPONENT}, or delete it"
        )
        return (Event(EventType.WARNING, EventReason.REPLICA_NOT_LABELLED, message),)

    async def _patch(self, name: str, uid: str, fleet: Fleet, change: Manifest) -> None:
        """Change labels and annotations. Raises `Conflict` when the Pod is another one by now, or not as it was observed."""
        metadata: Manifest = {"uid": uid, **change}
        if fleet.versions.get(uid):
            metadata["resourceVersion"] = fleet.versions[uid]
        try:
            written = await self._client.patch(PODS, name, {"metadata": metadata}, namespace=fleet.namespace)
        except (Conflict, Invalid) as error:
            # The watch may not show for long what has changed: the next look is to decide on what is there.
            found = await self._client.get(PODS, name, namespace=fleet.namespace)
            if found is not None:
                self._cache.take(found)
                if isinstance(error, Invalid) and found["metadata"]["uid"] == uid:
                    raise
            # Invalid is the answer to a patch that would change a uid, which is how the patch is guarded.
            raise Conflict(verb=error.verb, target=error.target, detail=error.detail) from error
        self._cache.take(written)
        fleet.versions[uid] = written["metadata"]["resourceVersion"]

    async def _delete(self, action: Delete, fleet: Fleet) -> Event | None:
        """Look at the victim once more: it must be what was decided on, in its uid, fence, lifecycle and owner."""
        pod = await self._client.get(PODS, action.replica, namespace=fleet.namespace)
        if pod is None or pod["metadata"]["uid"] != action.uid:
            return None
        self._cache.take(pod)
        observed = fleet.replica(action.uid)
        if observed is None or not _is_unchanged(pod, observed, fleet.uid):
            target = f"Pod {fleet.namespace}/{action.replica}"
            raise Conflict(verb="delete", target=target, detail="it changed since it was observed")
        guard = DeleteGuard(
            uid=action.uid,
            resource_version=pod["metadata"]["resourceVersion"],
            grace_seconds=DRAINED_GRACE_SECONDS,
        )
        if not await self._client.delete(PODS, action.replica, namespace=fleet.namespace, guard=guard):
            return None
        self._cache.take_deletion(pod)
        message = f"{action.replica} is deleted, because {because(action.reason)}"
        if action.forced:
            message += ", with work in flight or unknown"
            return Event(EventType.WARNING, EventReason.DRAIN_OVERRIDDEN, message)
        return _event(EventReason.REPLICA_DELETED, message)


def _as_of(context: PoolContext) -> Manifest:
    """The labels and annotations that a serving replica of the pool has; of interchangeable pools nothing else differs."""
    metadata = render_replica(context, ordinal=0)["metadata"]
    return {"labels": metadata["labels"], "annotations": {**metadata["annotations"], **_UNFENCED}}


def _is_unchanged(pod: Manifest, observed: Replica, owner_uid: str) -> bool:
    fresh = project_pod(pod)
    return (
        isinstance(fresh, EnginePod)
        and fresh.owner_uid == owner_uid
        and fresh.replica.lifecycle is observed.lifecycle
        and fresh.replica.fenced_at == observed.fenced_at
    )


def _event(reason: EventReason, message: str) -> Event:
    return Event(EventType.NORMAL, reason, message)

"""Act: carry out the actions of a decision one by one, each safe to repeat and guarded against what changed since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from inferencecluster.adapters.kube import DeleteGuard, KubeClient
from inferencecluster.adapters.kube_resources import PODS, Manifest
from inferencecluster.adapters.pods import EnginePod, controller_uid, project_pod
from inferencecluster.api.names import (
    ANNOTATION_FENCE_REASON,
    ANNOTATION_FENCED_AT,
    ANNOTATION_TEMPLATE,
    CLUSTER_KIND,
)
from inferencecluster.controller.accepted import AcceptedSpec
from inferencecluster.controller.events import Event, EventReason, EventType, because
from inferencecluster.core.actions import Action, Create, Delete, Fence, Unfence
from inferencecluster.core.errors import ApplyError, Conflict, Forbidden, Invalid
from inferencecluster.core.fleet import PoolName, Replica
from inferencecluster.core.observation import Refusal
from inferencecluster.core.replacement import FORBIDDEN, INVALID_POD
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.core.victims import is_current
from inferencecluster.render.replica import DRAINED_GRACE_SECONDS, render_replica, replica_name

_ANNOTATION_CHARACTERS: Final = 500
"""A reason is a sentence."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Whose replicas are acted on, as they were when the decision was made."""

    namespace: str
    name: str
    uid: str
    replicas: tuple[Replica, ...]
    now: float
    """Unix seconds of the observation."""

    def replica(self, uid: str) -> Replica | None:
        """The replica as it was observed."""
        return next((replica for replica in self.replicas if replica.uid == uid), None)


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

    done: tuple[Action, ...]
    """Those that changed something."""
    events: tuple[Event, ...]
    refused: tuple[ApplyError, ...]
    """What the API server would not do, creates of replicas apart; the next look decides again."""
    uncreated: tuple[Uncreated, ...] = ()
    """Creates that the API server refused, one for each pool: the pool backs off."""


class Actor:
    """Carries out actions on Pods."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def carry_out(
        self, actions: Sequence[Action], fleet: Fleet, accepted: AcceptedSpec | None
    ) -> Acted:
        """In order; a refused action does not hold up the others. `accepted` may be None where nothing is created.

        Raises `ApiUnavailable`: then nothing after the failing call has been tried.
        """
        done: list[Action] = []
        events: list[Event] = []
        refused: list[ApplyError] = []
        uncreated: dict[PoolName, Uncreated] = {}
        for action in actions:
            if isinstance(action, Create) and action.pool in uncreated:
                # Equal to the one that was just refused.
                continue
            try:
                event = await self._carry_out(action, fleet, accepted)
            except ApplyError as error:
                if isinstance(action, Create) and isinstance(error, Forbidden | Invalid):
                    uncreated[action.pool] = Uncreated(action.pool, error)
                else:
                    refused.append(error)
                continue
            if event is not None:
                done.append(action)
                events.append(event)
        return Acted(tuple(done), tuple(events), tuple(refused), tuple(uncreated.values()))

    async def adopt(self, fleet: Fleet, spec: ClusterSpec) -> tuple[ApplyError, ...]:
        """Note the present template on current replicas that tell none, so that the next change of it replaces them.

        They are of an operator that did not write it, and are not replaced because of that. Returns what was refused.
        Raises `ApiUnavailable`.
        """
        refused: list[ApplyError] = []
        for replica in fleet.replicas:
            template = spec.pool(replica.home).template
            if replica.template or not template or not (replica.counts and is_current(replica, spec)):
                continue
            try:
                await self._annotate(replica.name, replica.uid, fleet, {ANNOTATION_TEMPLATE: template})
            except ApplyError as error:
                refused.append(error)
        return tuple(refused)

    async def _carry_out(self, action: Action, fleet: Fleet, accepted: AcceptedSpec | None) -> Event | None:
        match action:
            case Create():
                return await self._create(action, fleet, accepted)
            case Fence():
                annotations: dict[str, str | None]
                annotations = {
                    ANNOTATION_FENCED_AT: f"{fleet.now:.3f}",
                    ANNOTATION_FENCE_REASON: action.reason[:_ANNOTATION_CHARACTERS],
                }
                await self._annotate(action.replica, action.uid, fleet, annotations)
                message = f"{action.replica} gets no new requests, because {because(action.reason)}"
                return _event(EventReason.REPLICA_FENCED, message)
            case Unfence():
                annotations = {ANNOTATION_FENCED_AT: None, ANNOTATION_FENCE_REASON: None}
                await self._annotate(action.replica, action.uid, fleet, annotations)
                message = f"{action.replica} serves again, because {because(action.reason)}"
                return _event(EventReason.REPLICA_UNFENCED, message)
            case Delete():
                return await self._delete(action, fleet)
            case _:
                assert_never(action)

    async def _create(self, action: Create, fleet: Fleet, accepted: AcceptedSpec | None) -> Event | None:
        """A name that is taken is most likely our own create of a moment ago, which the cache does not show yet."""
        if accepted is None or action.pool not in accepted.contexts:
            return None
        manifest = render_replica(accepted.contexts[action.pool], ordinal=action.ordinal)
        try:
            await self._client.create(manifest)
        except Conflict:
            name = replica_name(fleet.name, action.ordinal)
            taken = await self._client.get(PODS, name, namespace=fleet.namespace)
            if taken is None or controller_uid(taken["metadata"], CLUSTER_KIND) == fleet.uid:
                return None
            message = f"Pod {name} exists and belongs to somebody else: delete or rename it"
            return Event(EventType.WARNING, EventReason.FOREIGN_OBJECT, message)
        name = manifest["metadata"]["name"]
        message = f"{name} joins {action.pool}, because {because(action.reason)}"
        return _event(EventReason.REPLICA_CREATED, message)

    async def _annotate(
        self, name: str, uid: str, fleet: Fleet, annotations: Mapping[str, str | None]
    ) -> None:
        """Raises `Conflict` when the Pod is another one by now."""
        body = {"metadata": {"uid": uid, "annotations": dict(annotations)}}
        try:
            await self._client.patch(PODS, name, body, namespace=fleet.namespace)
        except Invalid as error:
            # The API server's answer to a patch that would change a uid, which is how the patch is guarded.
            raise Conflict(verb=error.verb, target=error.target, detail=error.detail) from error

    async def _delete(self, action: Delete, fleet: Fleet) -> Event | None:
        """Look at the victim once more: it must be what was decided on, in its uid, fence, lifecycle and owner."""
        pod = await self._client.get(PODS, action.replica, namespace=fleet.namespace)
        if pod is None or pod["metadata"]["uid"] != action.uid:
            return None
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
        message = f"{action.replica} is deleted, because {because(action.reason)}"
        if action.forced:
            message += ", with work in flight or unknown"
            return Event(EventType.WARNING, EventReason.DRAIN_OVERRIDDEN, message)
        return _event(EventReason.REPLICA_DELETED, message)


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

"""Act: carry out the actions of a decision one by one, each safe to repeat and guarded against what changed since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from inferencecluster.adapters.kube import DeleteGuard, KubeClient
from inferencecluster.adapters.kube_resources import PODS, Manifest
from inferencecluster.adapters.pods import EnginePod, controller_uid, project_pod
from inferencecluster.api.names import ANNOTATION_FENCE_REASON, ANNOTATION_FENCED_AT, CLUSTER_KIND
from inferencecluster.controller.accepted import AcceptedSpec
from inferencecluster.controller.events import Event, EventReason, EventType
from inferencecluster.core.actions import Action, Create, Delete, Fence, Unfence
from inferencecluster.core.errors import ApplyError, Conflict, Invalid
from inferencecluster.core.fleet import Replica
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
class Acted:
    """What came of the actions."""

    done: tuple[Action, ...]
    """Those that changed something."""
    events: tuple[Event, ...]
    refused: tuple[ApplyError, ...]
    """What the API server would not do; the next look decides again."""


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
        for action in actions:
            try:
                event = await self._carry_out(action, fleet, accepted)
            except ApplyError as error:
                refused.append(error)
                continue
            if event is not None:
                done.append(action)
                events.append(event)
        return Acted(tuple(done), tuple(events), tuple(refused))

    async def _carry_out(self, action: Action, fleet: Fleet, accepted: AcceptedSpec | None) -> Event | None:
        match action:
            case Create():
                return await self._create(action, fleet, accepted)
            case Fence():
                annotations: dict[str, str | None] = {
                    ANNOTATION_FENCED_AT: f"{fleet.now:.3f}",
                    ANNOTATION_FENCE_REASON: action.reason[:_ANNOTATION_CHARACTERS],
                }
                await self._annotate(action, fleet, annotations)
                return _event(EventReason.REPLICA_FENCED, f"{action.replica}: {action.reason}")
            case Unfence():
                await self._annotate(
                    action, fleet, {ANNOTATION_FENCED_AT: None, ANNOTATION_FENCE_REASON: None}
                )
                return _event(EventReason.REPLICA_UNFENCED, f"{action.replica}: {action.reason}")
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
        return _event(EventReason.REPLICA_CREATED, f"{name} in {action.pool}: {action.reason}")

    async def _annotate(
        self, action: Fence | Unfence, fleet: Fleet, annotations: dict[str, str | None]
    ) -> None:
        """Raises `Conflict` when the Pod is another one by now."""
        body = {"metadata": {"uid": action.uid, "annotations": annotations}}
        try:
            await self._client.patch(PODS, action.replica, body, namespace=fleet.namespace)
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
        message = f"{action.replica}: {action.reason}"
        if action.forced:
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

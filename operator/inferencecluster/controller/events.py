"""Kubernetes Events: one per change of size and per new reason of a condition, none twice within two minutes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from inferencecluster.adapters.clock import Clock
from inferencecluster.adapters.kube import KubeClient
from inferencecluster.adapters.kube_resources import Manifest
from inferencecluster.adapters.timestamps import timestamp
from inferencecluster.api.names import API_VERSION, CLUSTER_KIND, FIELD_MANAGER
from inferencecluster.core.errors import ApplyError, ObservationError
from inferencecluster.core.replacement import (
    ENGINE_CRASHED,
    IMAGE_PULL_FAILED,
    NODES_EXHAUSTED,
    REPLICA_FAILED,
    STARTUP_DEADLINE_EXCEEDED,
    UNRESPONSIVE,
)
from inferencecluster.core.transition import (
    BELOW_TARGET,
    CLUSTER_DELETED,
    DRAIN_DEADLINE,
    ROLLOUT,
    SCALE_DOWN,
    WANTED_AGAIN,
    WANTED_ELSEWHERE,
)

REPEAT_SECONDS: Final = 120.0
"""Karpenter's own: equal Events within two minutes say nothing new."""

_MESSAGE_CHARACTERS: Final = 1000
"""core/v1 Events keep 1,024."""

_BECAUSE: Final = MappingProxyType(
    {
        BELOW_TARGET: "its pool has fewer replicas than desired",
        SCALE_DOWN: "its pool has more replicas than desired",
        WANTED_AGAIN: "its pool needs it again",
        WANTED_ELSEWHERE: "that pool lacks one and its own has one too many",
        ROLLOUT: "it is of an older revision, shape or placement",
        CLUSTER_DELETED: "the cluster is being deleted",
        DRAIN_DEADLINE: "its drain deadline has passed",
        ENGINE_CRASHED: "its engine crashes again and again",
        IMAGE_PULL_FAILED: "its image cannot be pulled",
        NODES_EXHAUSTED: "it could not be scheduled in time",
        REPLICA_FAILED: "it failed",
        STARTUP_DEADLINE_EXCEEDED: "it was not ready in time",
        UNRESPONSIVE: "it served, and stopped answering",
    }
)
"""Reasons of actions as a clause about the replica."""

_logger = logging.getLogger(__name__)


class EventType(StrEnum):
    """core/v1 Event types."""

    NORMAL = "Normal"
    WARNING = "Warning"


class EventReason(StrEnum):
    """Reasons of this module's own; those of decisions and conditions come from the core."""

    FOREIGN_OBJECT = "ForeignObject"
    WRITE_REFUSED = "WriteRefused"
    REPLICA_NOT_LABELLED = "ReplicaNotLabelled"
    REPLICA_CREATED = "ReplicaCreated"
    REPLICA_FENCED = "ReplicaFenced"
    REPLICA_UNFENCED = "ReplicaUnfenced"
    REPLICA_CONVERTED = "ReplicaConverted"
    REPLICA_DELETED = "ReplicaDeleted"
    DRAIN_OVERRIDDEN = "DrainOverridden"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a cluster."""

    type: EventType
    reason: str
    """One CamelCase word."""
    message: str


def because(reason: str) -> str:
    """The reason of an action on a replica, for people; one that another version wrote is told as it is."""
    return _BECAUSE.get(reason, reason)


class EventRecorder:
    """Writes Events about clusters. An Event that cannot be written is logged and lost: it is no state."""

    def __init__(self, client: KubeClient, clock: Clock, *, instance: str) -> None:
        """`instance` is the name of the operator's Pod."""
        self._client = client
        self._clock = clock
        self._instance = instance
        self._recent: dict[tuple[str, str, str], float] = {}

    async def record(self, cluster: Mapping[str, str], event: Event) -> None:
        """Write one Event about the cluster with this metadata (name, namespace, uid), unless it was just written."""
        # By the clock that does not jump: one that was set back would silence everything for as long.
        moment = self._clock.monotonic()
        key = (cluster["uid"], event.reason, event.message)
        self._recent = {known: at for known, at in self._recent.items() if moment - at < REPEAT_SECONDS}
        if key in self._recent:
            return
        self._recent[key] = moment
        try:
            await self._client.create(self._manifest(cluster, event, self._clock.now()))
        except (ApplyError, ObservationError) as error:
            _logger.warning("an Event was lost", extra={"reason": event.reason, "error": str(error)})

    def _manifest(self, cluster: Mapping[str, str], event: Event, now: float) -> Manifest:
        # Named by content and second: the same Event after a crash is the same object.
        content = f"{cluster['uid']}\n{event.reason}\n{event.message}\n{int(now)}"
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{cluster['name']}.{digest}", "namespace": cluster["namespace"]},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": CLUSTER_KIND,
                "name": cluster["name"],
                "namespace": cluster["namespace"],
                "uid": cluster["uid"],
            },
            "type": event.type.value,
            "reason": event.reason,
            "message": event.message[:_MESSAGE_CHARACTERS],
            "count": 1,
            "firstTimestamp": timestamp(now),
            "lastTimestamp": timestamp(now),
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": self._instance,
        }

"""Pods of clusters, narrowed to what decisions need: replicas and routers, indexed by their cluster."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.adapters.kube_resources import Manifest
from inferencecluster.adapters.timestamps import unix_seconds
from inferencecluster.api.names import (
    ANNOTATION_FENCE_REASON,
    ANNOTATION_FENCED_AT,
    ANNOTATION_TEMPLATE,
    CLUSTER_KIND,
    COMPONENT_ENGINE,
    COMPONENT_ROUTER,
    EMULATED_ENGINE,
    LABEL_CLUSTER,
    LABEL_COMPONENT,
    LABEL_POOL,
    LABEL_REVISION,
    LABEL_ROLE,
)
from inferencecluster.core.fleet import Lifecycle, PoolName, Replica, Role

POD_SELECTOR: Final = f"{LABEL_CLUSTER},{LABEL_COMPONENT} in ({COMPONENT_ENGINE},{COMPONENT_ROUTER})"
"""Label selector of every Pod that `project_pod` keeps."""

BROKEN_CONTAINER: Final = frozenset(
    {
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)
"""Waiting reasons of the kubelet (pkg/kubelet/images/types.go, kuberuntime) that mean: this container cannot run now.
`ErrImagePull` and its back-off alternate, so both are in: a replica must not flicker between two states."""

_FAILURE_CHARACTERS: Final = 300
"""Registries answer with pages; status and Events hold sentences."""


@dataclass(frozen=True, slots=True)
class EnginePod:
    """A replica's Pod."""

    cluster: ObjectKey
    owner_uid: str
    """UID of the InferenceCluster that controls it; empty when nothing of that kind does."""
    replica: Replica
    """`gpus` counts the largest number of one device: `counted` knows better. `load` is not known here."""
    devices: Mapping[str, int]
    """Extended resources of its containers."""
    config_maps: tuple[str, ...]
    """Names of the ConfigMaps that it mounts."""
    address: str | None
    fence: str = ""
    """Text of the fence's annotation, which identifies this fence; empty when there is none. `fenced_at` of the replica
    is None where the text is no time: it is a fence all the same (`observe`)."""
    is_emulated: bool = False
    """Its container is an emulated engine's, whatever the newest spec asks for."""

    def counted(self, gpu_resource_names: Collection[str]) -> Replica:
        """The replica with its GPUs, given the names that the cluster's pools request GPUs by."""
        gpus = sum(count for name, count in self.devices.items() if name in gpu_resource_names)
        return replace(self.replica, gpus=gpus) if gpus else self.replica


@dataclass(frozen=True, slots=True)
class RouterPod:
    """A router's Pod, terminating ones included: they finish what they hold."""

    cluster: ObjectKey
    owner_uid: str
    """UID of the ReplicaSet that controls it."""
    name: str
    uid: str
    address: str | None
    running: bool
    """Its container runs, or ran when its node was last heard of: it may hold requests. Not readiness."""
    killed_at: float | None = None
    """Unix seconds of the end of its grace period, when the kubelet kills it; None while nobody deletes it."""


ClusterPod = EnginePod | RouterPod


def project_pod(pod: Manifest) -> ClusterPod | None:
    """The part of a Pod that matters here; None for Pods of other components."""
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
    if LABEL_CLUSTER not in labels:
        return None
    cluster = ObjectKey(metadata["namespace"], labels[LABEL_CLUSTER])
    match labels.get(LABEL_COMPONENT):
        case "engine":
            return _engine(pod, cluster, labels)
        case "router":
            return _router(pod, cluster)
        case _:
            return None


def _engine(pod: Manifest, cluster: ObjectKey, labels: Mapping[str, str]) -> EnginePod:
    metadata, status = pod["metadata"], pod.get("status") or {}
    annotations = metadata.get("annotations") or {}
    devices = requested_devices(pod["spec"])
    lifecycle, failure = _lifecycle(pod)
    ready = _condition(status, "Ready")
    was_ready = lifecycle in (Lifecycle.READY, Lifecycle.UNREADY) or ready.get("status") == "True"
    home = _home(labels)
    return EnginePod(
        cluster=cluster,
        owner_uid=controller_uid(metadata, CLUSTER_KIND),
        replica=Replica(
            name=metadata["name"],
            uid=metadata["uid"],
            home=home,
            role=_role(labels, home),
            revision=labels.get(LABEL_REVISION, ""),
            gpus=max(devices.values(), default=0),
            lifecycle=lifecycle,
            created_at=unix_seconds(metadata["creationTimestamp"]),
            ready_at=_moment(ready.get("lastTransitionTime")) if was_ready else None,
            fenced_at=_fenced_at(annotations),
            fence_reason=annotations.get(ANNOTATION_FENCE_REASON, ""),
            node=pod["spec"].get("nodeName") or None,
            failure=failure,
            template=annotations.get(ANNOTATION_TEMPLATE, ""),
        ),
        devices=devices,
        config_maps=tuple(
            volume["configMap"]["name"]
            for volume in pod["spec"].get("volumes") or ()
            if "configMap" in volume
        ),
        address=status.get("podIP") or None,
        is_emulated=any(
            container.get("command") == [EMULATED_ENGINE] for container in pod["spec"].get("containers") or ()
        ),
        # An annotation without a text is a fence, too, and has to be told from none.
        fence=(annotations[ANNOTATION_FENCED_AT] or " ") if ANNOTATION_FENCED_AT in annotations else "",
    )


def _router(pod: Manifest, cluster: ObjectKey) -> RouterPod:
    metadata, status = pod["metadata"], pod.get("status") or {}
    containers = status.get("containerStatuses") or ()
    return RouterPod(
        cluster=cluster,
        owner_uid=controller_uid(metadata, "ReplicaSet"),
        name=metadata["name"],
        uid=metadata["uid"],
        address=status.get("podIP") or None,
        running=any("running" in (container.get("state") or {}) for container in containers),
        killed_at=_moment(metadata.get("deletionTimestamp")),
    )


def controller_uid(metadata: Manifest, kind: str) -> str:
    """UID of the controlling owner if it is of `kind`, else empty."""
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("controller") and owner["kind"] == kind:
            return str(owner["uid"])
    return ""


def requested_devices(spec: Manifest) -> dict[str, int]:
    """Extended resources that a Pod's containers request: names with a vendor's prefix, whole numbers."""
    devices: defaultdict[str, int] = defaultdict(int)
    for container in spec.get("containers") or ():
        resources = container.get("resources") or {}
        # Both are equal for extended resources where both are there; either may be left out.
        both = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
        for name, quantity in both.items():
            if "/" in name and str(quantity).isdecimal():
                devices[name] += int(quantity)
    return dict(devices)


def _lifecycle(pod: Manifest) -> tuple[Lifecycle, str]:
    """State and, for failed ones, why."""
    if pod["metadata"].get("deletionTimestamp"):
        return Lifecycle.TERMINATING, ""
    status = pod.get("status") or {}
    failure = _failure(status)
    if failure:
        return Lifecycle.FAILED, failure
    if not pod["spec"].get("nodeName"):
        return Lifecycle.PENDING, ""
    ready = _condition(status, "Ready")
    if ready.get("status") == "True":
        return Lifecycle.READY, ""
    if _was_ready(ready, status.get("containerStatuses") or ()):
        return Lifecycle.UNREADY, ""
    return Lifecycle.STARTING, ""


def _failure(status: Mapping[str, Any]) -> str:
    """Why the Pod ended or its container cannot run; empty when neither is so."""
    if status.get("phase") in ("Failed", "Succeeded"):
        return _sentence(status.get("reason") or f"Pod{status['phase']}", status.get("message", ""))
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in BROKEN_CONTAINER:
            return _sentence(waiting["reason"], _why_broken(container, waiting))
    return ""


def _was_ready(ready: Mapping[str, Any], containers: Collection[Mapping[str, Any]]) -> bool:
    """The Ready condition turned False while the present containers ran: it was True in between.

    A Pod starts with the condition False, before its containers. A container that restarted boots its engine again,
    and is starting.
    """
    started = [
        container["state"]["running"].get("startedAt")
        for container in containers
        if (container.get("state") or {}).get("running")
    ]
    turned = _moment(ready.get("lastTransitionTime"))
    if turned is None or not started or len(started) < len(containers):
        return False
    # core/v1 lets both times be absent: what cannot be compared counts as still starting.
    moments = [_moment(moment) for moment in started]
    return all(moment is not None and turned > moment for moment in moments)


def _why_broken(container: Mapping[str, Any], waiting: Mapping[str, Any]) -> str:
    """The kubelet's words; for a crash loop, how the last run ended says more than the back-off."""
    terminated = (container.get("lastState") or {}).get("terminated")
    if terminated:
        reason = terminated.get("reason", "Error")
        return f"last run ended with {reason}, exit code {terminated.get('exitCode', 'unknown')}"
    return str(waiting.get("message", ""))


def _sentence(reason: str, message: str) -> str:
    return f"{reason}: {message}"[:_FAILURE_CHARACTERS] if message else reason


def _condition(status: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    for condition in status.get("conditions") or ():
        if condition["type"] == name:
            found: Mapping[str, Any] = condition
            return found
    return {}


def _home(labels: Mapping[str, str]) -> PoolName:
    """Somebody who breaks the label cannot take GPUs out of the account: the mixed pool takes any replica."""
    try:
        return PoolName(labels.get(LABEL_POOL, ""))
    except ValueError:
        return PoolName.MIXED


def _role(labels: Mapping[str, str], home: PoolName) -> Role:
    try:
        return Role(labels.get(LABEL_ROLE, ""))
    except ValueError:
        return Role(home.value)


def _fenced_at(annotations: Mapping[str, str]) -> float | None:
    """None without the annotation, or with one that is no time: a drain's deadline must not rest on it."""
    try:
        seconds = float(annotations[ANNOTATION_FENCED_AT])
    except (KeyError, ValueError):
        return None
    return seconds if math.isfinite(seconds) else None


def _moment(timestamp: str | None) -> float | None:
    """Unix seconds; None for a time that is absent, which core/v1 allows."""
    return unix_seconds(timestamp) if timestamp else None


@dataclass(slots=True)
class PodIndex:
    """Pods by cluster, fed by an informer's `on_change`, so that one cluster is read without scanning all."""

    _pods: dict[ObjectKey, dict[str, ClusterPod]] = field(default_factory=lambda: defaultdict(dict))

    def changed(self, before: ClusterPod | None, after: ClusterPod | None) -> None:
        """Take in one change."""
        if before is not None:
            of_cluster = self._pods[before.cluster]
            of_cluster.pop(_uid(before), None)
            if not of_cluster:
                del self._pods[before.cluster]
        if after is not None:
            self._pods[after.cluster][_uid(after)] = after

    def engines(self, cluster: ObjectKey) -> tuple[EnginePod, ...]:
        """The cluster's replicas, ordered by name."""
        found = [pod for pod in self._pods.get(cluster, {}).values() if isinstance(pod, EnginePod)]
        return tuple(sorted(found, key=lambda pod: pod.replica.name))

    def routers(self, cluster: ObjectKey) -> tuple[RouterPod, ...]:
        """The cluster's routers, ordered by name."""
        found = [pod for pod in self._pods.get(cluster, {}).values() if isinstance(pod, RouterPod)]
        return tuple(sorted(found, key=lambda pod: pod.name))

    def clusters(self) -> tuple[ObjectKey, ...]:
        """Clusters that have a Pod, in order."""
        return tuple(sorted(self._pods))


def _uid(pod: ClusterPod) -> str:
    return pod.replica.uid if isinstance(pod, EnginePod) else pod.uid

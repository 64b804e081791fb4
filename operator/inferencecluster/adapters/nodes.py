"""GPUs of the nodes that a pool's placement admits: how many there are, in use and free."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from inferencecluster.adapters.kube_resources import Manifest
from inferencecluster.adapters.pods import requested_devices
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.observation import PoolCapacity

BOUND_POD_SELECTOR: Final = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
"""Field selector of Pods that hold what they request (the scheduler's own rule)."""

_KEEPS_OFF: Final = frozenset({"NoSchedule", "NoExecute"})
_OF_STATE: Final = frozenset(
    f"node.kubernetes.io/{state}" for state in ("unschedulable", "not-ready", "unreachable")
)
"""Taints that Kubernetes adds while a node takes no Pods: it is still one of the pool's nodes, with what its Pods hold."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node, as placement sees it."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[tuple[str, str, str], ...]
    """Key, value, effect; only those that keep Pods off."""
    accepts_pods: bool
    """Ready, and not cordoned."""
    allocatable: Mapping[str, int]
    """Extended resources."""


@dataclass(frozen=True, slots=True)
class DeviceHolder:
    """A bound Pod that holds extended resources of its node."""

    uid: str
    node: str
    devices: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the scheduler may put a replica, in the fields of a Pod's spec."""

    gpu_resource_name: str
    node_selector: Mapping[str, str]
    tolerations: tuple[Mapping[str, Any], ...]
    terms: tuple[tuple[Mapping[str, Any], ...], ...]
    """Required node affinity: alternatives of expressions that all hold; empty admits every node."""

    @classmethod
    def of_pod_spec(cls, spec: Manifest, *, gpu_resource_name: str) -> Placement:
        """From a rendered replica, so that capacity is counted with exactly what will be created."""
        node_affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
        required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
        return cls(
            gpu_resource_name=gpu_resource_name,
            node_selector=spec.get("nodeSelector") or {},
            tolerations=tuple(spec.get("tolerations") or ()),
            terms=tuple(
                tuple(term.get("matchExpressions") or ()) for term in required.get("nodeSelectorTerms") or ()
            ),
        )

    def admits(self, node: NodeView) -> bool:
        """Labels fit and every taint that keeps Pods off is tolerated."""
        if any(node.labels.get(key) != value for key, value in self.node_selector.items()):
            return False
        if self.terms and not any(_all_hold(term, node.labels) for term in self.terms):
            return False
        return all(any(_tolerates(one, taint) for one in self.tolerations) for taint in node.taints)


def project_node(node: Manifest) -> NodeView | None:
    """The part of a node that matters here; None for nodes without devices."""
    status, spec = node.get("status") or {}, node.get("spec") or {}
    allocatable = {
        name: int(quantity)
        for name, quantity in (status.get("allocatable") or {}).items()
        if "/" in name and str(quantity).isdecimal()
    }
    if not any(allocatable.values()):
        return None
    ready = any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in status.get("conditions") or ()
    )
    return NodeView(
        name=node["metadata"]["name"],
        labels=node["metadata"].get("labels") or {},
        taints=tuple(
            (taint["key"], taint.get("value", ""), taint["effect"])
            for taint in spec.get("taints") or ()
            if taint["effect"] in _KEEPS_OFF and taint["key"] not in _OF_STATE
        ),
        accepts_pods=ready and not spec.get("unschedulable", False),
        allocatable=allocatable,
    )


def project_device_holder(pod: Manifest) -> DeviceHolder | None:
    """What a Pod holds of its node's devices; None when it holds none."""
    node, phase = pod["spec"].get("nodeName"), (pod.get("status") or {}).get("phase")
    if not node or phase in ("Succeeded", "Failed"):
        return None
    devices = requested_devices(pod["spec"])
    return DeviceHolder(pod["metadata"]["uid"], node, devices) if devices else None


@dataclass(slots=True)
class DeviceUse:
    """Devices in use by node, fed by an informer's `on_change`."""

    _used: dict[str, dict[str, int]] = field(default_factory=dict)

    def changed(self, before: DeviceHolder | None, after: DeviceHolder | None) -> None:
        """Take in one change."""
        for holder, sign in ((before, -1), (after, 1)):
            if holder is not None:
                of_node = self._used.setdefault(holder.node, defaultdict(int))
                for name, count in holder.devices.items():
                    of_node[name] += sign * count

    def used(self, node: str, device: str) -> int:
        """Devices of one kind that Pods hold on a node."""
        return self._used.get(node, {}).get(device, 0)


def pool_capacity(
    pool: PoolName,
    placement: Placement,
    nodes: Iterable[NodeView],
    used: Callable[[str, str], int],
) -> PoolCapacity:
    """What the admitted nodes hold. `used` is `DeviceUse.used`.

    A node that takes no new Pods (cordoned, not ready) still counts with what its Pods hold, and with nothing free.
    """
    device = placement.gpu_resource_name
    count = allocatable = in_use = free = largest = 0
    for node in nodes:
        if not placement.admits(node) or not node.allocatable.get(device):
            continue
        held = used(node.name, device)
        available = node.allocatable[device] if node.accepts_pods else min(held, node.allocatable[device])
        block = max(0, available - held)
        count += 1
        allocatable += available
        in_use += held
        free += block
        largest = max(largest, block)
    return PoolCapacity(pool, count, allocatable, in_use, free, largest)


def _all_hold(expressions: Collection[Mapping[str, Any]], labels: Mapping[str, str]) -> bool:
    return all(_holds(expression, labels) for expression in expressions)


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """core/v1 NodeSelectorRequirement; an operator that is not known, or a comparison with what is no integer, admits
    nothing.
    """
    value = labels.get(expression["key"])
    values: Sequence[str] = expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            own, bound = _integer(value), _integer(values[0] if len(values) == 1 else None)
            smaller, larger = (bound, own) if operator == "Gt" else (own, bound)
            return smaller is not None and larger is not None and smaller < larger
        case _:
            return False


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and text.removeprefix("-").isdecimal() else None


def _tolerates(toleration: Mapping[str, Any], taint: tuple[str, str, str]) -> bool:
    """core/v1 Toleration.ToleratesTaint."""
    key, value, effect = taint
    if toleration.get("effect") not in (None, "", effect):
        return False
    if toleration.get("key") not in (None, "", key):
        return False
    if toleration.get("operator") == "Exists":
        return True
    return bool(toleration.get("key")) and toleration.get("value", "") == value

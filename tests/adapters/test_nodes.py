"""Which nodes a pool may use and what is free on them, by the scheduler's own rules."""

from __future__ import annotations

from typing import Any

import pytest

from inferencecluster.adapters.nodes import (
    DeviceHolder,
    DeviceUse,
    Placement,
    pool_capacity,
    project_device_holder,
    project_node,
)
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.observation import PoolCapacity

GPU = "nvidia.com/gpu"
TAINT = {"key": GPU, "value": "present", "effect": "NoSchedule"}


def node(name: str = "n", **changes: Any) -> dict[str, Any]:
    spec = {key: changes[key] for key in ("taints", "unschedulable") if key in changes}
    return {
        "metadata": {"name": name, "labels": changes.get("labels", {})},
        "spec": spec,
        "status": {
            "allocatable": {GPU: str(changes.get("gpus", 8)), "cpu": "64"},
            "conditions": [{"type": "Ready", "status": changes.get("ready", "True")}],
        },
    }


def placement(**spec: Any) -> Placement:
    return Placement.of_pod_spec(spec, gpu_resource_name=GPU)


def affinity(*terms: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": term} for term in terms]
            }
        }
    }


def expression(operator: str, *values: str, key: str = "gpu") -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


@pytest.mark.parametrize(
    ("spec", "labels", "admitted"),
    [
        pytest.param({}, {}, True, id="no wish"),
        pytest.param({"nodeSelector": {"gpu": "h100"}}, {"gpu": "h100"}, True, id="selector fits"),
        pytest.param({"nodeSelector": {"gpu": "h100"}}, {"gpu": "a100"}, False, id="selector differs"),
        pytest.param({"nodeSelector": {"gpu": "h100"}}, {}, False, id="label absent"),
        pytest.param({"affinity": affinity([expression("In", "a", "b")])}, {"gpu": "b"}, True, id="In"),
        pytest.param({"affinity": affinity([expression("In", "a")])}, {}, False, id="In, absent"),
        pytest.param({"affinity": affinity([expression("NotIn", "a")])}, {}, True, id="NotIn, absent"),
        pytest.param({"affinity": affinity([expression("NotIn", "a")])}, {"gpu": "a"}, False, id="NotIn"),
        pytest.param({"affinity": affinity([expression("Exists")])}, {"gpu": ""}, True, id="Exists"),
        pytest.param({"affinity": affinity([expression("Exists")])}, {}, False, id="Exists, absent"),
        pytest.param({"affinity": affinity([expression("DoesNotExist")])}, {}, True, id="DoesNotExist"),
        pytest.param({"affinity": affinity([expression("Gt", "70")])}, {"gpu": "80"}, True, id="Gt"),
        pytest.param({"affinity": affinity([expression("Gt", "80")])}, {"gpu": "80"}, False, id="Gt, equal"),
        pytest.param({"affinity": affinity([expression("Lt", "80")])}, {"gpu": "9"}, True, id="Lt by number"),
        pytest.param(
            {"affinity": affinity([expression("Gt", "1")])}, {"gpu": "x"}, False, id="Gt, no number"
        ),
        pytest.param(
            {"affinity": affinity([expression("Gt", "v2")])},
            {"gpu": "3"},
            False,
            id="Gt, compared with a word",
        ),
        pytest.param({"affinity": affinity([expression("Lt")])}, {"gpu": "3"}, False, id="Lt, with nothing"),
        pytest.param({"affinity": affinity([expression("Newer", "1")])}, {"gpu": "1"}, False, id="unknown"),
        pytest.param(
            {"affinity": affinity([expression("In", "a"), expression("Exists", key="zone")])},
            {"gpu": "a"},
            False,
            id="all expressions of a term",
        ),
        pytest.param(
            {"affinity": affinity([expression("In", "a")], [expression("In", "b")])},
            {"gpu": "b"},
            True,
            id="one of several terms",
        ),
    ],
)
def test_labels(spec: dict[str, Any], labels: dict[str, str], admitted: bool) -> None:
    view = project_node(node(labels=labels))
    assert view is not None
    assert placement(**spec).admits(view) is admitted


@pytest.mark.parametrize(
    ("tolerations", "admitted"),
    [
        pytest.param([], False, id="none"),
        pytest.param([{"key": GPU, "operator": "Exists"}], True, id="key exists"),
        pytest.param([{"operator": "Exists"}], True, id="everything"),
        pytest.param([{"key": GPU, "value": "present"}], True, id="equal is the default"),
        pytest.param([{"key": GPU, "operator": "Equal", "value": "other"}], False, id="other value"),
        pytest.param([{"key": GPU, "operator": "Exists", "effect": "NoExecute"}], False, id="other effect"),
        pytest.param([{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}], True, id="its effect"),
        pytest.param([{"key": "other", "operator": "Exists"}], False, id="other key"),
    ],
)
def test_taints(tolerations: list[dict[str, str]], admitted: bool) -> None:
    view = project_node(node(taints=[TAINT]))
    assert view is not None
    assert placement(tolerations=tolerations).admits(view) is admitted


def test_a_taint_that_only_prefers_keeps_nothing_off() -> None:
    view = project_node(node(taints=[TAINT | {"effect": "PreferNoSchedule"}]))
    assert view is not None
    assert placement().admits(view)


def test_a_node_without_devices_is_not_kept() -> None:
    manifest = node()
    manifest["status"]["allocatable"] = {"cpu": "64", GPU: "0"}
    assert project_node(manifest) is None


def test_capacity_counts_every_holder_and_the_largest_block_of_one_node() -> None:
    use = DeviceUse()
    use.changed(None, DeviceHolder("1", "a", {GPU: 6}))
    use.changed(None, DeviceHolder("2", "b", {GPU: 3}))
    views = [view for name in ("a", "b") if (view := project_node(node(name))) is not None]
    assert pool_capacity(PoolName.PREFILL, placement(), views, use.used) == PoolCapacity(
        PoolName.PREFILL, nodes=2, allocatable_gpus=16, used_gpus=9, free_gpus=7, largest_free_block=5
    )


@pytest.mark.parametrize(
    ("change", "taint"),
    [
        pytest.param({"unschedulable": True}, ("unschedulable", "NoSchedule"), id="cordoned"),
        pytest.param({"ready": "Unknown"}, ("unreachable", "NoExecute"), id="not reachable"),
        pytest.param({"ready": "False"}, ("not-ready", "NoExecute"), id="not ready"),
    ],
)
def test_a_node_that_takes_no_pods_has_nothing_free(change: dict[str, Any], taint: tuple[str, str]) -> None:
    """Kubernetes taints it, which no pool tolerates."""
    manifest = node(**change)
    key, effect = taint
    manifest["spec"]["taints"] = [{"key": f"node.kubernetes.io/{key}", "effect": effect}]
    view = project_node(manifest)
    use = DeviceUse()
    use.changed(None, DeviceHolder("1", "n", {GPU: 2}))
    assert view is not None
    found = pool_capacity(PoolName.DECODE, placement(), [view], use.used)
    assert (found.allocatable_gpus, found.used_gpus, found.free_gpus) == (2, 2, 0)


def test_a_node_with_other_devices_only_does_not_count() -> None:
    manifest = node()
    manifest["status"]["allocatable"] = {"rdma/ib": "8"}
    view = project_node(manifest)
    assert view is not None
    assert pool_capacity(PoolName.DECODE, placement(), [view], DeviceUse().used).nodes == 0


def test_use_follows_pods_as_they_come_move_and_go() -> None:
    use = DeviceUse()
    first, moved = DeviceHolder("1", "a", {GPU: 2}), DeviceHolder("1", "b", {GPU: 2})
    use.changed(None, first)
    use.changed(first, moved)
    assert (use.used("a", GPU), use.used("b", GPU)) == (0, 2)
    use.changed(moved, None)
    assert use.used("b", GPU) == 0


@pytest.mark.parametrize(
    ("node_name", "phase", "devices", "holds"),
    [
        pytest.param("a", "Running", {GPU: "2"}, True, id="runs"),
        pytest.param("a", "Succeeded", {GPU: "2"}, False, id="ended"),
        pytest.param("", "Pending", {GPU: "2"}, False, id="unbound"),
        pytest.param("a", "Running", {"cpu": "2"}, False, id="no device"),
    ],
)
def test_who_holds_devices(node_name: str, phase: str, devices: dict[str, str], holds: bool) -> None:
    pod = {
        "metadata": {"uid": "1"},
        "spec": {"nodeName": node_name, "containers": [{"resources": {"requests": devices}}]},
        "status": {"phase": phase},
    }
    assert (project_device_holder(pod) is not None) is holds

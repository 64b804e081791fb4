"""From a Pod to a replica: what every state of a Pod means, and that nothing in it can break the account of GPUs."""

from __future__ import annotations

from typing import Any

import pytest

from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.adapters.pods import ClusterPod, EnginePod, PodIndex, RouterPod, project_pod
from inferencecluster.core.fleet import Lifecycle, PoolName, Role

RUNNING = {"state": {"running": {"startedAt": "2026-11-21T08:00:10Z"}}}


def engine(**changes: Any) -> dict[str, Any]:
    """A ready prefill replica; `changes` replace parts by their path, written with two underscores."""
    pod: dict[str, Any] = {
        "metadata": {
            "name": "demo-engine-3",
            "namespace": "team",
            "uid": "uid-3",
            "creationTimestamp": "2026-11-21T08:00:00Z",
            "labels": {
                "gpupools.dev/cluster": "demo",
                "gpupools.dev/component": "engine",
                "gpupools.dev/pool": "prefill",
                "gpupools.dev/role": "prefill",
                "gpupools.dev/revision": "abc",
            },
            "annotations": {},
            "ownerReferences": [{"kind": "InferenceCluster", "uid": "owner", "controller": True}],
        },
        "spec": {
            "nodeName": "node-1",
            "containers": [{"resources": {"limits": {"nvidia.com/gpu": "4", "cpu": "8"}}}],
        },
        "status": {
            "phase": "Running",
            "podIP": "10.1.2.3",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-21T08:01:00Z"}],
            "containerStatuses": [RUNNING],
        },
    }
    for path, value in changes.items():
        *steps, last = path.split("__")
        holder = pod
        for step in steps:
            holder = holder[step]
        holder[last] = value
    return pod


def projected(**changes: Any) -> EnginePod:
    found = project_pod(engine(**changes))
    assert isinstance(found, EnginePod)
    return found


def test_a_ready_replica_is_read_whole() -> None:
    pod = projected()
    replica = pod.replica
    assert (pod.cluster, pod.owner_uid, pod.address) == (ObjectKey("team", "demo"), "owner", "10.1.2.3")
    assert (replica.name, replica.uid, replica.home, replica.role) == (
        "demo-engine-3",
        "uid-3",
        PoolName.PREFILL,
        Role.PREFILL,
    )
    assert (replica.gpus, replica.revision, replica.node) == (4, "abc", "node-1")
    assert replica.lifecycle is Lifecycle.READY
    assert replica.ready_at is not None
    assert replica.ready_at - replica.created_at == 60


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


def not_ready(moment: str) -> list[dict[str, str]]:
    return [{"type": "Ready", "status": "False", "lastTransitionTime": moment}]


@pytest.mark.parametrize(
    ("changes", "lifecycle"),
    [
        pytest.param({"spec__nodeName": "", "status": {"phase": "Pending"}}, Lifecycle.PENDING, id="unbound"),
        pytest.param({"status": {}}, Lifecycle.STARTING, id="bound, nothing known yet"),
        pytest.param(
            {"status": {"phase": "Pending", "containerStatuses": [waiting("ContainerCreating")]}},
            Lifecycle.STARTING,
            id="pulling or mounting",
        ),
        pytest.param(
            {"status__conditions": not_ready("2026-11-21T08:00:09Z")},
            Lifecycle.STARTING,
            id="container runs, engine loads",
        ),
        pytest.param(
            {"status__conditions": not_ready("2026-11-21T08:00:10Z")},
            Lifecycle.STARTING,
            id="condition of the same second as the container",
        ),
        pytest.param(
            {"status__conditions": not_ready("2026-11-21T08:05:00Z")},
            Lifecycle.UNREADY,
            id="was ready after the container had started",
        ),
        pytest.param(
            {
                "status__conditions": not_ready("2026-11-21T08:05:00Z"),
                "status__containerStatuses": [
                    {"state": {"running": {"startedAt": "2026-11-21T08:06:00Z"}}, "restartCount": 1}
                ],
            },
            Lifecycle.STARTING,
            id="restarted: boots again",
        ),
        pytest.param(
            {"metadata__deletionTimestamp": "2026-11-21T09:00:00Z"}, Lifecycle.TERMINATING, id="terminating"
        ),
        pytest.param({"status": {"phase": "Failed", "reason": "Evicted"}}, Lifecycle.FAILED, id="evicted"),
        pytest.param({"status": {"phase": "Succeeded"}}, Lifecycle.FAILED, id="ended by itself"),
        pytest.param(
            {"status": {"containerStatuses": [waiting("ImagePullBackOff")]}}, Lifecycle.FAILED, id="no image"
        ),
        pytest.param(
            {"status": {"containerStatuses": [waiting("CrashLoopBackOff")]}},
            Lifecycle.FAILED,
            id="crash loop",
        ),
    ],
)
def test_lifecycle(changes: dict[str, Any], lifecycle: Lifecycle) -> None:
    assert projected(**changes).replica.lifecycle is lifecycle


def test_an_image_pull_and_its_back_off_are_one_state() -> None:
    reasons = ("ErrImagePull", "ImagePullBackOff")
    states = [projected(status={"containerStatuses": [waiting(reason)]}).replica for reason in reasons]
    assert [state.lifecycle for state in states] == [Lifecycle.FAILED, Lifecycle.FAILED]


def test_a_failure_says_what_the_kubelet_says() -> None:
    pod = projected(status={"containerStatuses": [waiting("ErrImagePull", "manifest unknown")]})
    assert pod.replica.failure == "ErrImagePull: manifest unknown"


def test_a_crash_loop_says_how_the_last_run_ended() -> None:
    status = waiting("CrashLoopBackOff", "back-off 5m0s restarting failed container") | {
        "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    }
    pod = projected(status={"containerStatuses": [status]})
    assert pod.replica.failure == "CrashLoopBackOff: last run ended with OOMKilled, exit code 137"


def test_a_long_failure_is_cut() -> None:
    pod = projected(status={"phase": "Failed", "reason": "Evicted", "message": "x" * 10_000})
    assert len(pod.replica.failure) == 300


def test_a_replica_that_was_never_ready_has_no_time_of_it() -> None:
    assert projected(status__conditions=not_ready("2026-11-21T08:00:09Z")).replica.ready_at is None


def test_a_terminating_replica_that_was_ready_still_tells_when() -> None:
    assert projected(metadata__deletionTimestamp="2026-11-21T09:00:00Z").replica.ready_at is not None


def test_a_fence_is_read_with_its_reason() -> None:
    replica = projected(
        metadata__annotations={
            "gpupools.dev/fenced-at": "1795248000.250",
            "gpupools.dev/fence-reason": "ScaleDown",
        }
    ).replica
    assert (replica.fenced_at, replica.fence_reason) == (1795248000.25, "ScaleDown")


@pytest.mark.parametrize("text", ["yesterday", "nan", "inf", "-inf", "1e999", ""])
def test_a_fence_that_is_no_time_is_a_fence_without_a_time(text: str) -> None:
    pod = projected(metadata__annotations={"gpupools.dev/fenced-at": text})
    assert pod.replica.fenced_at is None
    assert pod.fence


def test_no_fence_has_no_identity() -> None:
    assert projected().fence == ""


@pytest.mark.parametrize(
    ("status", "lifecycle"),
    [
        pytest.param(
            {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": None}]},
            Lifecycle.READY,
            id="ready, null",
        ),
        pytest.param(
            {"conditions": [{"type": "Ready", "status": "True"}]}, Lifecycle.READY, id="ready, absent"
        ),
        pytest.param(
            {
                "conditions": [
                    {"type": "Ready", "status": "False", "lastTransitionTime": "2026-11-21T08:01:00Z"}
                ],
                "containerStatuses": [{"state": {"running": {"startedAt": None}}}],
            },
            Lifecycle.STARTING,
            id="running since nobody knows when",
        ),
        pytest.param(
            {
                "conditions": [{"type": "Ready", "status": "False"}],
                "containerStatuses": [RUNNING],
            },
            Lifecycle.STARTING,
            id="unready since nobody knows when",
        ),
    ],
)
def test_times_that_core_v1_lets_be_absent_are_absent(status: dict[str, Any], lifecycle: Lifecycle) -> None:
    replica = projected(status=status).replica
    assert (replica.lifecycle, replica.ready_at) == (lifecycle, None)


def test_a_broken_pool_label_does_not_hide_the_gpus() -> None:
    labels = engine()["metadata"]["labels"] | {"gpupools.dev/pool": "??", "gpupools.dev/role": "??"}
    replica = projected(metadata__labels=labels).replica
    assert (replica.home, replica.role, replica.gpus) == (PoolName.MIXED, Role.MIXED, 4)


@pytest.mark.parametrize(
    ("devices", "names", "gpus"),
    [
        pytest.param({"nvidia.com/gpu": "4"}, {"nvidia.com/gpu"}, 4, id="the usual name"),
        pytest.param({"nvidia.com/mig-3g.40gb": "2"}, {"nvidia.com/mig-3g.40gb"}, 2, id="a MIG slice"),
        pytest.param(
            {"nvidia.com/gpu": "4", "rdma/ib": "8"}, {"nvidia.com/gpu"}, 4, id="beside other devices"
        ),
        pytest.param({"nvidia.com/gpu": "4"}, {"amd.com/gpu"}, 4, id="made before the name was changed"),
        pytest.param({}, {"nvidia.com/gpu"}, 0, id="none"),
    ],
)
def test_gpus_are_what_the_pools_ask_for(devices: dict[str, str], names: set[str], gpus: int) -> None:
    pod = projected(spec__containers=[{"resources": {"limits": devices, "requests": {"cpu": "1"}}}])
    assert pod.counted(names).gpus == gpus


def test_a_replica_tells_its_template_where_it_has_one() -> None:
    assert projected().replica.template == ""
    assert projected(metadata__annotations={"gpupools.dev/template": "t1"}).replica.template == "t1"


def test_a_replica_tells_what_it_mounts() -> None:
    volumes = [{"name": "config", "configMap": {"name": "demo-prefill-1"}}, {"name": "tmp", "emptyDir": {}}]
    assert projected(spec__volumes=volumes).config_maps == ("demo-prefill-1",)
    assert projected().config_maps == ()


@pytest.mark.parametrize(
    "owners",
    [
        pytest.param([], id="nobody"),
        pytest.param([{"kind": "InferenceCluster", "uid": "owner"}], id="not the controller"),
        pytest.param([{"kind": "Job", "uid": "owner", "controller": True}], id="another kind"),
    ],
)
def test_only_a_controlling_cluster_owns_a_replica(owners: list[dict[str, Any]]) -> None:
    assert projected(metadata__ownerReferences=owners).owner_uid == ""


def router(name: str = "demo-router-1", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": f"uid of {name}",
            "labels": {"gpupools.dev/cluster": "demo", "gpupools.dev/component": "router"},
        },
        "spec": {},
        "status": status,
    }


@pytest.mark.parametrize(
    ("status", "running"),
    [
        pytest.param({"containerStatuses": [RUNNING]}, True, id="runs"),
        pytest.param({"containerStatuses": [waiting("ContainerCreating")]}, False, id="not yet"),
        pytest.param({"containerStatuses": [{"state": {"terminated": {}}}]}, False, id="ended"),
        pytest.param({}, False, id="unknown"),
    ],
)
def test_a_router_may_hold_work_while_its_container_runs(status: dict[str, Any], running: bool) -> None:
    found = project_pod(router(**status))
    assert isinstance(found, RouterPod)
    assert found.running is running


def test_a_router_that_is_deleted_is_killed_at_the_end_of_its_grace_period() -> None:
    manifest = router(containerStatuses=[RUNNING])
    # The API server's: the moment of the request and the grace period.
    for deletion, killed_at in ({}, None), ({"deletionTimestamp": "2026-11-21T08:00:00Z"}, 1_795_248_000.0):
        manifest["metadata"] |= deletion
        found = project_pod(manifest)
        assert isinstance(found, RouterPod)
        assert (found.running, found.killed_at) == (True, killed_at)


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param({}, id="no cluster"),
        pytest.param({"gpupools.dev/cluster": "demo"}, id="no component"),
        pytest.param(
            {"gpupools.dev/cluster": "demo", "gpupools.dev/component": "else"}, id="other component"
        ),
    ],
)
def test_other_pods_are_not_kept(labels: dict[str, str]) -> None:
    assert project_pod(engine(metadata__labels=labels)) is None


def test_the_index_finds_the_pods_of_one_cluster_in_order_and_forgets_empty_ones() -> None:
    index = PodIndex()
    pods = {name: projected(metadata__name=name, metadata__uid=f"uid of {name}") for name in ("b", "a", "c")}
    for pod in pods.values():
        index.changed(None, pod)
    index.changed(None, project_pod(router(containerStatuses=[RUNNING])))
    key = ObjectKey("team", "demo")
    assert [pod.replica.name for pod in index.engines(key)] == ["a", "b", "c"]
    assert [pod.name for pod in index.routers(key)] == ["demo-router-1"]
    assert index.clusters() == (key,)
    index.changed(pods["b"], None)
    assert [pod.replica.name for pod in index.engines(key)] == ["a", "c"]
    gone: tuple[ClusterPod, ...] = (pods["a"], pods["c"], *index.routers(key))
    for found in gone:
        index.changed(found, None)
    assert index.clusters() == ()
    assert index.engines(key) == ()

"""A Kubernetes of the user: what stands against it is told before anything is done there, and waits are explained."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e.stack.install import RELEASE, SYSTEM_NAMESPACE, explained, waits
from e2e.stack.preflight import CRDS, UnfitKubernetesError, check
from e2e.stack.reach import reach_router
from e2e.stack.target import StackError, Target, target_from_environment
from tests.stack.scripted_target import NAMESPACE, OUR_RELEASE, OURS, Manifest, named, scripted


def node(gpus: int = 64, *, architecture: str = "amd64", **spec: Any) -> Manifest:
    return {
        "spec": spec,
        "status": {
            "allocatable": {"nvidia.com/gpu": str(gpus)},
            "nodeInfo": {"architecture": architecture},
        },
    }


GOOD: dict[str, Any] = {"kubectl get nodes": {"items": [node()]}}


def objections(answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    try:
        check(
            scripted({**GOOD, **answers}),
            namespaces=(NAMESPACE, SYSTEM_NAMESPACE),
            gpu_resource="nvidia.com/gpu",
            least_gpus=8,
        )
    except UnfitKubernetesError as error:
        return error.objections
    return ()


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param({}, id="a fresh one"),
        pytest.param(
            {
                f"kubectl get namespace {NAMESPACE}": named(NAMESPACE, labels=OURS),
                f"kubectl get crd {CRDS[0]}": named(CRDS[0], annotations=OUR_RELEASE),
            },
            id="with the rest of an earlier demo",
        ),
        pytest.param(
            {"kubectl get nodes": {"items": [node(8), node(0, architecture="arm64")]}},
            id="with nodes of another kind beside",
        ),
        pytest.param(
            {"kubectl get nodes": {"items": [node(taints=[{"effect": "PreferNoSchedule"}])]}},
            id="with nodes that one avoids only",
        ),
    ],
)
def test_a_kubernetes_that_can_take_the_demo_is_taken(
    answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert objections(answers, monkeypatch) == ()


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        pytest.param(
            {"kubectl get --raw /readyz": StackError("connection refused")},
            "it does not answer: connection refused",
            id="nobody is there",
        ),
        pytest.param(
            {"kubectl auth can-i create clusterroles": StackError("no")},
            "you may not create clusterroles.rbac.authorization.k8s.io: use the kubeconfig",
            id="a right is missing",
        ),
        pytest.param(
            {f"kubectl get namespace {SYSTEM_NAMESPACE}": named(SYSTEM_NAMESPACE)},
            f"namespace {SYSTEM_NAMESPACE} exists and was not made by the demo",
            id="an operator of the user's own",
        ),
        pytest.param(
            {f"kubectl get crd {CRDS[0]}": named(CRDS[0])},
            f"the CRD {CRDS[0]} exists (Helm release ?/?)",
            id="CRDs that were applied by hand",
        ),
        pytest.param(
            {
                f"kubectl get crd {CRDS[1]}": named(
                    CRDS[1], annotations={**OUR_RELEASE, "meta.helm.sh/release-namespace": "production"}
                )
            },
            f"(Helm release production/{RELEASE})",
            id="CRDs of a release elsewhere",
        ),
        pytest.param(
            {"kubectl get nodes": {"items": [node(4)]}},
            "offer 4 nvidia.com/gpu, and the smallest cluster needs 8",
            id="too few GPUs",
        ),
        pytest.param(
            {"kubectl get nodes": {"items": [node(unschedulable=True)]}}, "offer 0 nvidia", id="cordoned"
        ),
        pytest.param(
            {"kubectl get nodes": {"items": [node(taints=[{"effect": "NoSchedule"}])]}},
            "--subresource=status",
            id="tainted",
        ),
        pytest.param(
            {"kubectl get nodes": {"items": [node(architecture="arm64")]}},
            "images are built for amd64, and the nodes are arm64",
            id="another processor",
        ),
    ],
)
def test_what_stands_against_a_kubernetes_is_told_before_anything_is_done(
    answers: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [objection] = objections(answers, monkeypatch)
    assert words in objection


def test_all_objections_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        f"kubectl get namespace {NAMESPACE}": named(NAMESPACE),
        "kubectl get nodes": {"items": [node(0, architecture="arm64")]},
    }
    assert len(objections(answers, monkeypatch)) == 3


@pytest.mark.parametrize(
    ("status", "told"),
    [
        pytest.param({"phase": "Running"}, [], id="it runs"),
        pytest.param(
            {"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]},
            [],
            id="it comes",
        ),
        pytest.param(
            {
                "containerStatuses": [
                    {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}
                ]
            },
            ["pod: ImagePullBackOff: not found"],
            id="no image",
        ),
        pytest.param(
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "Insufficient GPUs"}]},
            ["pod: Insufficient GPUs"],
            id="no room",
        ),
        pytest.param(
            {"containerStatuses": [{"state": {"terminated": {"reason": "Error"}}}]},
            ["pod: Error: see its log"],
            id="it crashed",
        ),
    ],
)
def test_why_a_pod_does_not_run_is_told(status: Manifest, told: list[str]) -> None:
    assert list(waits({"metadata": {"name": "pod"}, "status": status})) == told


def test_a_time_out_is_told_with_what_the_pods_wait_for() -> None:
    waiting = {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "no"}}}]}
    pods = {"items": [{"metadata": {"name": "operator-0"}, "status": waiting}]}
    there = scripted({"kubectl get pods": pods})
    words = r"timed out\nin namespace ns:\n  - operator-0: ErrImagePull: no"
    with pytest.raises(StackError, match=words), explained(there, "ns"):
        raise StackError("timed out")
    unseen = scripted({"kubectl get pods": StackError("gone")})
    with pytest.raises(StackError, match=r"^timed out$"), explained(unseen, "ns"):
        raise StackError("timed out")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        pytest.param({"IMAGE_REGISTRY": "registry.example"}, "set both, or neither", id="half a wish"),
        pytest.param(
            {"IMAGE_REGISTRY": "https://registry.example", "KUBECONFIG": __file__},
            "without a scheme",
            id="a URL as registry",
        ),
        pytest.param(
            {"IMAGE_REGISTRY": "registry.example", "KUBECONFIG": f"{__file__}:{__file__}"},
            "--flatten",
            id="two kubeconfigs",
        ),
        pytest.param(
            {"IMAGE_REGISTRY": "registry.example", "KUBECONFIG": "/no/such/file"},
            "which is no file",
            id="a kubeconfig that is not there",
        ),
    ],
)
def test_a_wish_that_cannot_be_meant_is_refused(
    environment: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KUBECONFIG", "IMAGE_REGISTRY"):
        monkeypatch.setenv(name, environment.get(name, ""))
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(StackError, match=words):
        target_from_environment()


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", __file__)
    monkeypatch.setenv("IMAGE_REGISTRY", "registry.example")
    monkeypatch.setattr("shutil.which", lambda name: None if name == "helm" else f"/usr/bin/{name}")
    with pytest.raises(StackError, match="helm is not on PATH"):
        target_from_environment()


@pytest.fixture
def forwarding(tmp_path: Path) -> Callable[[str], Target]:
    """A target whose kubectl is the given shell script."""

    def make(script: str) -> Target:
        kubectl = tmp_path / "kubectl"
        kubectl.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        kubectl.chmod(0o755)
        return Target(tmp_path / "kubeconfig", kubectl, Path("helm"), {}, None, "registry.example")

    return make


def test_a_port_forward_goes_on_however_much_kubectl_writes(
    forwarding: Callable[[str], Target], tmp_path: Path
) -> None:
    """A pipe that nobody reads holds 64 KiB; kubectl writes a line for every connection."""
    written = tmp_path / "written"
    script = f"echo 'Forwarding from 127.0.0.1:4711 -> 80'; yes Handling | head -c 300000; touch {written}"
    with reach_router(forwarding(f"{script}; exec sleep 60"), cluster="c", namespace="n") as url:
        assert url == "http://127.0.0.1:4711"
        while not written.exists():
            time.sleep(0.02)


def test_a_port_forward_that_fails_says_kubectls_words(forwarding: Callable[[str], Target]) -> None:
    broken = forwarding("echo 'error: pods is forbidden' >&2; exit 1")
    with (
        pytest.raises(StackError, match="error: pods is forbidden"),
        reach_router(broken, cluster="c", namespace="n"),
    ):
        pytest.fail("there is no URL")

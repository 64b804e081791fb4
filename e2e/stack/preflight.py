"""What has to be known of a user's Kubernetes before anything is built for it or put on it: every objection at once."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from e2e.stack.install import OWNER, OWNER_LABEL, RELEASE, SYSTEM_NAMESPACE
from e2e.stack.target import StackError, Target

CRDS: Final = ("inferenceclusters.gpupools.dev", "enginepools.gpupools.dev")
RIGHTS: Final[tuple[tuple[str, ...], ...]] = (
    ("create", "namespaces"),
    ("delete", "namespaces"),
    ("create", "customresourcedefinitions.apiextensions.k8s.io"),
    ("create", "clusterroles.rbac.authorization.k8s.io"),
    ("bind", "clusterroles.rbac.authorization.k8s.io"),
    ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
    ("create", "deployments.apps"),
    ("create", "inferenceclusters.gpupools.dev"),
    ("create", "pods", "--subresource=portforward"),
    ("list", "nodes"),
)
"""What chart, Prometheus and demo need. Whoever is cluster-admin has them all."""
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
"""Of this machine, for which the images are built -> in Kubernetes' words."""


class UnfitKubernetesError(StackError):
    """The product cannot be put on this Kubernetes; `objections` holds one sentence each."""

    def __init__(self, objections: Sequence[str]) -> None:
        self.objections = tuple(objections)
        super().__init__(
            "nothing was changed on the Kubernetes of KUBECONFIG:\n  - " + "\n  - ".join(objections)
        )


def check(target: Target, *, namespaces: Iterable[str], gpu_resource: str, least_gpus: int) -> None:
    """Raise `UnfitKubernetesError` unless the demo can be put there without touching what it did not make.

    `namespaces` are those that it makes; `least_gpus` of `gpu_resource` let its smallest cluster start.
    """
    try:
        target.control("get", "--raw", "/readyz", timeout=30)
    except StackError as error:
        raise UnfitKubernetesError([f"it does not answer: {error}"]) from error
    if lacking := list(missing_rights(target)):
        raise UnfitKubernetesError(lacking)
    nodes = target.get("nodes")["items"]
    objections = [
        *(problem for name in namespaces for problem in foreign_namespace(target.find("namespace", name))),
        *(problem for name in CRDS for problem in foreign_crd(target.find("crd", name))),
        *missing_gpus(nodes, resource=gpu_resource, least=least_gpus),
        *other_architecture(nodes, machine=platform.machine()),
    ]
    if objections:
        raise UnfitKubernetesError(objections)


def missing_rights(target: Target) -> Iterator[str]:
    """Rights that this user lacks in all namespaces. The API server must be known to answer."""
    for right in RIGHTS:
        try:
            target.control("auth", "can-i", *right, "--all-namespaces")
        except StackError:
            yield f"you may not {' '.join(right)}: use the kubeconfig of a user with the role cluster-admin"


def foreign_namespace(found: Mapping[str, Any] | None) -> Iterator[str]:
    """An objection when a namespace of our name exists and was not made here."""
    if found is not None and found["metadata"].get("labels", {}).get(OWNER_LABEL) != OWNER:
        name = found["metadata"]["name"]
        yield f"namespace {name} exists and was not made by the demo, which would delete it: rename or remove it"


def foreign_crd(found: Mapping[str, Any] | None) -> Iterator[str]:
    """An objection when a CRD of ours exists and no earlier demo made it: two operators would size the same clusters."""
    if found is None:
        return
    notes = found["metadata"].get("annotations", {})
    owner = (notes.get("meta.helm.sh/release-namespace"), notes.get("meta.helm.sh/release-name"))
    if owner != (SYSTEM_NAMESPACE, RELEASE):
        told = "/".join(part or "?" for part in owner)
        yield (
            f"the CRD {found['metadata']['name']} exists (Helm release {told}): the demo brings an operator and CRDs of "
            "its own version, so uninstall that one first, or use another Kubernetes"
        )


def missing_gpus(nodes: Iterable[Mapping[str, Any]], *, resource: str, least: int) -> Iterator[str]:
    """An objection when the nodes that anybody may use offer less than `least` of `resource`."""
    offered = sum(
        int(node["status"].get("allocatable", {}).get(resource, 0)) for node in nodes if is_open(node)
    )
    if offered < least:
        path = resource.replace("~", "~0").replace("/", "~1")
        patch = f'[{{"op":"add","path":"/status/capacity/{path}","value":"64"}}]'
        yield (
            f"schedulable nodes without taints offer {offered} {resource}, and the smallest cluster needs {least}. Emulated "
            "engines use no GPU, so a made-up resource does: kubectl patch node NODE --subresource=status --type=json "
            f"-p '{patch}' (op remove takes it back). Choose it with DEMO_ARGS='--gpu-resource example.com/gpu'"
        )


def is_open(node: Mapping[str, Any]) -> bool:
    """Whether a Pod without tolerations may be put there."""
    spec = node.get("spec", {})
    return not spec.get("unschedulable", False) and not any(
        taint["effect"] != "PreferNoSchedule" for taint in spec.get("taints", ())
    )


def other_architecture(nodes: Iterable[Mapping[str, Any]], *, machine: str) -> Iterator[str]:
    """An objection when no open node runs what this machine builds."""
    built = ARCHITECTURES.get(machine, machine)
    offered = {node["status"].get("nodeInfo", {}).get("architecture", "") for node in nodes if is_open(node)}
    if offered and built not in offered:
        yield f"images are built for {built}, and the nodes are {', '.join(sorted(offered))}: build on such a machine"

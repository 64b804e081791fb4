"""Many GPU nodes beside the real one: kwok plays their kubelets, so that Pods on them are ready at once and run nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e import localkube
from e2e.localkube.plan import FAKE_POD_CIDR, NODE_IP
from e2e.localkube.workspace import DIES_WITH_US
from e2e.stack.target import Target

FAKE_LABEL = "example.com/fake-node"
TAINT = {"key": "example.com/dedicated", "value": "inference", "effect": "NoSchedule"}
"""Keeps routers and the replicas of other tests off: nothing answers on a fake node."""
TOLERATION = {**TAINT, "operator": "Equal"}
LEASE_SECONDS = 40
"""Longer than the controller manager's patience with a silent node, and Pods flap to NotReady."""


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """`count` nodes called `<name>-<n>`, labelled `example.com/gpu: <name>`."""

    name: str
    count: int
    gpus: int

    @property
    def selector(self) -> dict[str, str]:
        """`nodeSelector` of a pool on these nodes."""
        return {"example.com/gpu": self.name}

    def manifests(self) -> Iterator[dict[str, Any]]:
        """The nodes, tainted."""
        resources = {"cpu": "96", "memory": "1Ti", "pods": "110", "nvidia.com/gpu": str(self.gpus)}
        for index in range(self.count):
            name = f"{self.name}-{index}"
            yield {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": name,
                    "labels": {FAKE_LABEL: "true", "kubernetes.io/hostname": name, **self.selector},
                    "annotations": {"kwok.x-k8s.io/node": "fake"},
                },
                "spec": {"taints": [TAINT]},
                "status": {"capacity": resources, "allocatable": resources},
            }


@contextmanager
def fake_nodes(target: Target, groups: Sequence[NodeGroup], *, log: Path) -> Iterator[None]:
    """The nodes of `groups`, ready inside the block and gone after it. Clusters on them must be gone before."""
    kubernetes = localkube.require_running()
    command = [
        *(*DIES_WITH_US, str(kubernetes.kwok)),
        *("--kubeconfig", str(kubernetes.kubeconfig), "--config", str(kubernetes.kwok_stages)),
        "--manage-all-nodes=false",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        f"--cidr={FAKE_POD_CIDR}",
        f"--node-ip={NODE_IP}",
        f"--node-lease-duration-seconds={LEASE_SECONDS}",
    ]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as kwok:
        try:
            add_nodes(target, groups)
            yield
        finally:
            kwok.terminate()
            target.control("delete", "nodes", "--selector", f"{FAKE_LABEL}=true", "--ignore-not-found")


def add_nodes(target: Target, groups: Iterable[NodeGroup]) -> None:
    """Create nodes and wait until they are ready; kwok must run."""
    target.apply(*(node for group in groups for node in group.manifests()))
    target.control("wait", "--for=condition=Ready", "nodes", "-l", f"{FAKE_LABEL}=true", "--timeout=60s")


def nodes_by_replica(replicas: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Pod name -> node name, of the Pods that have a node."""
    return {
        pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in replicas if pod["spec"].get("nodeName")
    }

"""One InferenceCluster of emulated engines under test, with what a user does to it: apply, look, call, delete."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from e2e.stack.install import namespace
from e2e.stack.reach import reach_router, reach_router_admin
from e2e.stack.target import Target

PROFILE = "llama-3.1-70b-bf16/a100-tp4"
GPUS_PER_REPLICA = 4
WAIT_SECONDS = 90.0
"""Ten times what a cluster needs to become ready on an idle machine."""


@dataclass(slots=True)
class Cluster:
    """An InferenceCluster in a namespace of the same name."""

    target: Target
    name: str
    manifest: dict[str, Any] = field(repr=False)

    def create(self) -> None:
        """Apply the namespace and the cluster."""
        self.target.apply(namespace(self.name), self.manifest)

    def change(self, change: Mapping[str, Any]) -> None:
        """`kubectl apply` the manifest again with `change` merged into its spec."""
        merge(self.manifest["spec"], change)
        self.target.apply(self.manifest)

    def remove(self) -> None:
        """Delete the cluster, drained and waited for; its namespace goes on by itself."""
        self.target.control("delete", "ic", self.name, "-n", self.name, "--ignore-not-found", timeout=180)
        self.target.control("delete", "namespace", self.name, "--ignore-not-found", "--wait=false")

    def get(self) -> dict[str, Any]:
        """The object as stored."""
        found: dict[str, Any] = self.target.get("ic", self.name, "-n", self.name)
        return found

    def pool(self, name: str) -> dict[str, Any]:
        """One pool's entry of status; empty before the first report."""
        pools = self.get().get("status", {}).get("pools", [])
        return next((pool for pool in pools if pool["name"] == name), {})

    def condition(self, kind: str) -> dict[str, Any]:
        """One condition of status; empty where there is none."""
        conditions = self.get().get("status", {}).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == kind), {})

    def replicas(self) -> list[dict[str, Any]]:
        """The replica Pods."""
        selector = f"gpupools.dev/cluster={self.name},gpupools.dev/component=engine"
        items: list[dict[str, Any]] = self.target.get("pods", "-n", self.name, "-l", selector)["items"]
        return items

    def ready_replicas(self, pool: str) -> int:
        """Replica Pods of a pool that Kubernetes calls ready and that nobody is deleting."""
        return sum(
            pod["metadata"]["labels"]["gpupools.dev/pool"] == pool and is_ready(pod)
            for pod in self.replicas()
        )

    def events(self) -> list[dict[str, Any]]:
        """Events about the cluster object."""
        items: list[dict[str, Any]] = self.target.get("events", "-n", self.name)["items"]
        return [event for event in items if event["involvedObject"]["kind"] == "InferenceCluster"]

    def url(self) -> str:
        """Base URL of the OpenAI API."""
        with reach_router(self.target, cluster=self.name, namespace=self.name) as url:
            return url

    def admin_url(self) -> str:
        """Base URL of /state and /metrics of its router."""
        with reach_router_admin(self.target, cluster=self.name, namespace=self.name) as url:
            return url

    def complete(self, *, prompt_tokens: int, output_tokens: int, timeout: float = 60) -> dict[str, Any]:
        """One completion, not streamed. Raises `OSError` (HTTP errors included)."""
        body = {
            "model": self.manifest["spec"]["model"]["servedName"],
            "prompt": list(range(1, prompt_tokens + 1)),
            "max_tokens": output_tokens,
            "ignore_eos": True,
        }
        request = urllib.request.Request(  # noqa: S310  (http to our own router)
            f"{self.url()}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
            completion: dict[str, Any] = json.load(answer)
            return completion

    def wait_ready(self) -> None:
        """Wait for the Ready condition at the present generation."""
        self.wait(self.is_settled, "the cluster is Ready at its generation")

    def is_settled(self) -> bool:
        """Ready, and the report is about the newest spec."""
        found = self.get()
        status = found.get("status", {})
        if status.get("observedGeneration") != found["metadata"]["generation"]:
            return False
        return self.condition("Ready").get("status") == "True"

    def wait(self, reached: Callable[[], bool], what: str, *, seconds: float = WAIT_SECONDS) -> None:
        """Poll twice a second until `reached`; fails with the cluster's status in the message."""
        deadline = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > deadline:
                status = json.dumps(self.get().get("status", {}), indent=1)
                raise AssertionError(f"not within {seconds:.0f} s: {what}\n{status}")
            time.sleep(0.5)


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a Pod is ready and not being deleted."""
    if "deletionTimestamp" in pod["metadata"]:
        return False
    conditions = pod.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def merge(into: dict[str, Any], change: Mapping[str, Any]) -> None:
    """Merge nested mappings in place; anything else replaces."""
    for key, value in change.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def emulated_cluster(target: Target, name: str, overrides: Mapping[str, Any]) -> Cluster:
    """A cluster of emulated A100 engines that boots in two seconds and decides every two."""

    def pool(minimum: int, maximum: int) -> dict[str, Any]:
        return {
            "minReplicas": minimum,
            "maxReplicas": maximum,
            "gpusPerReplica": GPUS_PER_REPLICA,
            "parallelism": {"tensor": GPUS_PER_REPLICA},
            "performance": {"profile": PROFILE},
        }

    spec: dict[str, Any] = {
        "model": {"source": "meta-llama/Llama-3.1-70B-Instruct", "servedName": "llama-70b"},
        "engine": {
            "backend": "Emulated",
            "image": target.images["emulated-engine"],
            "version": "1.3.0rc29",
            "emulated": {"bootSeconds": 2, "streamInterval": 20},
        },
        "slo": {"percentile": 90, "ttftMilliseconds": 1000, "itlMilliseconds": 40},
        "budget": {"gpus": 64},
        "pools": {"prefill": pool(1, 6), "decode": pool(1, 6), "mixed": pool(0, 4)},
        "scaling": {
            "mode": "Automatic",
            "intervalSeconds": 2,
            "expectedBootSeconds": 2,
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 10}},
        },
    }
    merge(spec, overrides)
    manifest = {
        "apiVersion": "gpupools.dev/v1alpha1",
        "kind": "InferenceCluster",
        "metadata": {"name": name, "namespace": name},
        "spec": spec,
    }
    return Cluster(target, name, manifest)

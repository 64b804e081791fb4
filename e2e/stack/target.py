"""Which Kubernetes the product is installed on: the embedded one, or the user's (KUBECONFIG and IMAGE_REGISTRY)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e import localkube


class StackError(Exception):
    """A step of the installation failed; the message carries what the command said."""


@dataclass(frozen=True, slots=True)
class Target:
    """A Kubernetes and the tools to use it. `audit_log` exists on the embedded one only."""

    kubeconfig: Path
    kubectl: Path
    helm: Path
    images: Mapping[str, str]
    """Image name -> reference for a Pod."""
    audit_log: Path | None
    registry: str = ""
    """Where the images of a user's Kubernetes are pushed to; empty for the embedded one."""

    @property
    def is_embedded(self) -> bool:
        """Whether it is the Kubernetes of this machine, which belongs to nobody else."""
        return not self.registry

    def run(self, tool: Path, *arguments: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Standard output of a tool. Raises `StackError` with what it printed."""
        command = [str(tool), "--kubeconfig", str(self.kubeconfig), *arguments]
        try:
            result = subprocess.run(
                command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise StackError(f"`{' '.join(command)}` did not end within {timeout:.0f} s") from error
        if result.returncode != 0:
            raise StackError(f"`{' '.join(command)}` exited {result.returncode}:\n{result.stderr.strip()}")
        return result.stdout

    def control(self, *arguments: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Run kubectl. Raises `StackError`."""
        return self.run(self.kubectl, *arguments, stdin=stdin, timeout=timeout)

    def apply(self, *manifests: Mapping[str, Any]) -> str:
        """`kubectl apply` of manifests, as a user does it. Raises `StackError`."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        return self.control("apply", "-f", "-", stdin=json.dumps(items))

    def get(self, *arguments: str) -> Any:
        """`kubectl get ... -o json`, decoded. Raises `StackError`."""
        return json.loads(self.control("get", *arguments, "-o", "json"))

    def find(self, *arguments: str) -> Any | None:
        """As `get`, but None where the object does not exist."""
        output = self.control("get", *arguments, "-o", "json", "--ignore-not-found")
        return json.loads(output) if output.strip() else None


def embedded_target() -> Target:
    """The embedded Kubernetes, started when it is not up, with every image imported."""
    running = localkube.up()
    localkube.load_images()
    return Target(
        kubeconfig=running.kubeconfig,
        kubectl=running.kubectl,
        helm=running.helm,
        images=localkube.image_references(),
        audit_log=running.audit_log,
    )


def user_target(kubeconfig: str, registry: str) -> Target:
    """The user's Kubernetes, with tools from PATH; `push_images` brings its images there.

    Raises `StackError` when kubectl or helm is missing, or a setting cannot be meant.
    """
    tools = {name: shutil.which(name) for name in ("kubectl", "helm")}
    for name, path in tools.items():
        if path is None:
            raise StackError(f"{name} is not on PATH: it is needed to use the Kubernetes of KUBECONFIG")
    if "://" in registry:
        raise StackError(f"IMAGE_REGISTRY is {registry!r}: write host and path without a scheme")
    return Target(
        kubeconfig=_kubeconfig(kubeconfig),
        kubectl=Path(str(tools["kubectl"])),
        helm=Path(str(tools["helm"])),
        images=localkube.image_references(registry),
        audit_log=None,
        registry=registry,
    )


def _kubeconfig(value: str) -> Path:
    if os.pathsep in value:
        raise StackError(
            f"KUBECONFIG names several files ({value}): make one of them with "
            "`kubectl config view --flatten --minify > FILE`, and name that"
        )
    path = Path(value).expanduser()
    if not path.is_file():
        raise StackError(f"KUBECONFIG is {value}, which is no file: name an existing kubeconfig")
    return path


def target_from_environment() -> Target:
    """The user's Kubernetes when KUBECONFIG and IMAGE_REGISTRY are both set, else the embedded one.

    Raises `StackError` when IMAGE_REGISTRY is set alone: half of a wish is more likely a mistake. KUBECONFIG alone
    is on many machines, so it is no wish.
    """
    kubeconfig, registry = os.environ.get("KUBECONFIG", ""), os.environ.get("IMAGE_REGISTRY", "").rstrip("/")
    if not registry:
        return embedded_target()
    if not kubeconfig:
        raise StackError("IMAGE_REGISTRY is set but KUBECONFIG is not: set both, or neither")
    return user_target(kubeconfig, registry)

"""How this machine reaches a cluster's router: its addresses on the embedded Kubernetes, else a port-forward."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.stack.target import StackError, Target
from inferencecluster.api.names import COMPONENT_ROUTER, LABEL_CLUSTER, LABEL_COMPONENT, ROUTER_ADMIN_PORT
from inferencecluster.render.router import router_name

FORWARDED = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")
FORWARD_TIMEOUT_SECONDS = 30.0
"""kubectl looks up a Pod and opens one connection: a second or two through a slow link."""


@contextmanager
def reach_router(target: Target, *, cluster: str, namespace: str) -> Iterator[str]:
    """Base URL of the cluster's OpenAI API, valid inside the block. Raises `StackError`."""
    if target.is_embedded:
        service = target.get("service", cluster, "--namespace", namespace)
        yield f"http://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"
        return
    with _forwarded(target, namespace, f"service/{cluster}", port=80) as url:
        yield url


@contextmanager
def reach_router_admin(target: Target, *, cluster: str, namespace: str) -> Iterator[str]:
    """Base URL of `/state` and `/metrics` of one of the cluster's routers, valid inside the block. Raises `StackError`."""
    if target.is_embedded:
        selector = f"{LABEL_CLUSTER}={cluster},{LABEL_COMPONENT}={COMPONENT_ROUTER}"
        pods = target.get("pods", "--namespace", namespace, "--selector", selector)["items"]
        addresses = [pod["status"]["podIP"] for pod in pods if pod["status"].get("phase") == "Running"]
        if not addresses:
            raise StackError(f"no router of {namespace}/{cluster} is running")
        yield f"http://{addresses[0]}:{ROUTER_ADMIN_PORT}"
        return
    deployment = f"deployment/{router_name(cluster)}"
    with _forwarded(target, namespace, deployment, port=ROUTER_ADMIN_PORT) as url:
        yield url


@contextmanager
def _forwarded(target: Target, namespace: str, resource: str, *, port: int) -> Iterator[str]:
    """Its output goes to a file: kubectl writes a line per connection, and would stop at a pipe that nobody reads."""
    command = [
        *(str(target.kubectl), "--kubeconfig", str(target.kubeconfig), "--namespace", namespace),
        *("port-forward", resource, f":{port}"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "port-forward.log"
        with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
            try:
                yield f"http://127.0.0.1:{_local_port(process, log, resource)}"
            finally:
                process.kill()


def _local_port(process: subprocess.Popen[bytes], log: Path, resource: str) -> str:
    """The port that kubectl chose. Raises `StackError` when it ends, or says none in time."""
    deadline = time.monotonic() + FORWARD_TIMEOUT_SECONDS
    while True:
        has_ended = process.poll() is not None
        said = log.read_text(encoding="utf-8", errors="replace")
        if found := FORWARDED.search(said):
            return found[1]
        if has_ended or time.monotonic() > deadline:
            raise StackError(f"`kubectl port-forward {resource}` gave no port: {said.strip() or 'no word'}")
        time.sleep(0.05)

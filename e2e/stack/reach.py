"""How this machine reaches a cluster's router: its addresses on the embedded Kubernetes, else a port-forward."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from e2e.stack.target import StackError, Target
from inferencecluster.api.names import COMPONENT_ROUTER, LABEL_CLUSTER, LABEL_COMPONENT, ROUTER_ADMIN_PORT
from inferencecluster.render.router import router_name

FORWARDED = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


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
    process = subprocess.Popen(
        [
            *(str(target.kubectl), "--kubeconfig", str(target.kubeconfig), "--namespace", namespace),
            *("port-forward", resource, f":{port}"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = FORWARDED.match(process.stdout.readline())
        if found is None:
            raise StackError(f"kubectl port-forward {resource} did not start")
        yield f"http://127.0.0.1:{found.group(1)}"
    finally:
        process.terminate()
        process.wait(timeout=10)

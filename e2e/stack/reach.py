"""How this machine reaches a cluster's router: its ClusterIP on the embedded Kubernetes, else a port-forward."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from e2e.stack.target import StackError, Target

FORWARDED = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


@contextmanager
def reach_router(target: Target, *, cluster: str, namespace: str) -> Iterator[str]:
    """Base URL of the cluster's OpenAI API, valid inside the block. Raises `StackError`."""
    if target.is_embedded:
        service = target.get("service", cluster, "--namespace", namespace)
        yield f"http://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"
        return
    process = subprocess.Popen(
        [
            *(str(target.kubectl), "--kubeconfig", str(target.kubeconfig), "--namespace", namespace),
            *("port-forward", f"service/{cluster}", ":80"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = FORWARDED.match(process.stdout.readline())
        if found is None:
            raise StackError(f"kubectl port-forward service/{cluster} did not start")
        yield f"http://127.0.0.1:{found.group(1)}"
    finally:
        process.terminate()
        process.wait(timeout=10)

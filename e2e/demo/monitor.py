"""What happens while the demo plays: samples of pools, queue and GPUs, once a second.

Pool sizes and decisions come from the InferenceCluster's status; the GPUs are counted from the Pods themselves, so
that the picture does not rest on the operator's own word.
"""

from __future__ import annotations

import json
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from e2e.stack.target import Target
from inferencecluster.api.router_state import RouterState
from inferencecluster.cli.cluster_reading import PoolReading, reading_of
from inferencecluster.cli.live_traffic import traffic_of
from inferencecluster.cli.sizes_table import SIZES

POOLS = ("prefill", "decode", "mixed")
STATE_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class PoolSample:
    """One pool's line in the live table."""

    desired: int = 0
    ready: int = 0
    starting: int = 0
    draining: int = 0
    borrowed: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One look, `at` seconds after the start of the replay."""

    at: float
    pools: dict[str, PoolSample]
    gpus: int
    """GPUs requested by every replica Pod that exists, terminating ones included."""
    budget: int
    queue_tokens: int
    """Prompt tokens held by routers or sent and not yet prefilled."""
    in_flight: int
    decision: str
    conditions: tuple[str, ...]


class Watch:
    """Objects of one kind, kept current by `kubectl get --watch` in a thread; restarted when it ends."""

    def __init__(self, target: Target, *arguments: str) -> None:
        self._command = [
            *(str(target.kubectl), "--kubeconfig", str(target.kubeconfig), "get", *arguments),
            *("--watch", "--output-watch-events", "-o", "json"),
        ]
        self._objects: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def objects(self) -> list[Any]:
        """The objects as last seen, ordered by name."""
        with self._lock:
            return [self._objects[name] for name in sorted(self._objects)]

    def close(self) -> None:
        """Stop watching."""
        self._stopped.set()
        if self._process is not None:
            self._process.terminate()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            self._read(self._process)
            self._process.wait()
            self._stopped.wait(1.0)

    def _read(self, process: subprocess.Popen[str]) -> None:
        """With events kubectl prints one document a line."""
        assert process.stdout is not None
        with self._lock:
            self._objects = {}
        for line in process.stdout:
            event = json.loads(line)
            name = event["object"]["metadata"]["name"]
            with self._lock:
                if event["type"] == "DELETED":
                    self._objects.pop(name, None)
                else:
                    self._objects[name] = event["object"]


class Monitor:
    """Takes samples of one cluster. `close` ends its watches."""

    def __init__(self, target: Target, *, cluster: str, namespace: str, url: str, gpu_resource: str) -> None:
        self._url = url
        self._gpu_resource = gpu_resource
        self._clusters = Watch(
            target,
            "inferenceclusters.gpupools.dev",
            f"--field-selector=metadata.name={cluster}",
            f"--namespace={namespace}",
        )
        self._pods = Watch(
            target,
            "pods",
            f"--selector=gpupools.dev/cluster={cluster},gpupools.dev/component=engine",
            f"--namespace={namespace}",
        )

    def close(self) -> None:
        """Stop watching."""
        self._clusters.close()
        self._pods.close()

    def sample(self, at: float) -> Sample:
        """What is seen now."""
        objects = self._clusters.objects
        cluster = reading_of(objects[0] if objects else {})
        pools = {pool.name: pool for pool in cluster.pools}
        queue_tokens, in_flight = self._router()
        newest = max(cluster.decisions, key=lambda decision: decision.time or 0.0, default=None)
        return Sample(
            at=at,
            pools={name: _pool(pools.get(name, PoolReading(name))) for name in POOLS},
            gpus=sum(gpus_of(pod, self._gpu_resource) for pod in self._pods.objects),
            budget=cluster.budget_gpus or 0,
            queue_tokens=queue_tokens,
            in_flight=in_flight,
            decision=f"{newest.pool} {newest.before}→{newest.after}: {newest.message}" if newest else "",
            conditions=tuple(f"{condition.type}: {condition.reason}" for condition in cluster.not_normal),
        )

    def wait_until(self, ready: Callable[[Sample], bool], *, timeout: float) -> bool:
        """Sample twice a second until `ready`, at most `timeout` seconds; whether it came true."""
        pause = threading.Event()
        for _ in range(round(timeout * 2)):
            if ready(self.sample(0.0)):
                return True
            pause.wait(0.5)
        return False

    def _router(self) -> tuple[int, int]:
        try:
            with urllib.request.urlopen(f"{self._url}/state", timeout=STATE_TIMEOUT_SECONDS) as answer:  # noqa: S310  (http to our own router)
                state = RouterState.model_validate_json(answer.read())
        except (OSError, urllib.error.URLError, ValidationError):
            return 0, 0
        traffic = traffic_of([state], {})
        return traffic.queued_tokens, traffic.total.in_flight


def gpus_of(pod: Any, resource: str) -> int:
    """GPUs that a replica Pod requests, as `resource`."""
    return sum(
        int(container.get("resources", {}).get("limits", {}).get(resource, 0))
        for container in pod["spec"]["containers"]
    )


def _pool(pool: PoolReading) -> PoolSample:
    """What is not told yet is drawn as none."""
    return PoolSample(**{size: getattr(pool, size) or 0 for size in SIZES})

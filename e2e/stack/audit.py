"""The API server's audit log as an oracle: who wrote what, and how many GPUs existed at any instant."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from e2e.stack.install import SYSTEM_NAMESPACE

OPERATOR_USER = f"system:serviceaccount:{SYSTEM_NAMESPACE}:"
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True, slots=True)
class GpuLevel:
    """GPUs of all replica Pods of a namespace right after an event at `time` (Unix seconds)."""

    time: float
    gpus: int
    pod: str


class AuditLog:
    """The log from the moment this object was made (or `mark` was called last)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size

    def mark(self) -> None:
        """Forget everything so far."""
        self._offset = self._path.stat().st_size

    def entries(self) -> Iterator[dict[str, Any]]:
        """Requests answered since the mark, in the order of their answers."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)

    def operator_writes(self) -> Counter[str]:
        """Writes of the operator's ServiceAccount, counted as `verb resource namespace/name`.

        Leases and Events are not in the log: the first is the heartbeat of leader election, the second is
        counted by the tests that care.
        """
        counts: Counter[str] = Counter()
        for entry in self._written():
            reference = entry["objectRef"]
            resource = "/".join(filter(None, (reference["resource"], reference.get("subresource"))))
            name = f"{reference.get('namespace', '')}/{reference.get('name', '')}"
            counts[f"{entry['verb']} {resource} {name}"] += 1
        return counts

    def operator_wrote(self) -> str:
        """When and what the operator patched, one JSON text a line: for the message of a test."""
        return "\n".join(
            f"{entry['stageTimestamp']} {json.dumps(entry.get('requestObject'))}" for entry in self._written()
        )

    def _written(self) -> Iterator[dict[str, Any]]:
        """Writes of the operator's ServiceAccount."""
        for entry in self.entries():
            if entry["verb"] in WRITES and entry["user"]["username"].startswith(OPERATOR_USER):
                yield entry

    def gpu_levels(self, namespace: str) -> list[GpuLevel]:
        """GPUs of the replica Pods of `namespace` after each creation and each real removal since the mark.

        A Pod holds its GPUs from the answer to its creation until the API server removes the object: the
        kubelet's own delete with a grace period of 0, or the delete of a Pod that was never bound.
        """
        held: dict[str, int] = {}
        levels: list[GpuLevel] = []
        for entry in self.entries():
            reference = entry.get("objectRef") or {}
            if (reference.get("resource"), reference.get("namespace")) != ("pods", namespace):
                continue
            if entry["verb"] not in ("create", "delete"):
                continue
            if reference.get("subresource") or entry["responseStatus"]["code"] >= 300:
                continue
            name = reference.get("name") or entry["responseObject"]["metadata"]["name"]
            if entry["verb"] == "create":
                held[name] = _gpus(entry["responseObject"])
            elif _removed(entry):
                held.pop(name, None)
            else:
                continue
            time = datetime.fromisoformat(entry["stageTimestamp"]).timestamp()
            levels.append(GpuLevel(time, sum(held.values()), name))
        return levels

    def assert_budget_held(self, namespace: str, gpus: int) -> None:
        """By what the API server answered, not by the operator's word. Raises `AssertionError`."""
        levels = self.gpu_levels(namespace)
        assert levels, "the audit log shows no replica"
        highest = max(levels, key=lambda level: level.gpus)
        assert highest.gpus <= gpus, f"{highest.gpus} GPUs of {gpus} after {highest.pod} came"


def _gpus(pod: dict[str, Any]) -> int:
    containers = pod["spec"]["containers"]
    return sum(int(c.get("resources", {}).get("limits", {}).get("nvidia.com/gpu", 0)) for c in containers)


def _removed(entry: dict[str, Any]) -> bool:
    """Whether a delete removed the object rather than asking its kubelet to end it first."""
    if entry["user"]["username"].startswith("system:node:"):
        return True
    metadata = (entry.get("responseObject") or {}).get("metadata") or {}
    return metadata.get("deletionGracePeriodSeconds") == 0

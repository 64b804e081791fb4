"""A small API server in memory: what this product relies on of the real one, deterministic, with faults on demand.

Resource versions, generations, the status subresource, merge patches, server-side apply by leaf (lists are atomic but
for conditions, finalizers and owner references), finalizers, collection by owner, selectors, pages, watches with
bookmarks, 410 after compaction, preconditions of deletes. The real API server stays the proof (e2e).
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.fakes.apiobjects import (
    KINDS,
    Key,
    Leaf,
    Target,
    field_holds,
    label_holds,
    leaves_of,
    merged,
    overlaid,
    parse_path,
    remove_leaf,
    requirements,
)

Manifest = dict[str, Any]

WITHOUT_GENERATION = {"configmaps", "events", "leases", "nodes", "pods", "rolebindings", "serviceaccounts"}


class ApiError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str, *, retry_after: int | None = None, cause: str = "") -> None:
        self.status = status
        self.message = message
        self.cause = cause
        self.retry_after = retry_after
        super().__init__(f"{status}: {message}")


@dataclass(frozen=True)
class Call:
    """One request, as a test looks at it afterwards."""

    verb: str
    plural: str
    namespace: str
    name: str
    subresource: str

    @property
    def is_write(self) -> bool:
        return self.verb not in ("get", "list", "watch")

    def __str__(self) -> str:
        slash = f"/{self.subresource}" if self.subresource else ""
        return f"{self.verb} {self.plural}{slash} {self.namespace}/{self.name}"


@dataclass
class Request:
    """One request before it is answered."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    body: Manifest | None = None
    content_type: str = "application/json"


class FakeApiServer:
    """Holds objects and answers requests. `now` is its clock, in Unix seconds."""

    def __init__(self, now: Callable[[], float] = lambda: 1_800_000_000.0) -> None:
        self._now = now
        self.objects: dict[Key, Manifest] = {}
        self.calls: list[Call] = []
        self.fault: Callable[[Call], ApiError | None] = lambda _: None
        """Asked before each request; an error it returns is the answer, and nothing happens."""
        self.slow_pods = False
        """Deleted Pods stay terminating until `remove` is called, as while a kubelet ends them."""
        self.on_change: Callable[[], None] = lambda: None
        """Called after each change of any object: for what must hold at every instant."""
        self._version = 100
        self._uids = 0
        self._log: list[tuple[int, str, str, Manifest]] = []
        self._compacted = 0
        self._changed = asyncio.Event()
        self._owned: dict[tuple[Key, str], set[Leaf]] = {}

    # What tests do to the world, beside the API.

    def put(self, manifest: Manifest) -> Manifest:
        """Create or replace an object as somebody else would, status included."""
        target = Target.of_manifest(manifest)
        before = self.objects.get(target.key)
        stored = copy.deepcopy(manifest)
        metadata = stored["metadata"]
        if before is None:
            self._stamp(stored, target)
        else:
            kept = ("uid", "creationTimestamp", "generation", "deletionTimestamp")
            metadata |= {name: before["metadata"][name] for name in kept if name in before["metadata"]}
            if before.get("spec") != stored.get("spec") and target.plural not in WITHOUT_GENERATION:
                metadata["generation"] += 1
        self._store(target.key, stored, "ADDED" if before is None else "MODIFIED")
        return copy.deepcopy(stored)

    def change(self, plural: str, namespace: str, name: str, change: Callable[[Manifest], None]) -> None:
        """Change an object in place, as a kubelet or a person would."""
        manifest = copy.deepcopy(self.objects[plural, namespace, name])
        change(manifest)
        self.put(manifest)

    def remove(self, plural: str, namespace: str, name: str) -> None:
        """Let an object go at once, whatever its finalizers say, and what it owns after it."""
        self._remove((plural, namespace, name))

    def of_kind(self, plural: str, namespace: str = "default") -> dict[str, Manifest]:
        """Objects of one kind by name."""
        return {
            name: manifest
            for (kind, where, name), manifest in sorted(self.objects.items())
            if kind == plural and where == namespace
        }

    def expire(self) -> None:
        """Forget history: every watch and every page from before answers 410."""
        self._compacted = self._version
        self._version += 1
        self._notify()

    @property
    def writes(self) -> list[str]:
        """Requests that were meant to change something, in order; Events and Leases apart."""
        return [str(call) for call in self.calls if call.is_write and call.plural not in ("events", "leases")]

    # The API.

    def handle(self, request: Request) -> Manifest:
        """Answer one request. Raises `ApiError`."""
        target = self._target(request.path)
        verb = self._verb(request, target)
        call = Call(verb, target.plural, target.namespace, target.name, target.subresource)
        self.calls.append(call)
        fault = self.fault(call)
        if fault is not None:
            raise fault
        match verb:
            case "get":
                return copy.deepcopy(self._existing(target))
            case "list":
                return self._list(target, request.query)
            case "create":
                return self._create(target, request.body or {})
            case "delete":
                return self._delete(target, request.body or {})
            case "update":
                return self._update(target, request.body or {})
            case _:
                return self._patch(target, request)

    async def watch(self, path: str, query: dict[str, str]) -> AsyncIterator[Manifest]:
        """Events after `resourceVersion`. Raises `ApiError` before the first, or yields an ERROR and ends."""
        target = self._target(path)
        call = Call("watch", target.plural, target.namespace, "", "")
        self.calls.append(call)
        fault = self.fault(call)
        if fault is not None:
            raise fault
        seen = int(query["resourceVersion"])
        deadline = asyncio.get_running_loop().time() + float(query.get("timeoutSeconds", "300"))
        yield {}  # the response's head: the stream is open
        while True:
            if seen < self._compacted:
                yield {"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}}
                return
            # Before the look at the log: a change during a slow reader's turn is not to be slept over.
            changed = self._changed
            for version, kind, plural, manifest in [entry for entry in self._log if entry[0] > seen]:
                seen = version
                if plural == target.plural and self._is_selected(manifest, target, query):
                    yield {"type": kind, "object": copy.deepcopy(manifest)}
            fault = self.fault(call)
            if fault is not None:
                yield {"type": "ERROR", "object": {"code": fault.status, "message": fault.message}}
                return
            try:
                async with asyncio.timeout(min(60.0, deadline - asyncio.get_running_loop().time())):
                    await changed.wait()
            except TimeoutError:
                if asyncio.get_running_loop().time() >= deadline:
                    return
                seen = max(seen, self._version)
                yield {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self._version)}}}

    def end_watches(self) -> None:
        """Wake every watch, so that a fault that was set is met at once."""
        self._notify()

    def _list(self, target: Target, query: dict[str, str]) -> Manifest:
        offset, version = 0, self._version
        if "continue" in query:
            version, offset = (int(part) for part in query["continue"].split(":"))
            if version < self._compacted:
                raise ApiError(410, "the continue token is too old")
        found = [
            manifest
            for (plural, _, _), manifest in sorted(self.objects.items())
            if plural == target.plural and self._is_selected(manifest, target, query)
        ]
        limit = int(query.get("limit", "0")) or len(found)
        page = found[offset : offset + limit]
        metadata = {"resourceVersion": str(version)}
        if offset + limit < len(found):
            metadata["continue"] = f"{version}:{offset + limit}"
        return {"metadata": metadata, "items": copy.deepcopy(page)}

    def _create(self, target: Target, body: Manifest) -> Manifest:
        target.name = body["metadata"]["name"]
        if target.key in self.objects:
            raise ApiError(409, f"{target.plural} {target.name!r} already exists")
        stored = copy.deepcopy(body)
        self._stamp(stored, target)
        if target.plural in ("inferenceclusters", "enginepools"):
            stored.pop("status", None)
        self._store(target.key, stored, "ADDED")
        return copy.deepcopy(stored)

    def _update(self, target: Target, body: Manifest) -> Manifest:
        existing = self._existing(target)
        wanted = body["metadata"].get("resourceVersion")
        if wanted is not None and wanted != existing["metadata"]["resourceVersion"]:
            raise ApiError(409, "the object has been modified")
        return self._commit(target, copy.deepcopy(body))

    def _patch(self, target: Target, request: Request) -> Manifest:
        body = request.body or {}
        if "apply" in request.content_type:
            return self._apply(target, body, request.query["fieldManager"])
        existing = self._existing(target)
        self._check(existing, body.get("metadata", {}))
        return self._commit(target, merged(existing, body))

    def _apply(self, target: Target, body: Manifest, manager: str) -> Manifest:
        if target.key not in self.objects:
            if target.subresource:
                raise ApiError(404, "not found")
            self._owned[target.key, manager] = set(leaves_of(body))
            return self._create(target, body)
        existing = self._existing(target)
        self._check(existing, body["metadata"])
        applied = {key: value for key, value in body.items() if key not in ("apiVersion", "kind")}
        if target.subresource == "status":
            applied = {"status": body.get("status", {})}
        leaves = set(leaves_of(applied))
        others = {
            leaf
            for (key, who), owned in self._owned.items()
            if key == target.key and who != manager
            for leaf in owned
        }
        result = copy.deepcopy(existing)
        for leaf in self._owned.get((target.key, manager), set()) - leaves - others:
            remove_leaf(result, leaf)
        self._owned[target.key, manager] = leaves
        return self._commit(target, overlaid(result, applied))

    def _delete(self, target: Target, options: Manifest) -> Manifest:
        existing = self._existing(target)
        metadata, wanted = existing["metadata"], options.get("preconditions", {})
        for name in ("uid", "resourceVersion"):
            if name in wanted and wanted[name] != metadata[name]:
                raise ApiError(409, f"precondition failed: {name} is {metadata[name]}")
        lingers = bool(metadata.get("finalizers")) or (self.slow_pods and target.plural == "pods")
        if not lingers:
            self._remove(target.key)
        elif "deletionTimestamp" not in metadata:
            stored = copy.deepcopy(existing)
            stored["metadata"]["deletionTimestamp"] = self._timestamp()
            self._store(target.key, stored, "MODIFIED")
        return {"kind": "Status", "status": "Success"}

    def _commit(self, target: Target, changed: Manifest) -> Manifest:
        """Store what a write made, with what a write through this path may not change put back."""
        existing = self._existing(target)
        for name in ("uid", "creationTimestamp", "resourceVersion", "generation", "deletionTimestamp"):
            if name in existing["metadata"]:
                changed["metadata"][name] = existing["metadata"][name]
        if target.subresource == "status":
            changed = {**copy.deepcopy(existing), "status": changed.get("status", {})}
        elif "status" in existing:
            changed["status"] = copy.deepcopy(existing["status"])
        if changed == existing:
            return copy.deepcopy(existing)
        if changed.get("spec") != existing.get("spec") and target.plural not in WITHOUT_GENERATION:
            changed["metadata"]["generation"] += 1
        metadata = changed["metadata"]
        if "deletionTimestamp" in metadata and not metadata.get("finalizers") and target.plural != "pods":
            self._remove(target.key)
            return copy.deepcopy(changed)
        self._store(target.key, changed, "MODIFIED")
        return copy.deepcopy(changed)

    def _check(self, existing: Manifest, wanted: Manifest) -> None:
        if wanted.get("uid", existing["metadata"]["uid"]) != existing["metadata"]["uid"]:
            raise ApiError(422, "metadata.uid: field is immutable")
        version = existing["metadata"]["resourceVersion"]
        if wanted.get("resourceVersion", version) != version:
            raise ApiError(409, "the object has been modified")

    def _store(self, key: Key, manifest: Manifest, kind: str) -> None:
        self._version += 1
        manifest["metadata"]["resourceVersion"] = str(self._version)
        self.objects[key] = manifest
        self._log.append((self._version, kind, key[0], copy.deepcopy(manifest)))
        self._notify()

    def _remove(self, key: Key) -> None:
        manifest = self.objects.pop(key)
        for owned in [entry for entry in self._owned if entry[0] == key]:
            del self._owned[owned]
        self._version += 1
        last = copy.deepcopy(manifest)
        last["metadata"]["resourceVersion"] = str(self._version)
        self._log.append((self._version, "DELETED", key[0], last))
        self._notify()
        uid = manifest["metadata"]["uid"]
        for other in list(self.objects):
            owners = self.objects.get(other, {"metadata": {}})["metadata"].get("ownerReferences") or ()
            if any(owner["uid"] == uid for owner in owners):
                self._remove(other)

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self.on_change()

    def _stamp(self, manifest: Manifest, target: Target) -> None:
        self._uids += 1
        metadata = manifest["metadata"]
        metadata["uid"] = f"uid-{self._uids}"
        metadata["creationTimestamp"] = self._timestamp()
        manifest.setdefault("apiVersion", target.api_version)
        manifest.setdefault("kind", KINDS[target.plural])
        if target.plural not in WITHOUT_GENERATION:
            metadata["generation"] = 1

    def _timestamp(self) -> str:
        return datetime.fromtimestamp(int(self._now()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _existing(self, target: Target) -> Manifest:
        if target.key not in self.objects:
            raise ApiError(404, f"{target.plural} {target.name!r} not found")
        return self.objects[target.key]

    def _target(self, path: str) -> Target:
        target = parse_path(path)
        if target is None:
            raise ApiError(404, f"no such path: {path}")
        return target

    def _verb(self, request: Request, target: Target) -> str:
        if request.method == "GET":
            return "get" if target.name else "list"
        return {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[request.method]

    def _is_selected(self, manifest: Manifest, target: Target, query: dict[str, str]) -> bool:
        metadata = manifest["metadata"]
        if target.namespace and metadata.get("namespace") != target.namespace:
            return False
        labels = metadata.get("labels") or {}
        return all(
            label_holds(part, labels) for part in requirements(query.get("labelSelector", ""))
        ) and all(field_holds(part, manifest) for part in requirements(query.get("fieldSelector", "")))

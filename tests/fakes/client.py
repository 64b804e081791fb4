"""`KubeClient` straight into the fake API server, without HTTP: for virtual time, faults and crashes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tests.fakes.apiserver import ApiError, FakeApiServer, Request

from inferencecluster.adapters.kube import DeleteGuard, Page, Selection, WatchEvent
from inferencecluster.adapters.kube_errors import Throttled, VersionExpired
from inferencecluster.adapters.kube_resources import Manifest, Resource, resource_of
from inferencecluster.api.names import FIELD_MANAGER, STATUS_MANAGER
from inferencecluster.core.errors import ApiUnavailable, Conflict, Forbidden, Invalid


class Crash(BaseException):
    """The process is dead: nothing of it runs any more, `except Exception` included."""


class FakeClient:
    """`crash_after` writes or reads of objects have happened, every further call raises `Crash`."""

    def __init__(self, server: FakeApiServer, *, crash_after: int | None = None) -> None:
        self._server = server
        self._left = crash_after
        self.crashed = asyncio.Event()

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None) -> Manifest | None:
        return self._send("get", Request("GET", resource.path(namespace=namespace, name=name)))

    async def list_page(self, selection: Selection, *, continue_token: str = "") -> Page:
        query = {**selection.query, "limit": "500"}
        if continue_token:
            query["continue"] = continue_token
        answer = self._answer(
            "list", Request("GET", selection.resource.path(namespace=selection.namespace), query)
        )
        metadata = answer["metadata"]
        return Page(answer["items"], metadata["resourceVersion"], metadata.get("continue", ""))

    @asynccontextmanager
    async def watch(
        self, selection: Selection, *, resource_version: str
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        query = {**selection.query, "resourceVersion": resource_version, "timeoutSeconds": "290"}
        stream = self._server.watch(selection.resource.path(namespace=selection.namespace), query)
        try:
            await anext(stream)
        except ApiError as error:
            raise _translated("watch", error) from error

        async def events() -> AsyncIterator[WatchEvent]:
            async for event in stream:
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise _translated("watch", ApiError(status["code"], status["message"]))
                yield WatchEvent(event["type"], event["object"])

        yield events()

    async def create(self, manifest: Manifest) -> Manifest:
        path = resource_of(manifest).path(namespace=manifest["metadata"].get("namespace"))
        return self._write("create", Request("POST", path, body=manifest))

    async def apply(self, manifest: Manifest) -> Manifest:
        return self._apply(manifest, FIELD_MANAGER, "")

    async def apply_status(self, manifest: Manifest) -> Manifest:
        return self._apply(manifest, STATUS_MANAGER, "status")

    async def patch(
        self, resource: Resource, name: str, body: Mapping[str, Any], *, namespace: str | None = None
    ) -> Manifest:
        path = resource.path(namespace=namespace, name=name)
        content = "application/merge-patch+json"
        return self._write("patch", Request("PATCH", path, body=dict(body), content_type=content))

    async def replace(self, manifest: Manifest) -> Manifest:
        metadata = manifest["metadata"]
        path = resource_of(manifest).path(namespace=metadata.get("namespace"), name=metadata["name"])
        return self._write("update", Request("PUT", path, body=manifest))

    async def delete(
        self, resource: Resource, name: str, *, namespace: str | None, guard: DeleteGuard
    ) -> bool:
        preconditions = {"uid": guard.uid}
        if guard.resource_version is not None:
            preconditions["resourceVersion"] = guard.resource_version
        path = resource.path(namespace=namespace, name=name)
        return (
            self._send("delete", Request("DELETE", path, body={"preconditions": preconditions})) is not None
        )

    def _apply(self, manifest: Manifest, manager: str, subresource: str) -> Manifest:
        metadata = manifest["metadata"]
        path = resource_of(manifest).path(
            namespace=metadata.get("namespace"), name=metadata["name"], subresource=subresource
        )
        query = {"fieldManager": manager, "force": "true"}
        return self._write("patch", Request("PATCH", path, query, manifest, "application/apply-patch+yaml"))

    def _write(self, verb: str, request: Request) -> Manifest:
        answer = self._send(verb, request)
        if answer is None:
            raise Conflict(verb=verb, target=request.path, detail="it does not exist (any more)")
        return answer

    def _send(self, verb: str, request: Request) -> Manifest | None:
        """One counted call; the crash comes after the server has done it, when the answer would arrive."""
        if self._left is not None and self._left <= 0:
            self.crashed.set()
            raise Crash
        try:
            return self._answer(verb, request)
        except ApiError as error:
            if error.status == 404:
                return None
            raise _translated(verb, error) from error
        finally:
            if self._left is not None:
                self._left -= 1
                if self._left <= 0:
                    self.crashed.set()
                    raise Crash

    def _answer(self, verb: str, request: Request) -> Manifest:
        try:
            return self._server.handle(request)
        except ApiError as error:
            if verb == "list":
                raise _translated(verb, error) from error
            raise


def _translated(verb: str, error: ApiError) -> Exception:
    match error.status:
        case 403:
            return Forbidden(verb=verb, target="fake", detail=error.message, cause=error.cause)
        case 409:
            return Conflict(verb=verb, target="fake", detail=error.message)
        case 410:
            return VersionExpired(source="fake", detail=error.message)
        case 400 | 422:
            return Invalid(verb=verb, target="fake", detail=error.message)
        case _ if error.retry_after is not None:
            return Throttled(
                source="fake", detail=error.message, retry_after_seconds=float(error.retry_after)
            )
        case _:
            return ApiUnavailable(source="fake", detail=error.message)

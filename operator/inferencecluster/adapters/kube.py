"""The Kubernetes API: a narrow Protocol, and the client that speaks it over raw aiohttp with plain dicts."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Protocol, Self

import aiohttp

from inferencecluster.adapters.credentials import Access, Credentials, request_options
from inferencecluster.adapters.kube_errors import (
    UnknownKind,
    question,
    raise_for_event,
    raise_for_status,
    words_of,
)
from inferencecluster.adapters.kube_resources import PODS, Manifest, Resource, describe, resource_of
from inferencecluster.api.names import FIELD_MANAGER, STATUS_MANAGER
from inferencecluster.core.errors import ApiUnavailable, Conflict

PAGE_LIMIT: Final = 500
"""Objects per page of a list: the API server holds a page in memory for each caller (client-go's own choice)."""

WATCH_SECONDS: Final = 290
"""Servers end a watch after five to ten minutes anyway; ending it ourselves is quiet."""

SILENCE_SECONDS: Final = 70.0
"""Bookmarks come about once a minute: a watch that is silent for longer is dead behind some NAT (kopf#955)."""

REQUEST_SECONDS: Final = 30.0
"""Servers answer in well under a second, or end the request themselves after 60 s; nobody here can use an answer that old."""

CONNECT_SECONDS: Final = 10.0
REQUESTS_IN_FLIGHT: Final = 32
"""One aiohttp process saturates a core at 16 in flight; more only queues at the server's priority level."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects a list or a watch returns. `namespace` None is all of them."""

    resource: Resource
    namespace: str | None = None
    label_selector: str = ""
    field_selector: str = ""

    @property
    def query(self) -> dict[str, str]:
        """Query parameters of the selectors."""
        selectors = {"labelSelector": self.label_selector, "fieldSelector": self.field_selector}
        return {key: value for key, value in selectors.items() if value}


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list. `continue_token` is empty on the last one."""

    items: list[Manifest]
    resource_version: str
    continue_token: str


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """ADDED, MODIFIED, DELETED or BOOKMARK, with the object (a bookmark's carries only its resource version)."""

    type: str
    object: Manifest


@dataclass(frozen=True, slots=True)
class DeleteGuard:
    """What must still hold of an object for a delete to happen, and how it then ends."""

    uid: str
    resource_version: str | None = None
    grace_seconds: int | None = None
    """How long a Pod may take to end; None is its own grace."""


class KubeClient(Protocol):
    """What this product asks of the API server.

    Reads raise `ApiUnavailable`, or `Forbidden`. Writes raise `Conflict`, `Forbidden`, `Invalid` or `ApiUnavailable`;
    after the last nobody knows whether the write happened, so every write must bear being repeated.
    """

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None) -> Manifest | None:
        """The object, or None when it does not exist."""

    async def list_page(self, selection: Selection, *, continue_token: str = "") -> Page:
        """Up to `PAGE_LIMIT` objects. Raises `VersionExpired` when the token is too old, `UnknownKind` without a CRD."""

    def watch(
        self, selection: Selection, *, resource_version: str
    ) -> AbstractAsyncContextManager[AsyncIterator[WatchEvent]]:
        """Changes after `resource_version`; entering succeeds once the server streams. Raises `VersionExpired`."""

    async def create(self, manifest: Manifest) -> Manifest:
        """POST. Raises `Conflict` when the name is taken."""

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply as `FIELD_MANAGER`, taking over fields from others."""

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """Server-side apply of the status subresource as `STATUS_MANAGER`."""

    async def patch(
        self, resource: Resource, name: str, body: Mapping[str, Any], *, namespace: str | None = None
    ) -> Manifest:
        """JSON merge patch. A uid or resourceVersion in `body.metadata` is a precondition."""

    async def replace(self, manifest: Manifest) -> Manifest:
        """PUT; the manifest's resourceVersion is a precondition."""

    async def delete(
        self, resource: Resource, name: str, *, namespace: str | None, guard: DeleteGuard
    ) -> bool:
        """Ask for the deletion; False when the object was gone already."""


@dataclass(frozen=True, slots=True)
class _Request:
    verb: str
    """As RBAC calls it."""
    method: str
    path: str
    target: str
    query: Mapping[str, str]
    body: Manifest | None = None
    content_type: str = "application/json"

    @property
    def question(self) -> str:
        """What was asked of whom, for errors."""
        return question(self.verb, self.target)


class ApiClient:
    """`KubeClient` over HTTP. Use it as an async context manager; `silence_seconds` is for tests."""

    def __init__(self, credentials: Credentials, *, silence_seconds: float = SILENCE_SECONDS) -> None:
        self._credentials = credentials
        self._silence_seconds = silence_seconds
        self._slots = asyncio.Semaphore(REQUESTS_IN_FLIGHT)
        self._renewing = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | None = None

    async def __aenter__(self) -> Self:
        # Watches hold a connection each, and `_slots` bounds the rest: the pool itself has no limit.
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None) -> Manifest | None:
        """The object, or None when it does not exist."""
        target = f"{resource.kind} {namespace or ''}/{name}"
        request = _Request("get", "GET", resource.path(namespace=namespace, name=name), target, {})
        return await self._send(request)

    async def get_through_pod(self, name: str, *, namespace: str, port: int, path: str) -> Manifest | None:
        """What a Pod answers on one of its ports, asked through the API server; None for 404."""
        where = PODS.path(namespace=namespace, name=f"{name}:{port}", subresource=f"proxy/{path}")
        return await self._send(_Request("get", "GET", where, f"the proxy of Pod {namespace}/{name}", {}))

    async def list_page(self, selection: Selection, *, continue_token: str = "") -> Page:
        """Up to `PAGE_LIMIT` objects."""
        query = {**selection.query, "limit": str(PAGE_LIMIT)}
        if continue_token:
            query["continue"] = continue_token
        resource = selection.resource
        target = f"{resource.kind} {selection.namespace or '*'}/*"
        path = resource.path(namespace=selection.namespace)
        answer = await self._send(_Request("list", "GET", path, target, query))
        if answer is None:
            raise UnknownKind(
                source=f"the list of {resource.plural}", detail="the API server has no such kind"
            )
        metadata = answer["metadata"]
        # A list without objects may carry null (kubernetes-client/python#2608 is the same surprise).
        return Page(answer["items"] or [], metadata["resourceVersion"], metadata.get("continue", ""))

    @asynccontextmanager
    async def watch(
        self, selection: Selection, *, resource_version: str
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """Changes after `resource_version`, until the server ends the stream or it is silent for too long."""
        query = {
            **selection.query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
            "resourceVersion": resource_version,
        }
        resource = selection.resource
        target = f"{resource.kind} {selection.namespace or '*'}/*"
        request = _Request("watch", "GET", resource.path(namespace=selection.namespace), target, query)
        timeout = aiohttp.ClientTimeout(connect=CONNECT_SECONDS, sock_read=self._silence_seconds)
        try:
            async with self._respond(request, timeout) as response:
                await raise_for_status(response, verb=request.verb, target=request.target)
                yield _events(response)
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            raise ApiUnavailable(source=request.question, detail=words_of(error)) from error
        except _UnauthorizedError as error:
            await self._renew(error.access)
            raise ApiUnavailable(source=request.question, detail="it knows us not (401)") from error

    async def create(self, manifest: Manifest) -> Manifest:
        """POST."""
        path = resource_of(manifest).path(namespace=manifest["metadata"].get("namespace"))
        query = {"fieldManager": FIELD_MANAGER}
        return await self._write(_Request("create", "POST", path, describe(manifest), query, manifest))

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply."""
        return await self._apply(manifest, manager=FIELD_MANAGER, subresource="")

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """Server-side apply of the status."""
        return await self._apply(manifest, manager=STATUS_MANAGER, subresource="status")

    async def patch(
        self, resource: Resource, name: str, body: Mapping[str, Any], *, namespace: str | None = None
    ) -> Manifest:
        """JSON merge patch."""
        request = _Request(
            "patch",
            "PATCH",
            resource.path(namespace=namespace, name=name),
            f"{resource.kind} {namespace or ''}/{name}",
            {"fieldManager": FIELD_MANAGER},
            dict(body),
            "application/merge-patch+json",
        )
        return await self._write(request)

    async def replace(self, manifest: Manifest) -> Manifest:
        """PUT."""
        metadata = manifest["metadata"]
        path = resource_of(manifest).path(namespace=metadata.get("namespace"), name=metadata["name"])
        query = {"fieldManager": FIELD_MANAGER}
        return await self._write(_Request("update", "PUT", path, describe(manifest), query, manifest))

    async def delete(
        self, resource: Resource, name: str, *, namespace: str | None, guard: DeleteGuard
    ) -> bool:
        """DELETE with preconditions; dependents go in the background."""
        preconditions = {"uid": guard.uid}
        if guard.resource_version is not None:
            preconditions["resourceVersion"] = guard.resource_version
        body: Manifest = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": preconditions,
        }
        if guard.grace_seconds is not None:
            body["gracePeriodSeconds"] = guard.grace_seconds
        path = resource.path(namespace=namespace, name=name)
        target = f"{resource.kind} {namespace or ''}/{name}"
        return await self._send(_Request("delete", "DELETE", path, target, {}, body)) is not None

    async def _apply(self, manifest: Manifest, *, manager: str, subresource: str) -> Manifest:
        metadata = manifest["metadata"]
        path = resource_of(manifest).path(
            namespace=metadata.get("namespace"), name=metadata["name"], subresource=subresource
        )
        request = _Request(
            "patch",
            "PATCH",
            path,
            describe(manifest),
            {"fieldManager": manager, "force": "true"},
            manifest,
            "application/apply-patch+yaml",
        )
        return await self._write(request)

    async def _write(self, request: _Request) -> Manifest:
        """A write that finds nothing (404) met a namespace or an object that went away: look again."""
        answer = await self._send(request)
        if answer is None:
            raise Conflict(verb=request.verb, target=request.target, detail="it does not exist (any more)")
        return answer

    async def _send(self, request: _Request) -> Manifest | None:
        """One request and its JSON, None for 404. Credentials are renewed once when the server answers 401."""
        try:
            async with self._slots:
                try:
                    return await self._exchange(request)
                except _UnauthorizedError as error:
                    await self._renew(error.access)
                    return await self._exchange(request)
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            raise ApiUnavailable(source=request.question, detail=words_of(error)) from error
        except _UnauthorizedError as error:
            raise ApiUnavailable(source=request.question, detail="it knows us not (401)") from error

    async def _exchange(self, request: _Request) -> Manifest | None:
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, connect=CONNECT_SECONDS)
        async with self._respond(request, timeout) as response:
            if response.status == HTTPStatus.NOT_FOUND:
                return None
            await raise_for_status(response, verb=request.verb, target=request.target)
            answer: Manifest = json.loads(await response.read())
            return answer

    @asynccontextmanager
    async def _respond(
        self, request: _Request, limits: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response's head has arrived. Raises `_UnauthorizedError` on 401."""
        if self._session is None:
            raise RuntimeError("the API client is used outside of its context")
        access = await self._credentials.access()
        if self._tls is None and access.server.startswith("https"):
            self._tls = access.ssl_context()
        options = request_options(access)
        headers = options.pop("headers", {}) | {"Accept": "application/json"}
        data = None
        if request.body is not None:
            data = json.dumps(request.body, separators=(",", ":")).encode()
            headers["Content-Type"] = request.content_type
        async with self._session.request(
            request.method,
            access.server + request.path,
            params=request.query,
            data=data,
            headers=headers,
            timeout=limits,
            ssl=self._tls if self._tls is not None else True,
            **options,
        ) as response:
            if response.status == HTTPStatus.UNAUTHORIZED:
                raise _UnauthorizedError(access)
            yield response

    async def _renew(self, refused: Access) -> None:
        """Renew unless another request that was refused with the same access has done it meanwhile."""
        async with self._renewing:
            if await self._credentials.access() == refused:
                await self._credentials.renew()
                self._tls = None


class _UnauthorizedError(Exception):
    """401: `access` is not accepted (any more). Never leaves this module."""

    def __init__(self, access: Access) -> None:
        self.access = access
        super().__init__("401")


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[WatchEvent]:
    """One event a line. Lines are cut here because aiohttp's own reader refuses long ones."""
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if event["type"] == "ERROR":
                raise_for_event(event["object"])
            yield WatchEvent(event["type"], event["object"])

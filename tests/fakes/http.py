"""The fake API server over HTTP, on the loopback, for what speaks HTTP itself: our client, and kopf."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.fakes.apiserver import ApiError, FakeApiServer, Request

from inferencecluster.adapters.credentials import Access

GROUPS = {"gpupools.dev": "v1alpha1", "apiextensions.k8s.io": "v1"}
KINDS = {
    "/api/v1": [("namespaces", "Namespace", False), ("events", "Event", True)],
    "/apis/apiextensions.k8s.io/v1": [("customresourcedefinitions", "CustomResourceDefinition", False)],
    "/apis/gpupools.dev/v1alpha1": [("inferenceclusters", "InferenceCluster", True)],
}
DISCOVERY = {
    "/version": {"major": "1", "minor": "36"},
    "/api": {"versions": ["v1"]},
    "/apis": {
        "groups": [
            {
                "name": group,
                "versions": [{"groupVersion": f"{group}/{version}", "version": version}],
                "preferredVersion": {"groupVersion": f"{group}/{version}", "version": version},
            }
            for group, version in GROUPS.items()
        ]
    },
    **{
        path: {
            "resources": [
                {
                    "name": plural,
                    "singularName": kind.lower(),
                    "namespaced": namespaced,
                    "kind": kind,
                    "verbs": ["get", "list", "watch", "patch"],
                }
                for plural, kind, namespaced in kinds
            ]
        }
        for path, kinds in KINDS.items()
    },
}
"""What a client asks before anything else: which kinds there are."""


@dataclass
class FakeCredentials:
    """`Credentials` for one server; `renew` hands out the next token."""

    server: str
    tokens: list[str]

    async def access(self) -> Access:
        return Access(server=self.server, authorization=f"Bearer {self.tokens[0]}")

    async def renew(self) -> None:
        self.tokens.pop(0)


@asynccontextmanager
async def serving(server: FakeApiServer, *, accepted: str = "good") -> AsyncIterator[str]:
    """URL of `server`, which accepts one bearer token."""
    app = web.Application()

    async def answer(request: web.Request) -> web.StreamResponse:
        return await _answer(server, accepted, request)

    app.router.add_route("*", "/{path:.*}", answer)
    http = TestServer(app)
    await http.start_server()
    try:
        yield str(http.make_url("")).rstrip("/")
    finally:
        await http.close()


async def _answer(server: FakeApiServer, accepted: str, request: web.Request) -> web.StreamResponse:
    if request.headers.get("Authorization") != f"Bearer {accepted}":
        return _status(ApiError(401, "Unauthorized"))
    if request.path.rstrip("/") in DISCOVERY:
        return web.json_response(DISCOVERY[request.path.rstrip("/")])
    try:
        if "watch" in request.query:
            return await _stream(server, request)
        text = await request.text()
        answer = server.handle(
            Request(
                request.method,
                request.path,
                dict(request.query),
                json.loads(text) if text else None,
                request.content_type,
            )
        )
    except ApiError as error:
        return _status(error)
    return web.json_response(answer)


async def _stream(server: FakeApiServer, request: web.Request) -> web.StreamResponse:
    query = dict(request.query)
    query.setdefault("resourceVersion", "0")
    events = server.watch(request.path, query)
    await anext(events)
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    async for event in events:
        await response.write(json.dumps(event).encode() + b"\n")
    return response


def _status(error: ApiError) -> web.Response:
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    body: dict[str, Any] = {
        "kind": "Status",
        "status": "Failure",
        "code": error.status,
        "message": error.message,
    }
    if error.cause:
        body["details"] = {"causes": [{"reason": "Other"}, {"reason": error.cause, "message": "in words"}]}
    return web.json_response(body, status=error.status, headers=headers)

"""Our client against an HTTP API server: every call, every refusal by its type, renewed credentials, dead watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.fakes.apiserver import ApiError, FakeApiServer
from tests.fakes.http import FakeCredentials, serving

from inferencecluster.adapters.kube import ApiClient, DeleteGuard, Selection, WatchEvent
from inferencecluster.adapters.kube_errors import Throttled, VersionExpired
from inferencecluster.adapters.kube_resources import CLUSTERS, CONFIG_MAPS, NODES, Manifest
from inferencecluster.core.errors import (
    ApiUnavailable,
    ApplyError,
    Conflict,
    Forbidden,
    Invalid,
    OperatorError,
)


def config(name: str = "one", **data: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"},
        "data": data,
    }


@asynccontextmanager
async def connected(
    server: FakeApiServer, *tokens: str, silence_seconds: float = 70.0
) -> AsyncIterator[ApiClient]:
    async with serving(server) as url:
        credentials = FakeCredentials(url, list(tokens or ("good",)))
        # Duck-typed: the real one reads a machine's configuration.
        async with ApiClient(credentials, silence_seconds=silence_seconds) as client:  # type: ignore[arg-type]
            yield client


async def test_an_object_can_be_made_read_changed_and_deleted() -> None:
    server = FakeApiServer()
    async with connected(server) as client:
        assert await client.get(CONFIG_MAPS, "one", namespace="default") is None
        made = await client.create(config(a="1"))
        changed = await client.patch(CONFIG_MAPS, "one", {"data": {"b": "2"}}, namespace="default")
        assert changed["data"] == {"a": "1", "b": "2"}
        replaced = await client.replace({**changed, "data": {"c": "3"}})
        assert replaced["data"] == {"c": "3"}
        guard = DeleteGuard(uid=made["metadata"]["uid"])
        assert await client.delete(CONFIG_MAPS, "one", namespace="default", guard=guard)
        assert not await client.delete(CONFIG_MAPS, "one", namespace="default", guard=guard)


async def test_an_apply_owns_its_fields_and_gives_up_those_it_leaves_out() -> None:
    server = FakeApiServer()
    async with connected(server) as client:
        await client.apply(config(a="1", b="2"))
        await client.patch(CONFIG_MAPS, "one", {"data": {"theirs": "x"}}, namespace="default")
        assert (await client.apply(config(a="3")))["data"] == {"a": "3", "theirs": "x"}


async def test_a_status_is_applied_through_its_subresource_only() -> None:
    server = FakeApiServer()
    cluster = {
        "apiVersion": CLUSTERS.api_version,
        "kind": CLUSTERS.kind,
        "metadata": {"name": "one", "namespace": "default"},
        "spec": {"size": 1},
    }
    server.put(cluster)
    async with connected(server) as client:
        written = await client.apply_status({**cluster, "spec": {"size": 9}, "status": {"ready": True}})
    assert (written["spec"], written["status"]) == ({"size": 1}, {"ready": True})


async def test_a_delete_with_stale_preconditions_does_nothing() -> None:
    server = FakeApiServer()
    uid = server.put(config())["metadata"]["uid"]
    async with connected(server) as client:
        for guard in (DeleteGuard(uid="other"), DeleteGuard(uid=uid, resource_version="1")):
            with pytest.raises(Conflict):
                await client.delete(CONFIG_MAPS, "one", namespace="default", guard=guard)
    assert "one" in server.of_kind("configmaps")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(ApiError(400, "bad"), Invalid, id="400"),
        pytest.param(ApiError(403, "quota"), Forbidden, id="403"),
        pytest.param(ApiError(409, "exists"), Conflict, id="409"),
        pytest.param(ApiError(410, "old"), VersionExpired, id="410"),
        pytest.param(ApiError(422, "field"), Invalid, id="422"),
        pytest.param(ApiError(429, "slow"), ApiUnavailable, id="429 without Retry-After"),
        pytest.param(ApiError(429, "slow", retry_after=7), Throttled, id="429"),
        pytest.param(ApiError(500, "oops"), ApiUnavailable, id="500"),
        pytest.param(ApiError(503, "away"), ApiUnavailable, id="503"),
    ],
)
async def test_a_refusal_is_known_by_its_type_and_says_what_the_server_said(
    answer: ApiError, expected: type[OperatorError]
) -> None:
    server = FakeApiServer()
    server.fault = lambda _: answer
    async with connected(server) as client:
        with pytest.raises(OperatorError) as caught:
            await client.create(config())
    assert type(caught.value) is expected
    assert answer.message in str(caught.value)
    if isinstance(caught.value, Throttled):
        assert caught.value.retry_after_seconds == 7


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        pytest.param(
            ApiError(403, "it is being terminated", cause="NamespaceTerminating"),
            "NamespaceTerminating",
            id="namespace goes",
        ),
        pytest.param(
            ApiError(403, 'pods "x" is forbidden: exceeded quota: gpus, requested: pods=1'),
            "QuotaExceeded",
            id="quota",
        ),
        pytest.param(ApiError(403, 'User "operator" cannot create resource "pods"'), "", id="right"),
        pytest.param(ApiError(403, "denied", cause="SomethingElse"), "", id="another cause"),
        pytest.param(ApiError(422, "exceeded quota: no"), "", id="only a 403 is about quota"),
    ],
)
async def test_a_refusal_tells_its_cause_where_the_server_does(answer: ApiError, cause: str) -> None:
    server = FakeApiServer()
    server.fault = lambda _: answer
    async with connected(server) as client:
        with pytest.raises(ApplyError) as caught:
            await client.create(config())
    assert caught.value.cause == cause


async def test_a_write_to_something_that_is_gone_is_a_conflict() -> None:
    async with connected(FakeApiServer()) as client:
        with pytest.raises(Conflict):
            await client.patch(CONFIG_MAPS, "gone", {}, namespace="default")


async def test_a_list_comes_in_pages() -> None:
    server = FakeApiServer()
    for number in range(501):
        server.put(config(f"c{number:03}"))
    async with connected(server) as client:
        first = await client.list_page(Selection(CONFIG_MAPS, "default"))
        second = await client.list_page(
            Selection(CONFIG_MAPS, "default"), continue_token=first.continue_token
        )
    assert (len(first.items), len(second.items), second.continue_token) == (500, 1, "")


async def test_a_list_of_a_kind_that_does_not_exist_is_no_empty_list() -> None:
    server = FakeApiServer()
    server.fault = lambda _: ApiError(404, "the server could not find the requested resource")
    async with connected(server) as client:
        with pytest.raises(ApiUnavailable, match="no such kind"):
            await client.list_page(Selection(NODES))


async def test_an_expired_token_is_renewed_once_and_the_request_repeated() -> None:
    server = FakeApiServer()
    async with connected(server, "expired", "good", "never") as client:
        await client.create(config())
    assert "one" in server.of_kind("configmaps")


async def test_requests_that_fail_together_renew_together() -> None:
    server = FakeApiServer()
    async with connected(server, "expired", "good", "never") as client:
        await asyncio.gather(*(client.create(config(f"c{number}")) for number in range(20)))
    assert len(server.of_kind("configmaps")) == 20


async def test_credentials_that_stay_wrong_are_an_outage() -> None:
    async with connected(FakeApiServer(), "wrong", "wrong too") as client:
        with pytest.raises(ApiUnavailable, match="401"):
            await client.get(CONFIG_MAPS, "one", namespace="default")


async def test_a_watch_tells_what_happens_after_its_version() -> None:
    server = FakeApiServer()
    version = server.put(config("before"))["metadata"]["resourceVersion"]
    async with (
        connected(server) as client,
        client.watch(Selection(CONFIG_MAPS, "default"), resource_version=version) as events,
    ):
        server.put(config("after", text="ä" * 200_000))
        server.remove("configmaps", "default", "after")
        found = [await anext(events) for _ in range(2)]
    assert [(event.type, event.object["metadata"]["name"]) for event in found] == [
        ("ADDED", "after"),
        ("DELETED", "after"),
    ]
    assert len(found[0].object["data"]["text"]) == 200_000


async def test_a_watch_from_an_expired_version_says_so() -> None:
    server = FakeApiServer()
    server.put(config())
    server.expire()
    async with connected(server) as client:
        with pytest.raises(VersionExpired):
            await _first(client, "1")


async def test_a_watch_that_is_silent_for_too_long_is_given_up() -> None:
    async with connected(FakeApiServer(), silence_seconds=0.05) as client:
        with pytest.raises(ApiUnavailable):
            await _first(client, "100")


async def test_a_server_that_hangs_up_is_an_outage() -> None:
    async def hang_up(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hang_up)
    server = TestServer(app)
    await server.start_server()
    credentials = FakeCredentials(str(server.make_url("")).rstrip("/"), ["good"])
    async with ApiClient(credentials) as client:  # type: ignore[arg-type]  # duck-typed
        with pytest.raises(ApiUnavailable, match="get ConfigMap default/one"):
            await client.get(CONFIG_MAPS, "one", namespace="default")
    await server.close()


async def _first(client: ApiClient, version: str) -> WatchEvent:
    async with client.watch(Selection(CONFIG_MAPS, "default"), resource_version=version) as events:
        return await anext(events)

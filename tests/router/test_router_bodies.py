"""Bodies of requests: too large, too many at once, too slow, too intricate; and answers that clients take slowly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import pytest
from tests.router.harness import RouterUnderTest, eventually, request_document, running_router
from tests.router.scripted_engine import WHOLE, Behaviour

from inferencecluster.router.completion_request import MOST_STRUCTURE, Endpoint, parse_request
from inferencecluster.router.errors import RequestError

MIXED = {"m0": "mixed"}


@asynccontextmanager
async def connection(
    router: RouterUnderTest, *, read_limit: int = 1 << 16
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client that sends and reads as it likes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", router.ports.client, limit=read_limit)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def head(length: int) -> bytes:
    return b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % length


async def status_of(reader: asyncio.StreamReader) -> int:
    line = await asyncio.wait_for(reader.readline(), 5)
    return int(line.split()[1])


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
async def test_a_body_above_the_limit_is_refused(chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 1000

    async with running_router(MIXED, environment={"IC_MAX_BODY_BYTES": "2000"}) as router:
        data: Any = pieces() if chunked else b" " * 5000
        async with router.client.post("/v1/completions", data=data) as response:
            error = (await response.json())["error"]

    assert (response.status, error["code"]) == (413, "request_entity_too_large")
    assert "2000" in error["message"]


async def test_bodies_that_are_arriving_count_against_a_limit_of_their_own() -> None:
    async with running_router(MIXED, environment={"IC_MAX_READING_BYTES": "3000"}) as router:
        async with connection(router) as (_, slow), connection(router) as (reader, second):
            slow.write(head(4000) + b" " * 2000)
            await slow.drain()
            await asyncio.sleep(0.1)
            second.write(head(4000) + b" " * 2000)
            refused = await status_of(reader)
        await asyncio.sleep(0.1)
        async with connection(router) as (reader, third):
            document = json.dumps(request_document()).encode().ljust(2500)
            third.write(head(2500) + document[:2000])
            await third.drain()
            await asyncio.sleep(0.1)
            third.write(document[2000:])
            answered = await status_of(reader)

    assert (refused, answered) == (503, 200)


@pytest.mark.parametrize("together", [True, False], ids=["with its head", "after its head"])
async def test_a_body_that_is_not_encoded_as_it_says_is_refused(together: bool) -> None:
    body = b"\x1f\x8b\x08\x00" + bytes(50)
    start = head(len(body)).replace(b"Host: h\r\n", b"Host: h\r\nContent-Encoding: gzip\r\n")
    async with running_router(MIXED) as router, connection(router) as (reader, writer):
        writer.write(start + body if together else start)
        if not together:
            await asyncio.sleep(0.1)
            writer.write(body)
        answer = await asyncio.wait_for(reader.read(), 5)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"invalid_body"' in answer


async def test_a_body_that_does_not_come_is_given_up() -> None:
    async with running_router(MIXED, environment={"IC_BODY_SECONDS": "0.2"}) as router:
        async with connection(router) as (reader, writer):
            writer.write(head(100) + b"{")
            status = await status_of(reader)
        totals = (await router.state())["totals"]

    assert status == 408
    assert totals["requests"] == 0


async def test_a_body_that_does_not_come_does_not_keep_the_router_from_leaving() -> None:
    async with running_router(MIXED) as router, connection(router) as (_, writer):
        writer.write(head(100) + b"{")
        await writer.drain()
        await asyncio.sleep(0.1)

        await asyncio.wait_for(router.process.leave(), 5)


async def test_a_body_that_comes_after_the_router_has_closed_is_refused() -> None:
    body = json.dumps(request_document()).encode()
    async with running_router(MIXED) as router, connection(router) as (reader, writer):
        writer.write(head(len(body)) + body[:5])
        await writer.drain()
        await asyncio.sleep(0.1)
        await asyncio.wait_for(router.process.leave(), 5)
        writer.write(body[5:])

        assert await status_of(reader) == HTTPStatus.SERVICE_UNAVAILABLE


@pytest.mark.parametrize(
    "junk", [b"{}," * 100_000 + b"{}", b"[]," * 100_000 + b"[]", b'{"a":1},' * 60_000 + b"{}"]
)
def test_a_body_of_countless_small_objects_is_refused_unread(junk: bytes) -> None:
    body = b'{"model":"m","prompt":"x","junk":[' + junk + b"]}"
    with pytest.raises(RequestError, match=str(MOST_STRUCTURE)) as caught:
        parse_request(body, Endpoint.COMPLETIONS, models=["m"])
    assert caught.value.code == "request_too_complex"


@pytest.mark.parametrize(
    "prompt", ["{}[]:" * 100_000, '{"a": "\\"}' * 60_000, list(range(200_000))], ids=["braces", "json", "ids"]
)
def test_a_long_prompt_may_hold_whatever_it_likes(prompt: Any) -> None:
    body = json.dumps({"model": "m", "prompt": prompt}).encode()
    assert parse_request(body, Endpoint.COMPLETIONS, models=["m"]).document["prompt"] == prompt


def test_a_text_that_never_ends_is_no_json() -> None:
    body = b'{"prompt":"' + b'\\"' * 300_000 + b"{" * 200_000 + b"\\"
    with pytest.raises(RequestError, match="not JSON"):
        parse_request(body, Endpoint.COMPLETIONS, models=["m"])


LARGE_ANSWER = json.dumps(
    {
        "choices": [{"index": 0, "text": "a" * 8_000_000, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3},
    }
)


async def test_a_router_leaves_only_when_a_slow_client_has_its_whole_answer() -> None:
    body = json.dumps(request_document()).encode()
    async with running_router(MIXED) as router, connection(router) as (reader, writer):
        router.engines["m0"].always[WHOLE] = Behaviour(body=LARGE_ANSWER)
        writer.write(head(len(body)) + body)
        received = len(await reader.read(1000))
        leaving = asyncio.create_task(router.process.leave())
        await asyncio.sleep(0.3)
        assert not leaving.done()
        assert router.process.standing.active == 1

        while received < len(LARGE_ANSWER):
            data = await asyncio.wait_for(reader.read(1 << 16), 5)
            assert data, "the answer was cut"
            received += len(data)
        await asyncio.wait_for(leaving, 5)


async def test_a_client_that_takes_nothing_of_its_answer_loses_its_connection() -> None:
    body = json.dumps(request_document()).encode()
    environment = {"IC_SILENCE_SECONDS": "0.2"}
    async with running_router(MIXED, environment=environment) as router:
        router.engines["m0"].always[WHOLE] = Behaviour(body=LARGE_ANSWER)
        async with connection(router) as (_, writer):
            writer.write(head(len(body)) + body)
            await eventually(lambda: router.process.standing.active == 1)
            await eventually(lambda: router.process.standing.active == 0)
        entry = await router.replica("m0")

    assert entry["in_flight"] == 0


async def test_the_platforms_paths_are_not_on_the_port_of_the_clients() -> None:
    async with running_router(MIXED) as router:
        statuses = {}
        for path in ("/state", "/metrics", "/healthz", "/readyz", "/v1/models"):
            for session in (router.client, router.admin):
                async with session.get(path) as response:
                    statuses[path, session is router.admin] = response.status

    assert {key for key, status in statuses.items() if status == 404} == {
        ("/state", False),
        ("/metrics", False),
        ("/v1/models", True),
    }
    assert set(statuses.values()) == {200, 404}


async def test_one_oversized_request_changes_nothing_for_others() -> None:
    async with running_router(MIXED) as router:
        poison = await router.complete(n=10**320)
        after = [(await router.complete()).status for _ in range(3)]
        router.fleet.change("m0", fenced=True)
        entry = await router.replica("m0")
        assert not router.process.services.dispatcher.held_requests

    assert poison.status == 400
    assert after == [200] * 3
    assert (entry["in_flight"], entry["fenced"]) == (0, True)

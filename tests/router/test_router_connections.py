"""Answers of engines over HTTP/1.1: however they are cut, kept alive, or broken off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.router.harness import eventually

from inferencecluster.router import connections
from inferencecluster.router.connections import Address, EngineConnection
from inferencecluster.router.http_answers import LARGEST_HEAD_BYTES, AnswerParser, BrokenAnswer, Head

OK = b"HTTP/1.1 200 OK\r\nContent-Type: Application/JSON; charset=utf-8\r\n"


def by_length(body: bytes) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % len(body) + body


def in_chunks(*pieces: bytes) -> bytes:
    chunks = b"".join(b"%x;note=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece)
    return OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nTrailer: x\r\n\r\n"


def until_close(body: bytes) -> bytes:
    return OK + b"\r\n" + body


def feed_all(answer: bytes, cuts: list[int]) -> tuple[AnswerParser, bytes]:
    parser, body = AnswerParser(), []
    for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True):
        if start < end:
            body.append(parser.feed(answer[start:end]))
    return parser, b"".join(body)


pieces = st.lists(st.binary(max_size=40), max_size=5)


@given(st.data(), pieces, st.sampled_from(["length", "chunks", "close", "interim"]))
def test_an_answer_is_read_however_it_was_cut(data: st.DataObject, parts: list[bytes], kind: str) -> None:
    body = b"".join(parts)
    answer = {
        "length": by_length(body),
        "chunks": in_chunks(*parts),
        "close": until_close(body),
        "interim": b"HTTP/1.1 100 Continue\r\n\r\n" + by_length(body),
    }[kind]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(answer)), max_size=8)))

    parser, found = feed_all(answer, cuts)

    assert found == body
    assert parser.head == Head(200, "application/json", keeps_alive=kind != "close")
    assert parser.complete == (kind != "close")
    parser.end()
    assert parser.complete


@given(st.data(), pieces, st.booleans())
def test_an_answer_that_is_cut_short_is_never_taken_for_complete(
    data: st.DataObject, parts: list[bytes], chunked: bool
) -> None:
    answer = in_chunks(*parts) if chunked else by_length(b"".join(parts) + b"x")
    length = data.draw(st.integers(0, len(answer) - 1))

    parser, _ = feed_all(answer[:length], [])

    assert not parser.complete
    with pytest.raises(BrokenAnswer, match="in the middle"):
        parser.end()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param(b"SSH-2.0-x\r\n\r\n", "begins with", id="another protocol"),
        pytest.param(b"HTTP/1.1 abc\r\n\r\n", "no number", id="status is text"),
        pytest.param(b"HTTP/1.1 200 OK\r\nfield\r\n\r\n", "header field", id="field without a colon"),
        pytest.param(OK + b"Content-Length: +5\r\n\r\n", "no number", id="signed length"),
        pytest.param(OK + b"Content-Length: 1\r\n\r\nab", "more came", id="more than the length"),
        pytest.param(OK + b"Content-Length: 0\r\n\r\na", "more came", id="more than nothing"),
        pytest.param(OK + b"Transfer-Encoding: gzip\r\n\r\n", "transfer encoding", id="another coding"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", "no number", id="size is text"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n\r\n", "no number", id="no size"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", "longer than", id="long chunk"),
        pytest.param(in_chunks(b"a") + b"b", "more came", id="more than the last chunk"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\n" + b"x" * (LARGEST_HEAD_BYTES + 1), "larger than", id="endless head"
        ),
        pytest.param(
            OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * (LARGEST_HEAD_BYTES + 1),
            "too long",
            id="endless line",
        ),
    ],
)
def test_what_is_no_answer_is_refused(answer: bytes, words: str) -> None:
    with pytest.raises(BrokenAnswer, match=words):
        AnswerParser().feed(answer)


@pytest.mark.parametrize(
    ("head", "keeps_alive"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True, id="1.1"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n", False, id="1.1 close"
        ),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False, id="1.0"),
        pytest.param(
            b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
            True,
            id="1.0 keep-alive",
        ),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", True, id="no content"),
    ],
)
def test_whether_the_connection_lives_on(head: bytes, keeps_alive: bool) -> None:
    parser = AnswerParser()
    parser.feed(head)
    assert parser.complete
    assert parser.head is not None
    assert parser.head.keeps_alive is keeps_alive


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[Address]:
    """A bare server whose connections `serve` answers."""
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await serve(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    address = Address(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield address
    finally:
        address.close()
        for writer in writers:
            writer.transport.abort()
        server.close()
        await server.wait_closed()


async def read_all(connection: EngineConnection) -> bytes:
    body = b""
    while piece := await connection.read():
        body += piece
    return body


async def ask(connection: EngineConnection) -> bytes:
    await connection.exchange(REQUEST)
    return await read_all(connection)


REQUEST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"


async def test_a_connection_serves_one_request_after_another() -> None:
    accepted = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(in_chunks(b"a", b"b"))

    async with serving(serve) as address:
        for _ in range(3):
            connection = await address.connection(connect_seconds=1)
            await connection.exchange(REQUEST)
            assert await read_all(connection) == b"ab"
            address.give_back(connection)

    assert accepted == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(until_close(b"a"), id="until close"),
        pytest.param(by_length(b"a").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), id="close"),
    ],
)
async def test_a_connection_that_ends_with_its_answer_is_not_kept(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with serving(serve) as address:
        connection = await address.connection(connect_seconds=1)
        await connection.exchange(REQUEST)
        assert await read_all(connection) == b"a"
        assert not connection.reusable
        address.give_back(connection)
        assert await address.connection(connect_seconds=1) is not connection


async def test_a_connection_that_the_engine_closed_while_idle_is_not_used() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(by_length(b"a"))
        await asyncio.sleep(0.05)
        writer.close()

    async with serving(serve) as address:
        first = await address.connection(connect_seconds=1)
        await first.exchange(REQUEST)
        await read_all(first)
        address.give_back(first)
        await eventually(lambda: not first.reusable)
        assert await address.connection(connect_seconds=1) is not first


async def test_an_idle_connection_is_closed_before_the_engine_closes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE_SECONDS", 0.05)
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(by_length(b"a"))
        with suppress(ConnectionError):
            await reader.read()
        closed.set()

    async with serving(serve) as address:
        connection = await address.connection(connect_seconds=1)
        await connection.exchange(REQUEST)
        await read_all(connection)
        address.give_back(connection)
        await asyncio.wait_for(closed.wait(), 5)


async def test_connections_that_became_idle_one_after_the_other_are_all_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE_SECONDS", 0.1)
    closed = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(by_length(b"a"))
        with suppress(ConnectionError):
            await reader.read()
        nonlocal closed
        closed += 1

    async with serving(serve) as address:
        for connection in [await address.connection(connect_seconds=1) for _ in range(3)]:
            await ask(connection)
            address.give_back(connection)
            await asyncio.sleep(0.04)
        await eventually(lambda: closed == 3)
        again = await address.connection(connect_seconds=1)
        await ask(again)
        address.give_back(again)
        await eventually(lambda: closed == 4)


async def test_an_address_that_was_closed_can_be_used_again() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(by_length(b"a"))

    async with serving(serve) as address:
        connection = await address.connection(connect_seconds=1)
        await ask(connection)
        address.give_back(connection)

        address.close()

        assert not connection.reusable
        again = await address.connection(connect_seconds=1)
        await ask(again)
        address.give_back(again)
        assert again.reusable


@pytest.mark.parametrize(
    "answer", [b"", OK, by_length(b"ab")[:-1]], ids=["nothing", "half a head", "half a body"]
)
async def test_a_connection_that_breaks_off_is_an_error(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with serving(serve) as address:
        connection = await address.connection(connect_seconds=1)
        with pytest.raises(OSError, match="middle of an answer"):
            await ask(connection)


async def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(by_length(b"a"))
        await asyncio.sleep(0.05)
        writer.write(by_length(b"b"))

    async with serving(serve) as address:
        connection = await address.connection(connect_seconds=1)
        await connection.exchange(REQUEST)
        await read_all(connection)
        await eventually(lambda: not connection.reusable)


async def test_a_reader_that_is_slow_makes_the_engine_wait() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"\r\n")
        for _ in range(400):
            writer.write(b"x" * 100_000)
            await writer.drain()
        writer.close()

    async with serving(serve) as address:
        connection = await address.connection(connect_seconds=1)
        await connection.exchange(REQUEST)
        await asyncio.sleep(0.2)
        waiting = await connection.read()
        rest = await read_all(connection)

    assert len(waiting) < 2_000_000
    assert len(waiting) + len(rest) == 40_000_000


async def test_cutting_a_connection_wakes_whoever_reads() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"\r\n")

    async with serving(serve) as address:
        connection = await address.connection(connect_seconds=1)
        await connection.exchange(REQUEST)
        reading = asyncio.create_task(connection.read())
        await asyncio.sleep(0)
        connection.abort()
        with pytest.raises(ConnectionAbortedError):
            await reading
        with pytest.raises(OSError, match="cut"):
            await connection.exchange(REQUEST)


async def test_whoever_reads_hears_why_a_connection_was_cut() -> None:
    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    async with serving(serve) as address:
        connection = await address.connection(connect_seconds=1)
        asyncio.get_running_loop().call_later(0.01, connection.abort, TimeoutError("no answer within 1 s"))
        with pytest.raises(TimeoutError, match="within 1 s"):
            await connection.exchange(REQUEST)


async def test_a_refused_connection_is_an_error_at_once() -> None:
    with pytest.raises(ConnectionRefusedError):
        await Address("http://127.0.0.1:1").connection(connect_seconds=5)


def test_addresses_of_both_families() -> None:
    found = [
        (a.host, a.port, a.authority)
        for a in map(Address, ["http://h:9", "http://[fd00::7]:8000", "http://h"])
    ]
    assert found == [("h", 9, "h:9"), ("fd00::7", 8000, "[fd00::7]:8000"), ("h", 80, "h")]

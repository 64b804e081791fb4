"""Connections to engines: one request at a time on each, kept for the next one.

A client of the router costs two such requests and a token phase of hundreds of events; with aiohttp's own client the
router took 480 microseconds of processor time per request instead of 360, and 37 per event instead of 32
(`python -m benches.router`, the same two cores, interleaved).
"""

from __future__ import annotations

import asyncio
from typing import Final, cast
from urllib.parse import urlsplit

from inferencecluster.router.http_answers import AnswerParser, BrokenAnswer, Head

KEEP_ALIVE_SECONDS: Final = 2.0
"""Below uvicorn's 5 s, which trtllm-serve uses: a connection must not be reused while the engine closes it."""

_BUFFER_BYTES: Final = 256 * 1024
"""What a client that reads slowly makes wait in the router; about a thousand events."""


class EngineConnection(asyncio.Protocol):
    """One TCP connection. `exchange` begins an answer, `read` brings its body."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = AnswerParser()
        self._pieces: list[bytes] = []
        self._size = 0
        self._reading = True
        self._failure: OSError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.idle_since = 0.0
        """Of the loop's time."""

    @property
    def drained(self) -> bool:
        """The answer is complete, and all of it has been read."""
        return self._parser.complete and not self._pieces

    @property
    def reusable(self) -> bool:
        """The last answer is complete, has been read, and the engine takes another request."""
        head = self._parser.head
        return self._failure is None and self.drained and head is not None and head.keeps_alive

    async def exchange(self, request: bytes) -> Head:
        """Send a request; the head of its answer. Raises `OSError`."""
        self._parser = AnswerParser()
        self._pieces.clear()
        self._size = 0
        if self._transport is None or self._failure is not None:
            raise self._failure or BrokenAnswer("the connection is closed")
        self._transport.write(request)
        while self._parser.head is None:
            await self._wait()
        return self._parser.head

    async def read(self) -> bytes:
        """What has come of the body; empty at its end. Raises `OSError`."""
        while not self._pieces:
            if self._parser.complete:
                return b""
            await self._wait()
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._size = 0
        if not self._reading and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()
        return data

    def abort(self, reason: OSError | None = None) -> None:
        """Cut the connection: the engine stops working for it, and whoever reads gets `reason`, or that it was cut."""
        self._fail(reason or ConnectionAbortedError("the connection was cut"))
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports speak asyncio's protocol without inheriting from its classes.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take in a part of the answer."""
        try:
            if self._parser.complete or self._failure is not None:
                raise BrokenAnswer("an answer came that nobody asked for")  # noqa: TRY301 - the same end as below
            piece = self._parser.feed(data)
        except BrokenAnswer as error:
            self._fail(error)
            if self._transport is not None:
                self._transport.abort()
            return
        if piece:
            self._pieces.append(piece)
            self._size += len(piece)
            if self._size > _BUFFER_BYTES and self._reading and self._transport is not None:
                self._reading = False
                self._transport.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        """The end, orderly or not."""
        self._transport = None
        try:
            if error is not None:
                raise BrokenAnswer(str(error) or type(error).__name__)  # noqa: TRY301 - the same end as below
            self._parser.end()
            self._fail(BrokenAnswer("the engine closed the connection"), wake=False)
        except BrokenAnswer as broken:
            self._fail(broken)
        self._wake()

    def _fail(self, error: OSError, *, wake: bool = True) -> None:
        if self._failure is None:
            self._failure = error
        if wake:
            self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _wait(self) -> None:
        """Return when something has changed. Raises `OSError` when nothing can come any more."""
        if self._failure is not None:
            raise self._failure
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Address:
    """Where an engine listens, and its idle connections."""

    def __init__(self, url: str) -> None:
        """`url` is `http://host:port`."""
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or 80
        self.authority = parts.netloc
        """For the Host header."""
        self._idle: list[EngineConnection] = []
        """The one that was used last is at the end."""
        self._sweep: asyncio.TimerHandle | None = None
        """One timer for all of them: one of its own for each request would cost more than it is worth."""

    async def connection(self, *, connect_seconds: float) -> EngineConnection:
        """An idle connection, or a new one. Raises `OSError`."""
        while self._idle:
            found = self._idle.pop()
            if found.reusable:
                return found
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(connect_seconds):
                _, made = await loop.create_connection(lambda: EngineConnection(loop), self.host, self.port)
        except TimeoutError as error:
            raise TimeoutError(f"no connection within {connect_seconds:g} s") from error
        return made

    def give_back(self, connection: EngineConnection) -> None:
        """Keep the connection if it can be used again, else cut it."""
        if not connection.reusable:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(KEEP_ALIVE_SECONDS, self._close_idle, loop)

    def close(self) -> None:
        """Cut all idle connections."""
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def _close_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cut what has been idle for long enough, and look again when the next one will have been."""
        limit = loop.time() - KEEP_ALIVE_SECONDS
        for connection in self._idle:
            if connection.idle_since <= limit:
                connection.abort()
        self._idle = [connection for connection in self._idle if connection.idle_since > limit]
        self._sweep = None
        if self._idle:
            self._sweep = loop.call_later(self._idle[0].idle_since - limit, self._close_idle, loop)

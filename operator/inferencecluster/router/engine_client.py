"""HTTP to the engines: one session for all, its failures told apart by what the router does about them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Final, Self

import aiohttp
from yarl import URL

from inferencecluster.router.errors import EngineError, EngineUnreachable, RejectedByEngine
from inferencecluster.router.event_stream import EventReader, is_error
from inferencecluster.router.ledger import Entry

KEEP_ALIVE_SECONDS: Final = 2.0
"""Below uvicorn's 5 s, which trtllm-serve uses: a connection must not be reused while the engine closes it."""

CLIENT_FAULTS: Final = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
"""The request itself is wrong: no other engine would take it."""

_BUSY: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
"""The engine cannot serve anybody now."""
_WORDS_CHARACTERS: Final = 300


@dataclass(frozen=True, slots=True)
class Call:
    """One request to one engine."""

    entry: Entry
    path: str
    body: bytes
    headers: Mapping[str, str]
    phase: str
    """prefill, decode or whole."""
    seconds: float
    """Until the answer (or, of a stream, its first event) must be there."""


@dataclass(frozen=True, slots=True)
class EngineStream:
    """A stream of events that has begun."""

    first: bytes
    """The first events, at least one."""
    reader: EventReader
    """Those that follow."""
    close: Callable[[], None]
    """Cuts the connection; the reader then raises `aiohttp.ClientError`."""


class EngineClient:
    """Asks engines. Use it as an async context manager."""

    def __init__(self, *, connect_seconds: float) -> None:
        self._connect_seconds = connect_seconds
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # Queues and limits are the dispatcher's; a limit here would be a second, hidden queue.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(self, call: Call) -> bytes:
        """The whole body of a 200. Raises `EngineError`, or `RejectedByEngine`."""
        try:
            async with asyncio.timeout(call.seconds), await self._post(call) as response:
                return await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(call, error) from error

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[EngineStream]:
        """A stream that has begun. Raises like `ask`, until its first event is there."""
        begun = False
        try:
            async with asyncio.timeout(call.seconds) as bound, await self._post(call) as response:
                reader = EventReader(response.content.readany)
                first = await _first_events(call, response, reader)
                bound.reschedule(None)
                begun = True
                yield EngineStream(first, reader, response.close)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if begun:
                raise
            raise _unreachable(call, error) from error

    async def _post(self, call: Call) -> aiohttp.ClientResponse:
        """The response, its status checked; the caller leaves its context."""
        if self._session is None:
            raise RuntimeError("the engine client is used outside of its context")
        url = _url(call.entry.record.url, call.path)
        response = await self._session.post(url, data=call.body, headers=call.headers)
        if response.status != HTTPStatus.OK:
            async with response:
                await _raise_for_status(call, response)
        return response


def broken(call: Call, reason: str) -> EngineError:
    """The error for an answer that cannot be used."""
    return EngineError(reason, replica=call.entry.record.name, phase=call.phase)


def _unreachable(call: Call, error: BaseException) -> EngineUnreachable:
    """The error for a connection that was refused, broke, or was silent for too long."""
    words = str(error) or (
        f"no answer within {call.seconds:g} s" if isinstance(error, TimeoutError) else type(error).__name__
    )
    return EngineUnreachable(words, replica=call.entry.record.name, phase=call.phase)


async def _first_events(call: Call, response: aiohttp.ClientResponse, reader: EventReader) -> bytes:
    if not response.content_type.startswith("text/event-stream"):
        raise broken(call, f"it streams {response.content_type} instead of events")
    first = await reader.next()
    if not first:
        raise _unreachable(call, ConnectionError("the stream ended before its first event"))
    if is_error(first):
        raise EngineError(
            "the stream began with an error",
            replica=call.entry.record.name,
            phase=call.phase,
            words=first[:_WORDS_CHARACTERS].decode(errors="replace"),
        )
    return first


@lru_cache(maxsize=4096)
def _url(base: str, path: str) -> URL:
    """Parsing a URL costs more than routing a request."""
    return URL(base + path)


async def _raise_for_status(call: Call, response: aiohttp.ClientResponse) -> None:
    body = await response.read()
    # What the decode engine finds wrong with a request that the prefill engine took is not the client's fault.
    if response.status in CLIENT_FAULTS and call.phase != "decode":
        raise RejectedByEngine(body, status=response.status, content_type=response.content_type)
    kind = EngineUnreachable if response.status in _BUSY else EngineError
    raise kind(
        f"status {response.status}",
        replica=call.entry.record.name,
        phase=call.phase,
        words=body[:_WORDS_CHARACTERS].decode(errors="replace"),
    )

"""HTTP to the engines, with failures told apart by what the router does about them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Self

from inferencecluster.router.connections import Address, EngineConnection
from inferencecluster.router.errors import EngineError, EngineUnreachable, RejectedByEngine
from inferencecluster.router.event_stream import EventReader, is_error
from inferencecluster.router.http_answers import Head
from inferencecluster.router.ledger import Entry

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
    """Cuts the connection; the reader then raises `OSError`."""


class EngineClient:
    """Asks engines. Use it as an async context manager."""

    def __init__(self, *, connect_seconds: float) -> None:
        self._connect_seconds = connect_seconds
        self._addresses: dict[str, Address] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for address in self._addresses.values():
            address.close()

    def forget(self, url: str) -> None:
        """The engine at `url` is gone."""
        address = self._addresses.pop(url, None)
        if address is not None:
            address.close()

    async def ask(self, call: Call) -> bytes:
        """The whole body of a 200. Raises `EngineError`, or `RejectedByEngine`."""
        try:
            async with asyncio.timeout(call.seconds), self._exchange(call) as (_, connection):
                return await _read_all(connection)
        except (TimeoutError, OSError) as error:
            raise _unreachable(call, error) from error

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[EngineStream]:
        """A stream that has begun. Raises like `ask`, until its first event is there."""
        begun = False
        try:
            async with asyncio.timeout(call.seconds) as bound, self._exchange(call) as (head, connection):
                reader = EventReader(connection.read)
                first = await _first_events(call, head, reader)
                bound.reschedule(None)
                begun = True
                yield EngineStream(first, reader, connection.abort)
        except (TimeoutError, OSError) as error:
            if begun:
                raise
            raise _unreachable(call, error) from error

    @asynccontextmanager
    async def _exchange(self, call: Call) -> AsyncIterator[tuple[Head, EngineConnection]]:
        """An answer with status 200. However the body ends, the connection is kept or cut."""
        url = call.entry.record.url
        address = self._addresses.get(url)
        if address is None:
            address = self._addresses[url] = Address(url)
        connection = await address.connection(connect_seconds=self._connect_seconds)
        try:
            head = await connection.exchange(_request(call, address.authority))
            if head.status != HTTPStatus.OK:
                _raise_for_status(call, head, await _read_all(connection))
            yield head, connection
        finally:
            address.give_back(connection)


def _request(call: Call, authority: str) -> bytes:
    lines = [f"POST {call.path} HTTP/1.1", f"Host: {authority}", f"Content-Length: {len(call.body)}"]
    lines += [f"{name}: {value}" for name, value in call.headers.items()]
    return "\r\n".join((*lines, "\r\n")).encode("latin-1", errors="replace") + call.body


async def _read_all(connection: EngineConnection) -> bytes:
    pieces = []
    while piece := await connection.read():
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def broken(call: Call, reason: str) -> EngineError:
    """The error for an answer that cannot be used."""
    return EngineError(reason, replica=call.entry.record.name, phase=call.phase)


def _unreachable(call: Call, error: BaseException) -> EngineUnreachable:
    """The error for a connection that was refused, broke, or was silent for too long."""
    words = str(error) or (
        f"no answer within {call.seconds:g} s" if isinstance(error, TimeoutError) else type(error).__name__
    )
    return EngineUnreachable(words, replica=call.entry.record.name, phase=call.phase)


async def _first_events(call: Call, head: Head, reader: EventReader) -> bytes:
    if head.content_type != "text/event-stream":
        raise broken(call, f"it streams {head.content_type or 'something'} instead of events")
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


def _raise_for_status(call: Call, head: Head, body: bytes) -> None:
    # What the decode engine finds wrong with a request that the prefill engine took is not the client's fault.
    if head.status in CLIENT_FAULTS and call.phase != "decode":
        raise RejectedByEngine(body, status=head.status, content_type=head.content_type)
    kind = EngineUnreachable if head.status in _BUSY else EngineError
    raise kind(
        f"status {head.status}",
        replica=call.entry.record.name,
        phase=call.phase,
        words=body[:_WORDS_CHARACTERS].decode(errors="replace"),
    )

"""HTTP to the engines, with failures told apart by what the router does about them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
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

_OK: Final = HTTPStatus.OK.value
"""Read once: in Python 3.11 each access to a member of `HTTPStatus` is a call."""
_BUSY: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
"""The engine cannot serve anybody now."""
_WORDS_CHARACTERS: Final = 300


@dataclass(frozen=True, slots=True)
class Call:
    """One request to one engine."""

    entry: Entry
    path: str
    body: bytes
    fields: bytes
    """Header fields beside those that every request has (`header_fields`)."""
    phase: str
    """prefill, decode or whole."""
    seconds: float
    """Until the answer (or, of a stream, its first event) must be there."""


def header_fields(headers: Mapping[str, str]) -> bytes:
    """Header fields as they are sent; a question mark stands for what HTTP cannot say."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return lines.encode("latin-1", errors="replace")


class _NoAnswerError(TimeoutError):
    """The engine was asked, and did not answer in time."""


class _Exchange:
    """One call on a connection of its own, which is kept or cut at the end."""

    __slots__ = ("_address", "_call", "_connection", "_timer")

    def __init__(self, call: Call, address: Address) -> None:
        self._call = call
        self._address = address
        self._connection: EngineConnection | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def begin(self, *, connect_seconds: float) -> tuple[Head, EngineConnection]:
        """An answer with status 200 has begun. Raises `OSError`, `EngineError` and `RejectedByEngine`."""
        call = self._call
        connection = self._connection = await self._address.connection(
            connect_seconds=min(connect_seconds, call.seconds)
        )
        # The connection ends, and with it the wait: a fifth of what `asyncio.timeout` costs for each request.
        self._timer = asyncio.get_running_loop().call_later(call.seconds, self._time_out, connection)
        head = await connection.exchange(_request(call, self._address.authority))
        if head.status != _OK:
            _raise_for_status(call, head, await _read_all(connection))
        return head, connection

    def unbind(self) -> None:
        """The rest of the answer may take as long as it likes."""
        if self._timer is not None:
            self._timer.cancel()

    def end(self) -> None:
        """However the answer ended."""
        self.unbind()
        if self._connection is not None:
            self._address.give_back(self._connection)

    def _time_out(self, connection: EngineConnection) -> None:
        connection.abort(_NoAnswerError(f"no answer within {self._call.seconds:g} s"))


@dataclass(frozen=True, slots=True)
class EngineStream:
    """A stream of events that has begun. Call `release` at its end."""

    first: bytes
    """The first events, at least one."""
    reader: EventReader
    """Those that follow."""
    connection: EngineConnection
    """Where they come from; when it is cut, the reader raises `OSError`."""
    release: Callable[[], None]


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
        exchange = self._exchange(call)
        try:
            _, connection = await exchange.begin(connect_seconds=self._connect_seconds)
            return await _read_all(connection)
        except OSError as error:
            raise _failed(call, error) from error
        finally:
            exchange.end()

    async def stream(self, call: Call) -> EngineStream:
        """A stream that has begun. Raises like `ask`."""
        exchange = self._exchange(call)
        try:
            head, connection = await exchange.begin(connect_seconds=self._connect_seconds)
            reader = EventReader(connection.read)
            first = await _first_events(call, head, reader)
        except BaseException as error:
            exchange.end()
            if isinstance(error, OSError):
                raise _failed(call, error) from error
            raise
        exchange.unbind()
        return EngineStream(first, reader, connection, exchange.end)

    def _exchange(self, call: Call) -> _Exchange:
        url = call.entry.record.url
        address = self._addresses.get(url)
        if address is None:
            address = self._addresses[url] = Address(url)
        return _Exchange(call, address)


def _request(call: Call, authority: str) -> bytes:
    line = f"POST {call.path} HTTP/1.1\r\nHost: {authority}\r\nContent-Length: {len(call.body)}\r\n"
    return b"".join((line.encode("latin-1"), call.fields, b"\r\n", call.body))


async def _read_all(connection: EngineConnection) -> bytes:
    pieces = []
    while piece := await connection.read():
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def broken(call: Call, reason: str) -> EngineError:
    """The error for an answer that cannot be used."""
    return EngineError(reason, replica=call.entry.record.name, phase=call.phase)


def _failed(call: Call, error: BaseException) -> EngineError:
    """The error for a connection that was refused or broke, or on which no answer came in time.

    Only the former tells that nobody is there: a prompt may just be longer than the patience with it.
    """
    kind = EngineError if isinstance(error, _NoAnswerError) else EngineUnreachable
    return kind(str(error) or type(error).__name__, replica=call.entry.record.name, phase=call.phase)


async def _first_events(call: Call, head: Head, reader: EventReader) -> bytes:
    if head.content_type != "text/event-stream":
        raise broken(call, f"it streams {head.content_type or 'something'} instead of events")
    first = await reader.next()
    if not first:
        raise _failed(call, ConnectionError("the stream ended before its first event"))
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

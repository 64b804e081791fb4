"""From an engine's stream of events to the client's, counting on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp.abc import AbstractStreamWriter

from inferencecluster.router.engine_client import EngineStream
from inferencecluster.router.errors import ClientGone
from inferencecluster.router.event_stream import (
    END,
    OversizedEvent,
    Usage,
    is_error,
    may_end,
    read_ending,
)
from inferencecluster.router.ledger import Assignment
from inferencecluster.router.traffic import Histogram


@dataclass(frozen=True, slots=True)
class Meter:
    """What a relay counts with."""

    clock: Callable[[], float]
    itl: Histogram
    tokens_per_event: float


@dataclass(slots=True)
class RelayEnd:
    """How a stream ended."""

    complete: bool = False
    """The engine said `[DONE]`."""
    explained: bool = False
    """The engine's own last event was an error: the client knows."""
    reason: str = ""
    """Why it broke off; empty when the body just ended."""
    events: int = 0
    """Those that carried tokens."""
    usage: Usage | None = None


class Relay:
    """One stream. `_pass_on` is the router's hot path: 30,000 events a second go through it."""

    def __init__(
        self,
        upstream: EngineStream,
        assignment: Assignment,
        meter: Meter,
        *,
        keep_usage: bool,
        downstream: asyncio.Transport | None,
    ) -> None:
        """`keep_usage`: the client asked for the usage event. `downstream` is its connection, if it is still there."""
        self._upstream = upstream
        self._assignment = assignment
        self._meter = meter
        self._keep_usage = keep_usage
        self._downstream = downstream
        self._expired = False
        self.last_at = meter.clock()

    def expire(self) -> None:
        """Nothing has moved for too long: what is unsent blames the client, else it is the engine that is silent."""
        if self._downstream is not None and self._downstream.get_write_buffer_size() > 0:
            self._downstream.abort()
            return
        self._expired = True
        self._upstream.connection.abort()

    async def run(self, client: AbstractStreamWriter) -> RelayEnd:
        """Pass on everything up to the end of the body. Raises `ClientGone`."""
        end = RelayEnd()
        try:
            await self._pass_on(client, end)
        except OversizedEvent as error:
            end.reason = str(error)
        except OSError as error:
            end.reason = "silent for too long" if self._expired else type(error).__name__
        return end

    async def _pass_on(self, client: AbstractStreamWriter, end: RelayEnd) -> None:
        clock, observe = self._meter.clock, self._meter.itl.observe
        read, write = self._upstream.reader.next, client.write
        per_event, count = self._meter.tokens_per_event, self._assignment.count_output
        data = self._upstream.first
        is_first = True
        while data:
            now = clock()
            if may_end(data):
                written, events = self._examine(data, end)
            else:
                written, events = data, data.count(END)
            if events:
                # The first events have no gap before them.
                if not is_first:
                    observe((now - self.last_at) / (events * per_event), events)
                count(events * per_event)
                end.events += events
            self.last_at, is_first = now, False
            try:
                if end.complete and self._upstream.connection.drained:
                    # The last events and the end of the body, in one packet.
                    await client.write_eof(written)
                elif written:
                    await write(written)
            except ConnectionResetError as error:
                raise ClientGone("the client closed its connection") from error
            last, data = data, await read()
        end.explained = is_error(last)

    def _examine(self, data: bytes, end: RelayEnd) -> tuple[bytes, int]:
        """What the client gets of these events, and how many of them carry tokens."""
        ending = read_ending(data, keep_usage=self._keep_usage)
        end.complete = end.complete or ending.done
        end.usage = ending.usage or end.usage
        return ending.data, ending.tokens

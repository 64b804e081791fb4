"""From an engine's stream of events to the client's, counting on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from inferencecluster.router.engine_client import EngineStream
from inferencecluster.router.errors import ClientGone
from inferencecluster.router.event_stream import (
    END,
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
    """One stream. `run` is the router's hot path: 30,000 events a second go through it."""

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
        self._upstream.close()

    async def run(self, client: web.StreamResponse) -> RelayEnd:
        """Pass on everything up to the end of the body. Raises `ClientGone`."""
        end = RelayEnd()
        # The first events have no gap before them.
        written, tokens = self._examine(self._upstream.first, end)
        self._count(tokens, end)
        await _write(client, written)
        try:
            await self._pass_on(client, end)
        except (aiohttp.ClientError, OSError) as error:
            end.reason = "silent for too long" if self._expired else type(error).__name__
        return end

    async def _pass_on(self, client: web.StreamResponse, end: RelayEnd) -> None:
        """Everything after the first events."""
        data = self._upstream.first
        clock, observe, read = self._meter.clock, self._meter.itl.observe, self._upstream.reader.next
        per_event = self._meter.tokens_per_event
        while True:
            received = await read()
            if not received:
                end.explained = is_error(data)
                return
            data = received
            now = clock()
            if may_end(data):
                written, tokens = self._examine(data, end)
            else:
                written, tokens = data, data.count(END)
            if tokens:
                observe((now - self.last_at) / (tokens * per_event), tokens)
                self._count(tokens, end)
            self.last_at = now
            if written:
                await _write(client, written)

    def _examine(self, data: bytes, end: RelayEnd) -> tuple[bytes, int]:
        """What the client gets of these events, and how many of them carry tokens."""
        ending = read_ending(data, keep_usage=self._keep_usage)
        end.complete = end.complete or ending.done
        end.usage = ending.usage or end.usage
        return ending.data, ending.tokens

    def _count(self, tokens: int, end: RelayEnd) -> None:
        end.events += tokens
        assignment = self._assignment
        assignment.output_tokens = round(end.events * self._meter.tokens_per_event)
        if assignment.output_tokens > assignment.expected_output_tokens:
            assignment.extend()


async def _write(client: web.StreamResponse, data: bytes) -> None:
    try:
        await client.write(data)
    except ConnectionResetError as error:
        raise ClientGone("the client closed its connection") from error

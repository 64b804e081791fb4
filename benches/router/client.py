"""A client that costs little: requests over bare asyncio protocols, timed to the first and the last byte."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

from benches.router.engine import PROMPT_TOKENS

PATH: Final = "/v1/completions"
MODEL: Final = "m"
_LENGTH: Final = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
_END_OF_CHUNKS: Final = b"0\r\n\r\n"


def http_request(document: dict[str, Any]) -> bytes:
    """A POST of `document`."""
    body = json.dumps(document).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def completion(tokens: int) -> dict[str, Any]:
    """A streamed request of a mean prompt, as text."""
    return {"model": MODEL, "prompt": "word" * PROMPT_TOKENS, "max_tokens": tokens, "stream": True}


def context_call(tokens: int) -> bytes:
    """What the router sends to the prefill engine."""
    parameters = {"request_type": "context_only"}
    return http_request({**completion(tokens), "stream": False, "disaggregated_params": parameters})


def generation_call(tokens: int) -> bytes:
    """What the router sends to the decode engine."""
    parameters = {"request_type": "generation_only", "ctx_request_id": 7, "encoded_opaque_state": "c3RhdGU="}
    identifiers = list(range(100_000, 100_000 + PROMPT_TOKENS))
    return http_request({**completion(tokens), "prompt": identifiers, "disaggregated_params": parameters})


@dataclass(slots=True)
class Timing:
    """One answer; times of `time.perf_counter`."""

    first: float
    last: float


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Timing] | None = None
        self._first = 0.0
        self._left = -1
        """Bytes of the body that are missing; -1 while the body is chunked or its length unknown."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        """Nobody may wait for ever."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(
                ConnectionError("the connection was closed in the middle of an answer")
            )

    def data_received(self, data: bytes) -> None:
        """Count, and see whether the answer is complete."""
        if self._answer is None or self._answer.done():
            return
        if not self._first:
            self._first = time.perf_counter()
            if not data.startswith(b"HTTP/1.1 200"):
                self._answer.set_exception(ConnectionError(data[:200].decode(errors="replace")))
                return
            end = data.find(b"\r\n\r\n")
            length = _LENGTH.search(data, 0, end)
            self._left = int(length[1]) - (len(data) - end - 4) if length else -1
        elif self._left > 0:
            self._left -= len(data)
        self._pool.chunks += data.count(b"data: {")
        if self._left == 0 or (self._left < 0 and data.endswith(_END_OF_CHUNKS)):
            self._answer.set_result(Timing(self._first, time.perf_counter()))

    async def ask(self, request: bytes) -> Timing:
        """Send and await the whole answer. Raises `ConnectionError`."""
        if self._transport is None:
            raise ConnectionError("not connected")
        self._first, self._left = 0.0, -1
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()


@dataclass(slots=True)
class Pool:
    """Connections to one port, as many as are needed at once."""

    port: int
    chunks: int = 0
    """Events with tokens that came so far."""
    _idle: list[Connection] = field(default_factory=list)

    async def ask(self, request: bytes) -> Timing:
        """One request over a connection of its own. Raises `ConnectionError`."""
        if self._idle:
            connection = self._idle.pop()
        else:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self.port)
        timing = await connection.ask(request)
        self._idle.append(connection)
        return timing

    def close(self) -> None:
        """Hang up everything idle."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()


Ask = Callable[[], Awaitable[Timing]]


def through_router(pool: Pool, tokens: int) -> Ask:
    """A request that the router serves."""
    request = http_request(completion(tokens))
    return lambda: pool.ask(request)


def directly(pool: Pool, tokens: int) -> Ask:
    """The same two calls to the engines, made by the client itself."""
    context, generation = context_call(tokens), generation_call(tokens)

    async def ask() -> Timing:
        await pool.ask(context)
        return await pool.ask(generation)

    return ask


@dataclass(frozen=True, slots=True)
class Samples:
    """Seconds to the first byte of each request."""

    direct: list[float] = field(default_factory=list)
    passed: list[float] = field(default_factory=list)
    """Through what is measured."""


@dataclass(frozen=True, slots=True)
class Load:
    """Poisson arrivals."""

    rate: float
    """Per second."""
    seconds: float
    seed: int


async def open_loop(direct: Ask, passing: Ask, load: Load) -> Samples:
    """`load` through the router or the relay, and every fourth request beside it directly.

    Both see the same machine at the same moments, so that their difference is that of what is measured.
    """
    chance = random.Random(load.seed)  # noqa: S311 - a repeatable load
    samples = Samples()
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def one(ask: Ask, found: list[float]) -> None:
        began = time.perf_counter()
        found.append((await ask()).first - began)

    def start(ask: Ask, found: list[float]) -> None:
        task = loop.create_task(one(ask, found))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def arrive(number: int) -> None:
        start(passing, samples.passed)
        if number % _DIRECT_EVERY == 0:
            start(direct, samples.direct)

    def pace() -> None:
        began, due, number = time.perf_counter(), 0.0, 0
        while due < load.seconds:
            due += chance.expovariate(load.rate)
            time.sleep(max(0.0, began + due - time.perf_counter()))
            number += 1
            loop.call_soon_threadsafe(arrive, number)

    # A thread, because timers of event loops have whole milliseconds: arrivals would come in bunches.
    await loop.run_in_executor(None, pace)
    await asyncio.gather(*tasks)
    return samples


_DIRECT_EVERY: Final = 4
"""Enough direct requests for a 99th percentile, few enough to leave the core that client and engines share."""


@dataclass(slots=True)
class Window:
    """What came within a window of time."""

    requests: int
    chunks: int
    seconds: float
    cpu_seconds: float


async def closed_loop(
    pool: Pool, ask: Ask, *, clients: int, seconds: float, cpu: Callable[[], float]
) -> Window:
    """`clients` that ask again as soon as they were answered: what came within `seconds`, after a second of warm-up.

    `cpu` tells the router's processor time.
    """
    requests = 0

    async def one() -> None:
        nonlocal requests
        while True:
            await ask()
            requests += 1

    tasks = [asyncio.create_task(one()) for _ in range(clients)]
    await asyncio.sleep(_WARM_UP_SECONDS)
    before, began = Window(requests, pool.chunks, 0.0, cpu()), time.perf_counter()
    await asyncio.sleep(seconds)
    window = Window(
        requests - before.requests,
        pool.chunks - before.chunks,
        time.perf_counter() - began,
        cpu() - before.cpu_seconds,
    )
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    failures = [failure for failure in ended if not isinstance(failure, asyncio.CancelledError)]
    if failures:
        raise ExceptionGroup("requests failed", [f for f in failures if isinstance(f, Exception)])
    return window


_WARM_UP_SECONDS: Final = 1.0

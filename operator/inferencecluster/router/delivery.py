"""Answers in one piece, sent by the router itself: a request is over when its answer has left, not when it is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from inferencecluster.router.errors import ClientGone
from inferencecluster.router.watchdog import Watchdog


class _Sending:
    """An answer on its way, for the watchdog: a client that takes nothing for too long loses its connection."""

    def __init__(self, transport: asyncio.Transport, now: float) -> None:
        self._transport = transport
        self._left: int | None = None
        self.last_at = now

    def expire(self) -> None:
        """Whether it goes on is seen from one call to the next."""
        left = self._transport.get_write_buffer_size()
        if self._left is not None and left >= self._left:
            self._transport.abort()
        self._left = left


async def deliver(
    http: web.Request, response: web.Response, watchdog: Watchdog, clock: Callable[[], float]
) -> None:
    """Send all of `response`; what is left in buffers afterwards is small. Raises `ClientGone`."""
    transport = http.transport
    if transport is None:
        raise ClientGone("the client closed its connection")
    sending = _Sending(transport, clock())
    watchdog.watch(sending)
    try:
        await response.prepare(http)
        await response.write_eof()
    except ConnectionError as error:
        raise ClientGone("the client closed its connection") from error
    finally:
        watchdog.forget(sending)

"""How many clusters are looked at concurrently; who only waits for others lends its place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Workers:
    """A bounded number of places. Hold one with `async with workers.place()`."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place and hold it."""
        async with self._free:
            yield

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[None]:
        """Inside of `place`: others may use it meanwhile.

        Somebody cancelled while waiting to get it back leaves one place too many, which nobody can use: only the end of
        the process cancels.
        """
        self._free.release()
        try:
            yield
        finally:
            await self._free.acquire()

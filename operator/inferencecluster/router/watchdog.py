"""Ends streams that have gone silent, with one look at all of them instead of a timer per event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

LOOK_SECONDS: Final = 0.5
"""Silence is allowed for many seconds; half a second more does not matter, and a look at 10,000 streams takes 1 ms."""


class Watched(Protocol):
    """A stream."""

    last_at: float
    """When it last made progress, on the watchdog's clock."""

    def expire(self) -> None:
        """It has been silent for too long. Called again after the same time if it is still watched."""


class Watchdog:
    """Watches streams while `run` runs."""

    def __init__(self, clock: Callable[[], float], *, silence_seconds: float) -> None:
        self._clock = clock
        self._silence_seconds = silence_seconds
        self._watched: set[Watched] = set()

    def watch(self, stream: Watched) -> None:
        """Watch it from now on."""
        self._watched.add(stream)

    def forget(self, stream: Watched) -> None:
        """It has ended."""
        self._watched.discard(stream)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Expire what has been silent for too long."""
        now = self._clock()
        for stream in tuple(self._watched):
            if now - stream.last_at > self._silence_seconds:
                stream.last_at = now
                stream.expire()

"""Time as an argument: the wall clock that objects carry, and the monotonic one that waiting uses."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Protocol


class Clock(Protocol):
    """Both clocks and the only way to wait."""

    def now(self) -> float:
        """Unix seconds; may jump when the machine's clock is set."""

    def monotonic(self) -> float:
        """Seconds that never go back, from an arbitrary origin."""

    async def sleep(self, seconds: float) -> None:
        """Wait; 0 and less give other tasks a turn."""


class SystemClock:
    """The machine's clock, and the running event loop's for waiting."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """The event loop's own time, so that a loop with virtual time moves both."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Wait on the event loop."""
        await asyncio.sleep(max(0.0, seconds))


class Backoff:
    """Waiting times that double from `first` to `longest` seconds, each shortened at random by up to a half.

    The jitter keeps many clients that failed together from coming back together.
    """

    def __init__(self, *, first: float, longest: float, jitter: random.Random) -> None:
        self._first = first
        self._longest = longest
        self._jitter = jitter
        self._failures = 0

    def fail(self, at_least: float = 0.0) -> float:
        """Count a failure; seconds to wait before the next attempt, never under `at_least` (a Retry-After)."""
        # 2**16 times any first wait is beyond every longest: the exponent must not grow without bound.
        wait = min(self._longest, self._first * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return max(at_least, wait * self._jitter.uniform(0.5, 1.0))

    def succeed(self) -> None:
        """Start again from `first`."""
        self._failures = 0

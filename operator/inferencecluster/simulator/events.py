"""The queue of events: what happens next, and in which order things happen that fall on one instant."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class EventQueue:
    """Calls functions at their times. Equal times run in the order in which they were asked for: runs repeat exactly."""

    __slots__ = ("_calls", "_events", "now")

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the beginning of the workload; never goes back."""
        self._calls = 0
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []

    def __len__(self) -> int:
        return len(self._events)

    @property
    def calls(self) -> int:
        """Events that were ever scheduled: what a run costs."""
        return self._calls

    def at(self, time: float, call: Callable[[Any], None], argument: object = None) -> None:
        """Call `call(argument)` at `time`. Raises `ValueError` when that is before now."""
        if time < self.now:
            raise ValueError(f"an event at {time} s cannot be scheduled at {self.now} s")
        self._calls += 1
        heappush(self._events, (time, self._calls, call, argument))

    def at_numbered(self, time: float, call: Callable[[int], None]) -> int:
        """Call `call` at `time`, now or later, with the number that is returned.

        Events are not taken back: who schedules anew remembers the newest number and ignores all others.
        """
        self._calls += 1
        heappush(self._events, (time, self._calls, call, self._calls))
        return self._calls

    def next_time(self) -> float | None:
        """When the next event is due; None when nothing is."""
        return self._events[0][0] if self._events else None

    def run_next(self) -> None:
        """Move on to the next event and call it. Raises `IndexError` when nothing is due."""
        self.now, _, call, argument = heappop(self._events)
        call(argument)

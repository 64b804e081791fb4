"""Who waits for one model: large requests beside the usual ones, so that one of them does not stop all others.

A request is large when it needs a good part of a replica's KV memory: room for it appears rarely, while what comes
behind it would find some. The usual ones therefore pass a large one, which keeps its turn: it is tried first whenever
room appears. Once it is overdue, the dispatcher keeps one replica free of others for it, so that it does not starve.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from inferencecluster.core.routing import HoldReason, RoutingRequest
from inferencecluster.core.waiting import WaitingLine
from inferencecluster.router.ledger import Assignment

LARGE_PARTS: Final = 8
"""A request is large above an eighth of a replica's KV memory. That much is free on some replica most of the time
below full load, and at full load it is what dozens of usual requests leave behind."""


@dataclass(slots=True)
class Ticket:
    """One request on its way to replicas."""

    body_bytes: int
    on_admitted: Callable[[], None]
    """Called once, when the request gets replicas or a place in the queue."""
    held_seconds: float = 0.0
    """Spent in the queue so far, over all attempts."""
    attempts: int = 0
    patience_seconds: float = 0.0
    """How long it may be held in all, over all attempts."""


@dataclass(slots=True, eq=False)
class Waiting:
    """One request in the queue."""

    request: RoutingRequest
    ticket: Ticket
    granted: asyncio.Future[Assignment]
    reason: HoldReason
    since: float
    is_large: bool
    timer: asyncio.TimerHandle | None = None


class ModelLine:
    """The two lines of one model. Times are the stopwatch's."""

    def __init__(self, late_seconds: float, refused_seconds: float) -> None:
        """As those of a `WaitingLine`."""
        self._usual: WaitingLine[Waiting] = WaitingLine(late_seconds, refused_seconds)
        self._large: WaitingLine[Waiting] = WaitingLine(late_seconds, refused_seconds)
        self.reserved = ""
        """Name of the replica that is kept free for the large request whose turn it is; empty while there is none."""

    def __len__(self) -> int:
        return len(self._usual) + len(self._large)

    def __contains__(self, waiting: Waiting) -> bool:
        return waiting in self._line(waiting)

    @property
    def oldest_since(self) -> float | None:
        """Since when the one that waits longest does; None while nobody waits."""
        known = (line.oldest_since for line in (self._usual, self._large))
        return min((since for since in known if since is not None), default=None)

    def be_late_after(self, seconds: float, *, refused_seconds: float) -> None:
        """Other settings."""
        for line in (self._usual, self._large):
            line.late_seconds, line.refused_seconds = seconds, refused_seconds

    def next(self, now: float) -> tuple[Waiting | None, Waiting | None]:
        """The large request and the usual one to be tried now, in this order.

        A large one does not pass usual ones that are older: it needs more of the same.
        """
        large, usual = self._large.first(now), self._usual.first(now)
        if large is not None and usual is not None and usual.since < large.since:
            return None, usual
        return large, usual

    def add(self, waiting: Waiting) -> None:
        """It waits from now on."""
        self._line(waiting).add(waiting, waiting.since)

    def discard(self, waiting: Waiting) -> None:
        """It waits no longer and got nothing."""
        self._line(waiting).discard(waiting)
        self._changed(waiting)

    def granted(self, waiting: Waiting) -> None:
        """It got replicas."""
        self._line(waiting).granted(waiting)
        self._changed(waiting)

    def _line(self, waiting: Waiting) -> WaitingLine[Waiting]:
        return self._large if waiting.is_large else self._usual

    def _changed(self, waiting: Waiting) -> None:
        if waiting.is_large:
            self.reserved = ""

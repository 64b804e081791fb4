"""The central queue: who gets replicas now, who waits, and for how long.

First come, first served; newest first while the oldest has waited for its whole TTFT target (`core/waiting.py`). A
request that failed on an engine is tried before those that were never sent; it does not block them when only replicas
that it excludes have room.

Whoever is next was tried when it became next or when room last appeared, and room appears only through `serve_queue`:
a newcomer needs a decision of its own only when nobody waits, or when it is next itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from math import inf
from typing import Final

from inferencecluster.core.routing import (
    Disaggregated,
    Hold,
    HoldReason,
    RoutingPolicy,
    RoutingRequest,
    Whole,
    route,
)
from inferencecluster.core.waiting import WaitingLine
from inferencecluster.router.errors import CapacityError
from inferencecluster.router.estimates import DrainRate
from inferencecluster.router.ledger import Assignment, Ledger
from inferencecluster.router.sources import RouterSettings

NO_REPLICA_RETRY_SECONDS: Final = 10
"""Retry-After while nothing serves: a boot takes longer, but a client that asks every ten seconds costs nothing."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Bounds of the queue beside `maxQueueSeconds`, which keep the router's memory."""

    requests: int
    body_bytes: int


@dataclass(slots=True)
class Ticket:
    """One request on its way to replicas."""

    body_bytes: int
    on_admitted: Callable[[], None]
    """Called once, when the request gets replicas or a place in the queue."""
    held_seconds: float = 0.0
    """Spent in the queue so far, over all attempts."""
    attempts: int = 0


@dataclass(slots=True, eq=False)
class _Waiting:
    request: RoutingRequest
    ticket: Ticket
    granted: asyncio.Future[Assignment]
    reason: HoldReason
    since: float
    timer: asyncio.TimerHandle | None = None


class Dispatcher:
    """Gives replicas to requests."""

    def __init__(self, ledger: Ledger, limits: QueueLimits, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._limits = limits
        self._clock = clock
        self._policy = RoutingPolicy(overflow_tokens=0)
        self._max_queue_seconds = 0.0
        self._retries: dict[_Waiting, None] = {}
        self._arrivals: WaitingLine[_Waiting] = WaitingLine(late_seconds=inf)
        self._drain = DrainRate()
        self.held_tokens = 0
        """Prompt tokens of the requests in the queue."""
        self._held_bytes = 0
        ledger.on_room = self.serve_queue

    @property
    def held_requests(self) -> int:
        """Requests in the queue."""
        return len(self._retries) + len(self._arrivals)

    def configure(self, settings: RouterSettings) -> None:
        """Take over settings; requests that wait already keep their time."""
        self._policy = RoutingPolicy(overflow_tokens=settings.overflow_tokens)
        self._max_queue_seconds = settings.max_queue_seconds
        self._arrivals.late_seconds = settings.ttft_seconds
        self.serve_queue()

    async def acquire(self, request: RoutingRequest, ticket: Ticket) -> Assignment:
        """Replicas for the request, as soon as some may take it. Raises `CapacityError`.

        Whoever gets an assignment must `release` it.
        """
        ticket.attempts += 1
        first_time = ticket.attempts == 1
        now = self._clock()
        ahead = self._arrivals.first(now) if first_time else None
        if ahead is not None:
            # Whatever holds the one that is next holds this one, unless this one is next.
            waiting = self._enter(request, ticket, ahead.reason, now)
            if self._arrivals.first(now) is waiting:
                self.serve_queue()
            return await self._wait(waiting)
        decision = route(request, self._ledger.fleet, self._policy)
        if isinstance(decision, Hold):
            return await self._wait(self._enter(request, ticket, decision.reason, now))
        if first_time:
            ticket.on_admitted()
        return self._assign(request, decision)

    def serve_queue(self) -> None:
        """Hand out replicas to those who wait, in order, as far as there is room."""
        for waiting in tuple(self._retries):
            self._offer(waiting)
        now = self._clock()
        while (first := self._arrivals.first(now)) is not None and self._offer(first):
            pass

    def _offer(self, waiting: _Waiting) -> bool:
        """Whether the request is out of the queue."""
        if waiting.granted.done():
            # Its client has gone, and its task has not run since.
            self._remove(waiting)
            return True
        try:
            decision = route(waiting.request, self._ledger.fleet, self._policy)
            if isinstance(decision, Hold):
                waiting.reason = decision.reason
                return False
            assignment = self._assign(waiting.request, decision)
        except Exception as error:  # noqa: BLE001 - the caller is another request or the fleet's source: not theirs
            self._remove(waiting)
            waiting.granted.set_exception(error)
            return True
        if waiting in self._arrivals:
            self._arrivals.granted(waiting)
        else:
            del self._retries[waiting]
        self._left(waiting)
        waiting.granted.set_result(assignment)
        self._drain.record(self._clock())
        return True

    def _assign(self, request: RoutingRequest, decision: Disaggregated | Whole) -> Assignment:
        assignment = self._ledger.assign(
            decision,
            prompt_tokens=request.prompt_tokens,
            output_tokens=request.expected_output_tokens,
        )
        assignment.started_at = self._clock()
        return assignment

    def _enter(self, request: RoutingRequest, ticket: Ticket, reason: HoldReason, now: float) -> _Waiting:
        """A place in the queue. Raises `CapacityError`."""
        waiting = _Waiting(request, ticket, asyncio.get_running_loop().create_future(), reason, since=now)
        self._check_room(waiting)
        if ticket.attempts > 1:
            self._retries[waiting] = None
        else:
            self._arrivals.add(waiting, now)
            ticket.on_admitted()
        self.held_tokens += request.prompt_tokens
        self._held_bytes += ticket.body_bytes
        return waiting

    async def _wait(self, waiting: _Waiting) -> Assignment:
        ticket = waiting.ticket
        if not waiting.granted.done():
            left = self._max_queue_seconds - ticket.held_seconds
            waiting.timer = asyncio.get_running_loop().call_later(left, self._expire, waiting)
        try:
            return await waiting.granted
        except asyncio.CancelledError:
            # The grant may have come in the same turn of the loop as the cancellation.
            granted = waiting.granted
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                granted.result().release()
            raise
        finally:
            ticket.held_seconds += self._clock() - waiting.since
            self._remove(waiting)

    def _check_room(self, waiting: _Waiting) -> None:
        full = (
            self.held_requests >= self._limits.requests
            or self._held_bytes + waiting.ticket.body_bytes > self._limits.body_bytes
        )
        if full:
            raise self._refusal(waiting.reason, "the queue is full")
        if waiting.ticket.held_seconds >= self._max_queue_seconds:
            raise self._refusal(waiting.reason, f"it has waited {waiting.ticket.held_seconds:.1f} s")

    def _expire(self, waiting: _Waiting) -> None:
        if waiting.granted.done():
            return
        self._remove(waiting)
        waiting.granted.set_exception(
            self._refusal(waiting.reason, f"none took the request within {self._max_queue_seconds:g} s")
        )

    def _refusal(self, reason: HoldReason, detail: str) -> CapacityError:
        if reason is HoldReason.NO_REPLICA:
            return CapacityError(
                f"no engine is ready, and {detail}: try again later",
                status=HTTPStatus.SERVICE_UNAVAILABLE,
                code="no_engine_ready",
                retry_after_seconds=NO_REPLICA_RETRY_SECONDS,
            )
        return CapacityError(
            f"all engines are busy ({reason}), and {detail}: try again later",
            status=HTTPStatus.TOO_MANY_REQUESTS,
            code="engines_busy",
            retry_after_seconds=self._drain.retry_after_seconds(self.held_requests, self._clock()),
        )

    def _remove(self, waiting: _Waiting) -> None:
        """Out of the queue without a grant; nothing happens when it is out already."""
        if waiting in self._retries:
            del self._retries[waiting]
        elif waiting in self._arrivals:
            self._arrivals.discard(waiting)
        else:
            return
        self._left(waiting)

    def _left(self, waiting: _Waiting) -> None:
        self.held_tokens -= waiting.request.prompt_tokens
        self._held_bytes -= waiting.ticket.body_bytes
        if waiting.timer is not None:
            waiting.timer.cancel()

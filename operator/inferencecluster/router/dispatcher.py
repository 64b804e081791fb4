"""The central queue: who gets replicas now, who waits, and for how long.

First come, first served. A request that failed on an engine is tried before those that were never sent; it does not
block them when only replicas that it excludes have room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
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
        self._arrivals: dict[_Waiting, None] = {}
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
        self.serve_queue()

    async def acquire(self, request: RoutingRequest, ticket: Ticket) -> Assignment:
        """Replicas for the request, as soon as some may take it. Raises `CapacityError`.

        Whoever gets an assignment must `release` it.
        """
        ticket.attempts += 1
        first_time = ticket.attempts == 1
        if first_time and self._arrivals:
            # First come, first served: whatever holds the first one holds this one.
            reason = next(iter(self._arrivals)).reason
        else:
            decision = route(request, self._ledger.fleet, self._policy)
            if not isinstance(decision, Hold):
                if first_time:
                    ticket.on_admitted()
                return self._assign(request, decision)
            reason = decision.reason
        return await self._wait(_Waiting(request, ticket, asyncio.get_running_loop().create_future(), reason))

    def serve_queue(self) -> None:
        """Hand out replicas to those who wait, in order, as far as there is room."""
        for waiting in tuple(self._retries):
            self._offer(waiting)
        while self._arrivals:
            if not self._offer(next(iter(self._arrivals))):
                return

    def _offer(self, waiting: _Waiting) -> bool:
        """Whether the request is out of the queue."""
        if waiting.granted.done():
            # Its client has gone, and its task has not run since.
            self._remove(waiting)
            return True
        decision = route(waiting.request, self._ledger.fleet, self._policy)
        if isinstance(decision, Hold):
            waiting.reason = decision.reason
            return False
        self._remove(waiting)
        waiting.granted.set_result(self._assign(waiting.request, decision))
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

    async def _wait(self, waiting: _Waiting) -> Assignment:
        ticket = waiting.ticket
        left = self._max_queue_seconds - ticket.held_seconds
        self._check_room(waiting, left)
        since = self._clock()
        self._add(waiting)
        if ticket.attempts == 1:
            ticket.on_admitted()
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
            ticket.held_seconds += self._clock() - since
            self._remove(waiting)

    def _check_room(self, waiting: _Waiting, left: float) -> None:
        full = (
            self.held_requests >= self._limits.requests
            or self._held_bytes + waiting.ticket.body_bytes > self._limits.body_bytes
        )
        if full:
            raise self._refusal(waiting.reason, "the queue is full")
        if left <= 0:
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

    def _add(self, waiting: _Waiting) -> None:
        queue = self._retries if waiting.ticket.attempts > 1 else self._arrivals
        queue[waiting] = None
        self.held_tokens += waiting.request.prompt_tokens
        self._held_bytes += waiting.ticket.body_bytes

    def _remove(self, waiting: _Waiting) -> None:
        queue = self._retries if waiting in self._retries else self._arrivals
        if waiting not in queue:
            return
        del queue[waiting]
        self.held_tokens -= waiting.request.prompt_tokens
        self._held_bytes -= waiting.ticket.body_bytes
        if waiting.timer is not None:
            waiting.timer.cancel()

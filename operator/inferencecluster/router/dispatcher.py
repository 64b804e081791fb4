"""The central queue: who gets replicas now, who waits, and for how long.

First come, first served; newest first while the oldest has used up its part of the TTFT target (`core/waiting.py`). A
request that failed on an engine is tried before those that were never sent; it does not block them when only replicas
that it excludes have room. Requests for another model wait in another line, and large ones beside the usual ones
(`lines.py`).

Whoever is next was tried when it became next or when room last appeared, and room appears only through `serve_queue`:
a newcomer needs a decision of its own only when nobody waits, or when it is next itself.

A request that comes while a cluster sleeps (`core/sleep.py`) is held for a boot, because its being held is what wakes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from math import ceil, inf
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.routing import (
    Disaggregated,
    Hold,
    HoldReason,
    RoutingPolicy,
    RoutingRequest,
    Whole,
    route,
)
from inferencecluster.core.waiting import late_after
from inferencecluster.router.errors import CapacityError
from inferencecluster.router.estimates import DrainRate
from inferencecluster.router.ledger import Assignment, Ledger
from inferencecluster.router.lines import LARGE_PARTS, ModelLine, Ticket, Waiting
from inferencecluster.router.sources import RouterSettings, WakeSettings

OVERDUE_SHARE: Final = 0.25
"""Of `maxQueueSeconds`, after which a large request has a replica kept free for it: the rest of the time is enough for
what decodes there to end, where answers take seconds."""
NO_REPLICA_RETRY_SECONDS: Final = 10
"""Retry-After while nothing serves: a boot takes longer, but a client that asks every ten seconds costs nothing."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Bounds of the queue beside `maxQueueSeconds`, which keep the router's memory."""

    requests: int
    body_bytes: int


class Dispatcher:
    """Gives replicas to requests."""

    def __init__(self, ledger: Ledger, limits: QueueLimits, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._limits = limits
        self._clock = clock
        self._policy = RoutingPolicy.alike(0)
        self._max_queue_seconds = 0.0
        self._retries: dict[Waiting, None] = {}
        self._wake: WakeSettings | None = None
        self._late_seconds = inf
        self._lines: dict[str | None, ModelLine] = {}
        """By model; nobody keeps an empty one."""
        self._drain = DrainRate()
        self.held_tokens = 0
        """Prompt tokens of the requests in the queue."""
        self._held_bytes = 0
        self._holding = asyncio.Event()
        ledger.on_room = self.serve_queue

    @property
    def held_requests(self) -> int:
        """Requests in the queue."""
        return len(self._retries) + sum(map(len, self._lines.values()))

    async def wait_until_holding(self) -> None:
        """Return as soon as a request is in the queue."""
        await self._holding.wait()

    def configure(self, settings: RouterSettings) -> None:
        """Take over settings; requests that wait already keep their time."""
        self._policy = settings.routing
        self._max_queue_seconds = settings.max_queue_seconds
        self._wake = settings.wake
        self._late_seconds = late_after(settings.ttft_seconds)
        for line in self._lines.values():
            line.be_late_after(self._late_seconds, refused_seconds=self._max_queue_seconds)
        self.serve_queue()

    async def acquire(self, request: RoutingRequest, ticket: Ticket) -> Assignment:
        """Replicas for the request, as soon as some may take it. Raises `CapacityError`.

        Whoever gets an assignment must `release` it.
        """
        ticket.attempts += 1
        first_time = ticket.attempts == 1
        now = self._clock()
        line = self._lines.get(request.model) if first_time else None
        if line is not None:
            # Whatever holds those that are next holds this one, unless this one is next.
            large, usual = line.next(now)
            ahead = usual or large
            reason = ahead.reason if ahead is not None else HoldReason.ALL_FULL
            waiting = self._enter(request, ticket, reason, now)
            if waiting in line.next(now):
                self._serve(line, now)
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
        for line in tuple(self._lines.values()):
            self._serve(line, now)

    def _serve(self, line: ModelLine, now: float) -> None:
        while line:
            large, usual = line.next(now)
            if large is not None and self._offer(large):
                continue
            if large is not None and now - large.since >= OVERDUE_SHARE * self._max_queue_seconds:
                self._reserve(line, large)
            # Whoever is older than the large one goes first, there as well: else that replica would serve neither.
            reserved = line.reserved if large is not None else ""
            if usual is None or not self._offer(usual, reserved=reserved):
                return

    def _reserve(self, line: ModelLine, large: Waiting) -> None:
        """Choose the replica that will have room first, and keep to it while it serves."""
        fleet, request = self._ledger.fleet, large.request
        known = fleet.get(line.reserved)
        if known is not None and known.serving:
            return
        revisions = fleet.revisions_for(request.model)
        able = (
            (view.home is PoolName.PREFILL, view.kv_share, view.name)
            for view in fleet
            if view.serving and view.revision in revisions and view.name not in request.excluded
        )
        line.reserved = min(able, default=(False, 0.0, ""))[-1]

    def _offer(self, waiting: Waiting, *, reserved: str = "") -> bool:
        """Whether the request is out of the queue. It does not get the replica that is `reserved` for another."""
        if waiting.granted.done():
            # Its client has gone, and its task has not run since.
            self._remove(waiting)
            return True
        request = waiting.request
        if reserved:
            request = replace(request, excluded=request.excluded | {reserved})
        try:
            decision = route(request, self._ledger.fleet, self._policy)
            if isinstance(decision, Hold):
                # Without the reserved replica there may be none, but it is not gone.
                waiting.reason = HoldReason.ALL_FULL if reserved else decision.reason
                return False
            assignment = self._assign(waiting.request, decision)
        except Exception as error:  # noqa: BLE001 - the caller is another request or the fleet's source: not theirs
            self._remove(waiting)
            waiting.granted.set_exception(error)
            return True
        if waiting in self._retries:
            del self._retries[waiting]
        else:
            self._lines[waiting.request.model].granted(waiting)
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

    def _enter(self, request: RoutingRequest, ticket: Ticket, reason: HoldReason, now: float) -> Waiting:
        """A place in the queue. Raises `CapacityError`."""
        needed = request.prompt_tokens + request.expected_output_tokens
        waiting = Waiting(
            request,
            ticket,
            granted=asyncio.get_running_loop().create_future(),
            reason=reason,
            since=now,
            is_large=needed * LARGE_PARTS > self._ledger.largest_capacity(request.model) > 0,
        )
        ticket.patience_seconds = max(ticket.patience_seconds, self._patience_seconds(request.model))
        self._check_room(waiting)
        if ticket.attempts > 1:
            self._retries[waiting] = None
        else:
            line = self._lines.get(request.model)
            if line is None:
                line = self._lines[request.model] = ModelLine(self._late_seconds, self._max_queue_seconds)
            line.add(waiting)
            ticket.on_admitted()
        self.held_tokens += request.prompt_tokens
        self._held_bytes += ticket.body_bytes
        self._holding.set()
        return waiting

    async def _wait(self, waiting: Waiting) -> Assignment:
        ticket = waiting.ticket
        if not waiting.granted.done():
            left = ticket.patience_seconds - ticket.held_seconds
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

    def _check_room(self, waiting: Waiting) -> None:
        full = (
            self.held_requests >= self._limits.requests
            or self._held_bytes + waiting.ticket.body_bytes > self._limits.body_bytes
        )
        if full:
            raise self._waking(waiting) or self._refusal(waiting.reason, "the queue is full")
        if waiting.ticket.held_seconds >= waiting.ticket.patience_seconds:
            raise self._refusal(waiting.reason, f"it has waited {waiting.ticket.held_seconds:.1f} s")

    def _patience_seconds(self, model: str | None) -> float:
        """How long a request for `model` that comes now may be held."""
        if self._wake is None or self._serves(model):
            return self._max_queue_seconds
        return max(self._max_queue_seconds, self._wake.hold_seconds)

    def _serves(self, model: str | None) -> bool:
        return self._ledger.fleet.serves(frozenset(), model)

    def _expire(self, waiting: Waiting) -> None:
        if waiting.granted.done():
            return
        self._remove(waiting)
        waiting.granted.set_exception(
            self._refusal(
                waiting.reason, f"none took the request within {waiting.ticket.patience_seconds:g} s"
            )
        )

    def _waking(self, waiting: Waiting) -> CapacityError | None:
        """The refusal of a request that finds the queue full while the cluster wakes; None while it does not."""
        line = self._lines.get(waiting.request.model)
        oldest = line.oldest_since if line is not None else None
        if self._wake is None or oldest is None or self._serves(waiting.request.model):
            return None
        left = self._wake.boot_seconds - (waiting.since - oldest)
        return CapacityError(
            "engines are starting, and the queue is full: try again when they serve",
            status=HTTPStatus.TOO_MANY_REQUESTS,
            code="engines_starting",
            retry_after_seconds=max(NO_REPLICA_RETRY_SECONDS, ceil(left)),
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

    def _remove(self, waiting: Waiting) -> None:
        """Out of the queue without a grant; nothing happens when it is out already."""
        line = self._lines.get(waiting.request.model)
        if waiting in self._retries:
            del self._retries[waiting]
        elif line is not None and waiting in line:
            line.discard(waiting)
        else:
            return
        self._left(waiting)

    def _left(self, waiting: Waiting) -> None:
        self.held_tokens -= waiting.request.prompt_tokens
        self._held_bytes -= waiting.ticket.body_bytes
        line = self._lines.get(waiting.request.model)
        if line is not None and not line:
            del self._lines[waiting.request.model]
        if not self.held_requests:
            self._holding.clear()
        if waiting.timer is not None:
            waiting.timer.cancel()

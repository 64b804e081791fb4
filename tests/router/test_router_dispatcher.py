"""The queue's races: what happens when a client goes away in the very turn in which its request is served."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from tests.router.harness import SETTINGS
from tests.router.test_router_ledger import RECORD

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.routing import RoutingRequest
from inferencecluster.router.dispatcher import Dispatcher, QueueLimits, Ticket
from inferencecluster.router.ledger import Assignment, Ledger

REQUEST = RoutingRequest(prompt_tokens=10, expected_output_tokens=5)
SINGLE = replace(RECORD, name="m0", home=PoolName.MIXED, max_batch_size=1)


class Queue:
    """A dispatcher over one replica that holds one request."""

    def __init__(self) -> None:
        self.ledger = Ledger(asyncio.get_running_loop())
        self.ledger.update(None, SINGLE)
        self.admitted = 0
        self.dispatcher = Dispatcher(self.ledger, QueueLimits(requests=10, body_bytes=1000), time.monotonic)
        self.dispatcher.configure(SETTINGS)

    def admit(self) -> None:
        self.admitted += 1

    def ticket(self) -> Ticket:
        return Ticket(10, on_admitted=self.admit)

    def ask(self, ticket: Ticket | None = None) -> asyncio.Task[Assignment]:
        return asyncio.create_task(self.dispatcher.acquire(REQUEST, ticket or self.ticket()))

    @property
    def booked(self) -> int:
        (entry,) = self.ledger
        return entry.in_flight


async def turn() -> None:
    """Let every task run up to where it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_request_is_admitted_once_however_often_it_is_tried() -> None:
    queue = Queue()
    ticket = queue.ticket()
    for _ in range(3):
        (await queue.ask(ticket)).release()
    assert queue.admitted == 1
    assert ticket.attempts == 3


async def test_a_grant_that_meets_a_cancellation_goes_back() -> None:
    queue = Queue()
    first = await queue.ask()
    waiting = queue.ask()
    await turn()
    assert queue.dispatcher.held_requests == 1

    first.release()
    assert queue.booked == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert waiting.cancelled()
    assert queue.booked == 0
    assert queue.dispatcher.held_requests == queue.dispatcher.held_tokens == 0


async def test_a_cancelled_request_does_not_stand_in_the_way_of_the_next() -> None:
    queue = Queue()
    first = await queue.ask()
    gone, following = queue.ask(), queue.ask()
    await turn()
    assert queue.dispatcher.held_requests == 2

    gone.cancel()
    first.release()
    assignment = await following

    assert gone.cancelled() or gone.cancelling()
    assert queue.booked == 1
    assignment.release()
    assert queue.dispatcher.held_tokens == 0


async def test_a_request_that_failed_is_served_before_those_that_wait() -> None:
    queue = Queue()
    first = await queue.ask()
    waiting = queue.ask()
    await turn()
    failed = queue.ticket()
    failed.attempts = 1
    again = queue.ask(failed)
    await turn()

    first.release()
    (await again).release()
    (await waiting).release()
    assert queue.booked == 0


async def test_a_failed_request_that_excludes_the_only_free_replica_does_not_block_others() -> None:
    queue = Queue()
    queue.ledger.update(SINGLE, replace(SINGLE, ready=False))
    failed = queue.ticket()
    failed.attempts = 1
    excluding = replace(REQUEST, excluded=frozenset({"m0"}))
    again = asyncio.create_task(queue.dispatcher.acquire(excluding, failed))
    waiting = queue.ask()
    await turn()
    assert queue.dispatcher.held_requests == 2

    queue.ledger.update(SINGLE, SINGLE)
    assignment = await waiting

    assert not again.done()
    again.cancel()
    assignment.release()
    await asyncio.gather(again, return_exceptions=True)

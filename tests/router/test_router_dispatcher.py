"""The queue: its order, and what happens when a client goes away in the very turn in which its request is served."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.router.harness import SETTINGS
from tests.router.test_router_ledger import RECORD

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.routing import RoutingRequest
from inferencecluster.router.dispatcher import OVERDUE_SHARE, Dispatcher, QueueLimits
from inferencecluster.router.errors import CapacityError
from inferencecluster.router.ledger import Assignment, Ledger
from inferencecluster.router.lines import Ticket

REQUEST = RoutingRequest(prompt_tokens=10, expected_output_tokens=5)
SINGLE = replace(RECORD, name="m0", home=PoolName.MIXED, max_batch_size=1)


class Queue:
    """A dispatcher over one replica that holds one request, and a clock that stands still."""

    def __init__(self) -> None:
        self.now = 100.0
        self.ledger = Ledger(asyncio.get_running_loop())
        self.ledger.update(None, SINGLE)
        self.admitted = 0
        self.dispatcher = Dispatcher(self.ledger, QueueLimits(requests=10, body_bytes=1000), lambda: self.now)
        self.dispatcher.configure(SETTINGS)

    def admit(self) -> None:
        self.admitted += 1

    def ticket(self) -> Ticket:
        return Ticket(10, on_admitted=self.admit)

    def ask(
        self, ticket: Ticket | None = None, request: RoutingRequest = REQUEST
    ) -> asyncio.Task[Assignment]:
        return asyncio.create_task(self.dispatcher.acquire(request, ticket or self.ticket()))

    async def wait_in_line(self, count: int) -> list[asyncio.Task[Assignment]]:
        """Requests that came one after the other, a second between them, and wait."""
        tasks = []
        for _ in range(count):
            tasks.append(self.ask())
            await turn()
            self.now += 1.0
        assert self.dispatcher.held_requests == count
        return tasks

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


async def test_a_defect_in_serving_one_request_is_told_to_that_request_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = Queue()
    first = await queue.ask()
    broken, following = queue.ask(request=replace(REQUEST, prompt_tokens=11)), queue.ask()
    await turn()
    assign = queue.ledger.assign

    def failing(*arguments: Any, prompt_tokens: int, output_tokens: int) -> Assignment:
        if prompt_tokens == 11:
            raise OverflowError("too much")
        return assign(*arguments, prompt_tokens=prompt_tokens, output_tokens=output_tokens)

    monkeypatch.setattr(queue.ledger, "assign", failing)
    first.release()

    with pytest.raises(OverflowError):
        await broken
    (await following).release()
    assert queue.booked == queue.dispatcher.held_requests == queue.dispatcher.held_tokens == 0


async def served_in_order(tasks: list[asyncio.Task[Assignment]], held: Assignment) -> list[int]:
    """Numbers of the requests as they get the replica, each of which gives it back at once."""
    order = []
    for _ in tasks:
        held.release()
        await turn()
        (served,) = [number for number, task in enumerate(tasks) if task.done() and number not in order]
        order.append(served)
        held = tasks[served].result()
    held.release()
    return order


@pytest.mark.parametrize(
    ("pause", "expected"),
    [
        pytest.param(0.0, [0, 1, 2, 3, 4, 5], id="nobody is late"),
        pytest.param(
            SETTINGS.ttft_seconds / 2 - 6, [5, 4, 3, 0, 1, 2], id="the oldest has half its target left"
        ),
        pytest.param(SETTINGS.ttft_seconds, [5, 4, 3, 0, 2, 1], id="all are late"),
    ],
)
async def test_the_newest_go_first_once_the_oldest_is_late_and_the_oldest_gets_every_fourth_turn(
    pause: float, expected: list[int]
) -> None:
    queue = Queue()
    first = await queue.ask()
    tasks = await queue.wait_in_line(6)

    queue.now += pause

    assert await served_in_order(tasks, first) == expected
    assert queue.booked == queue.dispatcher.held_requests == queue.dispatcher.held_tokens == 0


async def test_a_shorter_target_counts_for_those_who_wait() -> None:
    queue = Queue()
    first = await queue.ask()
    tasks = await queue.wait_in_line(3)

    queue.dispatcher.configure(replace(SETTINGS, ttft_seconds=1.0))

    assert await served_in_order(tasks, first) == [2, 1, 0]


async def test_a_shorter_wait_before_refusals_makes_those_who_wait_urgent() -> None:
    queue = Queue()
    first = await queue.ask()
    tasks = await queue.wait_in_line(6)

    queue.dispatcher.configure(replace(SETTINGS, ttft_seconds=1.0, max_queue_seconds=4.0))

    assert await served_in_order(tasks, first) == [5, 4, 3, 0, 2, 1]


MEMORY = SINGLE.kv_capacity_tokens
LARGE = replace(REQUEST, prompt_tokens=MEMORY)
NEARLY_ALL = replace(REQUEST, prompt_tokens=MEMORY - 105)
"""Leaves room for small requests."""
MIDDLING = replace(REQUEST, prompt_tokens=115)
"""Does not fit beside it, and is not large."""
MANY = replace(SINGLE, max_batch_size=8)


@pytest.mark.parametrize(("late", "overtakes"), [(False, False), (True, True)], ids=["in time", "late"])
async def test_a_newcomer_with_room_overtakes_only_those_who_are_late(late: bool, overtakes: bool) -> None:
    queue = Queue()
    queue.ledger.update(SINGLE, MANY)
    first = await queue.ask(request=NEARLY_ALL)
    middling = queue.ask(request=MIDDLING)
    await turn()
    queue.now += SETTINGS.ttft_seconds if late else 0.0

    newcomer = queue.ask()
    await turn()

    assert newcomer.done() == overtakes
    assert not middling.done()
    assert queue.admitted == 3
    assert queue.dispatcher.held_tokens == MIDDLING.prompt_tokens + (
        0 if overtakes else REQUEST.prompt_tokens
    )
    first.release()
    (await middling).release()
    (await newcomer).release()
    assert queue.booked == queue.dispatcher.held_tokens == 0


async def test_newcomers_do_not_overtake_for_ever() -> None:
    queue = Queue()
    queue.ledger.update(SINGLE, MANY)
    first = await queue.ask(request=NEARLY_ALL)
    middling = queue.ask(request=MIDDLING)
    await turn()
    queue.now += SETTINGS.ttft_seconds
    for _ in range(3):
        (await queue.ask()).release()

    fourth = queue.ask()
    await turn()
    assert not fourth.done()

    first.release()
    (await middling).release()
    (await fourth).release()


OVERDUE_SECONDS = OVERDUE_SHARE * SETTINGS.max_queue_seconds


async def test_a_large_request_does_not_stop_the_others_until_it_is_overdue() -> None:
    queue = Queue()
    queue.ledger.update(SINGLE, MANY)
    first = await queue.ask(request=NEARLY_ALL)
    large = queue.ask(request=LARGE)
    await turn()
    for _ in range(20):
        (await queue.ask()).release()
    assert not large.done()

    queue.now += OVERDUE_SECONDS
    newcomer = queue.ask()
    await turn()
    assert not newcomer.done()

    first.release()
    served = await large
    await turn()
    assert not newcomer.done()
    served.release()
    (await newcomer).release()
    assert queue.booked == queue.dispatcher.held_requests == queue.dispatcher.held_tokens == 0


async def test_an_overdue_large_request_has_one_replica_kept_free_and_the_others_serve_on() -> None:
    queue = Queue()
    queue.ledger.update(SINGLE, MANY)
    other = replace(MANY, name="m1", uid="other")
    queue.ledger.update(None, other)
    held = [await queue.ask(request=NEARLY_ALL), await queue.ask(request=NEARLY_ALL)]
    assert {assignment.last.record.name for assignment in held} == {"m0", "m1"}
    large = queue.ask(request=LARGE)
    await turn()
    queue.now += OVERDUE_SECONDS

    served = [await queue.ask() for _ in range(5)]

    (kept,) = {"m0", "m1"} - {assignment.last.record.name for assignment in served}
    assert not large.done()
    next(assignment for assignment in held if assignment.last.record.name == kept).release()
    assert (await large).last.record.name == kept


async def test_a_replica_that_is_kept_free_and_goes_away_is_replaced() -> None:
    queue = Queue()
    queue.ledger.update(SINGLE, MANY)
    other = replace(MANY, name="m1", uid="other")
    queue.ledger.update(None, other)
    held = [await queue.ask(request=NEARLY_ALL), await queue.ask(request=NEARLY_ALL)]
    large = queue.ask(request=LARGE)
    await turn()
    queue.now += OVERDUE_SECONDS
    (served,) = [await queue.ask()]
    kept, left = (MANY, other) if served.last.record is other else (other, MANY)

    queue.ledger.update(kept, replace(kept, ready=False))
    newcomer = queue.ask()
    await turn()
    assert not newcomer.done()

    served.release()
    next(assignment for assignment in held if assignment.last.record is left).release()
    (await large).release()
    (await newcomer).release()


async def test_a_large_request_does_not_pass_usual_ones_that_came_before_it() -> None:
    queue = Queue()
    first = await queue.ask()
    usual = queue.ask()
    await turn()
    queue.now += 1.0
    large = queue.ask(request=LARGE)
    await turn()

    first.release()
    served = await usual
    assert not large.done()
    served.release()
    (await large).release()


async def test_requests_for_a_model_that_nobody_serves_yet_do_not_stop_those_for_another() -> None:
    queue = Queue()
    queue.ledger.update(SINGLE, replace(SINGLE, model="old"))
    coming = queue.ask(request=replace(REQUEST, model="new"))
    await turn()

    (await queue.ask(request=replace(REQUEST, model="old"))).release()
    assert not coming.done()

    queue.ledger.update(SINGLE, replace(SINGLE, revision="r2", model="new"))
    (await coming).release()


async def test_a_newcomer_that_a_full_queue_refuses_leaves_no_trace() -> None:
    queue = Queue()
    first = await queue.ask()
    tasks = await queue.wait_in_line(10)
    queue.now += SETTINGS.ttft_seconds

    with pytest.raises(CapacityError, match="the queue is full"):
        await queue.ask()

    assert queue.admitted == 11
    assert queue.dispatcher.held_requests == 10
    assert sorted(await served_in_order(tasks, first)) == list(range(10))


async def test_a_replica_that_is_kept_free_serves_whoever_is_older_than_the_large_request() -> None:
    queue = Queue()
    queue.ledger.update(SINGLE, MANY)
    first = await queue.ask(request=NEARLY_ALL)
    older = queue.ask(request=MIDDLING)
    await turn()
    queue.now += 1.0
    large = queue.ask(request=LARGE)
    await turn()
    queue.now += SETTINGS.ttft_seconds / 2
    newer = queue.ask(request=MIDDLING)
    await turn()
    newer.cancel()
    await turn()

    first.release()
    await turn()

    assert older.done()
    (await older).release()
    (await large).release()
    assert queue.booked == queue.dispatcher.held_requests == queue.dispatcher.held_tokens == 0

"""Wake-ups and the loop of each cluster: order, bounds, back-off, and no error that ends anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.fakes.virtualtime import VirtualClock, run_virtual

from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.adapters.kube_errors import Throttled
from inferencecluster.controller.loop import LONGEST_BACKOFF_SECONDS, Loops, NextLook, Pace
from inferencecluster.controller.metrics import OperatorMetrics
from inferencecluster.controller.wakeups import Wakeups
from inferencecluster.controller.workers import Workers
from inferencecluster.core.errors import ApiUnavailable

KEY = ObjectKey("team", "demo")


class Bench:
    """Loops around a function of the test."""

    def __init__(
        self,
        reconcile: Callable[[ObjectKey], Awaitable[NextLook]],
        *,
        workers: int = 4,
        debounce: float = 0.1,
    ) -> None:
        self.times: list[float] = []
        self._reconcile = reconcile
        self.wakeups = Wakeups()
        self.metrics = OperatorMetrics()
        self.loops = Loops(
            self._timed, self.wakeups, self.metrics, VirtualClock(), Pace(Workers(workers), debounce)
        )

    async def _timed(self, key: ObjectKey) -> NextLook:
        self.times.append(round(asyncio.get_running_loop().time(), 3))
        return await self._reconcile(key)

    def count(self, result: str) -> float:
        found = self.metrics.registry.get_sample_value("inferencecluster_reconcile_total", {"result": result})
        return found or 0.0


async def every_ten_seconds(_: ObjectKey) -> NextLook:
    return NextLook(10.0)


def test_a_cluster_is_looked_at_when_it_comes_and_then_at_its_own_pace() -> None:
    async def scenario() -> None:
        bench = Bench(every_ten_seconds)
        bench.loops.ensure(KEY)
        await asyncio.sleep(35)
        assert bench.times == [0.1, 10.1, 20.1, 30.1]
        await bench.loops.stop()

    run_virtual(scenario())


def test_changes_that_come_together_are_one_look() -> None:
    async def scenario() -> None:
        bench = Bench(every_ten_seconds)
        bench.loops.ensure(KEY)
        await asyncio.sleep(5)
        for _ in range(100):
            bench.wakeups.wake(KEY)
            await asyncio.sleep(0.0005)
        await asyncio.sleep(1)
        assert bench.times == [0.1, 5.1]
        await bench.loops.stop()

    run_virtual(scenario())


def test_a_change_during_a_look_is_looked_at_afterwards_and_never_beside_it() -> None:
    async def scenario() -> None:
        running = 0

        async def slow(_: ObjectKey) -> NextLook:
            nonlocal running
            running += 1
            assert running == 1
            await asyncio.sleep(3)
            running -= 1
            return NextLook(100.0)

        bench = Bench(slow)
        bench.loops.ensure(KEY)
        await asyncio.sleep(1)
        bench.wakeups.wake(KEY)
        await asyncio.sleep(10)
        assert bench.times == [0.1, 3.2]
        await bench.loops.stop()

    run_virtual(scenario())


def test_no_more_clusters_than_workers_are_looked_at_at_once() -> None:
    async def scenario() -> None:
        running = most = 0

        async def slow(_: ObjectKey) -> NextLook:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(1)
            running -= 1
            return NextLook(1000.0)

        bench = Bench(slow, workers=3)
        for number in range(10):
            bench.loops.ensure(ObjectKey("team", f"c{number}"))
        await asyncio.sleep(10)
        assert (most, len(bench.times)) == (3, 10)
        await bench.loops.stop()

    run_virtual(scenario())


@pytest.mark.parametrize(
    ("error", "result"),
    [
        pytest.param(ApiUnavailable(source="the API server", detail="down"), "ApiUnavailable", id="outage"),
        pytest.param(ZeroDivisionError(), "Defect", id="a defect of ours"),
    ],
)
def test_failures_back_off_up_to_a_bound_and_are_counted(error: Exception, result: str) -> None:
    async def scenario() -> None:
        async def fail(_: ObjectKey) -> NextLook:
            raise error

        bench = Bench(fail)
        bench.loops.ensure(KEY)
        await asyncio.sleep(600)
        waits = [later - earlier for earlier, later in zip(bench.times, bench.times[1:], strict=False)]
        assert waits[0] <= 1.0
        assert max(waits) <= LONGEST_BACKOFF_SECONDS
        assert min(waits[6:]) >= LONGEST_BACKOFF_SECONDS / 2
        assert bench.count(result) == len(bench.times)
        await bench.loops.stop()

    run_virtual(scenario())


def test_a_success_ends_the_back_off() -> None:
    async def scenario() -> None:
        looks = 0

        async def sometimes(_: ObjectKey) -> NextLook:
            nonlocal looks
            looks += 1
            if looks in (1, 2, 3, 4, 6):
                raise ApiUnavailable(source="x", detail="y")
            return NextLook(100.0)

        bench = Bench(sometimes)
        bench.loops.ensure(KEY)
        await asyncio.sleep(200)
        assert bench.times[6] - bench.times[5] <= 1.0
        await bench.loops.stop()

    run_virtual(scenario())


def test_a_throttling_server_is_left_alone_for_as_long_as_it_asks() -> None:
    async def scenario() -> None:
        async def throttled(_: ObjectKey) -> NextLook:
            raise Throttled(source="x", detail="y", retry_after_seconds=40.0)

        bench = Bench(throttled)
        bench.loops.ensure(KEY)
        await asyncio.sleep(100)
        assert bench.times == [0.1, 40.1, 80.1]
        await bench.loops.stop()

    run_virtual(scenario())


def test_a_failing_cluster_does_not_hold_up_the_others() -> None:
    async def scenario() -> None:
        seen: list[str] = []

        async def one_fails(key: ObjectKey) -> NextLook:
            if key == KEY:
                raise ZeroDivisionError
            seen.append(key.name)
            return NextLook(10.0)

        bench = Bench(one_fails, workers=1)
        bench.loops.ensure(KEY)
        bench.loops.ensure(ObjectKey("team", "other"))
        await asyncio.sleep(95)
        assert len(seen) == 10
        await bench.loops.stop()

    run_virtual(scenario())


def test_a_finished_cluster_has_no_loop_any_more_and_a_new_one_gets_its_own() -> None:
    async def scenario() -> None:
        async def finish(_: ObjectKey) -> NextLook:
            return NextLook(0.0, finished=True)

        bench = Bench(finish)
        bench.loops.ensure(KEY)
        await asyncio.sleep(1)
        assert bench.loops.keys == frozenset()
        bench.wakeups.wake(KEY)
        await asyncio.sleep(1)
        assert bench.times == [0.1]
        bench.loops.ensure(KEY)
        await asyncio.sleep(1)
        assert len(bench.times) == 2

    run_virtual(scenario())


def test_a_cluster_that_comes_back_while_its_last_look_ends_is_looked_at() -> None:
    async def scenario() -> None:
        async def finish_slowly(_: ObjectKey) -> NextLook:
            await asyncio.sleep(2)
            return NextLook(0.0, finished=True)

        bench = Bench(finish_slowly)
        bench.loops.ensure(KEY)
        await asyncio.sleep(1)
        bench.loops.ensure(KEY)
        await asyncio.sleep(10)
        assert len(bench.times) == 2
        assert bench.loops.keys == frozenset()

    run_virtual(scenario())

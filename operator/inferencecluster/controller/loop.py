"""The loop of each cluster: wait for a wake-up or a tick, look, decide, act, report; failures back off by cluster."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from inferencecluster.adapters.clock import Backoff, Clock
from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.adapters.kube_errors import Throttled
from inferencecluster.controller.metrics import OperatorMetrics
from inferencecluster.controller.wakeups import Wakeups
from inferencecluster.controller.workers import Workers
from inferencecluster.core.errors import OperatorError

FIRST_BACKOFF_SECONDS: Final = 1.0
LONGEST_BACKOFF_SECONDS: Final = 30.0
"""After five minutes without the API server everything runs again within half a minute."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NextLook:
    """How one look ended."""

    seconds: float
    """Until the next one, unless something wakes the cluster before."""
    finished: bool = False
    """There is nothing left to look after: the cluster is gone or let go."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How much happens at the same time, and how soon."""

    workers: Workers
    """Places for clusters that are looked at concurrently."""
    debounce_seconds: float
    """How long a wake-up waits for more of the same."""


Reconcile = Callable[[ObjectKey], Awaitable[NextLook]]


class Loops:
    """One task per cluster, which gives a total order of what happens to it; all share a bounded number of workers."""

    def __init__(
        self, reconcile: Reconcile, wakeups: Wakeups, metrics: OperatorMetrics, clock: Clock, pace: Pace
    ) -> None:
        self._reconcile = reconcile
        self._wakeups = wakeups
        self._metrics = metrics
        self._clock = clock
        self._debounce_seconds = pace.debounce_seconds
        self._workers = pace.workers
        self._tasks: dict[ObjectKey, asyncio.Task[None]] = {}

    @property
    def keys(self) -> frozenset[ObjectKey]:
        """Clusters with a loop."""
        return frozenset(self._tasks)

    def ensure(self, key: ObjectKey) -> None:
        """Start the cluster's loop, or wake the one that runs."""
        if key in self._tasks:
            self._wakeups.wake(key)
            return
        self._wakeups.add(key)
        task = asyncio.create_task(self._run(key), name=f"loop of {key.namespace}/{key.name}")
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._ended(key, task))

    async def stop(self) -> None:
        """Cancel every loop and wait for the calls under way to end."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, key: ObjectKey, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
            self._wakeups.remove(key)

    async def _run(self, key: ObjectKey) -> None:
        # Seeded by the cluster: repeatable, and different for each, which is all that jitter needs.
        jitter = random.Random(f"{key.namespace}/{key.name}")  # noqa: S311 - spreads retries, protects nothing
        backoff = Backoff(first=FIRST_BACKOFF_SECONDS, longest=LONGEST_BACKOFF_SECONDS, jitter=jitter)
        seconds = 0.0
        while True:
            await self._wakeups.wait(key, at_most=seconds, debounce=self._debounce_seconds, clock=self._clock)
            async with self._workers.place():
                look = await self._look(key, backoff)
            if not look.finished:
                seconds = look.seconds
            elif self._wakeups.is_woken(key):
                # Woken since the look began: a cluster of the same name may have been made anew.
                seconds = 0.0
            else:
                return

    async def _look(self, key: ObjectKey, backoff: Backoff) -> NextLook:
        """The one place where any error ends: it is counted, logged with its cluster, and tried again later."""
        started_at = self._clock.monotonic()
        about = {"cluster": f"{key.namespace}/{key.name}"}
        try:
            look = await self._reconcile(key)
        except OperatorError as error:
            at_least = error.retry_after_seconds if isinstance(error, Throttled) else 0.0
            look = NextLook(backoff.fail(at_least))
            self._metrics.reconciles.labels(type(error).__name__).inc()
            _logger.warning(
                "look failed, retrying", extra=about | {"error": str(error), "retry_seconds": look.seconds}
            )
        except Exception:
            # A defect of ours in one cluster must not end the loops of the others.
            look = NextLook(backoff.fail())
            self._metrics.reconciles.labels("Defect").inc()
            _logger.exception(
                "look failed by a defect, retrying", extra=about | {"retry_seconds": look.seconds}
            )
        else:
            backoff.succeed()
            self._metrics.reconciles.labels("Success").inc()
        self._metrics.reconcile_seconds.observe(self._clock.monotonic() - started_at)
        return look

"""Clusters that sleep: their routers are asked to tell at once when they hold a request, and that wakes the loop.

Without this a sleeping cluster would be woken at its next sizing tick. Nothing rests on it: a router that cannot be asked
is asked again, and the tick comes anyway.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from inferencecluster.adapters.clock import Clock
from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.adapters.routers import RouterClient
from inferencecluster.core.errors import MetricsUnavailable

RETRY_SECONDS: Final = 5.0
"""After a router that did not answer: a sizing tick is not much later."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Watch:
    addresses: frozenset[str]
    task: asyncio.Task[None]


class Sleepers:
    """One task per cluster that sleeps."""

    def __init__(self, routers: RouterClient, wake: Callable[[ObjectKey], None], clock: Clock) -> None:
        """`wake` lets the loop of a cluster look soon."""
        self._routers = routers
        self._wake = wake
        self._clock = clock
        self._watches: dict[ObjectKey, _Watch] = {}

    def watch(self, key: ObjectKey, addresses: Collection[str]) -> None:
        """Ask the cluster's routers from now on; no addresses end it, because the cluster is awake or gone."""
        wanted, known = frozenset(addresses), self._watches.get(key)
        if known is not None and known.addresses == wanted and not known.task.done():
            return
        if known is not None:
            known.task.cancel()
            del self._watches[key]
        if wanted:
            task = asyncio.create_task(self._wait(key, wanted), name=f"sleep of {key.namespace}/{key.name}")
            self._watches[key] = _Watch(wanted, task)

    async def stop(self) -> None:
        """End every watch."""
        tasks = [watch.task for watch in self._watches.values()]
        self._watches.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait(self, key: ObjectKey, addresses: Collection[str]) -> None:
        """Until one of the routers holds a request."""
        questions = [asyncio.create_task(self._ask(address)) for address in sorted(addresses)]
        try:
            await asyncio.wait(questions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for question in questions:
                question.cancel()
        self._wake(key)

    async def _ask(self, address: str) -> None:
        """Return when the router holds a request."""
        while True:
            try:
                state = await self._routers.state_when_holding(address)
            except MetricsUnavailable as error:
                _logger.debug("a router cannot be asked to wake its cluster", extra={"error": str(error)})
                await self._clock.sleep(RETRY_SECONDS)
                continue
            if state.held_requests:
                return

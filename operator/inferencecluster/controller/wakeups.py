"""Wake-ups: anything that changed wakes the loop of its cluster; wakes that come together count once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from inferencecluster.adapters.clock import Clock
from inferencecluster.adapters.informer import ObjectKey


@dataclass(slots=True)
class Wakeups:
    """One flag per cluster that has a loop."""

    _flags: dict[ObjectKey, asyncio.Event] = field(default_factory=dict)

    def wake(self, key: ObjectKey) -> None:
        """Let the cluster's loop look soon; nothing for clusters without a loop."""
        flag = self._flags.get(key)
        if flag is not None:
            flag.set()

    def add(self, key: ObjectKey) -> None:
        """A loop for this cluster begins; its first look is due."""
        flag = self._flags.setdefault(key, asyncio.Event())
        flag.set()

    def remove(self, key: ObjectKey) -> None:
        """The loop has ended."""
        self._flags.pop(key, None)

    def is_woken(self, key: ObjectKey) -> bool:
        """A wake-up came since the last `wait` returned."""
        flag = self._flags.get(key)
        return flag is not None and flag.is_set()

    async def wait(self, key: ObjectKey, *, at_most: float, debounce: float, clock: Clock) -> None:
        """Return when the cluster was woken, or after `at_most` seconds. Then wait `debounce` for more of the same."""
        flag = self._flags[key]
        try:
            async with asyncio.timeout(max(0.0, at_most)):
                await flag.wait()
        except TimeoutError:
            return
        await clock.sleep(debounce)
        flag.clear()

"""The order in which waiting requests get replicas (docs/decisions/0008).

    nobody is late      oldest first
    the oldest is late  newest first, and every fourth grant goes to the oldest

A request is late once it has waited for its whole TTFT target: it has missed the target whatever happens now. Oldest
first would then make everybody behind it miss the target too, for as long as the backlog lasts; newest first keeps
those who can still meet it. The fourth grants work the backlog off, so that nobody starves.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

GRANTS_PAST_OLDEST: Final = 3
"""Grants that may pass the oldest request before one goes to it. Three of four keep most of the room for those who can
still meet their target, and whoever has n requests in front is served after at most 4 * (n + 1) grants."""

T = TypeVar("T")


class WaitingLine(Generic[T]):
    """Who waits, since when, and who is next. Every operation takes the same time however many wait.

    Items are told apart by hash and equality; times are seconds of one clock that never goes back.
    """

    def __init__(self, late_seconds: float) -> None:
        """`late_seconds`: the TTFT target; infinite where there is none, which is oldest first for ever."""
        self.late_seconds = late_seconds
        """May change while requests wait: the next answer follows it."""
        # Not a dict: its first key costs a scan over all the keys that were removed in front of it.
        self._since: OrderedDict[T, float] = OrderedDict()
        self._past_oldest = 0

    def __len__(self) -> int:
        return len(self._since)

    def __contains__(self, item: object) -> bool:
        return item in self._since

    def __iter__(self) -> Iterator[T]:
        """Oldest first."""
        return iter(self._since)

    @property
    def oldest_since(self) -> float | None:
        """When the one that waits longest was added; None while nobody waits."""
        return next(iter(self._since.values()), None)

    def add(self, item: T, since: float) -> None:
        """`item` waits from now on, behind all others: `since` is the time now. It must not wait already."""
        self._since[item] = since

    def discard(self, item: T) -> None:
        """`item` waits no longer and got nothing; nothing happens when it does not wait."""
        self._since.pop(item, None)

    def first(self, now: float) -> T | None:
        """Who gets the next grant; None while nobody waits. The same one until somebody is added or taken out, or
        the oldest becomes late.
        """
        since = self.oldest_since
        if since is None:
            return None
        newest_first = now - since >= self.late_seconds and self._past_oldest < GRANTS_PAST_OLDEST
        return next(reversed(self._since)) if newest_first else next(iter(self._since))

    def granted(self, item: T) -> None:
        """`item` got what it waited for. Raises `KeyError` when it does not wait."""
        oldest = next(iter(self._since), None)
        del self._since[item]
        self._past_oldest = 0 if item == oldest else self._past_oldest + 1

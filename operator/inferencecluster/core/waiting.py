"""The order in which waiting requests get replicas (docs/decisions/0008).

    nobody is late        oldest first
    the oldest is late    newest first, and every sixteenth grant goes to the oldest
    the oldest is urgent  the same, but every fourth grant

A request is late once it has waited so long that a replica would most likely miss its TTFT target (`late_after`). Oldest
first would then make everybody behind it miss the target too, for as long as the backlog lasts; newest first keeps
those who can still meet it. Grants to the oldest work the backlog off, so that nobody starves; each makes somebody else
late, so they are few until somebody would be refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

LATE_SHARE: Final = 0.5
"""Of the TTFT target; the rest is spent on replicas: behind the prompts there (`token_budget.queue_tokens`), on its own
iteration and on the way of its cache. Between 0.4 and 0.6 nothing changes on the Azure conversation trace."""
URGENT_SHARE: Final = 0.5
"""Of the longest wait before a request is refused: what is left is time to serve those who have waited as long."""
GRANTS_PAST_OLDEST: Final = 15
"""Grants that may pass the oldest request before one goes to it. A turn for someone who is late costs a request that is
not: under an overload of a few per cent every fourth turn was most of what missed its target."""
GRANTS_PAST_URGENT: Final = 3
"""The same once the oldest is urgent; whoever has n requests in front is then served after at most 4 * (n + 1) grants."""

T = TypeVar("T")


def late_after(ttft_seconds: float) -> float:
    """How long a request may wait for a replica before it counts as late."""
    return LATE_SHARE * ttft_seconds


class WaitingLine(Generic[T]):
    """Who waits, since when, and who is next. Every operation takes the same time however many wait.

    Items are told apart by hash and equality; times are seconds of one clock that never goes back.
    """

    def __init__(self, late_seconds: float, refused_seconds: float) -> None:
        """`late_seconds`: see `late_after`; infinite where there is no target, which is oldest first for ever.
        `refused_seconds`: the longest wait before a request is refused.
        """
        self.late_seconds = late_seconds
        self.refused_seconds = refused_seconds
        """Both may change while requests wait: the next answer follows them."""
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
        the oldest becomes late or urgent.
        """
        since = self.oldest_since
        if since is None:
            return None
        age = now - since
        turns = GRANTS_PAST_OLDEST if age < URGENT_SHARE * self.refused_seconds else GRANTS_PAST_URGENT
        newest_first = age >= self.late_seconds and self._past_oldest < turns
        return next(reversed(self._since)) if newest_first else next(iter(self._since))

    def granted(self, item: T) -> None:
        """`item` got what it waited for. Raises `KeyError` when it does not wait."""
        oldest = next(iter(self._since), None)
        del self._since[item]
        self._past_oldest = 0 if item == oldest else self._past_oldest + 1

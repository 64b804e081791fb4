"""How much of something there is over time, as means over equal intervals, at a constant cost per addition."""

from __future__ import annotations

from itertools import accumulate


class Levels:
    """Sums of amounts that last from one time to another; times are at least 0."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval = interval_seconds
        self._partial: list[float] = []
        """Amount times share of the interval, where an amount begins or ends inside it."""
        self._full: list[float] = []
        """Differences of the amounts that last for whole intervals."""

    def cover(self, start: float, end: float, amount: float) -> None:
        """`amount` lasts from `start` to `end`."""
        first, last = int(start // self._interval), int(end // self._interval)
        missing = last + 2 - len(self._full)
        if missing > 0:
            self._partial.extend([0.0] * missing)
            self._full.extend([0.0] * missing)
        if first == last:
            self._partial[first] += amount * (end - start) / self._interval
            return
        self._partial[first] += amount * (first + 1 - start / self._interval)
        self._partial[last] += amount * (end / self._interval - last)
        self._full[first + 1] += amount
        self._full[last] -= amount

    def means(self) -> tuple[float, ...]:
        """The mean level of each interval, to the last that has any."""
        levels = [
            max(0.0, full + part) for full, part in zip(accumulate(self._full), self._partial, strict=True)
        ]
        while levels and levels[-1] <= 1e-9:
            levels.pop()
        return tuple(levels)

"""The fewest replicas, interval by interval, for work that may wait a little: relaxed Hall constraints, solved exactly.

Work that is released at or after s and due by t fits only if the capacity within [s, t] is at least its sum, for all
s < t; for divisible work that is also sufficient (Hall's condition, the demand bound of EDF). Sizes are whole numbers
n_k that are constant within an interval of D seconds. Two families of these constraints are kept, so that the least
sum of n_k under them is a lower bound on what any schedule needs:

    inside    n_k * (t - s) >= work released after s and due by t,        for s, t on a grid inside interval k
    across    D * (n_i + ... + n_j) >= work released in intervals i..j, less all that is released before the end of j
              and due after it (the subtraction is the same for all i, never too small, and makes one pass enough)

Inside gives each n_k a floor. Across is a covering problem of consecutive intervals with unit coefficients: going
through right ends in order and adding what is missing to the rightmost interval is optimal, because a later interval
is in every later constraint that an earlier one of the same range is in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

GRID: Final = 40
"""Windows inside an interval begin and end on its fortieths: 0.25 s of 10 s, a quarter of the shortest usual TTFT."""
ROUNDING: Final = 1e-9


class Deferrable:
    """Work of one pool, released over time by ascending arrival, each piece with the time it is due."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval = interval_seconds
        self._released: list[float] = []
        self._crossing: list[float] = []
        """Differences: work that is released before an interval's end and due after it."""
        self._floors: list[int] = []
        self._grid = [[0.0] * (GRID + 1) for _ in range(GRID)]
        self._grid_index = 0

    def add(self, release: float, due: float, seconds: float) -> None:
        """One piece of `seconds` of one replica's time, within [release, due]. Releases may come in any order."""
        first = int(release // self._interval)
        last = max(first, math.ceil(due / self._interval - ROUNDING) - 1)
        self._extend(last + 2)
        self._released[first] += seconds
        self._crossing[first] += seconds
        self._crossing[last] -= seconds

    def add_inside(self, release: float, due: float, seconds: float) -> None:
        """As `add`, and to the windows inside its interval. Intervals must come in order."""
        self.add(release, due, seconds)
        index = int(release // self._interval)
        self._close_grids(index)
        slot = self._interval / GRID
        begin = index * self._interval
        first = min(GRID - 1, int((release - begin) / slot + ROUNDING))
        last = math.ceil((due - begin) / slot - ROUNDING)
        if last <= GRID:
            self._grid[first][max(last, first + 1)] += seconds

    def least_sizes(self) -> tuple[int, ...]:
        """Replicas per interval, of least sum, until all work is due."""
        self._close_grids(self._grid_index + 1)
        floors = [*self._floors, *([0] * len(self._released))]
        sizes: list[int] = []
        placed = 0
        released = 0.0
        best = -math.inf
        for work, crossing, floor in zip(self._released, accumulate(self._crossing), floors, strict=False):
            best = max(best, placed - released / self._interval)
            released += work
            needed = math.ceil(best + (released - max(0.0, crossing)) / self._interval - ROUNDING)
            size = max(floor, needed - placed, 0)
            sizes.append(size)
            placed += size
        while sizes and sizes[-1] == 0:
            sizes.pop()
        return tuple(sizes)

    def _extend(self, intervals: int) -> None:
        missing = intervals - len(self._released)
        if missing > 0:
            self._released.extend([0.0] * missing)
            self._crossing.extend([0.0] * missing)

    def _close_grids(self, index: int) -> None:
        """Turn the windows of all intervals before `index` into floors."""
        while self._grid_index < index:
            self._floors.append(_floor(self._grid, self._interval / GRID))
            self._grid = [[0.0] * (GRID + 1) for _ in range(GRID)]
            self._grid_index += 1


def _floor(grid: Sequence[Sequence[float]], slot: float) -> int:
    """The fewest replicas that every window of one grid allows."""
    most = 0.0
    within = [0.0] * (GRID + 1)
    # From the last beginning to the first: `within[j]` is the work released since and due by slot j.
    for first in range(GRID - 1, -1, -1):
        within = [total + more for total, more in zip(within, accumulate(grid[first]), strict=True)]
        for last in range(first + 1, GRID + 1):
            if within[last] > 0:
                most = max(most, within[last] / ((last - first) * slot))
    return math.ceil(most - ROUNDING)

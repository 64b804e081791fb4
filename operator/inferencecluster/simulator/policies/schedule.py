"""The cheapest way to have the sizes that are needed when a boot is charged: replicas in layers.

Replicas of a pool are alike, so the k-th replica is needed exactly while the size is at least k, and each such layer is
a problem of its own. Between two times of need it either runs on, which costs the gap, or stops and boots again, which
costs a boot: it runs on when the gap is no longer than a boot. Each layer is at its least cost, hence the sum, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Span:
    """One life of one replica, in seconds of the workload."""

    ordered: float
    """When it is created. A replica that is needed from the start exists already."""
    needed: float
    end: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """All lives of a pool's replicas, layer by layer."""

    spans: tuple[Span, ...]
    gpus_per_replica: int

    @classmethod
    def of(
        cls, sizes: Sequence[int], *, interval_seconds: float, boot_seconds: float, gpus_per_replica: int
    ) -> Schedule:
        """The cheapest lives that have `sizes[k]` replicas serving throughout interval k."""
        spans = tuple(
            Span(start if start <= 0 else max(0.0, start - boot_seconds), start, end)
            for layer in range(1, max(sizes, default=0) + 1)
            for start, end in _runs(sizes, layer, interval_seconds, boot_seconds)
        )
        return cls(spans, gpus_per_replica)

    def gpu_seconds(self, *, since: float = 0.0, until: float = math.inf) -> float:
        """GPU-seconds from creation to end of all lives, within a window of time."""
        return self.gpus_per_replica * math.fsum(
            max(0.0, min(span.end, until) - max(span.ordered, since)) for span in self.spans
        )

    def existing(self, now: float, *, ahead: float = 0.0) -> int:
        """Replicas that exist at `now`, or must be ordered before `ahead` seconds from it have passed."""
        return sum(
            (span.ordered <= now or span.ordered < now + ahead) and now < span.end for span in self.spans
        )


def _runs(
    sizes: Sequence[int], layer: int, interval_seconds: float, boot_seconds: float
) -> Iterator[tuple[float, float]]:
    """Times in which the `layer`-th replica runs, gaps of at most a boot included; some size is at least `layer`."""
    begins = [index * interval_seconds for index, size in enumerate(sizes) if size >= layer]
    start = begins[0]
    for begin, following in pairwise(begins):
        if following - (begin + interval_seconds) > boot_seconds:
            yield start, begin + interval_seconds
            start = following
    yield start, begins[-1] + interval_seconds

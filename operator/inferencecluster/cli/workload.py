"""What a simulation serves: requests that are read again for each use, so that none is held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile

from inferencecluster.simulator.workload import Request, with_mirrored_warm_up


@dataclass(frozen=True, slots=True)
class Workload:
    """Iterates over requests by ascending arrival, any number of times; knows their number."""

    begin: Callable[[], Iterator[Request]]
    """The same requests at each call."""
    requests: int
    last_arrival: float

    @classmethod
    def of(cls, begin: Callable[[], Iterator[Request]]) -> Workload:
        """Reads all requests once: what is wrong with one of them is raised here."""
        count, last = 0, 0.0
        for request in begin():
            count += 1
            last = request.arrival
        return cls(begin, count, last)

    def __iter__(self) -> Iterator[Request]:
        return self.begin()

    def __len__(self) -> int:
        return self.requests

    def with_warm_up(self, seconds: float) -> Workload:
        """With its mirrored beginning in front (`with_mirrored_warm_up`)."""
        beginning = takewhile(lambda request: request.arrival <= seconds, self.begin())
        images = sum(seconds - request.arrival < seconds for request in beginning)
        return Workload(
            lambda: with_mirrored_warm_up(self.begin(), seconds),
            self.requests + images,
            self.last_arrival + seconds,
        )

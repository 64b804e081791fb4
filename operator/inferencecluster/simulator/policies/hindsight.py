"""The practical oracle: a policy that knows the future, in the same simulator as all others.

Sizes per interval are the least that hold the SLO with whole requests on whole replicas: prefill by trying numbers of
servers on the very arrivals, first come first served; decode by the peak of sequences in flight. Replicas are ordered
one boot ahead and kept through gaps that a boot would not pay for (`schedule`).
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.simulator.policies.capacity import prefill_seconds
from inferencecluster.simulator.policies.context import PolicyContext
from inferencecluster.simulator.policies.levels import Levels
from inferencecluster.simulator.policies.oracle import (
    INTERVAL_SECONDS,
    decode_pace,
    phase_pools,
    schedules_of,
)
from inferencecluster.simulator.signals import Signals
from inferencecluster.simulator.workload import Request

PEAK_SLICES: Final = 10
"""Decode is sized for its busiest tenth of an interval, one second: as long as prefill may be late at most."""
MARGIN: Final = 0.1
"""Share of both targets that planning leaves to what it does not model: uneven queues, whole batches, transfers."""

_Prompt = tuple[float, float]
"""Arrival and prefill seconds."""


def least_serving_sizes(
    workload: Iterable[Request], spec: ClusterSpec, *, interval_seconds: float = INTERVAL_SECONDS
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Prefill and decode replicas per interval that serve everything inside the SLO; `workload` is read once."""
    prefill_pool, decode_pool = phase_pools(spec)
    flight = Levels(interval_seconds / PEAK_SLICES)

    def prompts() -> Iterator[_Prompt]:
        for request in workload:
            alone = prefill_seconds(prefill_pool.performance, request.prompt_tokens)
            if request.output_tokens > 1:
                batch, pace = decode_pace(spec, decode_pool.performance, request)
                begin = request.arrival + alone
                flight.cover(begin, begin + (request.output_tokens - 1) * pace, 1.0 / batch)
            yield request.arrival, alone

    prefill = tuple(_prefill_sizes(prompts(), spec.slo.ttft_seconds, interval_seconds))
    slices = flight.means()
    decode = tuple(
        math.ceil(max(slices[first : first + PEAK_SLICES]) - 1e-9)
        for first in range(0, len(slices), PEAK_SLICES)
    )
    return prefill, decode


def _prefill_sizes(prompts: Iterable[_Prompt], ttft_seconds: float, interval: float) -> Iterator[int]:
    """The fewest servers per interval.

    Each interval is tried together with what arrived within one TTFT target before it: work that its predecessor may
    have left over.
    """
    current: list[_Prompt] = []
    before: deque[_Prompt] = deque()
    end = interval
    for arrival, seconds in prompts:
        while arrival >= end:
            yield _fewest_servers([*before, *current], ttft_seconds, interval) if current else 0
            before.extend(current)
            current = []
            while before and before[0][0] < end - ttft_seconds:
                before.popleft()
            end += interval
        current.append((arrival, seconds))
    if current:
        yield _fewest_servers([*before, *current], ttft_seconds, interval)


def _fewest_servers(prompts: Sequence[_Prompt], ttft_seconds: float, interval: float) -> int:
    """Servers with which every prompt begins within the target; no more than there are prompts."""
    work = math.fsum(seconds for _, seconds in prompts)
    # All of it begins within the interval and one target before and after it, and the last ends a prompt later.
    longest = max(seconds for _, seconds in prompts)
    servers = max(1, math.floor(work / (interval + 2 * ttft_seconds + longest)))
    while servers < len(prompts) and not _in_time(prompts, servers, ttft_seconds):
        servers += 1
    return servers


def _in_time(prompts: Sequence[_Prompt], servers: int, ttft_seconds: float) -> bool:
    free = [-math.inf] * servers
    for arrival, seconds in prompts:
        begin = max(arrival, free[0])
        if begin > arrival + ttft_seconds:
            return False
        heapq.heapreplace(free, begin + seconds)
    return True


class Hindsight:
    """Knows the workload and orders each replica one boot before it is needed. Knob: the margin, 10 % by default."""

    name: Final = "hindsight"
    interval_seconds: Final = INTERVAL_SECONDS

    def __init__(self, context: PolicyContext) -> None:
        spec = context.spec
        margin = MARGIN if context.target is None else context.target
        planned = replace(
            spec,
            slo=replace(
                spec.slo,
                ttft_seconds=spec.slo.ttft_seconds * (1.0 - margin),
                itl_seconds=spec.slo.itl_seconds * (1.0 - margin),
            ),
        )
        prefill, decode = least_serving_sizes(context.workload, planned)
        schedules = schedules_of(
            spec,
            prefill,
            decode,
            interval_seconds=INTERVAL_SECONDS,
            boot_seconds=context.boot_seconds,
        )
        self._schedules = dict(zip(PoolName, schedules, strict=True))
        self._minimums = {pool.name: pool.min_replicas for pool in spec.pools}

    def sizes(self, signals: Signals) -> Mapping[PoolName, int]:
        """What the plan has now, and what it orders before the next look."""
        return {
            name: max(self._minimums[name], schedule.existing(signals.now, ahead=self.interval_seconds))
            for name, schedule in self._schedules.items()
        }

    def peak_sizes(self) -> Mapping[PoolName, int]:
        """The sizes of the busiest moment, for the static policy."""
        return {
            name: max(
                (schedule.existing(span.needed) for span in schedule.spans),
                default=self._minimums[name],
            )
            for name, schedule in self._schedules.items()
        }

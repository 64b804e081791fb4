"""The hindsight oracle: how few GPU-seconds a whole workload could have taken inside its SLO.

SLO of a request: TTFT <= target + its own prefill alone; mean time per further token <= ITL target. Three figures, from
proven to practical:

fluid       holds for every fleet, also of replicas that mix both phases in one iteration. Prefill: each prompt takes
            per-token and quadratic time; its base time may be that of a decode step. Decode steps take at least
            a + b*B + c*S for B sequences with S context tokens. Summed over all steps, b*B and c*S are fixed by the
            workload, so only their number N can be saved. Each token j lies in one step of B_j
            sequences, N = sum 1/B_j, and the targets add up to sum t_j <= ITL * T over T tokens, where
            sum t_j = sum a + (b + c*context_j)*B_j. Minimising N under that alone gives, by Lagrange,
                N >= (sum sqrt(b + c*context_j))**2 / ((ITL - a) * T)
            and further N >= T / batch limit, N >= (sum of contexts) / KV capacity.
split       holds for fleets of whole replicas that each serve one phase, with sizes that change at multiples of the
            interval: `deferral` on prefill and decode work with their deadlines. A prompt takes its share of one base
            time per pass of at most `BATCHED_TOKENS`, a token its share of a step at the batch limit. No boots.
scheduled   **the oracle of all ratios.** The least whole sizes per interval (prefill as in split; decode: every
            sequence in flight for as long as the largest allowed batch takes, on average over the interval), turned
            into lives of replicas with a boot charged before each (`schedule`). Not a theorem, because work could be
            shifted between intervals to save a boot; but it has no queueing, no imbalance, no transfers and no drains.
            `bootless` is the same without boots.

All serve *every* request inside the SLO. A policy judged at 99 % may let the worst hundredth be late: late work is still
work, so only peaks shrink, but on bursty workloads with long boots that may bring a policy below `scheduled`. A phase is taken to run on the hardware of its own pool, or of the mixed pool where
both base pools are off; bounds and budget are not looked at, minimums are in `scheduled` alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.perfmodel import DecodeModel, PerformanceModel
from inferencecluster.core.spec import ClusterSpec, PoolSpec
from inferencecluster.simulator.policies.capacity import BATCHED_TOKENS, prefill_seconds
from inferencecluster.simulator.policies.deferral import Deferrable
from inferencecluster.simulator.policies.levels import Levels
from inferencecluster.simulator.policies.schedule import Schedule
from inferencecluster.simulator.workload import Request

INTERVAL_SECONDS: Final = 10.0
"""Time between two changes of the oracle's sizes: as often as the product decides at most."""


@dataclass(frozen=True, slots=True)
class Oracle:
    """What hindsight says about one workload."""

    interval_seconds: float
    prefill: tuple[int, ...]
    """Least replicas per interval."""
    decode: tuple[int, ...]
    fluid_gpu_seconds: float
    split_gpu_seconds: float
    schedules: tuple[Schedule, ...]
    """Lives of prefill, decode and mixed replicas, boots included."""
    bootless: tuple[Schedule, ...]
    """The same sizes as if boots took no time."""

    def bootless_gpu_seconds(self, *, since: float = 0.0, until: float = math.inf) -> float:
        """What the least sizes take by themselves, within the part of the workload that is scored."""
        return math.fsum(schedule.gpu_seconds(since=since, until=until) for schedule in self.bootless)

    def scheduled_gpu_seconds(self, *, since: float = 0.0, until: float = math.inf) -> float:
        """The oracle of ratios, within the part of the workload that is scored."""
        return math.fsum(schedule.gpu_seconds(since=since, until=until) for schedule in self.schedules)


class _DecodeWork:
    """Sums over all decoded tokens, for the fluid bound."""

    def __init__(self) -> None:
        self.tokens = 0
        self.contexts = 0.0
        self.roots = 0.0

    def add(self, request: Request, model: DecodeModel) -> None:
        """All tokens of one request but the first, which prefill makes."""
        tokens = request.output_tokens - 1
        first = model.per_sequence_seconds + model.per_context_token_seconds * request.prompt_tokens
        last = first + model.per_context_token_seconds * max(0, tokens - 1)
        self.tokens += tokens
        self.contexts += _contexts(request)
        # The root is concave, so that the mean over evenly spaced contexts is no less than that of the two ends.
        self.roots += tokens * (math.sqrt(first) + math.sqrt(last)) / 2

    def seconds(self, performance: PerformanceModel, itl_seconds: float) -> float:
        """Least replica time of all of it."""
        if self.tokens == 0:
            return 0.0
        model = performance.decode
        steps = max(
            self.tokens / performance.max_batch_size, self.contexts / max(1, performance.kv_capacity_tokens)
        )
        if itl_seconds > model.base_seconds:
            slack = (itl_seconds - model.base_seconds) * self.tokens
            steps = max(steps, self.roots * self.roots / slack)
        return (
            model.base_seconds * steps
            + model.per_sequence_seconds * self.tokens
            + model.per_context_token_seconds * self.contexts
        )


def oracle_gpu_seconds(
    workload: Iterable[Request],
    spec: ClusterSpec,
    *,
    boot_seconds: float,
    interval_seconds: float = INTERVAL_SECONDS,
) -> Oracle:
    """Everything that hindsight says; `workload` by ascending arrival, read once."""
    prefill_pool, decode_pool = phase_pools(spec)
    prefill, decode = Deferrable(interval_seconds), Deferrable(interval_seconds)
    flight = Levels(interval_seconds)
    totals = _DecodeWork()
    prefill_total = 0.0
    for request in workload:
        alone = prefill_seconds(prefill_pool.performance, request.prompt_tokens)
        due = request.arrival + spec.slo.ttft_seconds + alone
        seconds = _least_prefill(prefill_pool.performance, request.prompt_tokens)
        prefill_total += seconds - _base_share(prefill_pool.performance, request.prompt_tokens)
        prefill.add_inside(request.arrival, due, seconds)
        if request.output_tokens > 1:
            begin = request.arrival + alone
            end = due + (request.output_tokens - 1) * spec.slo.itl_seconds
            decode.add(begin, end, _least_decode(decode_pool.performance, request))
            batch, pace = decode_pace(spec, decode_pool.performance, request)
            flight.cover(begin, begin + (request.output_tokens - 1) * pace, 1.0 / batch)
            totals.add(request, decode_pool.performance.decode)
    prefill_sizes = prefill.least_sizes()
    decode_sizes = tuple(math.ceil(level - 1e-9) for level in flight.means())
    return Oracle(
        interval_seconds=interval_seconds,
        prefill=prefill_sizes,
        decode=decode_sizes,
        fluid_gpu_seconds=prefill_pool.gpus_per_replica * prefill_total
        + decode_pool.gpus_per_replica * totals.seconds(decode_pool.performance, spec.slo.itl_seconds),
        split_gpu_seconds=interval_seconds
        * (
            prefill_pool.gpus_per_replica * sum(prefill_sizes)
            + decode_pool.gpus_per_replica * sum(decode.least_sizes())
        ),
        schedules=schedules_of(
            spec, prefill_sizes, decode_sizes, interval_seconds=interval_seconds, boot_seconds=boot_seconds
        ),
        bootless=schedules_of(
            spec, prefill_sizes, decode_sizes, interval_seconds=interval_seconds, boot_seconds=0.0
        ),
    )


def phase_pools(spec: ClusterSpec) -> tuple[PoolSpec, PoolSpec]:
    """The pools whose hardware serves prefill and decode: mixed for both where the base pools are off."""
    prefill, decode, mixed = spec.pools
    if prefill.max_replicas == decode.max_replicas == 0:
        return mixed, mixed
    return prefill, decode


def decode_pace(spec: ClusterSpec, performance: PerformanceModel, request: Request) -> tuple[float, float]:
    """The largest batch of requests like this one that holds the ITL target, at least 1, and its step time."""
    context = request.prompt_tokens + request.output_tokens / 2
    batch = max(1.0, performance.max_batch(itl_seconds=spec.slo.itl_seconds, mean_context_tokens=context))
    return batch, performance.decode.step_seconds(batch, batch * context)


def schedules_of(
    spec: ClusterSpec,
    prefill: tuple[int, ...],
    decode: tuple[int, ...],
    *,
    interval_seconds: float,
    boot_seconds: float,
) -> tuple[Schedule, ...]:
    """Lives of the replicas of all pools; the minimums of the pools hold throughout."""
    count = max(len(prefill), len(decode))
    sizes = {
        PoolName.PREFILL: [*prefill, *([0] * (count - len(prefill)))],
        PoolName.DECODE: [*decode, *([0] * (count - len(decode)))],
        PoolName.MIXED: [0] * count,
    }
    if phase_pools(spec)[0].name is PoolName.MIXED:
        both = zip(sizes[PoolName.PREFILL], sizes[PoolName.DECODE], strict=True)
        sizes = {name: [0] * count for name in PoolName} | {PoolName.MIXED: [sum(pair) for pair in both]}
    return tuple(
        Schedule.of(
            [max(size, pool.min_replicas) for size in sizes[pool.name]],
            interval_seconds=interval_seconds,
            boot_seconds=boot_seconds,
            gpus_per_replica=pool.gpus_per_replica,
        )
        for pool in spec.pools
    )


def _base_share(performance: PerformanceModel, tokens: int) -> float:
    """The part of a pass's base time that a prompt takes when passes are as full as they may be."""
    return performance.prefill.base_seconds * min(1.0, tokens / BATCHED_TOKENS)


def _least_prefill(performance: PerformanceModel, tokens: int) -> float:
    """Replica seconds of one prompt that shares its passes with others."""
    model = performance.prefill
    return model.seconds(tokens) - model.base_seconds + _base_share(performance, tokens)


def _contexts(request: Request) -> float:
    """Sum of the context tokens that a request's decode steps look back over."""
    tokens = request.output_tokens - 1
    return tokens * request.prompt_tokens + tokens * (tokens - 1) / 2


def _least_decode(performance: PerformanceModel, request: Request) -> float:
    """Replica seconds of one request's decode steps at the engine's batch limit."""
    model = performance.decode
    share = model.base_seconds / performance.max_batch_size + model.per_sequence_seconds
    return (request.output_tokens - 1) * share + model.per_context_token_seconds * _contexts(request)

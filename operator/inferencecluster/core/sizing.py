"""From demand to wanted sizes, before bounds, budget and stabilisation.

Each pool collects *needs*, each a number of replicas with its reason; the largest one is wanted.

    prefill   work          prefill seconds arriving per second, and room so that few prompts wait longer than the TTFT allows
              queue         the same without room, and backlog seconds / time to drain them, once the head of the queue is old
    decode    concurrency   requests/s * output * step over a whole batch = sequences in flight, and room for the moments
                            with more, over the batch that keeps the ITL
              residents     sequences and KV tokens there now: they raise the size and never lower it, because more
                            replicas make steps shorter and residents fewer (sized by them alone, the pool collapses)
    mixed     burst         what the largest likely burst on top of what arrives now exceeds both base pools by
              in flight     whole requests that replicas serve now
    all but mixed
              latency       measured latency above its target: a safety net against an optimistic model
    prefill   utilisation   what the remaining replicas' tensor pipes could not carry

Base pools are sized for the demand of one boot from now and its headroom; where pools are interchangeable, sizing also tells
how much of that is for the present (`Wanted.at_once`). Without base pools mixed is sized for the sum of both phases, with the
needs of both. Utilisation is no target, and says nothing about decode (`OwnReplicas.utilization_needs`).
Nothing here looks at a clock or at an earlier decision, so equal demand and fleet give equal sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from inferencecluster.core.arrivals import Arrivals
from inferencecluster.core.demand import Demand
from inferencecluster.core.fleet import PoolName, Replica
from inferencecluster.core.headroom import Rule
from inferencecluster.core.lending import lendable, lends
from inferencecluster.core.missing import Missing
from inferencecluster.core.needs import (
    Latency,
    Need,
    OwnReplicas,
    concurrency_need,
    is_late,
    queue_needs,
    reserved_need,
    resident_needs,
    surge,
    work_need,
)
from inferencecluster.core.perfmodel import PerformanceModel
from inferencecluster.core.prefixes import uncached
from inferencecluster.core.spec import ClusterSpec, PoolSpec
from inferencecluster.core.token_budget import prompt_share

POOL_OFF: Final = "PoolOff"
ROUNDING: Final = 1e-9
"""A need that exceeds a whole number only by the error of floating point is that number."""
BURST_SHARE: Final = 0.5
"""The mixed pool is rounded to the nearest: less than half a replica's burst is left to borrowed replicas."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Replicas that a pool should have if nothing limited it."""

    pool: PoolName
    replicas: int
    reason: str
    """The need that bound, one CamelCase word."""
    message: str
    inputs: tuple[tuple[str, float], ...]
    """Name and value of everything that was weighed, in a fixed order."""
    need: float
    """What was rounded up to `replicas`."""
    at_once: int | None = None
    """Of `replicas`, those for what arrives and waits at this moment; None where replicas of other pools cannot join in
    seconds."""


@dataclass(frozen=True, slots=True)
class _Load:
    """What one pool is sized for."""

    performance: PerformanceModel
    arrivals: Arrivals
    context: float
    """Mean context of a sequence in the middle of its output."""
    batch: float
    """Sequences one replica decodes within the ITL (a step over one sequence where that alone takes longer); at least 1."""
    sequences: float
    """Requests in their token phase when every replica decodes a whole batch (Little's law)."""

    @classmethod
    def of(
        cls, spec: ClusterSpec, demand: Demand, performance: PerformanceModel, arrivals: Arrivals
    ) -> _Load:
        """These arrivals on replicas of this speed: all their tokens decode, those that are not cached are prefilled."""
        arrivals = uncached(arrivals, demand.cached_share)
        context = demand.prompt_tokens + demand.output_tokens / 2
        itl = max(spec.slo.itl_seconds, performance.decode.step_seconds(1.0, context))
        batch = max(1.0, performance.max_batch(itl_seconds=itl, mean_context_tokens=context))
        pace = performance.decode.step_seconds(batch, batch * context)
        # Whatever is asked for takes one step: answers that fail before their first token must not end the pool.
        steps = max(1.0, demand.output_tokens)
        return cls(performance, arrivals, context, batch, arrivals.requests * steps * pace)

    @property
    def busy(self) -> float:
        """Replicas that the arriving prompts keep busy."""
        return self.performance.prefill.work(
            requests=self.arrivals.requests,
            tokens=self.arrivals.tokens,
            tokens_squared=self.arrivals.tokens_squared,
        )

    @property
    def step_alone(self) -> float:
        """Seconds of a decode step over one sequence."""
        return self.performance.decode.step_seconds(1.0, self.context)

    def inputs(self) -> tuple[tuple[str, float], ...]:
        """For the record of the decision."""
        return (
            ("requestsPerSecond", self.arrivals.requests),
            ("promptTokensPerSecond", self.arrivals.tokens),
        )


def size_pools(
    spec: ClusterSpec, demand: Demand, replicas: tuple[Replica, ...]
) -> tuple[Wanted, Wanted, Wanted]:
    """Wanted sizes of prefill, decode and mixed. A base pool with `max_replicas` 0 is off: mixed carries its phase."""
    wanted = _sizes_ahead(spec, demand, replicas)
    if not any(pool.interchangeable for pool in spec.pools):
        return wanted
    prefill, decode, mixed = (
        replace(ahead, at_once=min(ahead.replicas, now.replicas))
        if spec.pool(ahead.pool).interchangeable
        else ahead
        for ahead, now in zip(wanted, _sizes_ahead(spec, demand.present, replicas), strict=True)
    )
    return prefill, decode, mixed


def _sizes_ahead(
    spec: ClusterSpec, demand: Demand, replicas: tuple[Replica, ...]
) -> tuple[Wanted, Wanted, Wanted]:
    """Without telling what of them is needed at once."""
    decode = _size_decode(spec, demand, replicas)
    prefill = _size_prefill(spec, demand, replicas, decoding=decode.replicas)
    if prefill.reason == decode.reason == POOL_OFF:
        return prefill, decode, _size_alone(spec, demand, replicas)
    return prefill, decode, _size_mixed(spec, demand, (prefill.replicas, decode.replicas))


def _size_prefill(
    spec: ClusterSpec, demand: Demand, replicas: tuple[Replica, ...], *, decoding: int
) -> Wanted:
    pool = spec.pool(PoolName.PREFILL)
    if pool.max_replicas == 0:
        return _switched_off(pool)
    load = _Load.of(spec, demand, pool.performance, demand.ready_for)
    own = OwnReplicas.of(pool.name, replicas, demand)
    planned = _Load.of(spec, demand, pool.performance, demand.planned)
    serving = sum(replica.home is PoolName.DECODE and replica.is_serving for replica in replicas)
    lent = _lent(spec, demand, demand.ready_for, decoding)
    model = [
        reserved_need(
            work_need(spec, demand, pool.performance, load.busy),
            least=work_need(spec, demand, pool.performance, planned.busy),
            lent=lent,
            lent_now=_lent(spec, demand, demand.ready_for, min(decoding, serving)),
            present=own.count,
        ),
        *queue_needs(spec, demand, pool.performance, planned.busy),
    ]
    corrections = [
        *own.latency_needs(_ttft(spec, demand, pool.performance), model),
        *own.utilization_needs(model),
    ]
    inputs = (
        *load.inputs(),
        ("busyReplicas", load.busy),
        ("lentReplicas", lent),
        *_cache_inputs(demand),
        *_queue_inputs(demand),
        *own.inputs(),
        *_measured("ttftSeconds", demand.ttft_seconds),
    )
    return _largest(pool, [*model, *corrections], inputs)


def _lent(spec: ClusterSpec, demand: Demand, arrivals: Arrivals, decoding: int) -> float:
    """Prefill replicas whose work `decoding` decode replicas can do beside the tokens of these arrivals."""
    if not lends(spec.pool(PoolName.DECODE), itl_seconds=spec.slo.itl_seconds):
        return 0.0
    prefill, decode = (
        _Load.of(spec, demand, spec.pool(name).performance, arrivals)
        for name in (PoolName.PREFILL, PoolName.DECODE)
    )
    time = lendable(
        decode.performance,
        replicas=decoding,
        itl_seconds=spec.slo.itl_seconds,
        tokens_per_second=arrivals.requests * demand.output_tokens,
        context=decode.context,
    )
    # Prompts take another time on decode replicas when their hardware differs.
    return time * prefill.busy / decode.busy if decode.busy > 0 else time


def _size_decode(spec: ClusterSpec, demand: Demand, replicas: tuple[Replica, ...]) -> Wanted:
    pool = spec.pool(PoolName.DECODE)
    if pool.max_replicas == 0:
        return _switched_off(pool)
    load = _Load.of(spec, demand, pool.performance, demand.ready_for)
    own = OwnReplicas.of(pool.name, replicas, demand)
    model = [
        concurrency_need(spec, load.sequences, load.batch),
        *resident_needs(demand, pool.performance, load.batch),
    ]
    corrections = own.latency_needs(_itl(spec, demand, load), model)
    inputs = (
        *load.inputs(),
        ("outputTokens", demand.output_tokens),
        ("sequences", load.sequences),
        ("sequencesPerReplica", load.batch),
        *_resident_inputs(demand),
        *own.inputs(),
        *_measured("itlSeconds", demand.itl_seconds),
    )
    return _largest(pool, [*model, *corrections], inputs)


def _size_mixed(spec: ClusterSpec, demand: Demand, base: tuple[int, int]) -> Wanted:
    """Beside base pools of `base` replicas (prefill, decode), for the largest burst that is likely from here."""
    pool = spec.pool(PoolName.MIXED)
    growth = 1.0 + surge(demand)
    # Where arrivals jump faster than replicas boot, their last seconds say nothing about the next ones.
    now = demand.arrivals if demand.rule is Rule.PEAK else demand.planned
    burst = now.scaled(growth, growth)
    load, prefill, decode = (
        _Load.of(spec, demand, spec.pool(name).performance, burst)
        for name in (PoolName.MIXED, PoolName.PREFILL, PoolName.DECODE)
    )
    # For the seconds of a burst the base pools may run full: only what exceeds them counts.
    prompts = max(0.0, prefill.busy - base[0] - _lent(spec, demand, burst, base[1]))
    sequences = max(0.0, decode.sequences - base[1] * decode.batch)
    # Prompts take another time on mixed replicas when their hardware differs.
    pace = load.busy / prefill.busy if prefill.busy > 0 else 1.0
    excess = prompts * pace + sequences / load.batch
    whole = 0 if isinstance(demand.queue, Missing) else demand.queue.mixed_requests
    needs = (
        Need(
            excess,
            "Burst",
            f"bursts {growth - 1.0:.0%} above what arrives now exceed the base pools by {excess:.2f} replicas",
        ),
        Need(
            whole / load.batch,
            "MixedInFlight",
            f"{whole} whole requests in flight, {load.batch:.1f} per replica",
        ),
    )
    inputs = (
        ("burstiness", demand.burstiness),
        ("bootSeconds", demand.boot_seconds),
        ("excessPrefillReplicas", prompts),
        ("excessSequences", sequences),
        ("mixedRequests", float(whole)),
    )
    largest = max(needs, key=lambda need: need.replicas)
    size = math.floor(largest.replicas + BURST_SHARE)
    if size == 0:
        message = "prefill and decode carry the bursts that are likely"
        return Wanted(pool.name, 0, "NoBurst", message, inputs, 0.0)
    need = largest.replicas + BURST_SHARE - 1.0
    return Wanted(pool.name, size, largest.reason, largest.message, inputs, need)


def _size_alone(spec: ClusterSpec, demand: Demand, replicas: tuple[Replica, ...]) -> Wanted:
    """The mixed pool of a cluster without base pools: both phases share the time of each replica."""
    pool = spec.pool(PoolName.MIXED)
    load = _Load.of(spec, demand, pool.performance, demand.ready_for)
    own = OwnReplicas.of(pool.name, replicas, demand)
    prompts = work_need(spec, demand, pool.performance, load.busy)
    tokens = concurrency_need(spec, load.sequences, load.batch)
    message = f"{prompts.message}; {tokens.message}"
    model = [
        Need(_whole(spec, load, prompts.replicas, tokens.replicas), "WholeRequests", message),
        *queue_needs(spec, demand, pool.performance, load.busy + load.sequences / load.batch),
        *resident_needs(demand, pool.performance, load.batch),
    ]
    corrections = [
        *own.latency_needs(_ttft(spec, demand, pool.performance), model),
        *own.latency_needs(_itl(spec, demand, load), model),
        *own.utilization_needs(model),
    ]
    inputs = (
        *load.inputs(),
        ("busyReplicas", load.busy),
        *_cache_inputs(demand),
        ("sequences", load.sequences),
        ("sequencesPerReplica", load.batch),
        *_queue_inputs(demand),
        *_resident_inputs(demand),
        *own.inputs(),
        *_measured("ttftSeconds", demand.ttft_seconds),
        *_measured("itlSeconds", demand.itl_seconds),
    )
    return _largest(pool, [*model, *corrections], inputs)


def _whole(spec: ClusterSpec, load: _Load, prompts: float, tokens: float) -> float:
    """Mixed replicas for what would be so many prefill and so many decode replicas.

    An iteration serves both: it passes over the weights once, makes a token for every sequence and takes a piece of a prompt.
    So the passes are paid for as long as prompts are computed, and sequences add only what each takes beside them.
    """
    decode = load.performance.decode
    part = decode.sequence_seconds(load.context) / decode.step_seconds(load.batch, load.batch * load.context)
    sequences = tokens * load.batch * part
    share = prompt_share(load.performance, itl_seconds=spec.slo.itl_seconds)
    return max(tokens, (prompts + sequences) / share)


def _largest(pool: PoolSpec, needs: list[Need], inputs: tuple[tuple[str, float], ...]) -> Wanted:
    """The largest need, rounded up; of equal ones the first, which is the model's."""
    largest = max(needs, key=lambda need: need.replicas)
    if largest.replicas <= 0:
        return Wanted(pool.name, 0, "NoDemand", "nothing arrives, waits or decodes", inputs, 0.0)
    size = math.ceil(largest.replicas - ROUNDING)
    return Wanted(pool.name, size, largest.reason, largest.message, inputs, largest.replicas)


def _switched_off(pool: PoolSpec) -> Wanted:
    return Wanted(pool.name, 0, POOL_OFF, "maxReplicas is 0: the mixed pool carries this phase", (), 0.0)


def _ttft(spec: ClusterSpec, demand: Demand, performance: PerformanceModel) -> Latency:
    """Measured over a window: while no prompt is late any more, it tells of a queue that is gone."""
    alone = performance.prefill.seconds(demand.uncached_prompt_tokens)
    over = not isinstance(demand.queue, Missing) and not is_late(spec, demand.queue)
    measured = Missing("QueueGone", "no prompt waits long now") if over else demand.ttft_seconds
    return Latency("TTFT", measured, spec.slo.ttft_seconds, alone)


def _itl(spec: ClusterSpec, demand: Demand, load: _Load) -> Latency:
    return Latency("ITL", demand.itl_seconds, spec.slo.itl_seconds, load.step_alone)


def _measured(name: str, value: float | Missing) -> tuple[tuple[str, float], ...]:
    return () if isinstance(value, Missing) else ((name, value),)


def _cache_inputs(demand: Demand) -> tuple[tuple[str, float], ...]:
    return (("cachedShare", demand.cached_share),) if demand.cached_share > 0 else ()


def _queue_inputs(demand: Demand) -> tuple[tuple[str, float], ...]:
    if isinstance(demand.queue, Missing):
        return ()
    return (
        ("queueHeadAgeSeconds", demand.queue.head_age_seconds),
        ("queuedTokens", float(demand.queue.held_tokens + demand.queue.pending_prefill_tokens)),
    )


def _resident_inputs(demand: Demand) -> tuple[tuple[str, float], ...]:
    if isinstance(demand.queue, Missing):
        return ()
    return (
        ("decodingSequences", float(demand.queue.decoding_sequences)),
        ("residentKvTokens", float(demand.queue.resident_kv_tokens)),
    )

"""What can ask for replicas: each need is a number of replicas, not rounded, with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

from inferencecluster.core.arrivals import Arrivals
from inferencecluster.core.demand import Demand
from inferencecluster.core.fleet import PoolName, Replica
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import QueueState
from inferencecluster.core.perfmodel import PerformanceModel
from inferencecluster.core.prefixes import uncached
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.core.waiting import late_after

KV_TARGET: Final = 0.9
"""Share of KV memory that residents may fill: contexts grow until they end, and transfers land before they decode."""

QUEUE_MISS_SHARE: Final = 0.5
"""Part of the misses that the SLO allows which queues, or full batches, may use up; the rest is for requests that no
size would serve in time."""
LEAST_MISSES: Final = 0.001
"""Share of misses that is planned with at least: no size keeps every request in time."""

BREACH_STEP: Final = 0.1
SEVERE_BREACH: Final = 1.2
SEVERE_STEP: Final = 0.2
"""Safety net: 10 % more replicas while a latency is above its target, 20 % from 1.2 times the target on (the tiers of
HeteroScale's negative feedback, arXiv 2508.19559)."""
BREACH_REACH: Final = 1.5
"""The safety net stops at 1.5 times what the model wants. A model that is off by more must be measured again, and a
latency that more replicas do not lower (prompts too long for their target) must not eat the budget."""

BUSY_LIMIT: Final = 0.95
"""Busy share that the remaining replicas of a shrinking pool may reach."""


@dataclass(frozen=True, slots=True)
class Need:
    """Replicas for one reason."""

    replicas: float
    reason: str
    """One CamelCase word."""
    message: str


def work_need(spec: ClusterSpec, demand: Demand, performance: PerformanceModel, busy: float) -> Need:
    """For prompts that keep `busy` replicas busy, with room so that few of them wait too long."""
    room = queue_room(spec, demand, performance, busy) if busy > 0 else 0.0
    message = f"arriving prompts keep {busy:.2f} replicas busy, and {room:.2f} more keep their queue within the TTFT"
    return Need(busy + room, "PrefillWork", message)


def reserved_need(full: Need, *, least: Need, lent: float, lent_now: float, present: int) -> Need:
    """`full`, which holds a reserve, less the `lent` replicas that can stand in for it; never below `least`, without one.

    What decode replicas will lend once they are up need not be ordered here, too. But of the `present` replicas none goes
    for it before: only what is `lent_now` can stand in for them.
    """
    ordered = max(least.replicas, full.replicas - lent)
    replicas = max(ordered, min(float(present), full.replicas - lent_now))
    if replicas >= full.replicas:
        return full
    message = f"{full.message}; decode replicas can lend {lent:.2f} of the reserve"
    return Need(replicas, full.reason, message)


def queue_room(spec: ClusterSpec, demand: Demand, performance: PerformanceModel, busy: float) -> float:
    """Replicas beyond the `busy` ones with which all but the allowed share of prompts start in time.

    The smaller of two, because each is enough by itself:

        few wait long    of the prompts before n replicas a share of about exp(-(n - busy) * t / s) waits longer than t, s
                         being the mean work found in service (M/G/n in heavy traffic: Koellerstroem 1974; an upper bound
                         for M/M/n). t is what the TTFT target leaves beside the prefill of a prompt of mean length.
        few wait at all  while nobody waits, prompts in service are Poisson distributed around `busy`, and few find n of
                         them there (square-root staffing: Halfin and Whitt 1981)

    Against Erlang C this misses 1.3 times the allowed share at most, from a percentile of 80 on. Where prompts take longer
    than their target only the second one counts: no size keeps that target, and none is bought for it.
    """
    # A prompt that finds n or more waits: half of one is the continuity correction of the normal approximation.
    room = 0.5 + poisson_room(spec, busy)
    alone = performance.prefill.seconds(demand.uncached_prompt_tokens)
    wait = spec.slo.ttft_seconds - alone
    if wait <= 0:
        return room
    # Prompt lengths spread about as wide as their mean (Azure traces): work found in service is a whole prompt's.
    return min(room, alone / wait * math.log(1.0 / miss_share(spec)))


def poisson_room(spec: ClusterSpec, mean: float) -> float:
    """What a Poisson variable exceeds its `mean` by at most, but for the allowed share; 0 for none.

    The normal quantile and its correction for skewness (Cornish and Fisher 1938), which matters for a mean of a few.
    """
    if mean <= 0:
        return 0.0
    quantile = NormalDist().inv_cdf(1.0 - miss_share(spec))
    return max(0.0, quantile * math.sqrt(mean) + (quantile**2 - 1.0) / 6.0)


def miss_share(spec: ClusterSpec) -> float:
    """Share of requests that queues, or full batches, may make late."""
    return max(1.0 - spec.slo.percentile / 100, LEAST_MISSES) * QUEUE_MISS_SHARE


def concurrency_need(spec: ClusterSpec, sequences: float, batch: float) -> Need:
    """For `sequences` in their token phase on average, `batch` of them on one replica.

    How many there are at a moment is Poisson distributed whatever the lengths (M/G/infinity): room for all but the
    allowed share of moments.
    """
    room = poisson_room(spec, sequences)
    message = (
        f"{sequences:.1f} sequences are in their token phase and {room:.1f} more at times; "
        f"a replica takes {batch:.1f} within the ITL"
    )
    return Need((sequences + room) / batch, "DecodeConcurrency", message)


def queue_needs(spec: ClusterSpec, demand: Demand, performance: PerformanceModel, busy: float) -> list[Need]:
    """For prompts that wait, beside the `busy` replicas that arrivals take; nothing while the queue is young.

    Age decides whether the backlog counts, depth decides how much. It has to drain within the TTFT target, or within
    one interval where that is longer: what the replicas at hand drain before the next decision needs no new one.
    """
    queue = demand.queue
    if isinstance(queue, Missing) or not is_late(spec, queue):
        return []
    tokens = float(queue.held_tokens + queue.pending_prefill_tokens)
    arrivals = demand.arrivals
    weighted_mean = arrivals.tokens_squared / arrivals.tokens if arrivals.tokens > 0 else demand.prompt_tokens
    waiting = Arrivals(tokens / max(demand.prompt_tokens, 1.0), tokens, tokens * weighted_mean)
    left = uncached(waiting, demand.cached_share)
    backlog = performance.prefill.work(
        requests=left.requests, tokens=left.tokens, tokens_squared=left.tokens_squared
    )
    drain = max(spec.slo.ttft_seconds, spec.interval_seconds)
    message = (
        f"the oldest request waits {queue.head_age_seconds:.1f} s of a TTFT target of {spec.slo.ttft_seconds:.1f} s; "
        f"{backlog:.1f} replica-seconds of prompts are to drain in {drain:.0f} s"
    )
    return [Need(busy + backlog / drain, "QueueAge", message)]


def is_late(spec: ClusterSpec, queue: QueueState) -> bool:
    """Whether prompts wait longer than is usual for a busy pool."""
    return queue.head_age_seconds >= late_after(spec.slo.ttft_seconds)


def resident_needs(demand: Demand, performance: PerformanceModel, batch: float) -> list[Need]:
    """For what decodes now or will as soon as it is let in, and for its KV memory."""
    queue = demand.queue
    if isinstance(queue, Missing):
        return []
    sequences = queue.decoding_sequences + queue.held_requests
    capacity = max(performance.kv_capacity_tokens, 1)
    return [
        Need(
            sequences / batch,
            "SequencesInFlight",
            f"{sequences} sequences decode or are held; a replica takes {batch:.1f} within the ITL",
        ),
        Need(
            queue.resident_kv_tokens / capacity / KV_TARGET,
            "KvResident",
            f"{queue.resident_kv_tokens} KV tokens are resident; a replica holds {capacity} and is planned "
            f"{KV_TARGET:.0%} full",
        ),
    ]


@dataclass(frozen=True, slots=True)
class Latency:
    """One measured latency beside its target, in seconds."""

    name: str
    measured: float | Missing
    target: float
    alone: float
    """What an idle replica takes: no number of replicas gets below it."""


@dataclass(frozen=True, slots=True)
class OwnReplicas:
    """What a pool's existing replicas tell about its size."""

    count: int
    serving: int
    settled: bool
    """All have served for a whole window of the metrics: a latency shows what this size achieves."""
    busy: float | Missing
    """Mean busy share of the GPUs: memory bus for decode, tensor pipe for the others."""

    @classmethod
    def of(cls, pool: PoolName, replicas: tuple[Replica, ...], demand: Demand) -> OwnReplicas:
        """The replicas whose home is `pool`."""
        own = [replica for replica in replicas if replica.home is pool and replica.counts]
        since = demand.time - demand.metrics_seconds
        settled = all(replica.ready_at is not None and replica.ready_at <= since for replica in own)
        serving = sum(replica.is_serving for replica in own)
        return cls(len(own), serving, settled, _busy(pool, demand))

    def latency_needs(self, latency: Latency, model: Sequence[Need]) -> list[Need]:
        """A step up while a latency is above its target; at least no step down."""
        measured = latency.measured
        if isinstance(measured, Missing) or measured <= latency.target or latency.alone >= latency.target:
            return []
        severity = measured / latency.target
        step = SEVERE_STEP if severity >= SEVERE_BREACH else BREACH_STEP
        # Replicas on their way may already be enough: no second step before the first one shows.
        grown = self.count * (1.0 + step) if self.settled else float(self.count)
        reach = BREACH_REACH * max(need.replicas for need in model)
        message = (
            f"{latency.name} {measured:.3f} s is {severity:.2f} times its target with {self.count} replicas"
        )
        return [Need(min(grown, reach), f"{latency.name.capitalize()}AboveTarget", message)]

    def utilization_needs(self, model: Sequence[Need]) -> list[Need]:
        """The fewest replicas that would stay below `BUSY_LIMIT`; no more than serve now, and none without work.

        Only for a share that grows when replicas go: the tensor pipe's. Decode keeps the memory bus busy at any load, because
        smaller batches take shorter steps and so read the weights more often.
        """
        if isinstance(self.busy, Missing) or self.serving < 2 or all(need.replicas <= 0 for need in model):
            return []
        fewest = min(1.0, self.busy / BUSY_LIMIT) * self.serving
        message = f"{self.serving} replicas are {self.busy:.0%} busy; fewer than {fewest:.1f} would exceed {BUSY_LIMIT:.0%}"
        return [Need(fewest, "Utilization", message)]

    def inputs(self) -> tuple[tuple[str, float], ...]:
        """For the record of the decision."""
        busy = () if isinstance(self.busy, Missing) else (("busyShare", self.busy),)
        return (("replicas", float(self.count)), *busy)


def surge(demand: Demand) -> float:
    """The largest burst to expect before replicas that are ordered now serve, as a fraction of what arrives now.

    The expected maximum of n normal deviates is about sqrt(2 ln n) standard deviations; n is the number of bins in
    one boot. Without boot time nothing has to be carried; a longer one sees larger bursts.
    """
    bins = 1.0 + demand.boot_seconds / demand.bin_seconds
    return demand.burstiness * math.sqrt(2.0 * math.log(bins))


def _busy(pool: PoolName, demand: Demand) -> float | Missing:
    known = demand.utilization.get(pool)
    if known is None:
        return Missing("NoSeries", f"no utilisation of the {pool} pool")
    return known.dram_active if pool is PoolName.DECODE else known.tensor_active

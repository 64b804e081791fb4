"""llm-d's Workload Variant Autoscaler (WVA), saturation mode, in both versions.

Source: llm-d-workload-variant-autoscaler v0.9, `internal/saturation/analyzer.go` (percentages),
`internal/engines/analyzers/saturation_v2` (tokens), `internal/config/saturation_scaling.go` (thresholds), optimisation
every 60 s (`GLOBAL_OPT_INTERVAL`). The HPA that carries WVA's wish out has a target of 1 and, in WVA's own chart, no
windows: sizes are WVA's.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.perfmodel import PerformanceModel
from inferencecluster.simulator.policies.capacity import BATCHED_TOKENS
from inferencecluster.simulator.policies.context import (
    Lengths,
    PolicyContext,
    bounded,
    whole,
    with_mixed_minimum,
)
from inferencecluster.simulator.queues import sized_pools
from inferencecluster.simulator.signals import PoolSignals, ReplicaSignals, Signals

OPTIMIZATION_SECONDS: Final = 60.0
KV_CACHE_THRESHOLD: Final = 0.80
QUEUE_LENGTH_THRESHOLD: Final = 5.0
KV_SPARE_TRIGGER: Final = 0.10
QUEUE_SPARE_TRIGGER: Final = 3.0
SCALE_UP_THRESHOLD: Final = 0.85
SCALE_DOWN_BOUNDARY: Final = 0.70
MIN_UNSATURATED_TO_SHRINK: Final = 2
HISTORY_SAMPLES: Final = 10
"""Observations that the token capacity of a kind of request is averaged over."""
SHORT_OUTPUT: Final = 100.0
MEDIUM_OUTPUT: Final = 500.0


def saturation_step(members: Sequence[ReplicaSignals]) -> int:
    """+1, 0 or -1 replica, by the percentage rule (version 1).

    A replica is saturated at 80 % of KV memory or 5 waiting requests. Grow when the others spare less than 10 points
    of memory or 3 places on average; shrink when they would still spare both with one replica fewer.
    """
    spare = [
        (KV_CACHE_THRESHOLD - kv, QUEUE_LENGTH_THRESHOLD - member.waiting_requests)
        for member in members
        if (kv := member.resident_kv_tokens / member.kv_capacity_tokens) < KV_CACHE_THRESHOLD
        and member.waiting_requests < QUEUE_LENGTH_THRESHOLD
    ]
    count = len(spare)
    spare_kv = fmean(kv for kv, _ in spare) if spare else 0.0
    spare_queue = fmean(queue for _, queue in spare) if spare else 0.0
    if spare_kv < KV_SPARE_TRIGGER or spare_queue < QUEUE_SPARE_TRIGGER:
        return 1
    if count < MIN_UNSATURATED_TO_SHRINK:
        return 0
    factor = count / (count - 1)
    kv_left = KV_CACHE_THRESHOLD - (KV_CACHE_THRESHOLD - spare_kv) * factor
    queue_left = QUEUE_LENGTH_THRESHOLD - (QUEUE_LENGTH_THRESHOLD - spare_queue) * factor
    return -1 if kv_left >= KV_SPARE_TRIGGER and queue_left >= QUEUE_SPARE_TRIGGER else 0


class WvaSaturation:
    """Version 1: one replica up or down per pool, nothing while any replica of the model is on its way.

    Upstream judges all variants of a model together and grows the cheapest; prefill and decode are judged apart here,
    as its version 2 does, because a free prefill pool says nothing about a full decode pool.
    """

    name: Final = "llmd-wva"
    interval_seconds: Final = OPTIMIZATION_SECONDS

    def __init__(self, context: PolicyContext) -> None:
        self._spec = context.spec
        self._pools = sized_pools(context.spec)

    def sizes(self, signals: Signals) -> Mapping[PoolName, int]:
        """One optimisation."""
        if any(signals.pools[name].serving != signals.pools[name].replicas for name in self._pools):
            return with_mixed_minimum(self._spec, {})
        sizes = {
            name: bounded(self._spec.pool(name), observed.serving + saturation_step(observed.members))
            for name in self._pools
            if (observed := signals.pools[name]).members
        }
        return with_mixed_minimum(self._spec, sizes)


class _TokenCapacity:
    """How many tokens one replica of a pool may hold: the smaller of what memory and what compute allow."""

    def __init__(self) -> None:
        self._seen: dict[int, deque[float]] = {}
        self._last = 0.0

    def of_pool(self, observed: PoolSignals, performance: PerformanceModel, lengths: Lengths) -> float:
        """The median over replicas; what was known last when none serves, 0 when nothing was ever known."""
        if observed.members:
            self._last = median(
                min(
                    KV_CACHE_THRESHOLD * member.kv_capacity_tokens,
                    self._by_compute(member, performance, lengths),
                )
                for member in observed.members
            )
        return self._last

    def _by_compute(self, member: ReplicaSignals, performance: PerformanceModel, lengths: Lengths) -> float:
        """Tokens in use when requests queued, now or on average before; else from the engine's settings."""
        kind = (lengths.output >= SHORT_OUTPUT) + (lengths.output >= MEDIUM_OUTPUT)
        if member.waiting_requests >= QUEUE_LENGTH_THRESHOLD and member.resident_kv_tokens > 0:
            # Behind a queue an engine's iterations are full of prompts; the router here sends it fewer.
            in_use = max(member.resident_kv_tokens, BATCHED_TOKENS)
            self._seen.setdefault(kind, deque(maxlen=HISTORY_SAMPLES)).append(in_use)
            return float(in_use)
        if kind in self._seen:
            return fmean(self._seen[kind])
        steady = BATCHED_TOKENS * lengths.output / (lengths.prompt + lengths.output)
        return min(steady, float(performance.max_batch_size)) * (lengths.prompt + lengths.output / 2)


class WvaTokens:
    """Version 2: tokens demanded against tokens of capacity, per role; grows to 85 %, shrinks to 70 %.

    A replica's demand is what it holds plus its waiting requests at their full length (prompts alone in prefill).
    Upstream adds what llm-d's scheduler holds back, if anything, to each role; here all that waits stands at engines
    (`simulator.queues`). Any role that must grow forbids shrinking elsewhere, as upstream. Upstream's pairing of roles
    and its choice among variants have nothing to choose from here.
    """

    name: Final = "llmd-wva-tokens"
    interval_seconds: Final = OPTIMIZATION_SECONDS

    def __init__(self, context: PolicyContext) -> None:
        self._spec = context.spec
        self._lengths = Lengths(context.prompt_tokens, context.output_tokens)
        self._capacities = {name: _TokenCapacity() for name in sized_pools(context.spec)}

    def sizes(self, signals: Signals) -> Mapping[PoolName, int]:
        """One optimisation; a pool whose capacity was never seen keeps its size."""
        self._lengths.learn(signals.flow)
        grow: dict[PoolName, int] = {}
        shrink: dict[PoolName, int] = {}
        for name, capacities in self._capacities.items():
            pool, observed = self._spec.pool(name), signals.pools[name]
            capacity = capacities.of_pool(observed, pool.performance, self._lengths)
            if capacity <= 0:
                continue
            demand = self._demand(name, signals)
            required = demand / SCALE_UP_THRESHOLD - observed.replicas * capacity
            spare = observed.serving * capacity - demand / SCALE_DOWN_BOUNDARY
            if required > 0:
                grow[name] = bounded(pool, observed.replicas + whole(required / capacity))
            elif spare >= capacity:
                shrink[name] = bounded(pool, observed.replicas - math.floor(spare / capacity))
        return with_mixed_minimum(self._spec, grow or shrink)

    def _demand(self, name: PoolName, signals: Signals) -> float:
        observed = signals.pools[name]
        footprint = self._lengths.prompt + (0.0 if name is PoolName.PREFILL else self._lengths.output)
        resident = sum(member.resident_kv_tokens for member in observed.members)
        return resident + observed.waiting_requests * footprint

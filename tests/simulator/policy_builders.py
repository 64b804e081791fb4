"""Signals and contexts for the policy tests: plain numbers that can be computed by hand.

The performance model is that of the sizing tests (`ROUND_MODEL`): prompts take 10 ms + 0.1 ms per token + 1e-8 s per
token squared, a decode step 10 ms + 0.1 ms per sequence + 1e-7 s per context token. Targets: TTFT 0.4 s, ITL 20 ms.
With prompts of 950 and outputs of 100 tokens the mean context is 1000:

    a prompt alone     0.010 + 0.095 + 0.009025 = 0.114025 s                       8.770 prompts/s per replica
    a decode batch     (0.020 - 0.010) / (1e-4 + 1e-7 * 1000) = 50 sequences       step 0.020 s, 2500 tokens/s
                       50 / (100 * 0.020) = 25 requests/s per replica
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tests.core.sizing_builders import ROUND_MODEL, cluster, pool

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Flow
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.simulator.policies.context import PolicyContext
from inferencecluster.simulator.signals import PoolSignals, ReplicaSignals, Signals

PROMPT = 950.0
OUTPUT = 100.0
P, D, M = PoolName.PREFILL, PoolName.DECODE, PoolName.MIXED
NO_FLOW = Flow(10.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def spec(*, minimum: int = 1, maximum: int = 100, mixed_only: bool = False) -> ClusterSpec:
    base = 0 if mixed_only else maximum
    return cluster(
        prefill=pool(P, minimum=min(minimum, base), maximum=base),
        decode=pool(D, minimum=min(minimum, base), maximum=base),
        mixed=pool(M, minimum=minimum if mixed_only else 0, maximum=100),
    )


def context(cluster_spec: ClusterSpec | None = None, *, target: float | None = None) -> PolicyContext:
    return PolicyContext(cluster_spec or spec(), 120.0, PROMPT, OUTPUT, target=target)


def member(
    index: int = 0, *, waiting: int = 0, running: int = 0, queued_tokens: int = 0, kv: int = 0
) -> ReplicaSignals:
    return ReplicaSignals(
        name=f"replica-{index}",
        queued_tokens=queued_tokens,
        waiting_requests=waiting,
        running_requests=running,
        resident_kv_tokens=kv,
        kv_capacity_tokens=ROUND_MODEL.kv_capacity_tokens,
        ttft_estimate_seconds=0.0,
        itl_estimate_seconds=0.0,
    )


def observed(
    serving: int = 1,
    *,
    starting: int = 0,
    share: float = 0.0,
    concurrency: float = 0.0,
    unserved: int = 0,
    members: tuple[ReplicaSignals, ...] | None = None,
) -> PoolSignals:
    """`share` stands for each of the three shares."""
    return PoolSignals(
        replicas=serving + starting,
        serving=serving,
        kernel_utilization=share,
        busy_share=share,
        kv_share=share,
        concurrency=concurrency,
        unserved_requests=unserved,
        members=tuple(member(index) for index in range(serving)) if members is None else members,
    )


EMPTY = observed(0)


def signals(
    now: float = 0.0,
    *,
    prefill: PoolSignals = EMPTY,
    decode: PoolSignals = EMPTY,
    mixed: PoolSignals = EMPTY,
    cluster_spec: ClusterSpec | None = None,
    flow: Flow = NO_FLOW,
    **changes: float | Missing,
) -> Signals:
    pools: Mapping[PoolName, PoolSignals] = {P: prefill, D: decode, M: mixed}
    blank = Signals(
        now=now,
        spec=cluster_spec or spec(),
        pools=pools,
        flow=flow,
        decoded_tokens=0.0,
        completed_tokens=0.0,
        mean_ttft_seconds=Missing("NothingCompleted"),
        mean_itl_seconds=Missing("NothingCompleted"),
    )
    return replace(blank, **changes)  # type: ignore[arg-type]  # tests pass whole numbers where counts are


def requests(count: float, seconds: float, *, prompt: float = PROMPT, output: float = OUTPUT) -> Flow:
    """That many arrived and ended."""
    return Flow(seconds, count, count * prompt, count * prompt * prompt, count, count * output)

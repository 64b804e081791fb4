"""Specs, fleets and demand for the sizing tests: plain numbers that can be computed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from inferencecluster.core.arrivals import NOTHING, Arrivals
from inferencecluster.core.demand import Demand
from inferencecluster.core.fleet import Lifecycle, PoolName, Replica, Role
from inferencecluster.core.headroom import Rule
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import (
    Flow,
    MetricsSample,
    Observation,
    PoolUtilization,
    QueueState,
    RouterSample,
)
from inferencecluster.core.perfmodel import DecodeModel, PerformanceModel, PrefillModel
from inferencecluster.core.spec import (
    Behavior,
    ClusterSpec,
    PoolSpec,
    ScalingMode,
    ScalingRules,
    SelectPolicy,
    Slo,
)

ROUND_MODEL = PerformanceModel(
    # 1000 prompt tokens: 10 + 100 + 10 = 120 ms. A step over 50 sequences of 1000 tokens: 10 + 5 + 5 = 20 ms.
    PrefillModel(0.010, 1e-4, 1e-8),
    DecodeModel(0.010, 1e-4, 1e-7),
    kv_capacity_tokens=200_000,
)
MISSING = Missing("Down", "connection refused")
QUIET = QueueState(0, 0, 0.0, 0, 0, 0, 0)


def pool(name: PoolName, *, minimum: int = 0, maximum: int = 100, gpus: int = 1) -> PoolSpec:
    return PoolSpec(name, minimum, maximum, gpus, ROUND_MODEL)


def rules(window: float, *policies: object, select: SelectPolicy = SelectPolicy.MAX) -> ScalingRules:
    return ScalingRules(window, select, policies)  # type: ignore[arg-type]  # tests pass ScalingPolicy only


def cluster(
    *,
    prefill: PoolSpec | None = None,
    decode: PoolSpec | None = None,
    mixed: PoolSpec | None = None,
    budget: int = 1000,
    up: ScalingRules | None = None,
    down: ScalingRules | None = None,
    mode: ScalingMode = ScalingMode.AUTOMATIC,
) -> ClusterSpec:
    return ClusterSpec(
        generation=1,
        revision="r1",
        budget_gpus=budget,
        slo=Slo(90, ttft_seconds=0.4, itl_seconds=0.020),
        pools=(
            prefill or pool(PoolName.PREFILL),
            decode or pool(PoolName.DECODE),
            mixed or pool(PoolName.MIXED),
        ),
        mode=mode,
        behavior=Behavior(up or rules(0), down or rules(300)),
        interval_seconds=15.0,
        boot_seconds=120.0,
        startup_deadline_seconds=1800.0,
        drain_deadline_seconds=1800.0,
        overflow_tokens=None,
    )


def fleet(
    prefill: int = 0,
    decode: int = 0,
    mixed: int = 0,
    *,
    lifecycle: Lifecycle = Lifecycle.READY,
    ready_at: float | None = 0.0,
) -> tuple[Replica, ...]:
    counts = {PoolName.PREFILL: prefill, PoolName.DECODE: decode, PoolName.MIXED: mixed}
    return tuple(
        Replica(
            name=f"{home}-{index}",
            uid=f"{home}-{index}",
            home=home,
            role=Role(home.value),
            revision="r1",
            gpus=1,
            lifecycle=lifecycle,
            created_at=-100.0,
            ready_at=ready_at,
        )
        for home, count in counts.items()
        for index in range(count)
    )


def arrivals(rate: float, length: float = 1000.0) -> Arrivals:
    return Arrivals(rate, rate * length, rate * length * length)


def demand(
    rate: float = 0.0,
    *,
    length: float = 1000.0,
    output: float = 100.0,
    planned: float | None = None,
    rule: Rule = Rule.PEAK,
    queue: QueueState | Missing = QUIET,
    utilization: Mapping[PoolName, PoolUtilization] | None = None,
) -> Demand:
    return Demand(
        time=10_000.0,
        arrivals=arrivals(rate, length),
        planned=arrivals(rate if planned is None else planned, length),
        rule=rule,
        headroom=NOTHING,
        burstiness=0.0,
        bin_seconds=15.0,
        prompt_tokens=length,
        output_tokens=output,
        boot_seconds=120.0,
        has_history=True,
        queue=queue,
        ttft_seconds=Missing("NothingCompleted"),
        itl_seconds=Missing("NothingCompleted"),
        metrics_seconds=60.0,
        utilization=utilization or {},
    )


def flow(
    requests: float,
    seconds: float = 15.0,
    *,
    length: float = 1000.0,
    completed: float = 0.0,
    output: float = 100.0,
) -> Flow:
    return Flow(
        seconds, requests, requests * length, requests * length * length, completed, completed * output
    )


def metrics(
    counted: Flow, *, ttft: float | Missing = MISSING, itl: float | Missing = MISSING
) -> MetricsSample:
    return MetricsSample(counted, ttft, itl)


def observation(
    now: float,
    *,
    routers: Flow | Missing | RouterSample = MISSING,
    metrics: MetricsSample | Missing = MISSING,
    spec: ClusterSpec | None = None,
    replicas: tuple[Replica, ...] = (),
) -> Observation:
    """`routers` as a flow stands for routers with empty queues."""
    sample = RouterSample(QUIET, routers) if isinstance(routers, Flow) else routers
    return Observation(now, spec or cluster(), replicas, sample, metrics, Missing("NotListed"))


def waiting(**changes: float) -> QueueState:
    return replace(QUIET, **changes)  # type: ignore[arg-type]  # tests pass whole numbers where counts are

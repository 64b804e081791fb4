"""Every baseline in the closed loop, under several times what its first sizes can serve: who is meant to grow does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import pytest
from tests.simulator.simulator_builders import LINK, ROUND, cluster_spec, hardware, run, scenario, steady

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.perfmodel import PerformanceModel
from inferencecluster.core.spec import Slo
from inferencecluster.simulator.policies.context import PolicyContext
from inferencecluster.simulator.policies.registry import POLICIES, build_policy
from inferencecluster.simulator.scenario import Boot

P, D = PoolName.PREFILL, PoolName.DECODE
SECONDS: Final = 190.0
"""Dynamo's planner in throughput mode looks for the first time after 180."""
BOOT_SECONDS: Final = 10.0
STAND_STILL: Final = {
    ("static", P): "holds the sizes that it was given",
    ("static", D): "holds the sizes that it was given",
    ("heteroscale", P): "goes by decode tokens per second, which no queue of prompts raises",
}
"""By design, with the reason. All others see queues, or busy replicas and full memory, or what arrives, and must grow."""


@dataclass(frozen=True)
class Load:
    """Requests of one length, and a cluster that cannot serve them: `short` is what it lacks."""

    short: PoolName
    first: dict[PoolName, int]
    performance: PerformanceModel
    rate: float
    prompt: int
    output: int


@pytest.mark.parametrize(
    "load",
    [
        # A prefill replica ends a prompt in 410 ms: 2.4 a second; a decode replica would end a hundred.
        pytest.param(Load(P, {P: 1, D: 1}, ROUND, 7.0, 4000, 20), id="prompts"),
        # Memory holds 21 sequences of 1400, each of 400 steps of 14.6 ms: 3.6 a second; prefill ends 2 * 9.
        pytest.param(
            Load(D, {P: 2, D: 1}, replace(ROUND, kv_capacity_tokens=30_000), 11.0, 1000, 400), id="answers"
        ),
    ],
)
@pytest.mark.parametrize("name", POLICIES)
def test_a_baseline_grows_the_pool_that_several_times_its_load_waits_for(name: str, load: Load) -> None:
    spec = cluster_spec(
        (1, 1, 0),
        most=(4, 4, 2),
        performance=load.performance,
        slo=Slo(90, ttft_seconds=2.0, itl_seconds=0.013),
        boot_seconds=BOOT_SECONDS,
        overflow_tokens=None,
    )
    workload = steady(load.rate, SECONDS, prompt=load.prompt, output=load.output)
    context = PolicyContext(
        spec,
        BOOT_SECONDS,
        float(load.prompt),
        float(load.output),
        static_sizes=load.first,
        workload=workload,
    )
    # Links that nobody waits for: this is about replicas.
    engines = {pool: hardware(load.performance, link_bytes_per_second=100 * LINK) for pool in PoolName}
    plan = scenario(spec, hardware=engines, initial=load.first, boot=Boot.of(BOOT_SECONDS))

    sizes = run(plan, workload, build_policy(name, context)).report.sizes

    largest = max(size.prefill if load.short is P else size.decode for size in sizes)
    assert (largest == load.first[load.short]) is ((name, load.short) in STAND_STILL)

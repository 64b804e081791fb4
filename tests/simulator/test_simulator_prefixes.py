"""Prefix-cache hits in the simulator: engines skip what is cached, and the operator learns to do with fewer of them."""

from __future__ import annotations

import pytest
from tests.simulator.simulator_builders import cluster_spec, hardware, requests, run, scenario, steady

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.spec import ScalingMode
from inferencecluster.simulator.workload import Request, copied, out_of_step, scaled_time, with_burst

PREFILL, DECODE, MIXED = PoolName


def test_a_prompt_takes_only_what_is_not_cached() -> None:
    cold, warm = (
        run(scenario(cluster_spec((1, 1, 0))), [Request(0.0, 1000, 1, cached)]).journeys[0]
        for cached in (0, 600)
    )
    # 10 ms and 0.1 ms for each token that has to be computed.
    assert cold.ttft_seconds == pytest.approx(0.110)
    assert warm.ttft_seconds == pytest.approx(0.050)


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    (journey,) = run(scenario(cluster_spec((1, 1, 0))), [Request(0.0, 1000, 1, 5000)]).journeys
    assert journey.ttft_seconds == pytest.approx(0.0101)


@pytest.mark.parametrize(
    "moved",
    [
        lambda items: scaled_time(items, 2.0),
        lambda items: copied(items, copies=2.0, jitter_seconds=1.0, seed=1),
        lambda items: out_of_step(items, copies=2, shift_seconds=5.0, seed=1),
        lambda items: with_burst(items, start=0.0, seconds=5.0, factor=2, seed=1),
    ],
    ids=["scaled", "copied", "out of step", "burst"],
)
def test_requests_keep_what_is_cached_of_them_wherever_they_are_moved(moved: object) -> None:
    assert callable(moved)
    items = [
        Request(item.arrival, item.prompt_tokens, item.output_tokens, 7) for item in requests((1.0, 10, 1))
    ]
    assert {item.cached_tokens for item in moved(items)} == {7}


def test_with_hits_the_prefill_pool_shrinks_and_the_slo_is_held() -> None:
    spec = cluster_spec((1, 1, 0), most=(16, 8, 2), mode=ScalingMode.AUTOMATIC)
    # Caches that travel in no time: links would otherwise be what is late.
    light = {name: hardware(kv_bytes_per_token=1.0) for name in PoolName}
    plan = scenario(spec, hardware=light, initial={PREFILL: 8, DECODE: 3}, warm_up_seconds=240.0)
    cold, warm = (
        run(plan, [Request(item.arrival, 1000, 50, cached) for item in steady(40.0, 900.0)]).report
        for cached in (0, 700)
    )
    assert warm.gpu_hours[PREFILL] < 0.6 * cold.gpu_hours[PREFILL]
    assert min(cold.slo_attainment, warm.slo_attainment) >= 0.99

"""HPA on GPU utilisation, on a busy share and on queue length (KEDA), by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulator.policy_builders import D, M, P, context, member, observed, signals, spec

from inferencecluster.simulator.policies.hpa import (
    HorizontalPodAutoscaler,
    replicas_for_external_metric,
    replicas_for_pod_metric,
)
from inferencecluster.simulator.policies.hpa_policies import BusyShareHpa, GpuUtilizationHpa
from inferencecluster.simulator.policies.keda import QueueHpa
from inferencecluster.simulator.signals import PoolSignals


@pytest.mark.parametrize(
    ("current", "pool", "mean", "expected"),
    [
        # 10 * 1.2 / 0.8 = 15
        pytest.param(10, observed(10), 1.2, 15, id="grows in proportion"),
        # 10 * 0.4 / 0.8 = 5
        pytest.param(10, observed(10), 0.4, 5, id="shrinks in proportion"),
        # 0.88 / 0.8 = 1.1 is still tolerated
        pytest.param(10, observed(10), 0.88, 10, id="ten per cent above target is tolerated"),
        # 0.89 / 0.8 = 1.1125: 11.125 rounds up
        pytest.param(10, observed(10), 0.89, 12, id="beyond tolerance it rounds up"),
        pytest.param(10, observed(10), 0.72, 10, id="ten per cent below target is tolerated"),
        # 4 ready at 1.6: ratio 2, wanted 8; with 4 more that count as 0 the ratio is 1
        pytest.param(
            8, observed(4, starting=4), 1.6, 8, id="replicas on their way already satisfy the growth"
        ),
        # 4 ready at 1.6 and 2 starting: ratio 2 * 4/6 = 1.33, 1.33 * 6 = 8
        pytest.param(6, observed(4, starting=2), 1.6, 8, id="growth beyond those on their way is asked for"),
        # 4 ready at 0.4: ratio 0.5; the 4 starting are left out: 0.5 * 4 = 2
        pytest.param(
            8, observed(4, starting=4), 0.4, 2, id="replicas on their way are left out when it shrinks"
        ),
        pytest.param(3, observed(0, starting=3), 0.0, 3, id="without a metric nothing changes"),
        pytest.param(0, observed(0), 0.0, 0, id="an empty pool has no metric"),
    ],
)
def test_a_pod_metric_recommends_what_the_replica_calculator_would(
    current: int, pool: PoolSignals, mean: float, expected: int
) -> None:
    assert replicas_for_pod_metric(current, pool, mean=mean, target=0.8) == expected


@pytest.mark.parametrize(
    ("replicas", "total", "expected"),
    [
        # 37 / 5 = 7.4
        pytest.param(4, 37.0, 8, id="total over target, rounded up"),
        # 22 / (5 * 4) = 1.1
        pytest.param(4, 22.0, 4, id="tolerated"),
        pytest.param(4, 0.0, 0, id="nothing waits"),
        pytest.param(0, 50.0, 4, id="scaling is disabled at zero"),
    ],
)
def test_an_external_metric_counts_the_whole_pool(replicas: int, total: float, expected: int) -> None:
    assert replicas_for_external_metric(4, replicas, total=total, target=5.0) == expected


def test_growth_is_limited_to_the_larger_of_four_and_double_per_sync_period() -> None:
    scaler = HorizontalPodAutoscaler(spec().pool(P))
    assert scaler.current(observed(2), 0.0) == 2
    # max(2 + 4, 2 * 2) = 6; then max(6 + 4, 12) = 12; then 24
    assert [scaler.resize(50, now) for now in (0.0, 15.0, 30.0)] == [6, 12, 24]


def test_it_shrinks_to_the_largest_recommendation_of_five_minutes() -> None:
    scaler = HorizontalPodAutoscaler(spec().pool(P))
    scaler.current(observed(10), 0.0)
    sizes = {now: scaler.resize(6 if now == 150 else 3, float(now)) for now in range(15, 481, 15)}
    # The 10 of time 0 binds until 300; the 6 of time 150 until 450.
    assert sizes[285] == 10
    assert sizes[300] == 6
    assert sizes[435] == 6
    assert sizes[450] == 3


def test_bounds_of_the_pool_are_the_bounds_of_the_hpa() -> None:
    scaler = HorizontalPodAutoscaler(spec(minimum=2, maximum=5).pool(P))
    assert scaler.current(observed(0), 0.0) == 2
    assert scaler.resize(50, 0.0) == 5


def test_a_decode_pool_with_one_sequence_looks_full_to_gpu_utilisation() -> None:
    # Kernels run all the time: 1.0 / 0.8 = 1.25, 4 * 1.25 = 5. The busy share of 0.2 would want 1, but holds 300 s.
    look = signals(prefill=observed(4, share=1.0), decode=observed(4, share=0.2))
    assert GpuUtilizationHpa(context()).sizes(look) == {P: 5, D: 4, M: 0}


def test_the_target_of_the_busy_share_is_tunable() -> None:
    look = signals(prefill=observed(4, share=0.6), decode=observed(4, share=0.6))
    # 4 * 0.6 / 0.5 = 4.8
    assert BusyShareHpa(context(target=0.5)).sizes(look) == {P: 5, D: 5, M: 0}


def test_a_cluster_of_mixed_replicas_has_one_hpa() -> None:
    alone = spec(mixed_only=True)
    look = signals(mixed=observed(4, share=1.2), cluster_spec=alone)
    assert BusyShareHpa(context(alone)).sizes(look) == {M: 6}


def test_the_queue_of_a_pool_is_what_waits_at_its_replicas_or_for_the_first_of_them() -> None:
    prefill = observed(2, members=(member(0, waiting=12), member(1, waiting=11)))
    look = signals(prefill=prefill, decode=observed(0, starting=1, unserved=6))
    # prefill 23 / 5 = 4.6; decode 6 / 5 = 1.2
    assert QueueHpa(context()).sizes(look) == {P: 5, D: 2, M: 0}


def test_without_traffic_queues_shrink_to_the_minimum_after_the_window() -> None:
    policy = QueueHpa(context())
    sizes = {}
    for step in range(25):
        sizes = dict(policy.sizes(signals(step * 15.0, prefill=observed(3), decode=observed(2))))
    assert sizes == {P: 1, D: 1, M: 0}


def test_keda_sleeps_after_its_cooldown_and_wakes_at_its_next_poll() -> None:
    zero = spec(minimum=0)
    policy = QueueHpa(context(zero))
    busy = observed(1, members=(member(running=1),))
    assert policy.sizes(signals(0.0, prefill=busy, decode=busy, cluster_spec=zero))[P] == 1
    idle = {
        now: policy.sizes(signals(float(now), prefill=observed(1), decode=observed(1), cluster_spec=zero))[P]
        for now in range(15, 316, 15)
    }
    # Last active at 0, polled every 30 s: 300 s have passed at 300.
    assert idle[285] == 1
    assert idle[300] == 0
    # A request at 316 is seen by the poll of 330.
    asleep = observed(0, unserved=1)
    assert policy.sizes(signals(316.0, prefill=asleep, decode=asleep, cluster_spec=zero))[P] == 0
    assert policy.sizes(signals(330.0, prefill=asleep, decode=asleep, cluster_spec=zero)) == {
        P: 1,
        D: 1,
        M: 0,
    }


@given(
    st.integers(0, 40),
    st.integers(0, 40),
    st.floats(0, 5, allow_nan=False),
    st.floats(0, 5, allow_nan=False),
)
def test_a_busier_pool_is_never_recommended_smaller(
    serving: int, starting: int, mean: float, more: float
) -> None:
    pool = observed(serving, starting=starting, members=())
    low, high = (
        replicas_for_pod_metric(serving + starting, pool, mean=value, target=0.8)
        for value in (mean, mean + more)
    )
    assert low <= high

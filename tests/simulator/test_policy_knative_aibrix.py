"""Knative's KPA and AIBrix's APA by hand."""

from __future__ import annotations

import pytest
from tests.simulator.policy_builders import D, M, P, context, observed, signals, spec

from inferencecluster.simulator.policies.aibrix import AibrixApa, apa_replicas
from inferencecluster.simulator.policies.knative import KnativeKpa, KnativeScaler


def test_the_stable_window_is_the_mean_of_sixty_seconds() -> None:
    scaler = KnativeScaler(spec().pool(P), target=7.0)
    sizes = [
        scaler.size(observed(1, concurrency=20.0 if step < 15 else 34.0), step * 2.0) for step in range(30)
    ]
    # 20 / 7 = 2.86: 3 replicas wanted with 1 ready is panic, and panic never shrinks.
    assert sizes[0] == 3
    # After 60 s the stable mean is 27 (3.86: 4), but the panic window of 34 wants 4.86: 5.
    assert sizes[-1] == 5


def test_below_the_panic_threshold_only_the_stable_window_counts() -> None:
    scaler = KnativeScaler(spec().pool(P), target=10.0)
    # One ready replica starts outside of panic. 15 / 10 wants 2, which is twice 1: panic. 14 with 2 ready is none.
    sizes = [scaler.size(observed(1, concurrency=9.0), step * 2.0) for step in range(10)]
    assert set(sizes) == {1}
    sizes = [scaler.size(observed(2, concurrency=19.0), 20.0 + step * 2.0) for step in range(3)]
    # Stable mean over 13 samples: (90 + 57) / 13 = 11.3: 2 replicas; panic wants 1.9: 2 < 2 * 2.
    assert sizes[-1] == 2


def test_a_scaler_that_finds_replicas_begins_in_panic_and_leaves_it_after_a_stable_window() -> None:
    scaler = KnativeScaler(spec().pool(P), target=10.0)
    sizes = {step * 2: scaler.size(observed(8, concurrency=5.0), step * 2.0) for step in range(40)}
    assert sizes[60] == 8
    # More than 60 s after it began: stable wants 1, but at most halves what is ready: 8 / 2 = 4.
    assert sizes[62] == 4


def test_zero_takes_a_grace_period_where_the_pool_allows_it() -> None:
    zero = spec(minimum=0)
    scaler = KnativeScaler(zero.pool(P), target=10.0)
    sizes = {step * 2: scaler.size(observed(1), step * 2.0) for step in range(20)}
    assert sizes[28] == 1
    assert sizes[30] == 0
    assert scaler.size(observed(0, concurrency=25.0), 100.0) == 3


def test_the_target_is_seventy_per_cent_of_what_a_replica_holds() -> None:
    # Prefill holds 0.4 / 0.114025 = 3.508 requests within the TTFT target, 70 %: 2.456. Decode holds 50, 70 %: 35.
    look = signals(prefill=observed(1, concurrency=8.0), decode=observed(1, concurrency=71.0))
    # prefill 8 / 2.456 = 3.26: 4; decode 71 / 35 = 2.03: 3
    assert KnativeKpa(context()).sizes(look) == {P: 4, D: 3, M: 0}


@pytest.mark.parametrize(
    ("current", "ratio", "expected"),
    [
        pytest.param(10, 1.1, 10, id="tolerated above"),
        pytest.param(10, 0.9, 10, id="tolerated below"),
        pytest.param(10, 1.25, 13, id="12.5 rounds up"),
        pytest.param(10, 3.0, 20, id="at most doubles"),
        pytest.param(10, 0.72, 8, id="7.2 rounds up"),
        pytest.param(9, 0.1, 4, id="at most halves, rounded down"),
        pytest.param(0, 3.0, 0, id="nothing to multiply"),
    ],
)
def test_apa_follows_the_ratio_within_its_rates(current: int, ratio: float, expected: int) -> None:
    assert apa_replicas(current, ratio) == expected


def test_apa_scales_prefill_by_concurrency_and_decode_by_memory() -> None:
    look = signals(prefill=observed(4, concurrency=14.0), decode=observed(4, share=0.84))
    # prefill 14 / 4 / 3.508 = 0.998 of what fits, over 0.7: ratio 1.425, 5.7: 6; decode 0.84 / 0.7 = 1.2, 4.8: 5
    assert AibrixApa(context()).sizes(look) == {P: 6, D: 5, M: 0}


def test_apa_holds_five_minutes_before_it_shrinks() -> None:
    policy = AibrixApa(context())
    idle = observed(8)
    sizes = {
        step * 10: policy.sizes(signals(step * 10.0, prefill=idle, decode=idle))[P] for step in range(32)
    }
    assert sizes[290] == 8
    assert sizes[300] == 4


def test_an_empty_pool_starts_at_its_minimum() -> None:
    assert AibrixApa(context()).sizes(signals()) == {P: 1, D: 1, M: 0}
    assert KnativeKpa(context()).sizes(signals()) == {P: 1, D: 1, M: 0}

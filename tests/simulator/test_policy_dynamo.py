"""Dynamo's planner by hand: throughput mode, load mode, and the forecasts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.sizing_builders import ROUND_MODEL
from tests.simulator.policy_builders import (
    NO_FLOW,
    D,
    M,
    P,
    context,
    member,
    observed,
    requests,
    signals,
    spec,
)

from inferencecluster.core.observation import Flow
from inferencecluster.core.spec import Slo
from inferencecluster.simulator.policies.dynamo_load import DynamoLoad, estimated_itl, estimated_ttft
from inferencecluster.simulator.policies.dynamo_throughput import DynamoThroughput
from inferencecluster.simulator.policies.predictors import AutoRegressive, LastValue
from inferencecluster.simulator.signals import PoolSignals, ReplicaSignals


def test_throughput_mode_divides_the_forecast_by_what_one_engine_serves() -> None:
    # 180 s with 18,000 requests: 100/s. Prefill 100 * 0.114025 = 11.4: 12; decode 100 / 25 = 4.
    policy = DynamoThroughput(context(), predictor=LastValue)
    assert policy.sizes(signals(flow=requests(18_000, 180.0))) == {P: 12, D: 4, M: 0}


def test_a_prompt_that_misses_its_target_alone_raises_the_floor_of_prefill() -> None:
    # 6000 tokens: 0.01 + 0.6 + 0.36 = 0.97 s, 2.4 times the target: at least 3, although one would carry 0.1/s.
    policy = DynamoThroughput(context(), predictor=LastValue)
    assert policy.sizes(signals(flow=requests(18, 180.0, prompt=6000.0)))[P] == 3


@pytest.mark.parametrize(
    "flow",
    [
        pytest.param(NO_FLOW, id="zero traffic"),
        pytest.param(Flow(180.0, 10.0, 9500.0, 9e6, 0.0, 0.0), id="no answer has ended yet"),
        pytest.param(Flow(0.0, 0.0, 0.0, 0.0, 0.0, 0.0), id="nothing was measured"),
    ],
)
def test_throughput_mode_holds_without_lengths(flow: Flow) -> None:
    assert DynamoThroughput(context()).sizes(signals(flow=flow)) == {M: 0}


def test_estimates_are_those_of_the_performance_model() -> None:
    # 1900 queued and 950 own: one pass, 0.010 + (1e-4 + 1e-8 * 950) * 2850 = 0.322075
    assert estimated_ttft(ROUND_MODEL, 1900, 950) == pytest.approx(0.322075)
    # 10,000 tokens take two passes
    assert estimated_ttft(ROUND_MODEL, 9050, 950) == pytest.approx(0.020 + 1.095)
    # One more beside 49 of 1000: a step over 50 sequences
    assert estimated_itl(ROUND_MODEL, 49, 49_000, 1000) == pytest.approx(0.020)


def prefill(*queued: int) -> PoolSignals:
    return observed(
        len(queued), members=tuple(member(index, queued_tokens=tokens) for index, tokens in enumerate(queued))
    )


def decode(*sequences: int) -> PoolSignals:
    loads: tuple[ReplicaSignals, ...] = tuple(
        member(index, running=count, kv=1000 * count) for index, count in enumerate(sequences)
    )
    return observed(len(sequences), members=loads)


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        # 0.010 + 1.095e-4 * (3000 + 950) = 0.4425 > 0.4
        pytest.param(prefill(3000, 3000), 3, id="all above the target"),
        pytest.param(prefill(3000, 0), 2, id="one is not above, one could not carry more"),
        # Alone 0.114; budget (0.4 - 0.114) * 0.8 = 0.2288. Double queue 2 * 1000 * 1.095e-4 = 0.219 < 0.2288
        pytest.param(prefill(1000, 1000), 1, id="one could carry both queues"),
        # 2 * 1100 * 1.095e-4 = 0.2409
        pytest.param(prefill(1100, 1100), 2, id="one could not carry both queues"),
        pytest.param(prefill(0), 1, id="the last one stays"),
    ],
)
def test_load_mode_moves_prefill_one_step_by_its_queues(pool: PoolSignals, expected: int) -> None:
    assert DynamoLoad(context()).sizes(signals(prefill=pool, decode=decode(20)))[P] == expected


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        # 51 sequences: 0.01 + 51 * 2e-4 = 0.0202
        pytest.param(decode(50, 50), 3, id="all above the target"),
        pytest.param(decode(50, 49), 2, id="one is not above"),
        # 0.8 * 0.020 = 0.016 are 30 sequences; 2 * 14 + 1 = 29
        pytest.param(decode(14, 14), 1, id="one could carry both batches"),
        # 2 * 15 + 1 = 31
        pytest.param(decode(15, 15), 2, id="one could not carry both batches"),
    ],
)
def test_load_mode_moves_decode_one_step_by_its_batches(pool: PoolSignals, expected: int) -> None:
    assert DynamoLoad(context()).sizes(signals(prefill=prefill(0), decode=pool))[D] == expected


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [pytest.param(100_000, 2, id="both would fill it"), pytest.param(99_000, 1, id="both would fit")],
)
def test_decode_does_not_shrink_beyond_the_memory_of_those_that_stay(tokens: int, expected: int) -> None:
    # An ITL target of 0.1 s would allow a step over 201,000 tokens: 0.01 + 3 * 1e-4 + 0.0201 s. Memory is 200,000.
    patient = replace(spec(), slo=Slo(90, ttft_seconds=0.4, itl_seconds=0.1))
    long = observed(2, members=tuple(member(index, running=1, kv=tokens) for index in range(2)))
    look = signals(prefill=prefill(0), decode=long, cluster_spec=patient)
    assert DynamoLoad(context(patient)).sizes(look)[D] == expected


def test_load_mode_waits_for_replicas_on_their_way_and_skips_empty_pools() -> None:
    policy = DynamoLoad(context())
    starting = observed(1, starting=1, members=(member(queued_tokens=9000),))
    assert policy.sizes(signals(prefill=starting, decode=decode(50))) == {M: 0}
    assert policy.sizes(signals()) == {M: 0}


def test_too_few_points_forecast_the_last_one() -> None:
    predictor = AutoRegressive()
    assert predictor.next_value() == 0.0
    for value in (0.0, 0.0, 3.0, 5.0):
        predictor.add(value)
    assert predictor.next_value() == 5.0


def test_leading_zeros_are_not_counted_and_constant_series_stay() -> None:
    predictor = AutoRegressive()
    for value in (0.0, 0.0, 7.0, 7.0, 7.0, 7.0, 7.0):
        predictor.add(value)
    assert predictor.next_value() == 7.0


def test_an_alternating_series_is_recognised() -> None:
    # x[t] - 15 = -(x[t-1] - 15): an autoregression of order 1 with weight -1.
    predictor = AutoRegressive()
    for index in range(20):
        predictor.add(10.0 if index % 2 == 0 else 20.0)
    assert predictor.next_value() == pytest.approx(10.0)


def test_a_steady_climb_goes_on() -> None:
    # Not level (KPSS), so that differences are forecast; they are all 10: no mean, but an autoregression of weight 1.
    predictor = AutoRegressive()
    for index in range(30):
        predictor.add(100.0 + 10.0 * index)
    assert predictor.next_value() == pytest.approx(400.0, rel=1e-6)


def test_the_default_forecast_drives_throughput_mode() -> None:
    policy = DynamoThroughput(context())
    sizes = {}
    for step in range(30):
        sizes = dict(policy.sizes(signals(step * 180.0, flow=requests(1800.0 * (1 + step), 180.0))))
    # The next interval has 1800 * 31 requests: 310/s; decode 310 / 25 = 12.4: 13, prefill 310 * 0.114025 = 35.3: 36.
    assert sizes == {P: 36, D: 13, M: 0}


@given(st.lists(st.floats(0, 1e6, allow_nan=False), max_size=40))
def test_forecasts_are_finite_and_never_negative(values: list[float]) -> None:
    predictor = AutoRegressive()
    for value in values:
        predictor.add(value)
    assert 0.0 <= predictor.next_value() < float("inf")

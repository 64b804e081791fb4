"""HeteroScale, TokenScale and fixed sizes by hand."""

from __future__ import annotations

import pytest
from tests.simulator.policy_builders import NO_FLOW, D, M, P, context, observed, requests, signals

from inferencecluster.core.errors import SpecError
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Flow
from inferencecluster.simulator.policies.heteroscale import HeteroScale
from inferencecluster.simulator.policies.registry import POLICIES, build_policy
from inferencecluster.simulator.policies.static import StaticSizes
from inferencecluster.simulator.policies.tokenscale import TokenScale

# HeteroScale: 80 % of 2500 tokens/s are 2000 per decode replica; prefill per decode 25 * 0.114025 = 2.85.


def test_both_pools_follow_decode_throughput_at_the_fixed_ratio() -> None:
    # 10 s with 100,000 tokens on 4 replicas: R = 10,000 / 8000 = 1.25; decode 5, prefill 14.25: 15
    look = signals(prefill=observed(9), decode=observed(4), decoded_tokens=100_000.0)
    assert HeteroScale(context()).sizes(look) == {P: 15, D: 5, M: 0}


@pytest.mark.parametrize(
    ("tokens", "itl", "expected"),
    [
        pytest.param(880_000.0, Missing("NothingEnded"), None, id="ten per cent more is tolerated"),
        pytest.param(800_000.0, 0.020, None, id="on target"),
        # Moderate: 40 * 1.1 = 44
        pytest.param(800_000.0, 0.021, 44, id="a breach adds ten per cent"),
        # Severe: 40 * 1.2 = 48
        pytest.param(800_000.0, 0.025, 48, id="a severe breach adds twenty"),
        # 40 * 0.5 = 20
        pytest.param(400_000.0, 0.010, 20, id="half the load"),
        pytest.param(400_000.0, 0.021, 44, id="a breach outweighs low throughput"),
        pytest.param(0.0, Missing("NothingEnded"), 1, id="zero traffic"),
    ],
)
def test_thresholds_and_the_latency_safety_net(
    tokens: float, itl: float | Missing, expected: int | None
) -> None:
    look = signals(prefill=observed(9), decode=observed(40), decoded_tokens=tokens, mean_itl_seconds=itl)
    assert HeteroScale(context()).sizes(look).get(D) == expected


def test_cooldowns_are_three_minutes_out_and_ten_minutes_in() -> None:
    policy = HeteroScale(context())

    def decide(now: float, decode: int, tokens: float) -> int | None:
        look = signals(now, prefill=observed(9), decode=observed(decode), decoded_tokens=tokens)
        return policy.sizes(look).get(D)

    assert decide(0.0, 4, 160_000.0) == 8
    assert decide(170.0, 8, 320_000.0) is None
    assert decide(180.0, 8, 320_000.0) == 16
    assert decide(770.0, 16, 160_000.0) is None
    assert decide(780.0, 16, 160_000.0) == 8
    # A step in does not delay the next step out.
    assert decide(790.0, 8, 320_000.0) == 16


def test_an_empty_decode_pool_is_left_alone() -> None:
    assert HeteroScale(context()).sizes(signals(prefill=observed(2))) == {M: 0}


def test_token_velocities_size_both_pools_and_convertible_decoders_are_mixed_replicas() -> None:
    # 100/s: prefill 95,000 / (950 * 8.770) = 11.4: 12; decode 100 / 25 = 4, one of them convertible.
    look = signals(flow=requests(500, 5.0))
    assert TokenScale(context()).sizes(look) == {P: 12, D: 3, M: 1}
    assert TokenScale(context(), convertible=2).sizes(look) == {P: 12, D: 2, M: 2}


def test_a_slow_link_binds_prefill() -> None:
    # 95,000 tokens/s over 5000 tokens/s
    policy = TokenScale(context(), network_tokens_per_second=5000.0)
    assert policy.sizes(signals(flow=requests(500, 5.0)))[P] == 19


def test_a_pool_shrinks_one_boot_after_the_load_left() -> None:
    policy = TokenScale(context())
    policy.sizes(signals(0.0, flow=requests(500, 5.0)))
    assert policy.sizes(signals(120.0, flow=NO_FLOW))[P] == 12
    assert policy.sizes(signals(120.1, flow=NO_FLOW))[P] == 1


def test_nothing_measured_holds_the_base_pools() -> None:
    assert TokenScale(context()).sizes(signals(flow=Flow(0.0, 0.0, 0.0, 0.0, 0.0, 0.0))) == {M: 1}


def test_fixed_sizes_stay() -> None:
    given = POLICIES["static"]
    sized = context()
    with pytest.raises(SpecError, match="static policy holds sizes"):
        StaticSizes(sized)
    fixed = given(type(sized)(sized.spec, 120.0, 950.0, 100.0, static_sizes={P: 3, D: 2, M: 0}))
    assert fixed.sizes(signals()) == {P: 3, D: 2, M: 0}


def test_every_policy_is_built_by_its_name_and_answers_an_empty_cluster() -> None:
    for name in POLICIES:
        base = context()
        policy = build_policy(name, type(base)(base.spec, 120.0, 950.0, 100.0, static_sizes={P: 1}))
        assert policy.name == name
        assert policy.interval_seconds > 0
        assert all(size >= 0 for size in policy.sizes(signals()).values())


def test_an_unknown_policy_is_refused_with_the_known_names() -> None:
    with pytest.raises(SpecError, match="hpa-queue"):
        build_policy("hpa", context())

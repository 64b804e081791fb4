"""llm-d's WVA in saturation mode by hand, percentages and tokens."""

from __future__ import annotations

import pytest
from tests.simulator.policy_builders import D, M, P, context, member, observed, requests, signals

from inferencecluster.simulator.policies.wva import WvaSaturation, WvaTokens, saturation_step
from inferencecluster.simulator.signals import ReplicaSignals


def members(*loads: tuple[int, int]) -> tuple[ReplicaSignals, ...]:
    """KV per cent and waiting requests of each replica, of 200,000 tokens."""
    return tuple(member(index, kv=2000 * kv, waiting=queue) for index, (kv, queue) in enumerate(loads))


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        # Spare KV 0.80 - 0.75 = 0.05 < 0.10
        pytest.param(((75, 0), (75, 0)), 1, id="memory is short"),
        # Spare places 5 - 3 = 2 < 3
        pytest.param(((10, 3), (10, 3)), 1, id="queue is short"),
        pytest.param(((90, 0), (10, 5)), 1, id="everyone is saturated"),
        # The saturated one does not count: spare 0.70 and 5
        pytest.param(((90, 0), (10, 0)), 0, id="one left cannot shrink"),
        # Load 0.40 each; on one: 0.80, spare 0 < 0.10
        pytest.param(((40, 0), (40, 0)), 0, id="one replica fewer would not spare enough"),
        # Load 0.30 each; on one: 0.60, spare 0.20
        pytest.param(((30, 0), (30, 0)), -1, id="one replica fewer spares enough"),
        # Queue load 1 each on three; on two: 1.5, spare 3.5 >= 3; KV 0.30 * 1.5 = 0.45, spare 0.35
        pytest.param(((30, 1), (30, 1), (30, 1)), -1, id="queues move, too"),
        # Queue load 2 each on three; on two: 3, spare 2 < 3
        pytest.param(((30, 2), (30, 2), (30, 2)), 0, id="queues would be too long"),
        pytest.param(((0, 0),), 0, id="zero traffic keeps one"),
    ],
)
def test_saturation_moves_one_replica_by_what_is_spare(
    loads: tuple[tuple[int, int], ...], expected: int
) -> None:
    assert saturation_step(members(*loads)) == expected


def test_nothing_moves_while_a_replica_is_on_its_way() -> None:
    full = observed(2, members=members((75, 0), (75, 0)))
    look = signals(prefill=full, decode=observed(2, starting=1))
    assert WvaSaturation(context()).sizes(look) == {M: 0}


def test_prefill_and_decode_are_judged_apart() -> None:
    look = signals(
        prefill=observed(2, members=members((5, 0), (5, 0))),
        decode=observed(2, members=members((75, 0), (75, 0))),
    )
    assert WvaSaturation(context()).sizes(look) == {P: 1, D: 3, M: 0}


def test_an_empty_pool_keeps_its_size() -> None:
    assert WvaSaturation(context()).sizes(signals()) == {M: 0}
    assert WvaTokens(context()).sizes(signals()) == {M: 0}


def test_tokens_grow_to_eighty_five_per_cent_of_capacity() -> None:
    # A replica holds min(0.8 * 200,000, min(8192 * 100 / 1050, 256) * 1000) = 160,000 tokens.
    # Decode: 2 * 150,000 in use and 4 waiting of 1050: 304,200 / 0.85 - 320,000 = 37,882: 0.24, one replica more.
    # Prefill, nearly idle, does not shrink beside it.
    look = signals(
        prefill=observed(4, members=members((0, 0), (0, 0), (0, 0), (0, 0))),
        decode=observed(2, members=(member(0, kv=150_000, waiting=4), member(1, kv=150_000))),
        flow=requests(100, 60.0),
    )
    assert WvaTokens(context()).sizes(look) == {D: 3, M: 0}


def test_tokens_shrink_to_seventy_per_cent_of_capacity() -> None:
    # Decode: 4 * 50,000 / 0.70 = 285,714 of 640,000: 354,286 spare, 2 replicas. Prefill: all spare, one stays.
    busy = tuple(member(index, kv=50_000) for index in range(4))
    look = signals(prefill=observed(3), decode=observed(4, members=busy), flow=requests(100, 60.0))
    assert WvaTokens(context()).sizes(look) == {P: 1, D: 2, M: 0}


def test_what_was_in_use_when_requests_queued_is_the_capacity_from_then_on() -> None:
    policy = WvaTokens(context())
    queueing = observed(1, members=(member(kv=100_000, waiting=6),))
    # Capacity 100,000, demand 106,300: 125,059 - 100,000 = 0.25 replicas more.
    assert policy.sizes(signals(decode=queueing, flow=requests(100, 60.0)))[D] == 2
    # 2 * 80,000 in use: 160,000 / 0.85 = 188,235 < 200,000: enough, and 228,571 / 0.7 leaves nothing to shrink.
    calm = observed(2, members=(member(0, kv=80_000), member(1, kv=80_000)))
    assert D not in policy.sizes(signals(60.0, decode=calm, flow=requests(100, 60.0)))


def test_a_queueing_engine_is_as_full_as_its_iterations() -> None:
    # Of 8192 tokens, although the router sent it 2000. 20 prompts wait: (2000 + 19,000) / 0.85 = 24,706: 2.02 more.
    look = signals(
        prefill=observed(1, members=(member(kv=2000, waiting=20),)),
        decode=observed(1),
        flow=requests(100, 60.0),
    )
    assert WvaTokens(context()).sizes(look) == {P: 4, M: 0}


def test_what_waits_for_a_pool_without_replicas_is_its_demand() -> None:
    policy = WvaTokens(context())
    policy.sizes(signals(prefill=observed(1), decode=observed(1), flow=requests(100, 60.0)))
    # 400 * 1050 / 0.85 = 494,118 of 160,000 each: 3.09
    asleep = signals(60.0, prefill=observed(1), decode=observed(0, unserved=400), flow=requests(100, 60.0))
    assert policy.sizes(asleep) == {D: 4, M: 0}

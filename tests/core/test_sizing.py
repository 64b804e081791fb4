"""Hand-computed sizes. With the round model one prompt of 1000 tokens takes 120 ms, and 50 sequences of 1050 tokens
(prompt plus half of 100 output tokens) decode in 10 + 50 * 0.205 ms, so that a replica carries 48.78 of them in 20 ms.

The SLO lets a tenth of the requests miss, half of it by queues: ln(1 / 0.05) = 2.996, the normal quantile is 1.645, and its
correction for skewness (1.645**2 - 1) / 6 = 0.28. The TTFT target leaves 280 ms beside 120 ms of prefill: few wait long with
2.996 * 120 / 280 = 1.28 replicas of room; few wait at all with 0.78 + 1.645 * sqrt(busy), which is less below 0.09 busy.
"""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.sizing_builders import (
    MISSING,
    QUIET,
    ROUND_MODEL,
    arrivals,
    cluster,
    demand,
    fleet,
    pool,
    waiting,
)

from inferencecluster.core.demand import Demand
from inferencecluster.core.fleet import Lifecycle, PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.needs import miss_share, queue_room, surge
from inferencecluster.core.observation import PoolUtilization, QueueState
from inferencecluster.core.perfmodel import DecodeModel, PrefillModel
from inferencecluster.core.sizing import Wanted, size_pools
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.planner.queueing import erlang_c

OFF = cluster(prefill=pool(PoolName.PREFILL, maximum=0), decode=pool(PoolName.DECODE, maximum=0))
BATCH = (0.020 - 0.010) / (1e-4 + 1e-7 * 1050)


def sizes(spec: ClusterSpec, seen: Demand, replicas: object = ()) -> tuple[int, int, int]:
    prefill, decode, mixed = size_pools(spec, seen, replicas)  # type: ignore[arg-type]  # () or a fleet
    return prefill.replicas, decode.replicas, mixed.replicas


# --- prefill ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "length", "wanted"),
    [
        pytest.param(0.01, 1000, 1, id="the least demand wants one"),
        pytest.param(0.1, 1000, 1, id="0.012 busy + 0.78 + 1.645 * 0.11 = 0.98"),
        pytest.param(1, 1000, 2, id="0.12 busy + 1.28 of room"),
        pytest.param(22, 1000, 4, id="2.64 busy + 1.28 of room = 3.92"),
        pytest.param(23, 1000, 5, id="2.76 busy + 1.28 of room = 4.04"),
        pytest.param(10, 2500, 7, id="3.225 busy, 78 ms to wait: 0.78 + 1.645 * 1.80 = 3.74"),
        pytest.param(1, 10_000, 6, id="2.01 busy, longer than the target: 0.78 + 1.645 * 1.42 = 3.12"),
        pytest.param(0, 1000, 0, id="nothing"),
    ],
)
def test_prefill_is_sized_by_the_work_of_arriving_prompts(rate: float, length: float, wanted: int) -> None:
    prefill, _, _ = size_pools(cluster(), demand(rate, length=length), ())
    assert prefill.replicas == wanted
    assert prefill.reason == ("PrefillWork" if wanted else "NoDemand")


def test_a_mix_of_lengths_is_sized_by_its_moments() -> None:
    # 10/s of 100 tokens and 1/s of 20,000: 11 * 0.010 + 21,000 * 1e-4 + 400,100,000 * 1e-8 = 6.211 busy
    seen = demand(11)
    moments = replace(arrivals(0), requests=11.0, tokens=21_000.0, tokens_squared=400_100_000.0)
    seen = replace(seen, arrivals=moments, planned=moments)
    prefill, _, _ = size_pools(cluster(), seen, ())
    assert prefill.replicas == 8  # 7.49 with room
    assert prefill.need == pytest.approx(7.495, abs=0.001)
    assert dict(prefill.inputs)["busyReplicas"] == pytest.approx(6.211)


def test_capacity_is_ready_for_what_is_planned() -> None:
    # 4.8 busy + 1.28
    assert sizes(cluster(), demand(20, planned=40))[:2] == (7, sizes(cluster(), demand(40))[1])


def test_what_earlier_plans_lacked_is_added_to_both_phases() -> None:
    # 30 requests/s of 1000 tokens are 3.6 busy + 1.28, 180/s of them 360 sequences + 0.28 + 1.645 * 18.97 = 391.5 / 48.78 = 8.03
    assert sizes(cluster(), replace(demand(20), headroom=arrivals(10)))[0] == 5
    assert sizes(cluster(), replace(demand(100), headroom=arrivals(80)))[1] == 9


LONG_QUEUE = waiting(head_age_seconds=9.0, held_tokens=900_000)


@pytest.mark.parametrize(
    ("seen", "wanted", "at_once"),
    [
        pytest.param(demand(20), 4, 4, id="nothing but what arrives"),
        pytest.param(demand(20, planned=100), 14, 4, id="a peak that is over is only planned"),
        pytest.param(replace(demand(20), headroom=arrivals(10)), 5, 4, id="a reserve is for later"),
        # 2.4 busy, and 7.2 for what waits
        pytest.param(demand(20, planned=100, queue=LONG_QUEUE), 20, 10, id="what waits counts like arrivals"),
        pytest.param(demand(0, planned=100), 14, 0, id="nothing arrives any more"),
    ],
)
def test_where_replicas_join_in_seconds_sizing_tells_what_is_needed_at_once(
    seen: Demand, wanted: int, at_once: int
) -> None:
    alone, spec = size_pools(cluster(), seen, ()), cluster()
    assert {item.at_once for item in alone} == {None}
    pools = tuple(replace(item, interchangeable=item.name is PoolName.PREFILL) for item in spec.pools)
    prefill, *others = size_pools(replace(spec, pools=(pools[0], pools[1], pools[2])), seen, ())
    assert (prefill.replicas, prefill.at_once) == (wanted, at_once)
    assert replace(prefill, at_once=None) == alone[0]
    assert others == list(alone[1:])


@pytest.mark.parametrize(
    ("age", "tokens", "wanted"),
    [
        pytest.param(0.1, 900_000, 4, id="a young queue is the usual wait"),
        pytest.param(0.2, 0, 4, id="an old head with nothing behind it"),
        # 225 prompts of 1000 tokens are 27 replica-seconds, 1.8 replicas for 15 s, beside 2.4 busy
        pytest.param(0.2, 225_000, 5, id="half of the target: the backlog counts"),
        pytest.param(9.0, 900_000, 10, id="108 replica-seconds in 15 s are 7.2 more"),
    ],
)
def test_the_age_of_the_queue_decides_whether_its_depth_counts(age: float, tokens: int, wanted: int) -> None:
    queue = waiting(
        head_age_seconds=age, held_tokens=tokens // 3, pending_prefill_tokens=tokens - tokens // 3
    )
    prefill, _, _ = size_pools(cluster(), demand(20, queue=queue), ())
    assert prefill.replicas == wanted
    assert (prefill.reason == "QueueAge") is (wanted > 4)


def test_a_request_that_waits_at_zero_replicas_wakes_both_phases() -> None:
    queue = waiting(held_requests=1, held_tokens=1000, head_age_seconds=1.0)
    assert sizes(cluster(), demand(0, queue=queue))[:2] == (1, 1)


def test_a_missing_queue_leaves_the_flow() -> None:
    assert sizes(cluster(), demand(20, queue=MISSING))[0] == 4


# --- decode ----------------------------------------------------------------------------------------------------------


def test_decode_is_sized_by_concurrency_at_the_itl() -> None:
    # 100/s * 100 tokens * 20 ms = 200 sequences, at times 0.28 + 1.645 * sqrt(200) = 23.5 more; 223.5 / 48.78 = 4.58
    _, decode, _ = size_pools(cluster(), demand(100), ())
    assert decode.replicas == 5
    assert decode.reason == "DecodeConcurrency"
    assert decode.need == pytest.approx(4.583, abs=0.001)
    shown = dict(decode.inputs)
    assert shown["sequences"] == pytest.approx(200.0)
    assert shown["sequencesPerReplica"] == pytest.approx(BATCH)


@pytest.mark.parametrize(
    ("queue", "wanted", "reason"),
    [
        pytest.param(QUIET, 1, "DecodeConcurrency", id="few residents never lower it"),
        pytest.param(waiting(decoding_sequences=100), 3, "SequencesInFlight", id="100 sequences / 48.8"),
        pytest.param(
            waiting(decoding_sequences=60, held_requests=40),
            3,
            "SequencesInFlight",
            id="held ones decode soon",
        ),
        pytest.param(
            waiting(resident_kv_tokens=550_000), 4, "KvResident", id="550,000 / 200,000 / 0.9 = 3.06"
        ),
    ],
)
def test_residents_raise_decode(queue: object, wanted: int, reason: str) -> None:
    seen = replace(demand(10), queue=queue)  # type: ignore[arg-type]  # a QueueState
    _, decode, _ = size_pools(cluster(), seen, ())
    assert (decode.replicas, decode.reason) == (wanted, reason)


def test_an_itl_that_no_replica_keeps_gives_one_sequence_each_at_the_pace_it_can() -> None:
    slow = replace(ROUND_MODEL, decode=DecodeModel(0.1, 1e-4, 0.0))
    spec = cluster(decode=replace(pool(PoolName.DECODE), performance=slow))
    # 2/s * 100 * 100.1 ms = 20.02 sequences and 0.28 + 1.645 * 4.47 more at times, one each
    assert sizes(spec, demand(2))[1] == 28


def test_an_engine_without_kv_room_still_gives_a_finite_size() -> None:
    full = replace(ROUND_MODEL, kv_capacity_tokens=0)
    spec = cluster(decode=replace(pool(PoolName.DECODE), performance=full))
    # A step over one is 10.205 ms: 2.04 sequences and 0.28 + 1.645 * 1.43 more at times, one each
    assert sizes(spec, demand(2))[1] == 5


def test_batches_that_memory_keeps_small_decode_faster_than_the_itl() -> None:
    small = replace(ROUND_MODEL, kv_capacity_tokens=10_500)
    spec = cluster(decode=replace(pool(PoolName.DECODE), performance=small))
    # 10 sequences take 12.05 ms: 100/s * 100 * 12.05 ms = 120.5 and 0.28 + 1.645 * 10.98 more at times = 138.8, ten each
    assert sizes(spec, demand(100))[1] == 14


def test_answers_without_a_token_do_not_end_the_decode_pool() -> None:
    assert sizes(cluster(), demand(100, output=0.0))[1] == 1


# --- safety net ------------------------------------------------------------------------------------------------------


LATE = replace(QUIET, head_age_seconds=1.0)
"""A prompt that waits too long, with nothing behind it."""


@pytest.mark.parametrize(
    ("queue", "wanted"),
    [
        pytest.param(LATE, 12, id="prompts are late"),
        pytest.param(QUIET, 9, id="the window tells of a queue that is gone"),
        pytest.param(MISSING, 12, id="the routers do not answer"),
    ],
)
def test_a_latency_of_the_past_adds_no_replicas(queue: QueueState | Missing, wanted: int) -> None:
    seen = replace(demand(60, queue=queue), ttft_seconds=0.5)
    assert sizes(cluster(), seen, fleet(prefill=10))[0] == wanted


@pytest.mark.parametrize(
    ("ttft", "count", "wanted"),
    [
        pytest.param(0.4, 10, 9, id="at the target"),
        pytest.param(0.41, 10, 11, id="above: a tenth more"),
        pytest.param(0.48, 10, 12, id="far above: a fifth more"),
        pytest.param(0.80, 12, 13, id="at most half more than the model wants"),
        pytest.param(0.80, 30, 13, id="the net never keeps a size beyond its reach"),
        pytest.param(MISSING, 10, 9, id="unknown"),
    ],
)
def test_a_latency_above_its_target_adds_replicas(ttft: float | Missing, count: int, wanted: int) -> None:
    # 60/s are 7.2 busy, 8.48 wanted by the model, 12.7 the reach of the net
    seen = replace(demand(60, queue=LATE), ttft_seconds=ttft)
    prefill, _, _ = size_pools(cluster(), seen, fleet(prefill=count))
    assert prefill.replicas == wanted
    assert (prefill.reason == "TtftAboveTarget") is (wanted > 9)


@pytest.mark.parametrize(
    "ready_at",
    [
        pytest.param(9_990.0, id="served less than the metrics' window"),
        pytest.param(None, id="still starting"),
    ],
)
def test_the_net_waits_until_its_last_step_shows(ready_at: float | None) -> None:
    starting = Lifecycle.READY if ready_at else Lifecycle.STARTING
    replicas = (*fleet(prefill=9), *fleet(prefill=2, lifecycle=starting, ready_at=ready_at))
    assert sizes(cluster(), replace(demand(60, queue=LATE), ttft_seconds=0.5), replicas)[0] == 11


def test_prompts_that_alone_exceed_the_target_do_not_raise_the_net() -> None:
    seen = replace(demand(2, length=4000, queue=LATE), ttft_seconds=5.0)  # 0.57 s alone
    # 1.14 busy + 0.78 + 1.645 * 1.07 = 3.68; a fifth more than five would be six
    assert sizes(cluster(), seen, fleet(prefill=5))[0] == 4


def test_an_itl_above_its_target_adds_decode_replicas() -> None:
    seen = replace(demand(100), itl_seconds=0.021)
    _, decode, _ = size_pools(cluster(), seen, fleet(decode=5))
    assert (decode.replicas, decode.reason) == (6, "ItlAboveTarget")


# --- utilisation -----------------------------------------------------------------------------------------------------


def busy(pool_name: PoolName, tensor: float, dram: float) -> dict[PoolName, PoolUtilization]:
    return {pool_name: PoolUtilization(tensor, dram)}


@pytest.mark.parametrize(
    ("share", "count", "wanted"),
    [
        pytest.param(0.70, 4, 3, id="0.70 * 4/3 = 0.93: one may go"),
        pytest.param(0.72, 4, 4, id="0.72 * 4/3 = 0.96: none may go"),
        pytest.param(0.50, 10, 6, id="0.50 * 10/0.95 = 5.3"),
        pytest.param(1.00, 4, 4, id="never more than serve"),
        pytest.param(1.00, 1, 1, id="one replica is not judged"),
    ],
)
def test_prefill_keeps_what_the_remaining_replicas_could_not_carry(
    share: float, count: int, wanted: int
) -> None:
    seen = demand(0.1, utilization=busy(PoolName.PREFILL, share, 0.1))
    prefill, _, _ = size_pools(cluster(), seen, fleet(prefill=count))
    assert prefill.replicas == wanted
    assert dict(prefill.inputs)["busyShare"] == share


def test_a_busy_memory_bus_does_not_keep_decode_large() -> None:
    # Two replicas with one short sequence each read weights all the time, and one alone with both would, too.
    idle = waiting(decoding_sequences=2, resident_kv_tokens=1000)
    seen = demand(1, queue=idle, utilization=busy(PoolName.DECODE, 0.1, 1.0))
    _, decode, _ = size_pools(cluster(), seen, fleet(decode=2))
    assert decode.replicas == 1
    assert dict(decode.inputs)["busyShare"] == 1.0


def test_utilisation_never_keeps_an_idle_cluster_awake() -> None:
    lag = {name: PoolUtilization(0.5, 0.5) for name in PoolName}
    assert sizes(cluster(), demand(0, utilization=lag), fleet(prefill=2, decode=2)) == (0, 0, 0)


# --- mixed -----------------------------------------------------------------------------------------------------------


def test_steady_demand_wants_no_mixed_replica() -> None:
    _, _, mixed = size_pools(cluster(), demand(100), ())
    assert (mixed.replicas, mixed.reason) == (0, "NoBurst")


def test_the_surge_grows_with_burstiness_and_with_the_bins_of_a_boot() -> None:
    bursty = replace(demand(100), burstiness=0.5)
    assert surge(bursty) == pytest.approx(0.5 * 2.0963, rel=1e-3)  # sqrt(2 ln 9)
    assert surge(replace(bursty, boot_seconds=0.0)) == 0.0
    assert surge(replace(bursty, boot_seconds=600.0)) > surge(bursty)


def test_mixed_carries_what_a_burst_exceeds_in_both_phases() -> None:
    # surge 1.048: 12 busy * 2.048 - 14 = 10.58; 200 sequences * 2.048 - 5 * 48.78 = 165.7 / 48.78 = 3.40
    seen = replace(demand(100), burstiness=0.5)
    _, _, mixed = size_pools(cluster(), seen, ())
    assert (mixed.replicas, mixed.reason) == (14, "Burst")
    assert mixed.need == pytest.approx(
        13.475, abs=0.001
    )  # half a replica less: rounded up, it is rounded to the nearest
    shown = dict(mixed.inputs)
    assert shown["excessPrefillReplicas"] == pytest.approx(10.58, abs=0.01)
    assert shown["excessSequences"] == pytest.approx(165.7, abs=0.1)


@pytest.mark.parametrize(
    "ready_for",
    [
        pytest.param(demand(100, planned=200), id="a plan"),
        pytest.param(replace(demand(100), headroom=arrivals(100)), id="headroom"),
    ],
)
def test_a_burst_is_on_top_of_what_arrives_now_and_not_of_what_base_pools_are_ready_for(
    ready_for: Demand,
) -> None:
    # Ready for 200/s: 25 or 26 prefill for 12 * 2.048 = 24.6 busy, 9 * 48.78 = 439 sequences for 200 * 2.048 = 410
    assert sizes(cluster(), replace(ready_for, burstiness=0.5))[1:] == (9, 0)


def test_prompts_of_a_burst_take_longer_on_slower_mixed_replicas() -> None:
    slow = replace(ROUND_MODEL, prefill=PrefillModel(0.020, 2e-4, 2e-8))
    spec = cluster(mixed=replace(pool(PoolName.MIXED), performance=slow))
    assert sizes(spec, replace(demand(100), burstiness=0.5))[2] == 25  # 2 * 10.58 + 3.40 = 24.55


@pytest.mark.parametrize(
    ("whole", "wanted"),
    [
        pytest.param(24, 0, id="less than half a replica is borrowed"),
        pytest.param(25, 1, id="half a replica"),
        pytest.param(100, 2, id="two replicas"),
    ],
)
def test_mixed_carries_the_whole_requests_in_flight(whole: int, wanted: int) -> None:
    _, _, mixed = size_pools(cluster(), demand(0, queue=waiting(mixed_requests=whole)), ())
    assert mixed.replicas == wanted
    assert mixed.reason == ("MixedInFlight" if wanted else "NoBurst")


def test_mixed_is_sized_for_bursts_when_the_queue_is_unknown() -> None:
    assert sizes(cluster(), replace(demand(100, queue=MISSING), burstiness=0.5))[2] == 14


def test_without_base_pools_mixed_carries_both_phases() -> None:
    prefill, decode, mixed = size_pools(OFF, demand(100), ())
    assert (prefill.replicas, prefill.reason) == (0, "PoolOff")
    assert (decode.replicas, decode.reason) == (0, "PoolOff")
    # 12 + 1.28 for prompts, 223.5 sequences of 0.205 ms in each 20 ms: 15.57. Of an iteration of 288 tokens, 0.182 ms each, prompts
    # have 52.4 of 62.4 ms: 18.54
    assert (mixed.replicas, mixed.reason) == (19, "WholeRequests")
    assert mixed.need == pytest.approx(18.54, abs=0.01)


def test_without_base_pools_and_demand_mixed_wants_nothing() -> None:
    assert sizes(OFF, demand(0)) == (0, 0, 0)
    assert sizes(OFF, demand(0, queue=MISSING)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("tensor", "dram", "wanted"),
    [
        pytest.param(0.72, 0.2, (4, "Utilization"), id="0.72 * 4/0.95 = 3.03"),
        # 0.12 busy + 1.28 for prompts, (2 + 2.6) / 48.78 for tokens
        pytest.param(0.2, 1.0, (2, "WholeRequests"), id="a busy memory bus says nothing"),
    ],
)
def test_without_base_pools_busy_tensor_pipes_keep_mixed_large(
    tensor: float, dram: float, wanted: tuple[int, str]
) -> None:
    seen = demand(1, queue=MISSING, utilization=busy(PoolName.MIXED, tensor, dram))
    _, _, mixed = size_pools(OFF, seen, fleet(mixed=4))
    assert (mixed.replicas, mixed.reason) == wanted


# --- the promise -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("percentile", "share"),
    [
        pytest.param(50, 0.25, id="half of half"),
        pytest.param(90, 0.05, id="half of a tenth"),
        pytest.param(99, 0.005, id="half of a hundredth"),
        pytest.param(100, 0.0005, id="no size keeps every request: half of a thousandth"),
    ],
)
def test_queues_may_use_up_half_of_the_misses_that_the_slo_allows(percentile: int, share: float) -> None:
    assert miss_share(promising(percentile)) == pytest.approx(share)


def promising(percentile: int) -> ClusterSpec:
    spec = cluster()
    return replace(spec, slo=replace(spec.slo, percentile=percentile))


@pytest.mark.parametrize(
    ("percentile", "wanted"),
    [
        # 12 busy; ln(1 / 0.25) * 120 / 280 = 0.59 and -0.1 + 0.67 * sqrt(200) = 9.4 sequences
        pytest.param(50, (13, 5), id="p50"),
        # ln(1 / 0.005) * 120 / 280 = 2.27 and 0.9 + 2.58 * sqrt(200) = 37.4 sequences
        pytest.param(99, (15, 5), id="p99"),
        # ln(1 / 0.0005) * 120 / 280 = 3.26 and 1.6 + 3.29 * sqrt(200) = 48.2 sequences
        pytest.param(100, (16, 6), id="p100"),
    ],
)
def test_a_tighter_percentile_wants_more_room(percentile: int, wanted: tuple[int, int]) -> None:
    assert sizes(promising(percentile), demand(100))[:2] == wanted


# --- invariants ------------------------------------------------------------------------------------------------------

QUEUES = st.one_of(
    st.just(MISSING),
    st.builds(
        lambda held, age, pending, decoding, kv, mixed: waiting(
            held_requests=held,
            held_tokens=held * 900,
            head_age_seconds=age,
            pending_prefill_tokens=pending,
            decoding_sequences=decoding,
            resident_kv_tokens=kv,
            mixed_requests=mixed,
        ),
        st.integers(0, 500),
        st.floats(0, 60),
        st.integers(0, 10**6),
        st.integers(0, 5000),
        st.integers(0, 10**7),
        st.integers(0, 500),
    ),
)
SHARES = st.floats(0, 1)
DEMANDS = st.builds(
    lambda rate, length, output, growth, queue, latency, shares: replace(
        demand(rate, length=length, output=output, planned=rate * growth, queue=queue),
        headroom=arrivals(rate * (growth - 1), length),
        burstiness=growth - 1,
        ttft_seconds=latency * 0.4,
        itl_seconds=latency * 0.020,
        utilization={name: PoolUtilization(*shares) for name in PoolName},
    ),
    st.floats(0, 500),
    st.floats(1, 30_000),
    st.floats(0, 2000),
    st.floats(1, 2),
    QUEUES,
    st.floats(0, 3),
    st.tuples(SHARES, SHARES),
)
FLEETS = st.builds(
    fleet,
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(0, 20),
    ready_at=st.sampled_from([0.0, 9_990.0]),
)


@given(DEMANDS, FLEETS, st.booleans())
def test_equal_inputs_give_equal_sizes_and_none_is_negative(
    seen: Demand, replicas: object, alone: bool
) -> None:
    spec = OFF if alone else cluster()
    wanted: tuple[Wanted, ...] = size_pools(spec, seen, replicas)  # type: ignore[arg-type]  # a fleet
    assert wanted == size_pools(spec, seen, replicas)  # type: ignore[arg-type]  # a fleet
    assert [item.pool for item in wanted] == list(PoolName)
    assert all(item.replicas >= 0 for item in wanted)
    assert all(item.reason.isalpha() and item.message for item in wanted)


@given(DEMANDS, FLEETS, st.floats(1, 5), st.booleans())
def test_more_requests_never_lower_the_size_of_any_phase(
    seen: Demand, replicas: object, factor: float, alone: bool
) -> None:
    spec = OFF if alone else cluster()
    more = replace(
        seen,
        arrivals=seen.arrivals.scaled(factor, factor),
        planned=seen.planned.scaled(factor, factor),
        headroom=seen.headroom.scaled(factor, factor),
    )
    before, after = sizes(spec, seen, replicas), sizes(spec, more, replicas)
    # One more decode replica can lend what a prefill replica held in reserve.
    assert after[0] + after[1] >= before[0] + before[1]
    assert after[1] >= before[1]
    if alone:
        assert after[2] >= before[2]


@given(DEMANDS, FLEETS, st.floats(0, 500))
def test_more_headroom_never_lowers_the_size_of_a_base_pool(
    seen: Demand, replicas: object, more: float
) -> None:
    larger = replace(seen, headroom=seen.headroom.plus(arrivals(more, seen.prompt_tokens)))
    before, after = sizes(cluster(), seen, replicas), sizes(cluster(), larger, replicas)
    assert after[0] + after[1] >= before[0] + before[1]
    assert after[1] >= before[1]


@given(DEMANDS, FLEETS, st.integers(0, 100), st.integers(0, 100), st.booleans())
def test_a_tighter_percentile_never_lowers_the_size_of_any_phase(
    seen: Demand, replicas: object, one: int, other: int, alone: bool
) -> None:
    spec = OFF if alone else cluster()
    loose, tight = (
        replace(spec, slo=replace(spec.slo, percentile=percentile)) for percentile in sorted((one, other))
    )
    before, after = sizes(loose, seen, replicas), sizes(tight, seen, replicas)
    assert after[0] + after[1] >= before[0] + before[1]
    assert after[1] >= before[1]
    if alone:
        assert after[2] >= before[2]


@given(st.floats(0.001, 200), st.floats(1, 10_000), st.integers(80, 99))
def test_the_room_for_queues_is_enough_by_the_exact_formula(
    occupied: float, length: float, percentile: int
) -> None:
    """Erlang C and the exponential tail of M/M/n; the approximations that the room rests on err by less than a third."""
    spec = promising(percentile)
    alone = ROUND_MODEL.prefill.seconds(length)
    replicas = math.ceil(occupied + queue_room(spec, demand(1, length=length), ROUND_MODEL, occupied))
    waits = max(0.0, spec.slo.ttft_seconds - alone)
    late = erlang_c(replicas, occupied) * math.exp(-(replicas - occupied) * waits / alone)
    assert late <= 1.33 * miss_share(spec)


@given(DEMANDS, FLEETS, st.integers(0, 10**6), st.integers(0, 1000))
def test_more_waiting_work_never_lowers_any_phase(
    seen: Demand, replicas: object, tokens: int, sequences: int
) -> None:
    queue = seen.queue
    if isinstance(queue, Missing):
        queue = QUIET
        seen = replace(seen, queue=queue)
    more = replace(
        queue,
        held_tokens=queue.held_tokens + tokens,
        decoding_sequences=queue.decoding_sequences + sequences,
        resident_kv_tokens=queue.resident_kv_tokens + tokens,
    )
    before, after = sizes(cluster(), seen, replicas), sizes(cluster(), replace(seen, queue=more), replicas)
    assert after[0] + after[1] >= before[0] + before[1]
    assert after[1] >= before[1]

"""The hindsight oracle by hand, and against brute force."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.sizing_builders import cluster
from tests.simulator.policy_builders import D, M, P, signals, spec

from inferencecluster.core.perfmodel import DecodeModel, PerformanceModel, PrefillModel
from inferencecluster.core.spec import ClusterSpec, PoolSpec, Slo
from inferencecluster.simulator.policies.context import PolicyContext
from inferencecluster.simulator.policies.deferral import Deferrable
from inferencecluster.simulator.policies.hindsight import Hindsight, least_serving_sizes
from inferencecluster.simulator.policies.levels import Levels
from inferencecluster.simulator.policies.oracle import oracle_gpu_seconds
from inferencecluster.simulator.policies.schedule import Schedule, Span
from inferencecluster.simulator.workload import Request

# Prompts of 1000 tokens take 1 s. A step over B sequences takes 10 ms + B * 1 ms whatever their context: with an ITL
# target of 20 ms at most 10 sequences, 500 tokens/s.
SIMPLE = PerformanceModel(
    PrefillModel(0.0, 1e-3, 0.0), DecodeModel(0.010, 1e-3, 0.0), kv_capacity_tokens=10**9, max_batch_size=256
)
Piece = tuple[float, float, float]
"""Release, due, seconds."""


def simple(*, ttft: float = 1.0, itl: float = 0.020, gpus: int = 1, minimum: int = 0) -> ClusterSpec:
    pools = {name: PoolSpec(name, minimum, 100, gpus, SIMPLE) for name in (P, D)}
    return replace(
        cluster(prefill=pools[P], decode=pools[D], mixed=PoolSpec(M, 0, 100, gpus, SIMPLE)),
        slo=Slo(90, ttft_seconds=ttft, itl_seconds=itl),
    )


def least(pieces: Sequence[Piece], *, interval: float = 10.0) -> tuple[int, ...]:
    work = Deferrable(interval)
    for piece in sorted(pieces):
        work.add_inside(*piece)
    return work.least_sizes()


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        pytest.param([], (), id="no work"),
        # 12 s of work within 10 s
        pytest.param([(0.0, 10.0, 12.0)], (2,), id="more than one replica's time"),
        # 4 s within [2, 4]: two replicas, although the interval has time for it
        pytest.param([(2.0, 4.0, 4.0)], (2,), id="a burst inside an interval"),
        # Either one of the two intervals has room
        pytest.param([(5.0, 15.0, 5.0)], (0, 1), id="work that may wait is counted once, late"),
        # 18 s in [0, 20] and nothing to say where: two intervals of one
        pytest.param([(0.0, 20.0, 18.0)], (0, 2), id="one sum over both intervals"),
        pytest.param([(0.0, 10.0, 9.0), (9.0, 12.0, 3.0)], (1, 1), id="what crosses a boundary comes later"),
        pytest.param([(25.0, 26.0, 0.5)], (0, 0, 1), id="intervals without work are empty"),
    ],
)
def test_least_sizes_by_hand(pieces: list[Piece], expected: tuple[int, ...]) -> None:
    assert least(pieces) == expected


def brute_force(pieces: Sequence[Piece], *, interval: float, most: int) -> int:
    """The least sum of sizes of two intervals that satisfies Hall's condition for every pair of times."""

    def capacity(sizes: tuple[int, ...], start: float, end: float) -> float:
        return math.fsum(
            size * max(0.0, min(end, (index + 1) * interval) - max(start, index * interval))
            for index, size in enumerate(sizes)
        )

    def fits(sizes: tuple[int, ...]) -> bool:
        return all(
            capacity(sizes, release, due)
            >= math.fsum(seconds for r, d, seconds in pieces if r >= release and d <= due) - 1e-9
            for release in {piece[0] for piece in pieces}
            for due in {piece[1] for piece in pieces}
            if due > release
        )

    return min(sum(sizes) for sizes in product(range(most + 1), repeat=2) if fits(sizes))


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(4, 12), st.integers(1, 20)), min_size=1, max_size=6)
)
def test_least_sizes_never_exceed_what_brute_force_finds(raw: list[tuple[int, int, int]]) -> None:
    # Times on quarters of a second within two intervals of 5 s.
    pieces = [(start / 4, min(10.0, (start + length) / 4), seconds / 4) for start, length, seconds in raw]
    # At most 5 s of work per second and piece: 30 replicas are always enough.
    assert sum(least(pieces, interval=5.0)) <= brute_force(pieces, interval=5.0, most=30)


@pytest.mark.parametrize(
    ("sizes", "spans", "seconds"),
    [
        # Needed in [0, 10] and [30, 40]; the gap of 20 s equals the boot: run on
        pytest.param((1, 0, 0, 1), (Span(0.0, 0.0, 40.0),), 40.0, id="a gap as long as a boot is kept"),
        # A gap of 30 s costs more than a boot of 20: stop, and order at 20
        pytest.param(
            (1, 0, 0, 0, 1), (Span(0.0, 0.0, 10.0), Span(20.0, 40.0, 50.0)), 40.0, id="a longer gap is not"
        ),
        # The second replica has its own lives
        pytest.param((1, 2, 1), (Span(0.0, 0.0, 30.0), Span(0.0, 10.0, 20.0)), 50.0, id="layers are apart"),
        pytest.param((0, 0, 0, 2), (Span(10.0, 30.0, 40.0),) * 2, 60.0, id="the first boot is charged"),
        pytest.param((), (), 0.0, id="nothing"),
    ],
)
def test_each_layer_boots_or_runs_on_whichever_is_cheaper(
    sizes: tuple[int, ...], spans: tuple[Span, ...], seconds: float
) -> None:
    schedule = Schedule.of(sizes, interval_seconds=10.0, boot_seconds=20.0, gpus_per_replica=2)
    assert schedule.spans == spans
    assert schedule.gpu_seconds() == pytest.approx(2 * seconds)


def test_only_the_scored_part_is_charged() -> None:
    schedule = Schedule.of((1, 2, 1), interval_seconds=10.0, boot_seconds=20.0, gpus_per_replica=1)
    # [10, 30] of the first life, [10, 20] of the second
    assert schedule.gpu_seconds(since=10.0) == pytest.approx(30.0)
    assert schedule.gpu_seconds(until=10.0) == pytest.approx(20.0)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=6),
    st.sampled_from((5.0, 10.0, 25.0)),
)
def test_no_choice_of_when_to_stop_is_cheaper(sizes: list[int], boot: float) -> None:
    def cost(running: Sequence[int]) -> float:
        """Interval costs, and a boot for each replica more than before (those of the first interval exist)."""
        boots = sum(max(0, after - before) for before, after in pairwise(running))
        return 10.0 * sum(running) + boot * boots

    cheapest = min(
        cost(running)
        for running in product(range(4), repeat=len(sizes))
        if all(have >= need for have, need in zip(running, sizes, strict=True))
    )
    schedule = Schedule.of(sizes, interval_seconds=10.0, boot_seconds=boot, gpus_per_replica=1)
    assert schedule.gpu_seconds() == pytest.approx(cheapest)


def test_levels_are_means_over_intervals() -> None:
    levels = Levels(10.0)
    levels.cover(5.0, 25.0, 2.0)
    levels.cover(12.0, 14.0, 5.0)
    assert levels.means() == pytest.approx((1.0, 3.0, 1.0))
    assert Levels(10.0).means() == ()


def test_the_oracle_of_a_steady_load_by_hand() -> None:
    # One prompt of 1 s and 101 tokens every second for 100 s: the prefill replica is always busy; 100 further tokens
    # at 20 ms are 2 s, so that 2 sequences are in flight: a fifth of a replica.
    workload = [Request(float(second), 1000, 101) for second in range(100)]
    oracle = oracle_gpu_seconds(workload, simple(gpus=2), boot_seconds=120.0)
    # Work that arrives in the last second of an interval may wait for the next one: the first 10 intervals cover 100 s.
    assert sum(oracle.prefill) == 10
    # Sequences run from 1 s to 102 s.
    assert oracle.decode == (1,) * 11
    # Fluid: 100 s of prefill; T = 10,000 tokens take 10 s by themselves and N >= (T * sqrt(0.001))**2 / (0.010 * T) =
    # 1000 steps another 10 s.
    assert oracle.fluid_gpu_seconds == pytest.approx(2 * (100 + 10 + 10))
    # One prefill replica for 100 s and one decode replica for 110 s, none of which boots.
    assert oracle.scheduled_gpu_seconds() == pytest.approx(2 * (100 + 110))


def test_boots_are_charged_for_a_burst() -> None:
    # 8 prompts of 1 s at 300 s, to begin within 1 s and end within 2: 4 replicas from 300 to 310, ordered at 180.
    workload = [Request(300.0, 1000, 1)] * 8
    oracle = oracle_gpu_seconds(workload, simple(), boot_seconds=120.0)
    assert oracle.prefill == (0,) * 30 + (4,)
    assert oracle.decode == ()
    assert oracle.split_gpu_seconds == pytest.approx(40.0)
    assert oracle.fluid_gpu_seconds == pytest.approx(8.0)
    assert oracle.scheduled_gpu_seconds() == pytest.approx(4 * 130.0)
    assert oracle.bootless_gpu_seconds() == pytest.approx(40.0)


def test_minimums_hold_while_the_workload_lasts() -> None:
    oracle = oracle_gpu_seconds([Request(95.0, 1000, 1)], simple(minimum=1), boot_seconds=120.0)
    # Both pools for ten intervals.
    assert oracle.scheduled_gpu_seconds() == pytest.approx(200.0)


def test_mixed_replicas_carry_both_phases_where_they_are_alone() -> None:
    base = simple()
    pools = (replace(base.pools[0], max_replicas=0), replace(base.pools[1], max_replicas=0), base.pools[2])
    workload = [Request(float(second), 1000, 101) for second in range(100)]
    oracle = oracle_gpu_seconds(workload, replace(base, pools=pools), boot_seconds=120.0)
    # As on pools of their own: one replica for 100 s and one for 110 s.
    assert oracle.scheduled_gpu_seconds() == pytest.approx(210.0)
    assert [schedule.spans for schedule in oracle.schedules[:2]] == [(), ()]


def test_an_itl_that_no_step_meets_is_bounded_by_the_batch_limit() -> None:
    # A step takes 10 ms at least. 2560 tokens in batches of 256: 10 steps of 10 ms, and 1 ms for each token.
    oracle = oracle_gpu_seconds([Request(0.0, 1000, 2561)], simple(itl=0.005), boot_seconds=0.0)
    assert oracle.fluid_gpu_seconds == pytest.approx(1.0 + 0.1 + 2.56)


def test_no_traffic_costs_nothing() -> None:
    oracle = oracle_gpu_seconds([], simple(), boot_seconds=120.0)
    assert oracle.fluid_gpu_seconds == oracle.split_gpu_seconds == oracle.scheduled_gpu_seconds() == 0.0


@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(2, 30), st.integers(0, 40)), min_size=1, max_size=12)
)
def test_no_schedule_of_decode_steps_beats_the_fluid_bound(raw: list[tuple[int, int, int]]) -> None:
    # One replica decodes everything; each request joins at a step of its own. Whatever ITL that gives is the target.
    model = replace(SIMPLE, decode=DecodeModel(0.010, 1e-3, 1e-4), max_batch_size=12)
    busy, step, itl = 0.0, 0, 0.0
    remaining = [output - 1 for _, output, _ in raw]
    spent = [0.0] * len(raw)
    while any(remaining):
        active = [index for index, left in enumerate(remaining) if left and raw[index][2] <= step]
        step += 1
        if not active:
            continue
        contexts = sum(raw[index][0] + raw[index][1] - 1 - remaining[index] for index in active)
        seconds = model.decode.step_seconds(len(active), contexts)
        busy += seconds
        for index in active:
            remaining[index] -= 1
            spent[index] += seconds
    itl = max(seconds / (output - 1) for seconds, (_, output, _) in zip(spent, raw, strict=True))
    base = simple(itl=itl)
    pools = tuple(replace(pool, performance=model) for pool in base.pools)
    measured = replace(base, pools=(pools[0], pools[1], pools[2]))
    workload = [Request(0.0, prompt, output) for prompt, output, _ in raw]
    prompts = math.fsum(1e-3 * request.prompt_tokens for request in workload)
    oracle = oracle_gpu_seconds(workload, measured, boot_seconds=0.0)
    assert oracle.fluid_gpu_seconds <= prompts + busy * (1 + 1e-9)


def test_serving_sizes_let_every_prompt_begin_in_time() -> None:
    # 3 prompts of 1 s at once: the target of 1 s lets one wait for one server, so that 2 servers do.
    prefill, decode = least_serving_sizes([Request(3.0, 1000, 1)] * 3, simple())
    assert prefill == (2,)
    assert decode == ()


def test_serving_sizes_remember_what_an_interval_left_over() -> None:
    # 2 prompts in the last half second keep one server busy until 11.5; with the third in the next interval one begins
    # too late: at 11.5 instead of 11.
    workload = [Request(9.5, 1000, 1), Request(9.5, 1000, 1), Request(10.0, 1000, 1)]
    assert least_serving_sizes(workload, simple())[0] == (1, 2)
    # What began long before the boundary is not counted twice.
    assert least_serving_sizes([Request(1.0, 1000, 1), *workload], simple())[0] == (1, 2)


def test_decode_is_sized_for_its_busiest_second() -> None:
    # 25 sequences of 2 s at once, 10 of which fit one replica: 3 replicas, in the first interval only.
    workload = [Request(1.0, 1000, 101)] * 25
    assert least_serving_sizes(workload, simple())[1] == (3,)


def test_hindsight_orders_one_boot_ahead_and_keeps_the_minimums() -> None:
    workload = [Request(300.0, 1000, 1)] * 8
    policy = Hindsight(PolicyContext(spec(), 120.0, 1000.0, 1.0, workload=workload, target=0.0))
    # A prompt of 1000 tokens takes 0.12 s here and 0.4 s may pass before it begins: one replica starts 4, 2 start all.
    # Needed at 300, ordered at 180: the look at 171 is too early, that at 180 the last in time.
    assert policy.sizes(signals(170.0)) == {P: 1, D: 1, M: 0}
    assert policy.sizes(signals(180.0)) == {P: 2, D: 1, M: 0}
    assert policy.sizes(signals(309.0)) == {P: 2, D: 1, M: 0}
    assert policy.sizes(signals(310.0)) == {P: 1, D: 1, M: 0}
    assert policy.peak_sizes() == {P: 2, D: 1, M: 0}

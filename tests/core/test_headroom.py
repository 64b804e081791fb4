"""What earlier plans lacked. 150 requests/s of 1000 tokens arrive in the table; ten plans of 100 requests/s were judged."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.sizing_builders import MISSING, QUIET, cluster, flow, metrics, observation

from inferencecluster.core.arrivals import NOTHING, Arrivals
from inferencecluster.core.demand import Demand, DemandMemory, observe_demand
from inferencecluster.core.headroom import (
    FIRST_OUTCOMES,
    OUTCOMES,
    Outcome,
    Plan,
    Rule,
    Track,
    cheaper_of,
    least_reserve,
    plan_seconds,
)
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import RouterSample
from inferencecluster.core.spec import ClusterSpec

NOW = 1000.0


def judged(excesses: list[float], *, time: float = 900.0) -> tuple[Outcome, ...]:
    """Plans that requests of 1000 tokens exceeded, 100/s of them arriving each time."""
    return tuple(Outcome(time, excess, 1000 * excess, 100.0, 100_000.0) for excess in excesses)


def look(memory: DemandMemory, rate: float, spec: ClusterSpec) -> tuple[DemandMemory, Demand]:
    arrived = flow(15 * rate)
    after, seen = observe_demand(
        memory, observation(NOW, routers=arrived, metrics=metrics(arrived), spec=spec)
    )
    assert isinstance(seen, Demand)
    return after, seen


def promising(percentile: int) -> ClusterSpec:
    spec = cluster()
    return replace(spec, slo=replace(spec.slo, percentile=percentile))


@pytest.mark.parametrize(
    ("outcomes", "plans", "percentile", "requests"),
    [
        # 10 * 100 arrived; at p90 100 of them may be missed.
        pytest.param(judged([-30.0] * 10), (), 90, 0.0, id="plans that were kept"),
        pytest.param(judged([60.0] + [0.0] * 9), (), 90, 0.0, id="60 missed of 100 allowed"),
        pytest.param(judged([60.0, 60.0] + [0.0] * 8), (), 90, 10.0, id="2 * (60 - 10) = 100"),
        pytest.param(judged([90.0, 30.0] + [-90.0] * 8), (), 90, 10.0, id="(90 - 10) + (30 - 10) = 100"),
        pytest.param(judged([130.0, 20.0] + [0.0] * 8), (), 90, 30.0, id="130 - 30 = 100, 20 is below"),
        pytest.param(judged([60.0, 60.0] + [0.0] * 8), (), 99, 55.0, id="2 * (60 - 55) = 10"),
        pytest.param(judged([60.0, 60.0] + [0.0] * 8), (), 100, 60.0, id="no misses: the largest excess"),
        pytest.param(judged([60.0] * 10), (), 50, 10.0, id="10 * (60 - 10) = 500"),
        pytest.param(judged([900.0] * 10), (), 100, 900.0, id="many times the plan of 150"),
        # With nine plans that were kept 9 * 100 + 150 arrived: 10.5 of them may be missed at p99.
        pytest.param(
            judged([0.0] * 9), (Plan(NOW, 50.0, 5e4),), 99, 89.5, id="a plan for 50 is due: (100 - 89.5)"
        ),
        pytest.param(judged([0.0] * 9), (Plan(NOW + 1, 50.0, 5e4),), 99, 0.0, id="not due yet"),
        pytest.param(judged([0.0] * 9), (Plan(NOW - 30, 50.0, 5e4),), 99, 0.0, id="long overdue"),
        pytest.param((), (), 90, 30.0, id="nothing judged yet: a fifth of 150"),
        pytest.param(judged([60.0] * 7), (), 90, 30.0, id="too few are judged: a fifth"),
        pytest.param(judged([60.0] * 10, time=NOW - 3600), (), 90, 30.0, id="an hour ago is forgotten"),
    ],
)
def test_the_headroom_is_the_reserve_that_earlier_plans_lacked(
    outcomes: tuple[Outcome, ...], plans: tuple[Plan, ...], percentile: int, requests: float
) -> None:
    memory = replace(DemandMemory.empty(), peaks=Track(plans, outcomes))
    _, seen = look(memory, 150.0, promising(percentile))
    assert seen.headroom.requests == pytest.approx(requests)
    assert seen.headroom.tokens == pytest.approx(1000 * requests)
    # 2250 requests are more than a mean length remembers: all are of 1000 tokens, the prior is gone.
    assert seen.headroom.tokens_squared == pytest.approx(1e6 * requests)


def test_requests_and_tokens_have_their_own_reserves() -> None:
    """As many requests as planned, but each twice as long."""
    longer = (Outcome(900.0, 0.0, 100_000.0, 100.0, 200_000.0),) * 10
    _, seen = look(replace(DemandMemory.empty(), peaks=Track(outcomes=longer)), 150.0, cluster())
    # 10 * (100,000 - x) = 0.1 * 10 * 200,000
    assert seen.headroom.requests == 0.0
    assert seen.headroom.tokens == pytest.approx(80_000.0)


def test_a_jump_that_no_plan_saw_coming_leaves_a_reserve() -> None:
    memory = DemandMemory.empty()
    seen: Demand | Missing = MISSING
    for tick in range(60):
        arrived = flow(1500.0 if tick < 40 else 3000.0)
        memory, seen = observe_demand(memory, observation(15.0 * tick, routers=arrived))
    # Plans are made 9 ticks ahead. Those due at ticks 9 to 39 were kept, at 40 to 48 200/s arrived instead of 100/s, and the
    # later ones knew: of 31 * 100 + 20 * 200 = 7100 a tenth may be missed, and 9 * (100 - x) = 710.
    assert len(memory.peaks.outcomes) == 51
    assert isinstance(seen, Demand)
    assert seen.headroom.requests == pytest.approx(100.0 - 710.0 / 9.0)


def test_while_nothing_is_planned_nothing_is_reserved() -> None:
    memory = replace(DemandMemory.empty(), peaks=Track(outcomes=judged([60.0] * 10)))
    assert look(memory, 0.0, cluster())[1].headroom == NOTHING


def test_prompts_without_any_token_reserve_none() -> None:
    """Prompts that were cached whole."""
    memory = replace(DemandMemory.empty(), peaks=Track(outcomes=judged([60.0] * 10)))
    _, seen = observe_demand(memory, observation(NOW, routers=flow(2250.0, length=0.0)))
    assert isinstance(seen, Demand)
    assert (seen.prompt_tokens, seen.headroom.tokens_squared) == (0.0, 0.0)


def test_nothing_is_planned_from_no_history() -> None:
    """Else the first look of a new operator would be a plan for an idle cluster."""
    first = observation(NOW, routers=RouterSample(QUIET, Missing("FirstLook")))
    memory, _ = observe_demand(DemandMemory.empty(), first)
    assert memory.peaks.plans == memory.averages.plans == ()


def test_outcomes_tell_how_far_arrivals_exceeded_the_plan() -> None:
    level = Arrivals(10.0, 3000.0, 9e5)
    made = (Plan(970.0, 1.0, 1.0), Plan(990.0, 12.0, 2000.0), Plan(1001.0, 1.0, 1.0))
    judged = Track(made).judged(level, now=NOW, apart=15.0)
    assert judged == Track(made[2:], (Outcome(NOW, -2.0, 1000.0, 10.0, 3000.0),))


@pytest.mark.parametrize(
    ("interval", "horizon", "seconds"),
    [
        pytest.param(1.0, 121.0, 15.0, id="often enough for 240 in an hour"),
        pytest.param(600.0, 720.0, 600.0, id="no more than one per decision"),
        pytest.param(2.0, 24.0, 3.0, id="eight in a short boot"),
        pytest.param(15.0, 7215.0, 7215 / 240, id="no more than 240 wait for their time"),
    ],
)
def test_the_time_between_plans(interval: float, horizon: float, seconds: float) -> None:
    assert plan_seconds(interval, horizon) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("apart", "kept"),
    [
        pytest.param(5.0, OUTCOMES, id="close together: the latest"),
        pytest.param(60.0, 60, id="an hour"),
        pytest.param(600.0, 2 * FIRST_OUTCOMES, id="far apart: enough to judge by"),
    ],
)
def test_how_many_outcomes_are_remembered(apart: float, kept: int) -> None:
    times = [NOW - apart * index for index in reversed(range(1000))]
    track = Track(outcomes=tuple(Outcome(time, 0.0, 0.0, 0.0, 0.0) for time in times))
    judged = track.judged(NOTHING, now=NOW, apart=apart)
    assert [outcome.time for outcome in judged.outcomes] == times[-kept:]


# --- two rules -------------------------------------------------------------------------------------------------------


def track(planned: float, excesses: list[float], *, apart: float = 70.0) -> Track:
    """Plans of `planned` tokens per second that arrivals exceeded by these."""
    return Track(
        outcomes=tuple(
            Outcome(apart * index, 0.0, more, 1.0, planned + more) for index, more in enumerate(excesses)
        )
    )


@pytest.mark.parametrize(
    ("peak", "average", "rule"),
    [
        # Without misses the reserve is the largest excess: 100 + 0 beside 50 + 30.
        pytest.param(
            track(100, [0.0] * 10), track(50, [30.0] + [0.0] * 9), Rule.AVERAGE, id="a fifth cheaper"
        ),
        pytest.param(track(100, [0.0] * 10), track(50, [45.0] + [0.0] * 9), Rule.PEAK, id="hardly cheaper"),
        pytest.param(track(100, [0.0] * 10), track(50, [80.0] + [0.0] * 9), Rule.PEAK, id="dearer"),
        pytest.param(track(100, [0.0] * 10), track(50, [0.0] * 7), Rule.PEAK, id="not judged often enough"),
        pytest.param(
            track(100, [0.0] * 10), track(50, [0.0] * 10, apart=60.0), Rule.PEAK, id="not judged long enough"
        ),
    ],
)
def test_the_rule_that_would_have_been_cheaper_is_followed(peak: Track, average: Track, rule: Rule) -> None:
    assert cheaper_of(peak, average, allowed=0.0) is rule


# --- the least reserve -----------------------------------------------------------------------------------------------

EXCESSES = st.lists(st.floats(-1000, 1000), max_size=40)
ALLOWED = st.floats(0, 5000)


def missed(excesses: list[float], reserve: float) -> float:
    return sum(max(0.0, excess - reserve) for excess in excesses)


@given(EXCESSES, ALLOWED)
def test_the_least_reserve_is_what_bisection_finds(excesses: list[float], allowed: float) -> None:
    low, high = 0.0, max([0.0, *excesses])
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if missed(excesses, middle) <= allowed else (middle, high)
    assert least_reserve(excesses, allowed=allowed) == pytest.approx(high, abs=1e-6)


@given(EXCESSES, ALLOWED)
def test_the_least_reserve_is_enough_and_no_less_would_be(excesses: list[float], allowed: float) -> None:
    reserve = least_reserve(excesses, allowed=allowed)
    assert reserve >= 0
    assert missed(excesses, reserve) <= allowed + 1e-6
    if reserve > 1e-3:
        assert missed(excesses, reserve - 1e-3) > allowed


@given(EXCESSES, st.lists(ALLOWED, min_size=2, max_size=5))
def test_more_allowed_misses_never_need_a_larger_reserve(excesses: list[float], allowed: list[float]) -> None:
    reserves = [least_reserve(excesses, allowed=share) for share in sorted(allowed)]
    assert all(before >= after for before, after in pairwise(reserves))


@given(EXCESSES, ALLOWED, st.floats(0, 100))
def test_larger_excesses_never_need_a_smaller_reserve(
    excesses: list[float], allowed: float, more: float
) -> None:
    larger = [excess + more for excess in excesses]
    assert least_reserve(larger, allowed=allowed) >= least_reserve(excesses, allowed=allowed) - 1e-9


def test_no_excess_needs_no_reserve() -> None:
    assert least_reserve([], allowed=0.0) == 0.0
    assert least_reserve([-1.0, 0.0], allowed=0.0) == 0.0

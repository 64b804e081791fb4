"""The daily profile: bounded, believed only where days are alike and it predicted better than the level, and only upward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.sizing_builders import flow, metrics, observation

from inferencecluster.core.arrivals import NOTHING, Arrivals
from inferencecluster.core.demand import Demand, DemandMemory, observe_demand
from inferencecluster.core.seasonality import DAY_SECONDS, SLOT_SECONDS, SLOTS, DayProfile

HOUR = 3600.0
STEP = 300.0
OPENS, CLOSES = 8 * HOUR, 18 * HOUR
DAY, NIGHT = 10.0, 1.0


def office(time: float) -> float:
    """Requests per second of a day that begins and ends at once."""
    return DAY if OPENS <= time % DAY_SECONDS < CLOSES else NIGHT


def lived(
    rate: Callable[[float], float], *, until: float, since: float = 0.0, profile: DayProfile | None = None
) -> DayProfile:
    """After having seen `rate` in steps of five minutes."""
    profile = profile or DayProfile.empty()
    for number in range(round((until - since) / STEP)):
        begin = since + number * STEP
        count = rate(begin) * STEP
        profile = profile.count(
            end=begin + STEP, seconds=STEP, arrived=Arrivals(count, count * 1e3, count * 1e6)
        )
    return profile


def test_the_third_morning_is_expected_before_it_begins() -> None:
    just_before = 2 * DAY_SECONDS + OPENS - STEP
    profile = lived(office, until=just_before)
    assert profile.expected(just_before + 2 * STEP).requests == pytest.approx(DAY)
    assert profile.expected(just_before) == NOTHING, "the rest of the night brings no more than the level"
    assert profile.expected(just_before + 2 * STEP).tokens == pytest.approx(DAY * 1e3)


def test_one_day_proves_nothing() -> None:
    assert lived(office, until=DAY_SECONDS + OPENS).expected(DAY_SECONDS + OPENS + STEP) == NOTHING


@pytest.mark.parametrize(
    "rate",
    [
        pytest.param(lambda _time: DAY, id="every hour is alike: the level is as good"),
        pytest.param(
            lambda time: office(time + 6 * HOUR * int(time / DAY_SECONDS)),
            id="each day begins at another hour",
        ),
    ],
)
def test_where_the_level_predicts_as_well_the_profile_has_no_say(rate: Callable[[float], float]) -> None:
    profile = lived(rate, until=3 * DAY_SECONDS)
    assert not profile.is_trusted
    assert profile.expected(3 * DAY_SECONDS + OPENS) == NOTHING


def test_a_holiday_is_expected_to_go_on_as_it_began() -> None:
    """The day brings a fifth of the usual so far: a fifth of the usual morning is expected."""
    profile = lived(office, until=2 * DAY_SECONDS)
    holiday = lived(
        lambda _time: NIGHT / 5, since=2 * DAY_SECONDS, until=2 * DAY_SECONDS + OPENS, profile=profile
    )
    assert holiday.expected(2 * DAY_SECONDS + OPENS + STEP).requests == pytest.approx(DAY / 5)


def test_a_noisy_quarter_of_an_hour_is_not_multiplied_into_a_peak() -> None:
    opens = 2 * DAY_SECONDS + OPENS
    profile = lived(office, until=opens - SLOT_SECONDS)
    loud = lived(lambda _time: NIGHT * 5, since=opens - SLOT_SECONDS, until=opens, profile=profile)
    loud = lived(office, since=opens, until=opens + STEP, profile=loud)
    assert loud.expected(opens + STEP).requests == pytest.approx(1.25 * DAY)


def test_after_a_gap_the_day_is_not_known_and_nothing_is_expected() -> None:
    profile = lived(office, until=2 * DAY_SECONDS)
    later = 2 * DAY_SECONDS + 3 * HOUR
    after_gap = lived(office, since=later, until=later + STEP, profile=profile)
    assert after_gap.is_trusted
    assert after_gap.expected(2 * DAY_SECONDS + OPENS) == NOTHING


@given(
    st.lists(st.tuples(st.floats(1.0, 200_000.0), st.floats(1.0, 3600.0), st.floats(0.0, 1e6)), max_size=60)
)
def test_it_stays_bounded_and_finite_whatever_is_observed(flows: list[tuple[float, float, float]]) -> None:
    profile, now = DayProfile.empty(), 0.0
    for pause, seconds, requests in flows:
        now += pause + seconds
        profile = profile.count(end=now, seconds=seconds, arrived=Arrivals(requests, requests, requests))
        expected = profile.expected(now + SLOT_SECONDS)
        assert len(profile.slots) == SLOTS
        assert len(profile.verdicts) == SLOTS
        assert 0.0 <= expected.tokens < float("inf")


def test_what_earlier_days_brought_is_planned_one_boot_ahead_and_never_below_the_level() -> None:
    memory, forecasts, tick = DemandMemory.empty(), {}, 60.0
    for number in range(round((2 * DAY_SECONDS + 12 * HOUR) / tick)):
        now = (number + 1) * tick
        came = flow(office(now - tick) * tick, tick)
        memory, seen = observe_demand(memory, observation(now, routers=came, metrics=metrics(came)))
        assert isinstance(seen, Demand)
        assert seen.planned.requests >= seen.arrivals.requests
        forecasts[now] = seen.planned.requests
    # A boot of 120 s and an interval of 15 s: two minutes before the third day opens its rate is planned for.
    assert forecasts[DAY_SECONDS + OPENS - 120.0] == pytest.approx(NIGHT, rel=0.05)
    assert forecasts[2 * DAY_SECONDS + OPENS - 120.0] == pytest.approx(DAY, rel=0.05)
    assert forecasts[2 * DAY_SECONDS + OPENS - 1800.0] == pytest.approx(NIGHT, rel=0.05)

from __future__ import annotations

import pytest
from benches.scenarios.costs import routed
from benches.scenarios.followed import HOURS, WINDOWS, day, day_requests, follow, height, steady_requests
from benches.scenarios.load import shape, window

from inferencecluster.planner.designs import Mixed
from inferencecluster.planner.traffic import Traffic

LENGTHS = (500, 400)


def test_the_day_as_windows_and_as_requests_is_the_same_load() -> None:
    traffic = day(window(*LENGTHS, rate=2.0), trough_share=0.25)
    requests = day_requests(LENGTHS, peak_rate=2.0, trough_share=0.25)
    assert traffic.hours == pytest.approx(HOURS)
    assert len(traffic.windows) == WINDOWS
    # Between a quarter and all of 2 requests/s: 1.25 on average.
    assert traffic.requests == pytest.approx(1.25 * 3600 * HOURS, rel=1e-3)
    assert len(requests) == pytest.approx(traffic.requests, rel=0.05)


def test_a_gateway_sends_every_other_request_of_the_peak_away_and_no_other() -> None:
    requests = day_requests(LENGTHS, peak_rate=2.0, trough_share=0.25)
    stay, leave = routed(requests)
    assert sorted([*stay, *leave]) == list(requests)
    at_peak = [
        request for request in requests if height(request.arrival / (3600 * HOURS), trough_share=0.25) > 0.5
    ]
    assert set(leave) < set(at_peak)
    assert len(leave) == len(at_peak) // 2


def test_the_quiet_end_of_a_load_is_paid_for() -> None:
    design = Mixed(shape("llama-3.1-8b-bf16/h100-tp1", 2.5))
    one = window(*LENGTHS, rate=1.0)
    found = follow(design, Traffic((one,), ""), steady_requests(LENGTHS, rate=1.0, seconds=700.0))
    # One replica for the hour of the traffic, although the last request comes after 700 s.
    assert found.dollars == pytest.approx(2.5)
    assert found.in_time == 1.0

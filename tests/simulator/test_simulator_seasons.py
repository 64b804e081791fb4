"""Three working days that begin alike: on the third the replicas are up before its requests are there."""

from __future__ import annotations

import pytest
from tests.simulator.simulator_builders import cluster_spec, hardware, rules, run, scenario

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.perfmodel import DecodeModel, PerformanceModel, PrefillModel
from inferencecluster.core.seasonality import DayProfile
from inferencecluster.core.spec import Behavior, ScalingMode, Slo
from inferencecluster.simulator.report import Report
from inferencecluster.simulator.workload import Request

DAY = 86_400.0
OPENS, CLOSES = 8 * 3600.0, 18 * 3600.0
# A prompt of 1000 tokens takes 20 s: some hundred requests an hour keep pools of several replicas busy.
SLOW = PerformanceModel(PrefillModel(0.0, 0.02, 0.0), DecodeModel(0.5, 0.01, 0.0), kv_capacity_tokens=100_000)


def three_days() -> list[Request]:
    found, time = [], 0.0
    while time < 3 * DAY:
        found.append(Request(time, 1000, 10))
        time += 4.0 if OPENS <= time % DAY < CLOSES else 40.0
    return found


def third_day() -> Report:
    spec = cluster_spec(
        (1, 1, 0),
        most=(20, 4, 0),
        mode=ScalingMode.AUTOMATIC,
        performance=SLOW,
        slo=Slo(90, ttft_seconds=60.0, itl_seconds=1.0),
        behavior=Behavior(rules(0.0), rules(600.0)),
        interval_seconds=60.0,
        boot_seconds=600.0,
        startup_deadline_seconds=3600.0,
    )
    light = {name: hardware(SLOW, kv_bytes_per_token=1.0) for name in PoolName}
    plan = scenario(spec, hardware=light, warm_up_seconds=2 * DAY, max_queue_seconds=600.0)
    return run(plan, three_days()).report


def test_a_known_morning_misses_fewer_requests_for_no_more_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    learned = third_day()
    monkeypatch.setattr(DayProfile, "is_trusted", False)
    without = third_day()
    missed, missed_without = learned.requests - learned.slo_met, without.requests - without.slo_met
    assert missed < missed_without / 4
    assert learned.total_gpu_hours < 1.02 * without.total_gpu_hours

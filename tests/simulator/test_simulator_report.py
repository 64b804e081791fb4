"""What a run reports: percentiles, warm-up, costs, the timeline, JSON, progress; and how runs repeat."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulator.simulator_builders import (
    cluster_spec,
    requests,
    run,
    scenario,
    steady,
)

from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.spec import ScalingMode, Slo
from inferencecluster.simulator.counters import LATENCY_BOUNDS, Histogram, quantile
from inferencecluster.simulator.events import EventQueue
from inferencecluster.simulator.report import percentile
from inferencecluster.simulator.scenario import Boot, Faults
from inferencecluster.simulator.simulation import Simulation, simulate
from inferencecluster.simulator.workload import Request, copied, with_mirrored_warm_up


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        pytest.param([], 50, None, id="nothing"),
        pytest.param([3.0], 99, 3.0, id="one value"),
        pytest.param([1.0, 2.0, 3.0, 4.0], 50, 2.5, id="between two values"),
        pytest.param([1.0, 2.0, 3.0], 100, 3.0, id="the largest"),
    ],
)
def test_percentiles_are_linear_between_neighbours(
    values: list[float], percent: float, expected: float | None
) -> None:
    assert percentile(array("d", values), percent) == expected


@given(st.lists(st.floats(0.002, 100), min_size=1), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_histogram_is_off_by_one_bucket_at_most(values: list[float], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    found = quantile(histogram.counts, share)
    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    assert isinstance(found, float)
    assert found / exact == pytest.approx(1.0, abs=0.11)


def test_a_histogram_without_values_has_no_percentile() -> None:
    assert isinstance(quantile(Histogram().counts, 0.9), Missing)
    late = Histogram()
    late.observe(1e6)
    assert quantile(late.counts, 0.9) == LATENCY_BOUNDS[-1]


def test_the_ttft_target_comes_on_top_of_the_requests_own_prompt() -> None:
    # Alone, 8000 tokens take 0.81 s (two chunks: 0.82 s), more than the target of 0.5 s; with it, they have 1.31 s.
    met = run(scenario(), requests((0.0, 8000, 10))).report
    assert met.slo_attainment == 1.0
    missed = run(scenario(scored_slo=Slo(90, 0.005, 0.020)), requests((0.0, 8000, 10))).report
    assert (missed.ttft_met, missed.tpot_met, missed.slo_attainment) == (0, 1, 0.0)


def test_an_answer_that_flows_too_slowly_misses() -> None:
    report = run(scenario(scored_slo=Slo(90, 1.0, 0.0101)), requests((0.0, 1000, 10))).report
    assert (report.ttft_met, report.tpot_met, report.slo_met) == (1, 0, 0)


def test_the_warm_up_counts_neither_requests_nor_costs() -> None:
    workload = steady(2.0, 100.0)
    whole = run(scenario(), workload).report
    later = run(scenario(warm_up_seconds=40.0), workload).report
    assert (whole.requests, later.requests) == (200, 120)
    assert later.seconds == pytest.approx(59.5)
    assert whole.total_gpu_hours * 3600 == pytest.approx(2 * 99.5)
    assert later.total_gpu_hours * 3600 == pytest.approx(2 * 59.5)
    assert len(later.latencies.ttft) == 120
    assert sum(interval.requests for interval in later.timeline) == 120
    assert later.timeline[0].start == 0.0


def test_a_mirrored_warm_up_leaves_the_whole_workload_to_be_scored() -> None:
    workload = [Request(float(number), 1000, 10) for number in range(1, 101)]
    report = run(scenario(warm_up_seconds=30.0), with_mirrored_warm_up(workload, 30.0)).report
    assert report.requests == 100
    assert report.seconds == pytest.approx(100.0)


def test_the_timeline_shows_demand_sizes_and_misses_where_they_arrived() -> None:
    spec = cluster_spec((1, 1, 0), most=(4, 4, 0))
    workload = [*steady(2.0, 60.0), *(Request(60.0 + item.arrival, 500, 10) for item in steady(4.0, 60.0))]
    report = run(scenario(spec, scored_slo=Slo(90, 1.0, 0.0101)), workload).report
    first, second = report.timeline[:2]
    assert (first.requests, second.requests) == (120, 240)
    assert (first.prompt_tokens, second.prompt_tokens) == (120_000, 120_000)
    assert (first.output_tokens, second.output_tokens) == (12_000, 2_400)
    assert sum(item.slo_missed for item in report.timeline) == report.requests - report.slo_met
    assert first.replicas[PoolName.PREFILL] == first.serving[PoolName.PREFILL] == pytest.approx(1.0)
    assert first.gpus == pytest.approx(2.0)


@pytest.mark.parametrize("start", [0.0, 0.1, 423.184196, 600.0])
def test_no_interval_holds_more_than_the_largest_fleet_wherever_its_borders_round_to(start: float) -> None:
    report = run(scenario(warm_up_seconds=start), steady(0.05, start + 7200.0)).report
    assert report.peak_gpus == 2
    whole = report.timeline[:-1]
    assert len(whole) > 100
    assert [item.gpus for item in whole] == pytest.approx([2.0] * len(whole))
    assert report.timeline[-1].gpus <= 2.0 + 1e-9


def test_the_largest_fleet_is_what_static_peak_means() -> None:
    spec = cluster_spec((1, 1, 0), most=(8, 8, 0), mode=ScalingMode.AUTOMATIC)
    workload = [*steady(2.0, 60.0), *(Request(60.0 + item.arrival, 1000, 100) for item in steady(20.0, 60.0))]
    report = run(scenario(spec), workload).report
    assert report.peak_gpus > 2
    assert report.gpu_hours_static_peak == pytest.approx(report.peak_gpus * report.seconds / 3600)
    assert report.total_gpu_hours < report.gpu_hours_static_peak
    assert report.scale_events == len(report.decisions) > 0


def test_json_holds_what_tools_need() -> None:
    report = run(scenario(), steady(2.0, 30.0)).report
    document = json.loads(report.to_json())
    assert document["requests"] == 60
    assert document["failed"] == document["refused"] == 0
    assert document["slo_attainment"] == 1.0
    assert set(document["ttft_ms"]) == set(document["tpot_ms"]) == {"p50", "p90", "p99"}
    assert document["ttft_ms"]["p50"] == pytest.approx(120, abs=6)
    assert document["gpu_hours"] == document["gpu_hours_static_peak"] > 0
    assert document["scale_events"] == document["conversions"] == 0
    assert document["sizes"] == [{"time": 0.0, "prefill": 1, "decode": 1, "mixed": 0}]
    assert document["timeline"][0]["replicas"] == pytest.approx(
        {"prefill": 29.5 / 60, "decode": 29.5 / 60, "mixed": 0}
    )


def test_a_run_without_requests_is_a_report_too() -> None:
    report = run(scenario(), []).report
    document = json.loads(report.to_json())
    assert document["requests"] == 0
    assert document["slo_attainment"] == 1.0
    assert document["ttft_ms"] == {"p50": None, "p90": None, "p99": None}
    assert document["gpu_hours"] == 0


def test_equal_seeds_give_equal_reports_to_the_last_character() -> None:
    spec = cluster_spec((1, 1, 0), most=(6, 6, 2), mode=ScalingMode.AUTOMATIC)

    def outcome(seed: int) -> str:
        plan = scenario(spec, seed=seed, boot=Boot.of(20.0, spread=0.4), faults=Faults(mean_hours=0.05))
        workload = copied(steady(1.0, 120.0), copies=12, jitter_seconds=5.0, seed=1)
        return simulate(plan, workload).to_json()

    assert outcome(1) == outcome(1)
    assert outcome(1) != outcome(2)


def test_events_grow_with_requests_and_not_faster() -> None:
    counts = []
    for seconds in (100.0, 1000.0):
        simulation = Simulation(scenario(cluster_spec((2, 2, 0))))
        simulation.serve(steady(8.0, seconds))
        counts.append(simulation.events.calls / simulation.arrived)
    # Prompt, transfer, step boundary, its replaced run, end: five a request; and the looks of the operator.
    assert counts == pytest.approx([5.02, 5.02], abs=0.05)


def test_a_workload_is_taken_as_it_comes_and_forgotten() -> None:
    waiting: list[int] = []
    simulation = Simulation(scenario())

    def workload() -> Iterator[Request]:
        for number in range(3000):
            waiting.append(simulation.arrived - simulation.ended)
            yield Request(number * 0.2, 1000, 50)

    simulation.serve(workload())
    assert max(waiting) < 10
    assert len(simulation.events) < 20


def test_progress_tells_share_time_and_requests() -> None:
    told: list[tuple[float | None, float, int]] = []
    workload = steady(10.0, 100.0, prompt=100, output=5)
    simulate(scenario(), workload, progress=lambda *args: told.append(args))
    assert [(share, count) for share, _, count in told] == [(0.5, 500), (1.0, 1000), (1.0, 1000)]
    assert told[0][1] == pytest.approx(49.9)
    told.clear()
    simulate(scenario(), iter(workload), progress=lambda *args: told.append(args))
    assert [share for share, _, _ in told] == [None, None, 1.0]


@pytest.mark.parametrize(
    "second", [pytest.param(0.5, id="back in time"), pytest.param(math.nan, id="no time")]
)
def test_arrivals_that_do_not_ascend_are_refused(second: float) -> None:
    with pytest.raises(SpecError, match=f"workload arrival is {second}, but arrivals ascend"):
        simulate(scenario(), requests((1.0, 10, 10), (second, 10, 10)))


def test_time_never_goes_back() -> None:
    events = EventQueue()
    events.at(1.0, lambda _: None)
    events.run_next()
    with pytest.raises(ValueError, match=r"an event at 0.5 s cannot be scheduled at 1.0 s"):
        events.at(0.5, lambda _: None)


def test_things_of_one_instant_happen_in_the_order_in_which_they_were_asked_for() -> None:
    events = EventQueue()
    seen: list[object] = []
    for number in range(5):
        events.at(1.0, seen.append, number)
    events.at(0.5, seen.append, "before")
    while len(events):
        events.run_next()
    assert seen == ["before", 0, 1, 2, 3, 4]

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.sizing_builders import (
    MISSING,
    QUIET,
    cluster,
    fleet,
    flow,
    metrics,
    observation,
    rules,
    waiting,
)

from inferencecluster.core.arrivals import (
    Arrivals,
    Bin,
    burstiness_of,
    level_of,
    level_seconds,
    mean_of,
    peak_of,
)
from inferencecluster.core.boots import BOOTS_KEPT
from inferencecluster.core.demand import (
    MAX_BINS,
    Demand,
    DemandMemory,
    observe_demand,
)
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.headroom import OUTCOMES, Outcome, Plan, Rule, Track
from inferencecluster.core.lengths import PRIOR_OUTPUT_TOKENS, PRIOR_PROMPT_TOKENS, MeanLength
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import NOT_CONFIGURED, Flow, Observation, PoolUtilization, RouterSample
from inferencecluster.core.trend import Point, fit_line


def watch(
    counts: list[float], *, seconds: float = 15.0, memory: DemandMemory | None = None, length: float = 1000.0
) -> tuple[DemandMemory, Demand]:
    """One observation per interval, each with as many requests; routers and metrics answer."""
    memory = memory or DemandMemory.empty()
    seen: Demand | Missing = Missing("NotYet")
    for index, count in enumerate(counts):
        arrived = flow(count, seconds, length=length)
        memory, seen = observe_demand(
            memory,
            observation(1000.0 + index * seconds, routers=arrived, metrics=metrics(arrived)),
        )
    assert isinstance(seen, Demand)
    return memory, seen


# --- rates -----------------------------------------------------------------------------------------------------------


def test_a_level_is_the_rate_of_the_latest_bin_when_it_holds_enough_requests() -> None:
    _, seen = watch([1500.0, 1500.0, 3000.0])
    assert seen.arrivals == Arrivals(200.0, 200_000.0, 200_000_000.0)


def test_a_level_of_few_requests_is_counted_over_a_longer_window() -> None:
    # 30 requests in each 15 s: 200 requests take 7 bins; the first two (without requests) are too old.
    history = tuple(Bin(15.0 * n, 15.0, 30.0 if n > 2 else 0.0, 0.0, 0.0) for n in range(1, 11))
    assert level_of(history, 15.0, longest=120.0).requests == pytest.approx(2.0)


def test_a_level_looks_back_no_further_than_two_minutes() -> None:
    history = tuple(Bin(15.0 * n, 15.0, 1.0 if n > 12 else 99.0, 0.0, 0.0) for n in range(1, 21))
    assert level_of(history, 15.0, longest=120.0).requests == pytest.approx(1 / 15)


@pytest.mark.parametrize(
    ("interval", "boot", "seconds"),
    [
        pytest.param(15.0, 90.0, 90.0, id="a boot"),
        pytest.param(15.0, 600.0, 120.0, id="two minutes at most"),
        pytest.param(15.0, 3.0, 60.0, id="four looks at least"),
        pytest.param(60.0, 3.0, 120.0, id="two minutes, however seldom the operator looks"),
    ],
)
def test_how_far_a_level_looks_back(interval: float, boot: float, seconds: float) -> None:
    assert level_seconds(interval, boot) == seconds


def test_no_history_is_no_level() -> None:
    assert level_of((), 15.0, longest=120.0) == Arrivals(0.0, 0.0, 0.0)


def test_the_peak_is_the_largest_level_of_the_hold() -> None:
    history = tuple(
        Bin(15.0 * n, 15.0, count, 0.0, 0.0)
        for n, count in enumerate([9000.0, 1500.0, 4500.0, 1500.0], start=1)
    )
    assert peak_of(history, since=15.0, interval=15.0, longest=120.0).requests == 300.0


def test_a_peak_is_held_for_a_boot() -> None:
    memory, _ = watch([3000.0])
    quiet, spec = 300.0, cluster(down=rules(0))
    memory, _ = watch([quiet] * 8, memory=memory)
    # `watch` starts at 1000 s again: eight quiet bins end 105 s after the peak.
    held, later = (
        observation(1000.0 + after, routers=flow(quiet), metrics=metrics(flow(quiet)), spec=spec)
        for after in (119.0, 121.0)
    )
    memory, seen = observe_demand(memory, held)
    assert isinstance(seen, Demand)
    assert seen.boot_seconds == 120.0
    assert seen.planned.requests == pytest.approx(200.0)
    _, seen = observe_demand(memory, later)
    assert isinstance(seen, Demand)
    assert seen.planned.requests == seen.arrivals.requests == pytest.approx(20.0)


def test_flows_between_two_ticks_add_up_in_one_bin() -> None:
    memory = DemandMemory.empty()
    for now in (1005.0, 1010.0, 1015.0):
        arrived = flow(500.0, 5.0)
        memory, _ = observe_demand(memory, observation(now, routers=arrived))
    assert memory.history == (Bin(1015.0, 15.0, 1500.0, 1.5e6, 1.5e9),)


def test_a_flow_without_time_adds_nothing() -> None:
    memory, _ = watch([1500.0])
    again, _ = observe_demand(memory, observation(1000.0, routers=flow(0.0, 0.0)))
    assert again.history == memory.history


def test_the_history_stays_bounded_for_any_boot_time() -> None:
    spec = replace(cluster(), boot_seconds=7200.0)
    memory = DemandMemory.empty()
    for tick in range(1000):
        look = observation(15.0 * tick, routers=flow(100.0), spec=spec)
        memory, _ = observe_demand(memory, look)
    assert len(memory.history) <= 70
    # One plan every 30 s for the next two hours; an hour of them is judged.
    for track in (memory.peaks, memory.averages):
        assert len(track.plans) == OUTCOMES
        assert len(track.outcomes) == 120


# --- lines -----------------------------------------------------------------------------------------------------------


def test_a_line_through_a_ramp_has_no_spread() -> None:
    line = fit_line([Point(t, 5.0 + 2.0 * t, 1.0) for t in range(8)])
    assert line.mean == pytest.approx(12.0)
    assert line.spread == pytest.approx(0.0, abs=1e-9)


def test_a_line_by_hand() -> None:
    # values 0, 3, 0 around times 0, 1, 2: flat, mean 1; residuals -1, 2, -1 -> variance 2
    line = fit_line([Point(0.0, 0.0, 1.0), Point(1.0, 3.0, 1.0), Point(2.0, 0.0, 1.0)])
    assert line.spread == pytest.approx(2.0**0.5)


def test_weights_count_as_repetitions() -> None:
    heavy = fit_line([Point(0.0, 1.0, 2.0), Point(1.0, 2.0, 1.0), Point(2.0, 5.0, 1.0)])
    assert heavy.mean == pytest.approx((2 * 1.0 + 2.0 + 5.0) / 4)


def test_points_of_one_moment_have_no_spread() -> None:
    line = fit_line([Point(1.0, value, 1.0) for value in (1.0, 2.0, 6.0)])
    assert (line.mean, line.spread) == (3.0, 0.0)


# --- burstiness ------------------------------------------------------------------------------------------------------


def test_a_steady_flow_has_no_burstiness() -> None:
    _, seen = watch([1500.0] * 8)
    assert seen.burstiness == pytest.approx(0.0)


def test_burstiness_is_the_spread_around_the_mean() -> None:
    # token rates 1 and 3 in turns, which a line cannot follow: standard deviation about 1 around 2
    history = [Bin(15.0 * n, 15.0, 0.0, 15.0 if n % 2 else 45.0, 0.0) for n in range(1, 41)]
    assert burstiness_of(history) == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([Bin(15.0 * n, 15.0, 0.0, 15.0 * n, 0.0) for n in range(1, 6)], id="too short to tell"),
        pytest.param([Bin(15.0 * n, 15.0, 0.0, 0.0, 0.0) for n in range(1, 9)], id="nothing arrives"),
    ],
)
def test_burstiness_is_zero_when_it_cannot_be_told(history: list[Bin]) -> None:
    assert burstiness_of(history) == 0.0


# --- plans -----------------------------------------------------------------------------------------------------------


def test_the_peak_and_the_mean_are_planned_for_one_boot_and_one_interval_ahead() -> None:
    memory, _ = watch([3000.0, 1500.0])
    # The peak of 200/s is held; `watch` has metrics count as much as the routers before its first look. 1015 + 120 + 15 s.
    assert memory.peaks.plans == (Plan(1135.0, 200.0, 200_000.0), Plan(1150.0, 200.0, 200_000.0))
    assert [plan.due for plan in memory.averages.plans] == [1135.0, 1150.0]
    assert 100.0 < memory.averages.plans[-1].requests < 200.0


def test_a_plan_that_is_due_becomes_an_outcome() -> None:
    due = replace(DemandMemory.empty(), peaks=Track(plans=(Plan(1000.0, 100.0, 80_000.0),)))
    memory, _ = watch([2250.0], memory=due)
    assert memory.peaks.outcomes == (Outcome(1000.0, 50.0, 70_000.0, 150.0, 150_000.0),)
    assert memory.peaks.plans == (Plan(1135.0, 150.0, 150_000.0),)
    assert memory.averages.outcomes == ()


def test_one_plan_per_bin_is_kept() -> None:
    memory, _ = watch([1500.0] * 4)
    assert [plan.due for plan in memory.peaks.plans] == [1135.0, 1150.0, 1165.0, 1180.0]
    late = replace(memory, history=(), peaks=Track(plans=(Plan(1134.0, 1.0, 1.0),)))
    again, _ = watch([50.0], seconds=1.0, memory=late)
    assert len(again.peaks.plans) == 1


@pytest.mark.parametrize(("before", "after"), [(15.0, 1500.0), (1500.0, 15.0)])
def test_a_clock_that_is_set_back_changes_nothing_but_the_times(before: float, after: float) -> None:
    memory, _ = watch([before] * 40)

    def later(*, back: float) -> tuple[DemandMemory, Demand]:
        known, seen = memory, None
        for look in range(40):
            known, seen = observe_demand(
                known,
                observation(
                    1600.0 + 15.0 * look - back,
                    routers=flow(after, 15.0),
                    metrics=metrics(flow(4 * after, 60.0)),
                ),
            )
        assert isinstance(seen, Demand)
        return known, seen

    _, usual = later(back=0.0)
    known, moved = later(back=3600.0)
    assert moved.gaps == usual.gaps == ()
    assert moved.has_history
    assert moved.planned.requests == pytest.approx(usual.planned.requests)
    assert moved.headroom.requests == pytest.approx(usual.headroom.requests, rel=0.1)
    assert len(known.history) <= 2 * MAX_BINS
    assert all(moved.time - 3600.0 < item.end <= moved.time for item in known.history)


def test_a_mean_is_of_the_bins_of_its_window() -> None:
    history = tuple(Bin(15.0 * n, 15.0, 150.0 * n, 0.0, 0.0) for n in range(1, 5))
    assert mean_of(history, since=30.0).requests == pytest.approx(35.0)
    assert mean_of(history, since=60.0) == Arrivals(0.0, 0.0, 0.0)


def jumping(looks: int) -> tuple[DemandMemory, Demand]:
    """Every third look sees ten times what the two before it saw."""
    memory, seen = watch([3000.0 if tick % 3 == 0 else 300.0 for tick in range(looks)])
    return memory, seen


def test_where_load_jumps_faster_than_replicas_boot_the_mean_is_planned() -> None:
    _, seen = jumping(100)
    assert seen.rule is Rule.AVERAGE
    assert seen.planned.requests == pytest.approx(80.0, rel=0.05)
    # What arrives in a jump: the reserve is what the mean lacks, but for the misses that the SLO allows.
    assert 60.0 < seen.headroom.requests <= 120.0


def test_before_plans_have_come_due_the_peak_is_planned() -> None:
    _, seen = jumping(10)
    assert seen.rule is Rule.PEAK
    assert seen.planned.requests == pytest.approx(200.0)


def test_where_load_moves_slower_than_replicas_boot_the_peak_is_planned() -> None:
    _, seen = watch([1500.0 + 15.0 * tick for tick in range(100)])
    assert seen.rule is Rule.PEAK


@pytest.mark.parametrize(
    ("boot", "looks"),
    [
        # The first plan is made at the second look, comes due 9 looks later, and 7 more have to; 120 s are watched by then.
        pytest.param(120.0, 17, id="a usual boot: plans come due last"),
        # 300 s are held, of which 270 must be watched; plans come due at look 23 and later.
        pytest.param(300.0, 29, id="a long boot"),
    ],
)
def test_history_is_known_once_peaks_could_be_seen_and_plans_were_judged(boot: float, looks: int) -> None:
    memory, known = DemandMemory.empty(), []
    spec = replace(cluster(), boot_seconds=boot)
    for tick in range(40):
        sample = RouterSample(QUIET, flow(300.0) if tick else Missing("FirstLook"))
        look = observation(1000.0 + 15 * tick, routers=sample, spec=spec)
        memory, seen = observe_demand(memory, look)
        assert isinstance(seen, Demand)
        known.append(seen.has_history)
    assert known == [False] * looks + [True] * (40 - looks)


@pytest.mark.parametrize(
    ("window", "planned"),
    [
        pytest.param(0, 200.0, id="no window of the user: the peak is held"),
        pytest.param(119, 200.0, id="a shorter window"),
        pytest.param(120, 20.0, id="one that holds as long: two holds would add up"),
        pytest.param(600, 20.0, id="a longer one"),
    ],
)
def test_a_peak_is_held_once(window: int, planned: float) -> None:
    memory, _ = watch([3000.0])
    spec = cluster(down=rules(window))
    for tick in range(1, 8):
        look = observation(1000.0 + 15.0 * tick, routers=flow(300.0), metrics=metrics(flow(300.0)), spec=spec)
        memory, seen = observe_demand(memory, look)
    assert isinstance(seen, Demand)
    assert seen.planned.requests == pytest.approx(planned)
    assert memory.peaks.plans[-1].requests == pytest.approx(200.0)


# --- lengths and boots -----------------------------------------------------------------------------------------------


def test_before_any_completion_the_prior_is_believed() -> None:
    _, seen = watch([0.0])
    assert (seen.prompt_tokens, seen.output_tokens) == (PRIOR_PROMPT_TOKENS, PRIOR_OUTPUT_TOKENS)


def test_completions_replace_the_prior() -> None:
    arrived = flow(90.0, length=500.0, completed=90.0, output=20.0)
    _, seen = observe_demand(DemandMemory.empty(), observation(1000.0, routers=arrived))
    assert isinstance(seen, Demand)
    assert seen.output_tokens == pytest.approx((10 * 211 + 90 * 20) / 100)
    assert seen.prompt_tokens == pytest.approx((10 * 1155 + 90 * 500) / 100)


@pytest.mark.parametrize(
    ("requests", "mean"),
    [
        pytest.param(0.0, 100.0, id="nothing new"),
        pytest.param(1000.0, 150.0, id="half of the evidence"),
        pytest.param(5000.0, 200.0, id="more than is remembered"),
    ],
)
def test_a_mean_length_remembers_two_thousand_requests(requests: float, mean: float) -> None:
    known = MeanLength(2000.0, 200_000.0)
    assert known.learn(requests, requests * 200.0).mean == pytest.approx(mean)


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(1, 1e5)), max_size=30))
def test_a_mean_length_stays_between_what_was_seen(samples: list[tuple[float, float]]) -> None:
    known = DemandMemory.empty().output
    for count, length in samples:
        known = known.learn(count, count * length)
    lengths = [PRIOR_OUTPUT_TOKENS, *(length for _, length in samples)]
    assert min(lengths) * 0.999 <= known.mean <= max(lengths) * 1.001


def test_measured_boots_replace_the_expected_one_also_after_the_replicas_are_gone() -> None:
    boots = [40.0, 60.0, 50.0, 200.0]
    replicas = tuple(
        replace(replica, created_at=0.0, ready_at=boot)
        for replica, boot in zip(fleet(prefill=4), boots, strict=True)
    )
    memory, seen = observe_demand(
        DemandMemory.empty(), observation(1000.0, routers=flow(1.0), replicas=replicas)
    )
    assert isinstance(seen, Demand)
    assert seen.boot_seconds == 60.0  # three of four are up by then
    _, later = observe_demand(memory, observation(1015.0, routers=flow(1.0)))
    assert isinstance(later, Demand)
    assert later.boot_seconds == 60.0


def test_a_replica_that_never_was_ready_or_took_too_long_does_not_spoil_the_estimate() -> None:
    stuck, slow = fleet(prefill=2)
    replicas = (replace(stuck, ready_at=None), replace(slow, created_at=0.0, ready_at=90_000.0))
    _, seen = observe_demand(DemandMemory.empty(), observation(1000.0, routers=flow(1.0), replicas=replicas))
    assert isinstance(seen, Demand)
    assert seen.boot_seconds == 120.0  # what the spec expects


def test_a_readiness_that_nobody_saw_to_be_the_first_is_no_boot() -> None:
    """The Pod of a replica that flapped tells the last time it became ready."""
    replicas = tuple(
        replace(replica, created_at=0.0, ready_at=1500.0, boot_seen=False) for replica in fleet(prefill=2)
    )
    _, seen = observe_demand(DemandMemory.empty(), observation(2000.0, routers=flow(1.0), replicas=replicas))
    assert isinstance(seen, Demand)
    assert seen.boot_seconds == 120.0


def test_only_the_latest_boots_count() -> None:
    replicas = tuple(
        replace(replica, created_at=float(index), ready_at=float(2 * index))
        for index, replica in enumerate(fleet(prefill=BOOTS_KEPT + 5))
    )
    memory, _ = observe_demand(
        DemandMemory.empty(), observation(1000.0, routers=flow(1.0), replicas=replicas)
    )
    assert [boot.seconds for boot in memory.boots] == [float(index) for index in range(5, BOOTS_KEPT + 5)]


# --- sources ---------------------------------------------------------------------------------------------------------


def test_neither_source_is_missing_and_keeps_the_history() -> None:
    memory, _ = watch([1500.0] * 3)
    after, seen = observe_demand(memory, observation(1060.0, routers=Missing("Timeout")))
    assert isinstance(seen, Missing)
    assert seen.reason == "NoSource"
    assert seen.message == "routers: Timeout; metrics: Down (connection refused)"
    assert after == memory


def test_all_sources_are_complete() -> None:
    _, seen = watch([1500.0])
    assert seen.complete


@pytest.mark.parametrize(
    "look",
    [
        pytest.param(observation(1000.0, routers=flow(1500.0)), id="metrics missing"),
        pytest.param(observation(1000.0, metrics=metrics(flow(6000.0, 60.0))), id="routers missing"),
    ],
)
def test_one_source_is_enough_to_see_the_rate_but_not_to_shrink(look: Observation) -> None:
    _, seen = observe_demand(DemandMemory.empty(), look)
    assert isinstance(seen, Demand)
    assert not seen.complete
    assert seen.gaps == (MISSING,)
    assert seen.arrivals.requests == pytest.approx(100.0)


NO_PROMETHEUS = Missing(NOT_CONFIGURED, "installed without one")


def test_without_a_prometheus_to_ask_the_routers_are_every_source() -> None:
    _, seen = observe_demand(
        DemandMemory.empty(), observation(1000.0, routers=flow(1500.0), metrics=NO_PROMETHEUS)
    )
    assert isinstance(seen, Demand)
    assert seen.complete
    assert seen.ttft_seconds == seen.itl_seconds == NO_PROMETHEUS
    assert seen.arrivals.requests == pytest.approx(100.0)


def test_without_a_prometheus_a_look_that_tells_no_flow_shrinks_nothing() -> None:
    restarted = Missing("RoutersChanged")
    memory, _ = observe_demand(
        DemandMemory.empty(), observation(1000.0, routers=flow(1500.0), metrics=NO_PROMETHEUS)
    )
    look = observation(1015.0, routers=RouterSample(QUIET, restarted), metrics=NO_PROMETHEUS)
    _, seen = observe_demand(memory, look)
    assert isinstance(seen, Demand)
    assert seen.gaps == (restarted,)


def test_metrics_fill_in_for_routers_without_counting_twice() -> None:
    memory, _ = watch([1500.0])
    # The window of 60 s holds 100 requests/s; 15 s of it are new. (The first look had taken 15 s from metrics, too.)
    memory, seen = observe_demand(memory, observation(1015.0, metrics=metrics(flow(6000.0, 60.0))))
    assert sum(item.requests for item in memory.history) == pytest.approx(1500.0 + 1500.0 + 1500.0)
    assert isinstance(seen, Demand)
    assert seen.queue == MISSING
    same, _ = observe_demand(memory, observation(1015.0, metrics=metrics(flow(6000.0, 60.0))))
    assert same.history == memory.history


def test_metrics_seed_the_history_of_a_restarted_operator() -> None:
    look = observation(1000.0, routers=flow(15.0), metrics=metrics(flow(60.0, 60.0)))
    memory, _ = observe_demand(DemandMemory.empty(), look)
    assert [(item.end, item.seconds) for item in memory.history] == [(985.0, 60.0), (1000.0, 15.0)]


def test_routers_on_their_first_look_leave_the_rate_to_the_metrics() -> None:
    look = observation(
        1000.0,
        routers=RouterSample(QUIET, Missing("FirstLook")),
        metrics=metrics(flow(6000.0, 60.0)),
    )
    _, seen = observe_demand(DemandMemory.empty(), look)
    assert isinstance(seen, Demand)
    assert seen.complete
    assert seen.arrivals.requests == pytest.approx(100.0)


def test_a_queue_alone_is_demand_that_may_not_shrink() -> None:
    queue = waiting(held_requests=3, held_tokens=3000, head_age_seconds=2.0)
    look = observation(1000.0, routers=RouterSample(queue, Missing("FirstLook")))
    _, seen = observe_demand(DemandMemory.empty(), look)
    assert isinstance(seen, Demand)
    assert seen.queue == queue
    assert seen.arrivals == Arrivals(0.0, 0.0, 0.0)
    assert not seen.complete


@pytest.mark.parametrize(
    ("told", "counted", "agree"),
    [
        pytest.param(1000.0, 1900.0, True, id="a scrape's delay"),
        pytest.param(1000.0, 2100.0, False, id="a router was not asked"),
        pytest.param(5.0, 30.0, True, id="too few to judge"),
    ],
)
def test_metrics_that_saw_much_more_forbid_shrinking(told: float, counted: float, agree: bool) -> None:
    memory, _ = watch([told])
    look = observation(1015.0, routers=flow(told), metrics=metrics(flow(counted)))
    _, seen = observe_demand(memory, look)
    assert isinstance(seen, Demand)
    assert seen.complete is agree
    assert [gap.reason for gap in seen.gaps] == ([] if agree else ["SourcesDisagree"])


def test_a_young_history_is_not_compared_with_a_long_window() -> None:
    memory, _ = observe_demand(DemandMemory.empty(), observation(1000.0, routers=flow(1.0)))
    look = observation(1015.0, routers=flow(1.0), metrics=metrics(flow(9000.0, 600.0)))
    _, seen = observe_demand(memory, look)
    assert isinstance(seen, Demand)
    assert seen.complete


def test_latencies_and_utilisation_pass_through() -> None:
    busy = {PoolName.PREFILL: PoolUtilization(0.9, 0.3)}
    sample = replace(metrics(flow(60.0, 60.0), ttft=0.3, itl=0.02), utilization=busy)
    _, seen = observe_demand(DemandMemory.empty(), observation(1000.0, routers=flow(1.0), metrics=sample))
    assert isinstance(seen, Demand)
    assert (seen.ttft_seconds, seen.itl_seconds, seen.metrics_seconds) == (0.3, 0.02, 60.0)
    assert seen.utilization == busy


FLOWS = st.builds(
    lambda seconds, requests, length, completed: flow(requests, seconds, length=length, completed=completed),
    st.floats(0.5, 120),
    st.floats(0, 1e5),
    st.floats(1, 1e5),
    st.floats(0, 1e5),
)
LOOKS = st.lists(
    st.tuples(
        st.floats(0, 200),
        st.one_of(st.just(MISSING), st.just(RouterSample(QUIET, Missing("FirstLook"))), FLOWS),
        st.one_of(st.just(MISSING), FLOWS),
    ),
    min_size=1,
    max_size=30,
)


@given(LOOKS)
def test_any_sequence_of_observations_gives_finite_ordered_and_repeatable_demand(
    looks: list[tuple[float, Missing | RouterSample | Flow, Missing | Flow]],
) -> None:
    memory, now = DemandMemory.empty(), 1000.0
    for step, routers, counted in looks:
        now += step
        look = observation(
            now, routers=routers, metrics=counted if isinstance(counted, Missing) else metrics(counted)
        )
        again = observe_demand(memory, look)
        memory, seen = observe_demand(memory, look)
        assert (memory, seen) == again
        if isinstance(seen, Missing):
            assert isinstance(routers, Missing)
            assert isinstance(counted, Missing)
            continue
        assert seen.arrivals.requests >= 0
        assert seen.rule is Rule.AVERAGE or seen.arrivals.requests <= seen.planned.requests
        assert min(seen.headroom.requests, seen.headroom.tokens, seen.headroom.tokens_squared) >= 0
        assert math.isfinite(seen.headroom.tokens_squared)
        assert max(len(memory.peaks.outcomes), len(memory.averages.outcomes)) <= OUTCOMES
        assert seen.burstiness >= 0
        assert seen.complete <= (not isinstance(routers, Missing) and not isinstance(counted, Missing))

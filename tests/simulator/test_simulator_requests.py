"""Single requests through whole clusters, by hand: what each path costs, what waits, what is refused, what is retried."""

from __future__ import annotations

import math

import pytest
from tests.simulator.simulator_builders import (
    KV_BYTES,
    LINK,
    cluster_spec,
    hardware,
    requests,
    run,
    scenario,
    steady,
)

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.spec import Slo
from inferencecluster.simulator.decode_engine import run_seconds
from inferencecluster.simulator.frontend import OutputEstimate
from inferencecluster.simulator.hardware import POWER_CAP_EXPONENT
from inferencecluster.simulator.journeys import Outcome, Path
from inferencecluster.simulator.links import CONTEXT_FIRST, Link, transfer_ends_at
from inferencecluster.simulator.scenario import Failure, Faults, Scenario

PREFILL_SECONDS = 0.110
STEP = 0.010 + 1e-4 + 1e-7 * 1001
TRANSFER_SECONDS = 1000 * KV_BYTES / LINK
ONE = requests((0.0, 1000, 101))


def test_a_layer_wise_transfer_hides_behind_a_prompt_that_takes_longer() -> None:
    (journey,) = run(scenario(), ONE).journeys
    assert TRANSFER_SECONDS < PREFILL_SECONDS
    assert journey.path is Path.DISAGGREGATED
    assert journey.ttft_seconds == pytest.approx(PREFILL_SECONDS + 0.005)
    assert journey.ended_at == pytest.approx(PREFILL_SECONDS + 0.005 + run_seconds(STEP, 1e-7, 100))
    assert journey.tpot_seconds == pytest.approx(run_seconds(STEP, 1e-7, 100) / 100)


def test_a_slow_link_shows_what_the_prompt_does_not_hide() -> None:
    slow = {name: hardware(link_bytes_per_second=LINK / 2) for name in PoolName}
    (journey,) = run(scenario(hardware=slow), ONE).journeys
    assert journey.ttft_seconds == pytest.approx(2 * TRANSFER_SECONDS + 0.005)


def test_without_overlap_the_transfer_follows_the_prompt() -> None:
    (journey,) = run(scenario(network=CONTEXT_FIRST), ONE).journeys
    assert journey.ttft_seconds == pytest.approx(PREFILL_SECONDS + TRANSFER_SECONDS)


def test_caches_that_meet_on_one_link_wait_for_each_other() -> None:
    plan = scenario(cluster_spec((2, 1, 0)), network=CONTEXT_FIRST)
    first, second = run(plan, requests((0.0, 1000, 11), (0.0, 1000, 11))).journeys
    assert first.ttft_seconds == pytest.approx(PREFILL_SECONDS + TRANSFER_SECONDS)
    # Both prompts end at once on two replicas; the decode replica's link takes one cache after the other.
    assert second.ttft_seconds == pytest.approx(PREFILL_SECONDS + 2 * TRANSFER_SECONDS, abs=0.011)
    assert second.ttft_seconds >= PREFILL_SECONDS + 2 * TRANSFER_SECONDS


def test_a_transfer_ends_with_the_later_of_its_links() -> None:
    fast, slow = Link(200.0), Link(100.0)
    assert transfer_ends_at(fast, slow, 100.0, ready=1.0, last_layer=1.0) == 2.0
    assert (fast.free_at, slow.free_at) == (1.5, 2.0)
    assert transfer_ends_at(Link(200.0), slow, 100.0, ready=1.0, last_layer=1.0) == 3.0
    assert slow.busy_seconds == 2.0


def test_a_layer_cannot_arrive_before_it_is_computed() -> None:
    assert transfer_ends_at(Link(200.0), Link(200.0), 100.0, ready=1.0, last_layer=4.0) == 4.0


def test_a_cache_for_a_busy_receiver_leaves_its_senders_link_to_others() -> None:
    sender, busy, free = Link(100.0), Link(100.0), Link(100.0)
    busy.book(10_000.0, 0.0)
    assert transfer_ends_at(sender, busy, 100.0, ready=1.0, last_layer=1.0) == 101.0
    assert transfer_ends_at(sender, free, 100.0, ready=1.0, last_layer=1.0) == 3.0


def test_the_prefill_replica_may_answer_first_as_splitwise_counts_it() -> None:
    (journey,) = run(scenario(prefill_answers=True), ONE).journeys
    assert journey.ttft_seconds == pytest.approx(PREFILL_SECONDS)
    assert journey.ended_at == pytest.approx(PREFILL_SECONDS + 0.005 + run_seconds(STEP, 1e-7, 100))


def test_an_answer_of_one_token_ends_with_its_prompt_and_moves_no_cache() -> None:
    (journey,) = run(scenario(), requests((0.0, 1000, 1))).journeys
    assert journey.ttft_seconds == journey.ended_at == pytest.approx(PREFILL_SECONDS)
    assert journey.tpot_seconds == 0.0


def test_mixed_replicas_serve_the_whole_request() -> None:
    (journey,) = run(scenario(cluster_spec((0, 0, 1))), ONE).journeys
    assert journey.path is Path.MIXED
    assert journey.ttft_seconds == pytest.approx(PREFILL_SECONDS)
    assert journey.ended_at == pytest.approx(PREFILL_SECONDS + run_seconds(STEP, 1e-7, 100))


@pytest.mark.parametrize(
    "sizes", [pytest.param((1, 0, 0), id="prefill"), pytest.param((0, 1, 0), id="decode")]
)
def test_without_the_other_pool_a_replica_is_borrowed(sizes: tuple[int, int, int]) -> None:
    (journey,) = run(scenario(cluster_spec(sizes)), ONE).journeys
    assert journey.path is Path.BORROWED
    assert journey.ttft_seconds == pytest.approx(PREFILL_SECONDS)


def test_a_full_prefill_queue_borrows_the_decode_replica() -> None:
    patient = Slo(90, ttft_seconds=0.5, itl_seconds=0.040)
    found = run(
        scenario(cluster_spec(overflow_tokens=999, slo=patient)), requests((0.0, 1000, 50), (0.001, 1000, 50))
    )
    assert [journey.path for journey in found.journeys] == [Path.DISAGGREGATED, Path.BORROWED]


def test_when_nobody_has_room_a_request_waits_and_the_next_free_replica_takes_it() -> None:
    plan = scenario(cluster_spec((0, 0, 1), overflow_tokens=0), late_seconds=math.inf)
    first, second, third = run(plan, requests((0.0, 1000, 5), (0.001, 1000, 5), (0.002, 1000, 5))).journeys
    # Nothing may wait in front of a prompt: each goes when the one before it is done.
    assert first.ttft_seconds == pytest.approx(PREFILL_SECONDS)
    assert second.ttft_seconds == pytest.approx(2 * PREFILL_SECONDS, abs=0.011)
    assert third.ttft_seconds > second.ttft_seconds + PREFILL_SECONDS - 0.011


def test_late_requests_let_newer_ones_pass() -> None:
    burst = requests(*[(number * 0.001, 1000, 2) for number in range(30)])
    spec = cluster_spec((0, 0, 1), overflow_tokens=0)
    in_order = run(scenario(spec, late_seconds=math.inf), burst).journeys
    passing = run(scenario(spec, late_seconds=0.5), burst).journeys
    ends = [journey.first_token_at for journey in in_order]
    assert ends == sorted(ends)
    assert passing[-1].ttft_seconds < passing[15].ttft_seconds
    # The same work, and nobody is lost.
    assert {journey.outcome for journey in passing} == {Outcome.COMPLETED}


def test_a_request_is_late_after_half_of_the_target() -> None:
    burst = requests(*[(number * 0.001, 1000, 2) for number in range(30)])
    spec = cluster_spec((0, 0, 1), overflow_tokens=0)
    orders = [
        [journey.first_token_at for journey in run(scenario(spec, late_seconds=late), burst).journeys]
        for late in (None, spec.slo.ttft_seconds / 2, spec.slo.ttft_seconds)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_whoever_waits_for_too_long_is_refused_at_that_moment() -> None:
    spec = cluster_spec((0, 0, 1), overflow_tokens=0)
    found = run(scenario(spec, max_queue_seconds=1.0), requests(*[(0.0, 9000, 2)] * 4))
    # A prompt takes 0.92 s and its chunks two more bases: the second one comes in time, the others do not.
    assert [journey.outcome for journey in found.journeys].count(Outcome.COMPLETED) == 2
    refused = [journey for journey in found.journeys if journey.outcome is Outcome.REFUSED]
    assert [journey.ended_at for journey in refused] == pytest.approx([1.0, 1.0])
    assert found.report.refused == 2
    assert {journey.path for journey in refused} == {Path.NONE}


def test_without_any_replica_requests_wait_for_the_boot_or_are_refused() -> None:
    spec = cluster_spec((0, 0, 0), most=(1, 1, 1))
    refused = run(scenario(spec, max_queue_seconds=5.0), ONE)
    assert refused.report.refused == 1
    assert refused.journeys[0].ended_at == 5.0


def test_a_request_that_no_engine_can_hold_fails_at_once() -> None:
    found = run(scenario(), requests((0.0, 99_950, 51), (1.0, 99_950, 50)))
    assert [journey.outcome for journey in found.journeys] == [Outcome.TOO_LARGE, Outcome.COMPLETED]
    assert (found.report.failed, found.report.too_large) == (1, 1)


def test_nobody_knows_how_long_an_answer_becomes() -> None:
    estimate = OutputEstimate()
    assert estimate.tokens == 211
    for _ in range(5000):
        estimate.learn(50)
    assert estimate.tokens == 50
    for _ in range(1000):
        estimate.learn(100)
    # The latest thousand weigh as much as all before.
    assert 75 < estimate.tokens < 90


def test_an_answer_that_outgrows_its_reservation_reserves_as_much_again() -> None:
    # 211 tokens are expected of each. At 15 s the first one has made some 660, the second some 370: 4 and 2 times 211
    # are booked. With 80,000 tokens of their prompts, another 19,000 + 211 are too many by 477.
    found = run(scenario(), requests((0.0, 40_000, 900), (4.2, 40_000, 900), (15.0, 19_000, 10)))
    assert {journey.outcome for journey in found.journeys} == {Outcome.COMPLETED}
    assert [journey.path for journey in found.journeys][1:] == [Path.DISAGGREGATED, Path.BORROWED]


def test_a_power_cap_slows_prompts_and_not_tokens() -> None:
    capped = {name: hardware(power_cap=0.7) for name in PoolName}
    (journey,) = run(scenario(hardware=capped), ONE).journeys
    assert pytest.approx(1.3, rel=1e-3) == 0.7**-POWER_CAP_EXPONENT
    assert journey.ttft_seconds == pytest.approx(1.3 * PREFILL_SECONDS + 0.005, rel=1e-3)
    assert journey.ended_at - journey.first_token_at == pytest.approx(run_seconds(STEP, 1e-7, 100))


def _failing(at: float, replica: str, **changes: object) -> Scenario:
    spec = cluster_spec((2, 2, 0), boot_seconds=5.0)
    return scenario(spec, faults=Faults(failures=(Failure(at, f"simulated-engine-{replica}"),)), **changes)


@pytest.mark.parametrize(
    ("at", "replica"),
    [
        pytest.param(0.05, "0", id="while it computes the prompt"),
        pytest.param(0.112, "0", id="while its cache travels"),
        pytest.param(0.05, "2", id="the decode replica before the prompt is done"),
        pytest.param(0.112, "2", id="the decode replica while the cache travels"),
    ],
)
def test_a_replica_that_fails_before_the_first_token_costs_time_and_nothing_else(
    at: float, replica: str
) -> None:
    found = run(_failing(at, replica), ONE)
    (journey,) = found.journeys
    assert journey.outcome is Outcome.COMPLETED
    assert journey.attempts == 2
    # The prompt is computed again, from the failure on or, where nobody had noticed, from its own end.
    again = at if at > PREFILL_SECONDS or replica == "0" else PREFILL_SECONDS
    assert journey.ttft_seconds == pytest.approx(again + PREFILL_SECONDS + 0.005)
    assert found.report.failures == 1


def test_a_replica_that_fails_after_the_first_token_fails_the_request() -> None:
    found = run(_failing(0.5, "2"), ONE)
    assert found.journeys[0].outcome is Outcome.FAILED
    assert found.journeys[0].ended_at == 0.5
    assert found.report.slo_attainment == 0.0


def test_a_request_whose_only_replica_failed_fails() -> None:
    spec = cluster_spec((0, 0, 1), boot_seconds=5.0)
    plan = scenario(spec, faults=Faults(failures=(Failure(0.05),)))
    assert run(plan, ONE).journeys[0].outcome is Outcome.FAILED


def test_after_a_failure_a_request_that_finds_no_room_waits_before_all_others() -> None:
    spec = cluster_spec((0, 0, 2), overflow_tokens=0, boot_seconds=100.0)
    faults = Faults(failures=(Failure(0.05, "simulated-engine-0"),))
    workload = requests((0.0, 1000, 2), (0.001, 2000, 2), (0.04, 1000, 2), (0.045, 1000, 2))
    first, second, third, fourth = run(
        scenario(spec, faults=faults, late_seconds=math.inf), workload
    ).journeys
    assert first.attempts == 2
    assert second.first_token_at < first.first_token_at < third.first_token_at < fourth.first_token_at


def test_after_three_attempts_a_request_fails() -> None:
    spec = cluster_spec((0, 0, 4), boot_seconds=100.0)
    faults = Faults(failures=tuple(Failure(0.02 * n, f"simulated-engine-{n - 1}") for n in (1, 2, 3)))
    (journey,) = run(scenario(spec, faults=faults), ONE).journeys
    assert journey.outcome is Outcome.FAILED
    assert journey.attempts == 3


def test_a_retry_waits_no_longer_than_its_first_attempt_left_over() -> None:
    spec = cluster_spec((0, 0, 2), overflow_tokens=0, boot_seconds=100.0)
    faults = Faults(failures=(Failure(0.05, "simulated-engine-0"),))
    workload = requests((0.0, 1000, 2), (0.001, 60_000, 2))
    found = run(scenario(spec, faults=faults, max_queue_seconds=2.0), workload)
    assert found.journeys[0].outcome is Outcome.REFUSED
    assert found.journeys[0].ended_at == pytest.approx(2.05)


def test_load_is_shared_by_the_products_own_routing() -> None:
    found = run(scenario(cluster_spec((2, 2, 0))), steady(12.0, 20.0))
    assert found.report.slo_attainment == 1.0
    assert found.report.paths[Path.DISAGGREGATED] == 240

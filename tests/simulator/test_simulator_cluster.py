"""Replicas, nodes, operator and what both see: boots, drains, trades, failures, conversions, policies."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
from tests.simulator.simulator_builders import (
    LINK,
    ROUND,
    cluster_spec,
    hardware,
    requests,
    run,
    scenario,
    steady,
)

from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import Lifecycle, PoolName, ReplicaLoad
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Flow, MetricsSample, Observation, RouterSample
from inferencecluster.core.profiles import profile
from inferencecluster.core.spec import ScalingMode
from inferencecluster.simulator.hardware import Hardware
from inferencecluster.simulator.journeys import Journey, Outcome, Path
from inferencecluster.simulator.scenario import Boot, Failure, Faults, NodeGroup, Operations, Scenario
from inferencecluster.simulator.signals import Signals
from inferencecluster.simulator.simulation import Simulation
from inferencecluster.simulator.workload import Request

P, D, M = PoolName.PREFILL, PoolName.DECODE, PoolName.MIXED


@dataclass
class Script:
    """Writes given sizes at given times, and keeps what it was shown."""

    sizes_at: Mapping[float, Mapping[PoolName, int]]
    name: str = "script"
    interval_seconds: float = 10.0
    seen: list[Signals] = field(default_factory=list)

    def sizes(self, signals: Signals) -> Mapping[PoolName, int]:
        self.seen.append(signals)
        return self.sizes_at.get(signals.now, {})


def at_rest(plan: Scenario, seconds: float, workload: list[Request] | None = None) -> Simulation:
    """A cluster after some time; one last request keeps the run going until then."""
    simulation = Simulation(plan)
    simulation.serve([*(workload or []), Request(seconds, 1, 1)])
    return simulation


def observations(plan: Scenario, workload: list[Request], policy: Script | None = None) -> list[Observation]:
    """Everything that the operator saw."""
    simulation = Simulation(plan, policy)
    seen: list[Observation] = []
    simulation.operator.on_decision = lambda observation, _: seen.append(observation)
    simulation.serve(workload)
    return seen


def test_a_scale_up_serves_after_one_boot_and_is_charged_from_its_creation() -> None:
    spec = cluster_spec((1, 1, 0), most=(4, 4, 0), boot_seconds=18.0)
    seen = observations(scenario(spec), steady(2.0, 60.0), Script({10.0: {P: 3}}))
    states = {
        (observation.now, replica.name): replica.lifecycle
        for observation in seen
        for replica in observation.replicas
    }
    newest = "simulated-engine-3"
    first_seen = min(now for now, name in states if name == newest)
    ready = min(now for (now, name), state in states.items() if name == newest and state is Lifecycle.READY)
    assert first_seen == pytest.approx(10.1)
    # The boot of 18 s, and the operator wakes a tenth of a second after it.
    assert ready == pytest.approx(28.1)
    report = run(scenario(spec), steady(2.0, 60.0), Script({10.0: {P: 3}})).report
    assert report.gpu_hours[P] * 3600 == pytest.approx(59.5 + 2 * 49.5)
    assert report.scale_events == 1


def test_boots_spread_around_their_mean_and_repeat_with_the_seed() -> None:
    boot = Boot.of(100.0, spread=0.3)
    drawn = [boot.draw(random.Random(number)) for number in range(2000)]
    assert sum(drawn) / 2000 == pytest.approx(100.0, rel=0.02)
    assert min(drawn) < 75
    assert max(drawn) > 130
    assert boot.draw(random.Random(7)) == boot.draw(random.Random(7))
    assert Boot.of(100.0).draw(random.Random(7)) == 100.0


def test_a_drain_ends_what_it_holds_and_then_frees_its_gpus() -> None:
    spec = cluster_spec((0, 0, 1), most=(0, 0, 4))
    plan = scenario(spec, initial={M: 2})
    found = run(
        plan, [*requests((0.0, 1000, 2000), (0.1, 1000, 2000)), Request(60.0, 1, 1)], Script({10.0: {M: 1}})
    )
    long, other, _ = found.journeys
    assert long.outcome is other.outcome is Outcome.COMPLETED
    # One of the two replicas was fenced at 10 s, held its request to its end, and was gone two seconds later.
    drained = min(long.ended_at, other.ended_at)
    assert found.report.gpu_hours[M] * 3600 == pytest.approx(60.0 + drained + 2.0, abs=1.2)


def test_a_drain_deadline_cuts_what_is_left() -> None:
    spec = cluster_spec((0, 0, 1), most=(0, 0, 4), drain_deadline_seconds=5.0)
    plan = scenario(spec, initial={M: 2})
    workload = [*requests((0.0, 1000, 2000), (0.1, 1000, 2000)), Request(60.0, 1, 1)]
    found = run(plan, workload, Script({10.0: {M: 1}}))
    outcomes = [journey.outcome for journey in found.journeys[:2]]
    assert sorted(outcomes) == [Outcome.COMPLETED, Outcome.FAILED]
    failed = next(journey for journey in found.journeys if journey.outcome is Outcome.FAILED)
    assert 15.0 < failed.ended_at < 19.0


def test_a_trade_shrinks_before_it_grows_and_stays_inside_of_the_budget() -> None:
    spec = cluster_spec((1, 1, 0), most=(4, 4, 0), budget=8, gpus=2)
    seen = observations(
        scenario(spec, initial={P: 3, D: 1}), steady(2.0, 120.0), Script({10.0: {P: 1, D: 3}})
    )
    assert max(sum(replica.gpus for replica in look.replicas) for look in seen) == 8
    final = seen[-1].replicas
    assert [replica.home for replica in final].count(D) == 3


def test_a_fence_is_taken_back_when_the_replica_is_wanted_again() -> None:
    spec = cluster_spec((0, 0, 1), most=(0, 0, 4))
    workload = [*requests((0.0, 1000, 3000), (0.1, 1000, 3000)), Request(70.0, 1, 1)]
    found = run(scenario(spec, initial={M: 2}), workload, Script({10.0: {M: 1}, 20.0: {M: 2}}))
    assert found.report.gpu_hours[M] * 3600 == pytest.approx(140.0)


def test_a_failed_replica_is_replaced_after_a_boot() -> None:
    plan = scenario(cluster_spec((2, 1, 0)), faults=Faults(failures=(Failure(6.0, "simulated-engine-1"),)))
    seen = observations(plan, steady(2.0, 60.0))
    lost = [look for look in seen if sum(replica.is_serving for replica in look.replicas) == 2]
    # It fails at 6 s; the budget has room for its successor at once, which boots for 20 s.
    assert lost[0].now == pytest.approx(6.1)
    assert 25.0 <= lost[-1].now < 26.2
    assert sum(replica.is_serving for replica in seen[-1].replicas) == 3


def test_replicas_fail_at_random_as_often_as_they_should() -> None:
    plan = scenario(cluster_spec((5, 5, 0)), faults=Faults(mean_hours=0.5), seed=3)
    simulation = at_rest(plan, 3600.0)
    # Ten replicas for an hour with a mean life of half an hour; four standard deviations.
    assert 20 - 18 <= simulation.replicas.failures <= 20 + 18
    assert at_rest(plan, 3600.0).replicas.failures == simulation.replicas.failures


def test_a_failure_of_nobody_changes_nothing() -> None:
    faults = Faults(failures=(Failure(5.0, "simulated-engine-9"),))
    assert at_rest(scenario(faults=faults), 20.0).replicas.failures == 0


def unattended() -> Scenario:
    """Two prefill and one decode replica, and an operator that looks at them once."""
    return scenario(
        cluster_spec((2, 1, 0), interval_seconds=600.0), operations=Operations(debounce_seconds=600.0)
    )


def test_a_conversion_moves_the_home_and_keeps_what_runs() -> None:
    plan = unattended()
    ended: list[Journey] = []
    simulation = Simulation(plan, record=ended.append)
    homes: list[tuple[float, PoolName, PoolName, bool]] = []

    def note(_: object) -> None:
        replica = next(replica for replica in simulation.replicas if replica.name == "simulated-engine-1")
        assert replica.entry is not None
        homes.append((simulation.events.now, replica.home, replica.entry.home, replica.entry.serving))

    def convert(_: object) -> None:
        simulation.replicas.convert("simulated-engine-1", "uid-2", D)
        for later in (0.0, 0.9, 1.05):
            simulation.events.at(11.0 + later, note)

    simulation.events.at(11.0, convert)
    simulation.serve(steady(15.0, 12.0))
    # Between the label and the moment in which the router sees it, it goes on as before.
    assert homes == [(11.0, D, P, True), (11.9, D, P, True), (12.05, D, D, True)]
    assert simulation.replicas.conversions == 1
    assert {journey.outcome for journey in ended} == {Outcome.COMPLETED}
    assert simulation.report().conversions == 1


def test_a_replica_that_fails_while_it_is_converted_is_gone_for_both_pools() -> None:
    simulation = Simulation(unattended())
    simulation.events.at(1.0, lambda _: simulation.replicas.convert("simulated-engine-0", "uid-1", D))
    simulation.events.at(1.5, lambda _: simulation.replicas.fail(next(iter(simulation.replicas))))
    known: list[str] = []
    simulation.events.at(8.0, lambda _: known.extend(simulation.frontend.ledger.entries))
    simulation.serve(requests((20.0, 1, 1)))
    assert known == ["simulated-engine-1", "simulated-engine-2"]


def test_a_draining_replica_that_is_converted_serves_again() -> None:
    simulation = Simulation(scenario(cluster_spec((2, 1, 0))))
    replicas = simulation.replicas
    replicas.start_initial()
    replicas.fence("simulated-engine-0", "uid-1", "ScaleDown")
    replicas.convert("simulated-engine-0", "uid-1", D)
    while (simulation.events.next_time() or 9.0) <= 1.0:
        simulation.events.run_next()
    replica = next(iter(replicas))
    assert (replica.home, replica.is_serving) == (D, True)
    assert replica.entry is not None
    assert (replica.entry.home, replica.entry.serving) == (D, True)


def test_a_booting_replica_is_met_in_its_new_home() -> None:
    simulation = Simulation(scenario(cluster_spec((1, 1, 0), most=(2, 2, 0), boot_seconds=10.0)))
    replicas = simulation.replicas
    replicas.create(5, P)
    replicas.convert("simulated-engine-5", "uid-1", D)
    while (simulation.events.next_time() or 99.0) <= 10.0:
        simulation.events.run_next()
    replica = next(iter(replicas))
    assert replica.entry is not None
    assert (replica.home, replica.entry.home, replica.is_serving) == (D, D, True)


def test_the_operator_converts_where_pools_are_interchangeable() -> None:
    spec = cluster_spec((3, 1, 0), most=(4, 4, 0), boot_seconds=100.0)
    prefill, decode, mixed = (replace(pool, interchangeable=True) for pool in spec.pools)
    spec = replace(spec, pools=(replace(prefill, min_replicas=1), decode, mixed), budget_gpus=4)
    policy = Script({10.0: {P: 2, D: 2}})
    seen = observations(scenario(spec, initial={P: 3, D: 1}), steady(1.0, 60.0), policy)
    homes = [sorted(replica.home for replica in look.replicas) for look in seen]
    assert homes[0] == [D, P, P, P]
    assert homes[-1] == [D, D, P, P]
    assert {len(look.replicas) for look in seen} == {4}, "nothing was created or drained"
    assert all(replica.fenced_at is None for look in seen for replica in look.replicas)


def test_an_action_that_comes_too_late_changes_nothing() -> None:
    simulation = Simulation(scenario())
    simulation.replicas.start_initial()
    replicas = simulation.replicas
    replicas.create(0, P)
    replicas.fence("simulated-engine-0", "uid-of-its-predecessor", "ScaleDown")
    replicas.delete("simulated-engine-9", "uid-1")
    replicas.unfence("simulated-engine-0", "uid-1")
    replicas.convert("simulated-engine-0", "uid-1", P)
    assert [replica.is_serving for replica in replicas] == [True, True]
    assert replicas.conversions == 0
    replicas.delete("simulated-engine-0", "uid-1")
    replicas.convert("simulated-engine-0", "uid-1", D)
    assert [replica.home for replica in replicas] == [P, D]


def test_nodes_bound_what_can_start_and_the_operator_sees_them() -> None:
    spec = cluster_spec((1, 1, 0), most=(9, 9, 0), gpus=2, budget=40)
    group = NodeGroup(frozenset({P, D}), nodes=2, gpus_per_node=3)
    seen = observations(scenario(spec, nodes=(group,)), steady(1.0, 60.0), Script({10.0: {P: 3}}))
    assert isinstance(seen[0].capacity, tuple)
    start = seen[0].capacity_of(P)
    assert not isinstance(start, Missing)
    assert (start.nodes, start.allocatable_gpus, start.free_gpus, start.largest_free_block) == (2, 6, 2, 1)
    # Three GPUs a node hold one replica each: a third one never finds room, although two GPUs are free.
    states = [replica.lifecycle for replica in seen[-1].replicas]
    assert states.count(Lifecycle.READY) == 2
    assert states.count(Lifecycle.PENDING) == 2


def test_a_pending_replica_starts_when_a_node_has_room_again() -> None:
    spec = cluster_spec((1, 1, 0), most=(3, 3, 0), gpus=2, budget=40)
    group = NodeGroup(frozenset(PoolName), nodes=1, gpus_per_node=6)
    policy = Script({10.0: {D: 2}, 20.0: {P: 1}})
    seen = observations(scenario(spec, initial={P: 2}, nodes=(group,)), steady(1.0, 90.0), policy)
    assert any(replica.lifecycle is Lifecycle.PENDING for look in seen for replica in look.replicas)
    assert [replica.home for replica in seen[-1].replicas if replica.is_serving].count(D) == 2


def test_the_operator_sees_what_its_routers_and_metrics_would_tell() -> None:
    seen = observations(scenario(cluster_spec((1, 1, 0))), steady(4.0, 100.0))
    first, later = seen[0], seen[-1]
    assert isinstance(first.routers, RouterSample)
    assert isinstance(first.routers.flow, Missing)
    assert isinstance(first.metrics, Missing)
    assert isinstance(later.routers, RouterSample)
    assert isinstance(later.routers.flow, Flow)
    assert later.routers.flow == Flow(5.0, 20.0, 20e3, 20e6, 20.0, 2000.0, 20e3, 0.0)
    queue = later.routers.queue
    assert (queue.held_requests, queue.held_tokens, queue.mixed_requests) == (0, 0, 0)
    # 1.17 s in their token phase at 4 a second; contexts of some 1050 tokens.
    assert 4 <= queue.decoding_sequences <= 6
    assert queue.resident_kv_tokens == pytest.approx(queue.decoding_sequences * 1050, rel=0.1)
    metrics = later.metrics
    assert isinstance(metrics, MetricsSample)
    assert metrics.flow.seconds == pytest.approx(60.0)
    assert metrics.flow.requests == 240
    # A prompt takes 110 ms, its cache 5 ms more, the step under way up to 11 ms; buckets are 10 % wide.
    assert metrics.ttft_seconds == pytest.approx(0.122, rel=0.1)
    assert metrics.itl_seconds == pytest.approx(0.011, rel=0.1)
    prefill, decode = metrics.utilization[P], metrics.utilization[D]
    # 4 prompts of 110 ms a second; the tensor pipe is busy 92 % of that.
    assert prefill.tensor_active == pytest.approx(0.44 * 0.92, rel=0.02)
    assert decode.dram_active == pytest.approx(0.90, rel=0.02)
    assert M not in metrics.utilization


def test_between_two_ticks_the_operator_keeps_the_metrics_and_counts_flows_anew() -> None:
    spec = cluster_spec((0, 0, 1), most=(0, 0, 4))
    workload = sorted([*steady(2.0, 60.0), Request(9.0, 1000, 2000), Request(9.1, 1000, 2000)])
    seen = observations(scenario(spec, initial={M: 2}), workload, Script({10.0: {M: 1}}))
    extra = [look for look in seen if not look.sizing_due]
    assert extra
    flows = [look.routers.flow for look in seen if isinstance(look.routers, RouterSample)]
    assert sum(flow.requests for flow in flows if isinstance(flow, Flow)) == pytest.approx(
        sum(request.arrival < seen[-1].now for request in workload) - 1, abs=2
    )
    draining = [replica for look in seen for replica in look.replicas if replica.fenced_at is not None]
    loads = [replica.load for replica in draining if isinstance(replica.load, ReplicaLoad)]
    assert loads
    assert all(load.fence_confirmed for load in loads)
    assert any(load.in_flight > 0 for load in loads)


def test_a_blocked_queue_shows_its_age() -> None:
    spec = cluster_spec((0, 0, 1), overflow_tokens=0)
    seen = observations(scenario(spec), requests(*[(0.001 * number, 4000, 20) for number in range(20)]))
    look = next(look for look in seen if look.now == 5.0)
    assert isinstance(look.routers, RouterSample)
    assert look.routers.queue.held_requests > 3
    assert look.routers.queue.held_tokens == 4000 * look.routers.queue.held_requests
    assert 3.0 < look.routers.queue.head_age_seconds <= 5.0


def test_a_policy_sees_its_own_interval() -> None:
    policy = Script({})
    run(scenario(cluster_spec((2, 1, 0))), steady(4.0, 60.0), policy)
    first, *_, last = policy.seen
    assert [signals.now for signals in policy.seen] == [10.0 * number for number in range(1, 7)]
    assert first.flow.seconds == 10.0
    assert last.flow == Flow(10.0, 40.0, 40e3, 40e6, 40.0, 4000.0, 40e3, 0.0)
    assert last.completed_tokens == 40 * 1100
    assert last.decoded_tokens == pytest.approx(40 * 99, rel=0.05)
    prefill, decode = last.pools[P], last.pools[D]
    assert (prefill.replicas, prefill.serving, decode.replicas) == (2, 2, 1)
    assert prefill.busy_share == prefill.kernel_utilization == pytest.approx(0.22, rel=0.02)
    # 4 a second, each for 99 steps of 10.9 ms: 4.31 sequences of 1050 tokens; 20 ms hold (20 - 10) / (0.1 + 0.105) = 48.8 of them.
    assert decode.busy_share == pytest.approx(4.31 / 48.8, rel=0.05)
    assert decode.kernel_utilization == pytest.approx(1.0, rel=0.01)
    assert decode.kv_share == pytest.approx(4.31 * 1050 / 100_000, rel=0.05)
    assert decode.concurrency == pytest.approx(4.35, rel=0.05)
    assert last.mean_ttft_seconds == pytest.approx(0.121, rel=0.03)
    assert last.mean_itl_seconds == pytest.approx(0.0109, rel=0.03)
    (member,) = decode.members
    assert member.running_requests in (4, 5)
    assert member.kv_capacity_tokens == 100_000
    assert member.itl_estimate_seconds == pytest.approx(0.0109, rel=0.02)
    assert member.ttft_estimate_seconds == pytest.approx(ROUND.prefill.seconds(1000))
    assert last.pools[M].members == ()
    assert last.pools[M].busy_share == 0.0


def test_what_a_policy_leaves_out_keeps_its_size() -> None:
    spec = cluster_spec((1, 1, 0), most=(5, 5, 0))
    seen = observations(scenario(spec), steady(2.0, 60.0), Script({10.0: {P: 2}, 20.0: {D: 3}}))
    homes = [replica.home for replica in seen[-1].replicas]
    assert (homes.count(P), homes.count(D)) == (2, 3)
    assert seen[-1].spec.mode is ScalingMode.EXTERNAL


def test_the_product_sizes_a_growing_load_by_itself() -> None:
    spec = cluster_spec((1, 1, 0), most=(10, 10, 0), mode=ScalingMode.AUTOMATIC)
    workload = sorted(
        [*steady(4.0, 400.0), *(Request(200 + item.arrival, 1000, 100) for item in steady(20.0, 200.0))]
    )
    # Links that do not bind: sizing knows nothing of them, and two decode replicas would receive 20 caches a second.
    fast = {name: hardware(link_bytes_per_second=10 * LINK) for name in PoolName}
    found = run(scenario(spec, hardware=fast), workload)
    sizes = {(size.prefill, size.decode) for size in found.report.sizes}
    assert (1, 1) in sizes
    # 24 prompts of 110 ms a second keep 2.6 replicas busy, and 0.85 keep their queue within the TTFT.
    assert max(prefill for prefill, _ in sizes) >= 4
    assert found.report.policy == "Automatic"
    assert found.report.slo_attainment > 0.8
    assert found.report.completed == len(workload)


def test_heterogeneous_pools_have_their_own_speed_and_price() -> None:
    slow = PoolName.DECODE
    pools = {name: hardware(dollars_per_gpu_hour=1.0 if name is slow else 5.0) for name in PoolName}
    report = run(scenario(cluster_spec((1, 2, 0)), hardware=pools), steady(1.0, 3601.0)).report
    assert report.dollars == pytest.approx(5.0 + 2 * 1.0)
    assert report.kilowatt_hours == pytest.approx(3 * 0.5)


def test_hardware_of_a_profile_is_configured_like_the_products_engines() -> None:
    known = profile("llama-3.1-70b-fp8/h200-tp2")
    prefill, decode = (Hardware.of_profile(known, name, itl_seconds=0.040) for name in (P, D))
    assert (prefill.max_num_tokens, decode.max_num_tokens) == (8192, 384)
    assert prefill.link_bytes_per_second == 2 * 50e9
    assert prefill.kv_bytes_per_token == known.kv_bytes_per_token
    assert prefill.capped_performance == known.performance


def test_a_scenario_describes_every_pool_that_may_exist() -> None:
    with pytest.raises(SpecError, match=r"hardware\[decode\] is absent"):
        Scenario(cluster_spec((1, 1, 0)), {P: hardware()})
    with pytest.raises(SpecError, match="initial is 12 GPUs, but the budget is 10"):
        scenario(cluster_spec((1, 1, 0), budget=10), initial={P: 11})


def test_a_cluster_without_any_pool_cannot_be_simulated() -> None:
    with pytest.raises(SpecError, match="pools is all off"):
        Simulation(scenario(cluster_spec((0, 0, 0))))


def test_borrowing_shows_in_the_role() -> None:
    plan = scenario(cluster_spec((0, 1, 0)))
    seen = observations(plan, requests((0.0, 1000, 1000), (20.0, 1, 1)))
    roles = {(look.now, replica.role.value) for look in seen for replica in look.replicas}
    assert (5.0, "mixed") in roles
    assert (15.0, "decode") in roles
    look = next(look for look in seen if look.now == 5.0)
    assert isinstance(look.routers, RouterSample)
    assert look.routers.queue.borrowed_replicas == ("simulated-engine-0",)
    assert look.routers.queue.mixed_requests == 1
    assert Path.BORROWED in run(plan, requests((0.0, 10, 10))).report.paths

"""What may break beside replicas: nodes, boots, what the operator sees, the operator itself; and edits of the spec."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.simulator.simulator_builders import cluster_spec, scenario, steady
from tests.simulator.test_simulator_cluster import D, M, P, observations

from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Flow, MetricsSample, RouterSample
from inferencecluster.core.spec import ScalingMode
from inferencecluster.simulator.scenario import Failure, Faults, NodeGroup, NodeLoss, Outage, SpecChange


def test_a_lost_node_takes_its_replicas_and_they_are_replaced_on_another() -> None:
    spec = cluster_spec((1, 1, 0))
    nodes = (NodeGroup(frozenset({P, D, M}), 2, 2),)
    plan = scenario(spec, nodes=nodes, faults=Faults(node_losses=(NodeLoss(6.0, "node-0-0"),)))
    seen = observations(plan, steady(2.0, 60.0))
    assert {replica.node for replica in seen[0].replicas} == {"node-0-0"}
    assert sum(bool(replica.failure) for look in seen for replica in look.replicas) > 0
    final = seen[-1]
    assert [replica.node for replica in final.replicas if replica.is_serving] == ["node-0-1"] * 2
    assert not isinstance(final.capacity, Missing)
    assert final.capacity[0].allocatable_gpus == 2


def test_boots_that_fail_are_tried_again_after_a_back_off() -> None:
    faults = Faults(failures=(Failure(6.0, "simulated-engine-0"),), boots=(Outage(0.0, 30.0),))
    seen = observations(scenario(cluster_spec((2, 1, 0)), faults=faults), steady(2.0, 120.0))
    crashed = [look.now for look in seen for replica in look.replicas if "CrashLoop" in replica.failure]
    # Created at 6 s it fails at 26 s; the next one comes 30 s later and boots for 20 s.
    assert crashed[0] == pytest.approx(26.2, abs=0.2)
    served = [look.now for look in seen if sum(replica.is_serving for replica in look.replicas) == 3]
    assert next(now for now in served if now > 26.0) == pytest.approx(78.0, abs=3.0)


def test_while_a_source_is_out_the_operator_sees_nothing_of_it() -> None:
    faults = Faults(routers=(Outage(10.0, 30.0),), metrics=(Outage(20.0, 40.0),))
    plan = scenario(cluster_spec((1, 1, 0)), faults=faults)
    for look in observations(plan, steady(2.0, 60.0)):
        is_out = 10.0 <= look.now < 30.0
        assert isinstance(look.routers, Missing) == is_out
        assert all(isinstance(replica.load, Missing) == is_out for replica in look.replicas)
        if 20.0 <= look.now < 40.0:
            assert isinstance(look.metrics, Missing)
        elif look.now >= 40.0:
            assert isinstance(look.metrics, MetricsSample)


def test_a_flow_after_an_outage_covers_all_of_it() -> None:
    plan = scenario(cluster_spec((1, 1, 0)), faults=Faults(routers=(Outage(10.0, 30.0),)))
    looks = [look for look in observations(plan, steady(2.0, 60.0)) if isinstance(look.routers, RouterSample)]
    flows = [look.routers.flow for look in looks if isinstance(look.routers, RouterSample)]
    assert sum(flow.requests for flow in flows if isinstance(flow, Flow)) == pytest.approx(120, abs=12)


def test_an_edited_spec_is_followed_at_once() -> None:
    spec = cluster_spec((2, 1, 0), most=(4, 1, 0))
    edited = replace(spec, pools=(replace(spec.pool(P), min_replicas=3), *spec.pools[1:]), generation=2)
    seen = observations(scenario(spec, changes=(SpecChange(7.0, edited),)), steady(2.0, 40.0))
    first = next(look for look in seen if len(look.replicas) == 4)
    assert first.now == pytest.approx(7.2)
    assert first.spec.generation == 2


def test_an_operator_that_takes_over_goes_on_with_the_published_sizes() -> None:
    spec = cluster_spec((1, 1, 0), most=(4, 4, 0), mode=ScalingMode.AUTOMATIC)
    plan = scenario(spec, initial={P: 3, D: 2}, faults=Faults(restarts=(30.0,)))
    for look in observations(plan, steady(1.0, 60.0)):
        if 31.0 < look.now < 60.0:
            assert len(look.replicas) == 5, "its history is gone: nothing shrinks before its window"

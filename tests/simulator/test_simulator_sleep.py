"""A cluster that may scale to zero, through a long silence: it sleeps, one request wakes it, and nobody is turned away."""

from __future__ import annotations

import pytest
from tests.simulator.simulator_builders import cluster_spec, run, scenario, steady

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.spec import ClusterSpec, ScalingMode
from inferencecluster.simulator.journeys import Outcome
from inferencecluster.simulator.simulation import Simulation
from inferencecluster.simulator.workload import Request

SILENCE = (300.0, 1800.0)
WORKLOAD = [
    *steady(2.0, SILENCE[0]),
    *(Request(SILENCE[1] + request.arrival, 1000, 100) for request in steady(2.0, 300.0)),
]


def sleepy(most: tuple[int, int, int]) -> ClusterSpec:
    return cluster_spec((0, 0, 0), most=most, mode=ScalingMode.AUTOMATIC)


@pytest.mark.parametrize(
    "most", [pytest.param((8, 8, 2), id="three pools"), pytest.param((0, 0, 8), id="mixed alone")]
)
def test_a_silence_is_slept_through_and_no_request_fails(most: tuple[int, int, int]) -> None:
    plan = scenario(sleepy(most), max_queue_seconds=5.0)
    sizes: list[tuple[float, dict[PoolName, int]]] = []
    simulation = Simulation(plan)
    simulation.operator.on_decision = lambda seen, decided: sizes.append((seen.now, dict(decided.targets)))
    simulation.serve(WORKLOAD)
    finished = run(plan, WORKLOAD)

    assert [journey.outcome for journey in finished.journeys] == [Outcome.COMPLETED] * len(WORKLOAD)
    asleep = [now for now, targets in sizes if not any(targets.values()) and now > SILENCE[0]]
    assert min(asleep) < SILENCE[0] + 200.0
    assert max(asleep) < SILENCE[1] + 1.0, "it slept on while a request was held"
    woken = [journey for journey in finished.journeys if journey.arrived_at >= SILENCE[1]]
    spec = plan.spec
    assert spec.boot_seconds < woken[0].ttft_seconds < spec.boot_seconds + spec.interval_seconds


def test_an_hour_without_a_request_costs_no_gpu() -> None:
    workload = [*steady(2.0, 60.0), Request(3600.0, 1000, 100)]
    awake = cluster_spec((1, 1, 0), most=(8, 8, 2), mode=ScalingMode.AUTOMATIC)
    asleep_hours, awake_hours = (
        sum(run(scenario(spec), workload).report.gpu_hours.values()) for spec in (sleepy((8, 8, 2)), awake)
    )
    assert asleep_hours < awake_hours / 4

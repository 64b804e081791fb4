from __future__ import annotations

import pytest
from tests.simulator.simulator_builders import cluster_spec, requests, run, scenario

from inferencecluster.core.fleet import PoolName
from inferencecluster.simulator.scenario import Failure, Faults

P, D, M = PoolName
# The last arrival ends the scored time, and its own work comes after it.
ONE_AND_THE_END = requests((0.0, 1000, 100), (10.0, 1000, 1))
PROMPT = 0.110
TOKENS = 99 * (0.0101 + 1050e-7)


def test_useful_gpus_are_busy_seconds_over_those_held() -> None:
    report = run(scenario(cluster_spec((1, 1, 0), gpus=2)), ONE_AND_THE_END).report

    assert report.mean_gpus(P) == report.mean_gpus(D) == 2.0
    assert report.utilization[P].tensor_active == pytest.approx(0.92 * PROMPT / 10)
    assert report.utilization[P].dram_active == pytest.approx(0.30 * PROMPT / 10)
    assert report.utilization[D].dram_active == pytest.approx(0.90 * TOKENS / 10, rel=1e-3)
    assert report.useful_gpus[P] == pytest.approx(2 * 0.92 * PROMPT / 10)
    assert report.useful_gpus[D] == pytest.approx(2 * 0.90 * TOKENS / 10, rel=1e-3)
    assert M not in report.utilization
    told = report.document()["utilization"]
    assert list(told) == ["prefill", "decode"]
    assert told["prefill"] == {
        "gpus": 2.0,
        "useful_gpus": report.useful_gpus[P],
        "tensor_active": report.utilization[P].tensor_active,
        "dram_active": report.utilization[P].dram_active,
    }


def test_a_mixed_pool_counts_by_the_busier_of_both() -> None:
    report = run(scenario(cluster_spec((0, 0, 1))), ONE_AND_THE_END).report
    dram = 0.30 * PROMPT + 0.90 * TOKENS
    assert report.useful_gpus[M] == pytest.approx(dram / 10, rel=1e-2)
    assert report.utilization[M].tensor_active == pytest.approx(
        (0.92 * PROMPT + 0.28 * TOKENS) / 10, rel=1e-2
    )


def test_work_of_the_warm_up_is_not_counted() -> None:
    plan = scenario(cluster_spec((1, 1, 0)), warm_up_seconds=5.0)
    report = run(plan, ONE_AND_THE_END).report
    assert report.utilization[P].tensor_active == report.utilization[D].dram_active == 0.0


def test_what_a_replica_did_before_it_failed_counts() -> None:
    plan = scenario(cluster_spec((1, 1, 0)), faults=Faults(failures=(Failure(3.0, "simulated-engine-1"),)))
    report = run(plan, ONE_AND_THE_END).report
    assert report.failures == 1
    held = report.mean_gpus(D)
    assert held * report.utilization[D].dram_active == pytest.approx(0.90 * TOKENS / 10, rel=1e-3)


def test_a_run_without_length_tells_no_use() -> None:
    report = run(scenario(cluster_spec((1, 1, 0))), requests((0.0, 1000, 10))).report
    assert report.utilization == {}
    assert report.document()["utilization"] == {}

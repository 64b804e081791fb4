"""What every cluster feels: a killed operator, a Prometheus that is gone, and the silence of a system at rest.

These tests run one at a time.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from e2e.conftest import ClusterFactory
from e2e.localkube import cgroups
from e2e.stack.audit import AuditLog
from e2e.stack.install import MONITORING_NAMESPACE, RELEASE, SYSTEM_NAMESPACE
from e2e.stack.target import Target
from e2e.stack.traffic import assert_all_whole, load, steady

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

AT_REST_SECONDS = float(os.environ.get("REST_SECONDS", "30"))
"""Fifteen sizing ticks and several router polls of these clusters; `make e2e-long` watches for five minutes."""
OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "20"))
"""Twice the stabilisation window of these clusters; `make e2e-long` takes three minutes, under load."""


def kill_operator(target: Target) -> None:
    """`kill -9` of the processes of every operator container, found by its cgroup, as the kernel does out of memory."""
    pods = target.get("pods", "-n", SYSTEM_NAMESPACE, "-l", f"app.kubernetes.io/name={RELEASE}")["items"]
    containers = {
        status["containerID"].removeprefix("containerd://")
        for pod in pods
        for status in pod["status"]["containerStatuses"]
    }
    processes = {
        int(pid)
        for folder in cgroups.directories(cgroups.hierarchies())
        if folder.name in containers
        for pid in (folder / "cgroup.procs").read_text().split()
    }
    assert processes, "no process of the operator was found"
    for pid in processes:
        os.kill(pid, signal.SIGKILL)


def test_killing_the_operator_in_a_scale_up_ends_in_the_same_fleet(
    new_cluster: ClusterFactory, audit: AuditLog
) -> None:
    cluster = new_cluster("killed", scaling={"mode": "Fixed"}, budget={"gpus": 24})
    cluster.wait_ready()
    cluster.change({"pools": {"prefill": {"minReplicas": 3}, "decode": {"minReplicas": 3}}})
    cluster.wait(lambda: len(cluster.replicas()) > 2, "the scale-up has begun", seconds=30)
    kill_operator(cluster.target)
    cluster.wait(
        lambda: (cluster.ready_replicas("prefill"), cluster.ready_replicas("decode")) == (3, 3),
        "three and three replicas",
        seconds=120,
    )
    audit.assert_budget_held(cluster.name, 24)
    names = sorted(pod["metadata"]["name"] for pod in cluster.replicas())
    assert names == [f"killed-engine-{ordinal}" for ordinal in range(6)]


def test_at_rest_the_operator_writes_nothing(new_cluster: ClusterFactory, audit: AuditLog) -> None:
    cluster = new_cluster("rests")
    cluster.wait_ready()
    cluster.wait(
        lambda: cluster.condition("MetricsAvailable")["status"] == "True", "Prometheus knows the cluster"
    )
    time.sleep(5)
    audit.mark()
    time.sleep(AT_REST_SECONDS)
    assert audit.operator_writes() == {}, audit.operator_wrote()


def test_without_prometheus_no_pool_shrinks_and_the_reason_is_told(
    new_cluster: ClusterFactory, tmp_path: Path
) -> None:
    cluster = new_cluster("blind")
    cluster.wait_ready()
    scale = ("scale", "deployment/prometheus", "-n", MONITORING_NAMESPACE)
    requests = steady(14, OUTAGE_SECONDS)
    with load(cluster, requests, tmp_path) as finish:
        cluster.wait(lambda: cluster.ready_replicas("prefill") >= 2, "prefill grows under load")
        cluster.target.control(*scale, "--replicas=0")
        try:
            cluster.wait(
                lambda: cluster.condition("MetricsAvailable").get("reason") == "PrometheusUnavailable",
                "the condition names Prometheus",
            )
            assert_all_whole(finish(), requests)
            held = {name: cluster.pool(name)["desired"] for name in ("prefill", "decode", "mixed")}
            time.sleep(15)  # without any load: only the missing metrics keep the pools
            for name, desired in held.items():
                assert cluster.pool(name)["desired"] >= desired, f"{name} shrank while metrics were missing"
            assert any(event["reason"] == "PrometheusUnavailable" for event in cluster.events())
        finally:
            cluster.target.control(*scale, "--replicas=1")
    cluster.wait(lambda: cluster.condition("MetricsAvailable")["status"] == "True", "metrics are back")
    cluster.wait(lambda: cluster.ready_replicas("prefill") == 1, "prefill shrinks once metrics are back")

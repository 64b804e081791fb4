"""The whole product on a real Kubernetes: what a user relies on, with the API server's audit log as witness.

No test here disturbs the cluster of another: `make e2e` runs several side by side. Each process begins with two
of them, so a long one and a short one take turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e2e.conftest import ClusterFactory
from e2e.stack.audit import AuditLog
from e2e.stack.cluster import GPUS_PER_REPLICA, Cluster
from e2e.stack.install import RELEASE, SYSTEM_NAMESPACE
from e2e.stack.router_metrics import requests_by_path
from e2e.stack.target import StackError, Target
from e2e.stack.traffic import assert_all_whole, load, steady, streams

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_pools_follow_load_up_and_down_and_every_size_is_explained(
    new_cluster: ClusterFactory, audit: AuditLog, tmp_path: Path
) -> None:
    cluster = new_cluster("follows")
    cluster.wait_ready()
    requests = steady(14, 45)
    with load(cluster, requests, tmp_path) as finish:
        cluster.wait(lambda: cluster.ready_replicas("prefill") >= 3, "prefill grows to 3 under load")
        answers = finish()
    assert_all_whole(answers, requests)
    # A lull is not an end: the level looks back over up to two minutes (core/arrivals.py, LEVEL_SECONDS).
    cluster.wait(
        lambda: cluster.ready_replicas("prefill") == 1, "prefill shrinks back to its minimum", seconds=300
    )
    decisions = cluster.get()["status"]["decisions"]
    assert all(decision["reason"] and decision["message"] for decision in decisions)
    assert any(event["reason"] for event in cluster.events())
    audit.assert_budget_held(cluster.name, 64)


def test_helm_refuses_unknown_values(installed: Target) -> None:
    with pytest.raises(StackError, match="replcas"):
        installed.run(
            installed.helm,
            *("upgrade", RELEASE, str(Path(__file__).parents[1] / "helm" / RELEASE)),
            *("--namespace", SYSTEM_NAMESPACE, "--reuse-values", "--set", "replcas=3"),
        )


def test_a_halved_budget_under_load_converges_and_cuts_nothing(
    new_cluster: ClusterFactory, audit: AuditLog, tmp_path: Path
) -> None:
    cluster = new_cluster(
        "halved",
        pools={"prefill": {"minReplicas": 2}, "decode": {"minReplicas": 2}, "mixed": {"minReplicas": 2}},
        budget={"gpus": 32},
        scaling={"mode": "Fixed"},
    )
    cluster.wait_ready()
    requests = steady(6, 30)
    with load(cluster, requests, tmp_path) as finish:
        time.sleep(5)
        cluster.change(
            {
                "budget": {"gpus": 16},
                "pools": {name: {"minReplicas": 1} for name in ("prefill", "decode", "mixed")},
            }
        )
        cluster.wait(lambda: len(cluster.replicas()) == 3, "three replicas remain")
        answers = finish()
    assert_all_whole(answers, requests)
    cluster.wait_ready()
    audit.assert_budget_held(cluster.name, 32)
    assert audit.gpu_levels(cluster.name)[-1].gpus <= 16


def test_engines_run_as_containers_of_the_kubelet_and_hold_gpus(new_cluster: ClusterFactory) -> None:
    cluster = new_cluster("containers")
    cluster.wait_ready()
    for pod in cluster.replicas():
        status = pod["status"]["containerStatuses"][0]
        assert status["containerID"].startswith("containerd://")
        assert pod["metadata"]["ownerReferences"][0]["kind"] == "InferenceCluster"
        assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == str(GPUS_PER_REPLICA)


def test_a_replica_that_no_node_can_hold_is_given_up_with_a_reason(new_cluster: ClusterFactory) -> None:
    cluster = new_cluster("given-up", scaling={"startupTimeoutSeconds": 10})
    cluster.wait_ready()
    cluster.change({"pools": {"mixed": {"minReplicas": 1, "nodeSelector": {"example.com/gpu": "none-such"}}}})

    def told() -> bool:
        return any("chedul" in event["reason"] + event["message"] for event in cluster.events())

    cluster.wait(told, "an Event says that the replica cannot be scheduled")
    assert cluster.complete(prompt_tokens=50, output_tokens=5)["usage"]["completion_tokens"] == 5


def test_printed_columns_tell_the_state_at_a_glance(new_cluster: ClusterFactory) -> None:
    cluster = new_cluster("printed")
    cluster.wait_ready()
    table = cluster.target.control("get", "ic", "printed", "-n", "printed")
    assert "1/1" in table
    assert f"{2 * GPUS_PER_REPLICA}/64" in table
    explained = cluster.target.control("explain", "inferencecluster.spec.budget")
    assert "GPU" in explained
    assert json.loads(cluster.target.control("get", "--raw", "/apis/gpupools.dev/v1alpha1"))["resources"]


def test_deleting_a_cluster_drains_it_first(new_cluster: ClusterFactory) -> None:
    cluster = new_cluster("deleted")
    cluster.wait_ready()
    with streams(cluster, count=4, output_tokens=150) as finish:
        time.sleep(1.5)
        cluster.target.control("delete", "ic", cluster.name, "-n", cluster.name, "--wait=false")
        assert finish() == [150] * 4
    cluster.target.control("wait", "--for=delete", f"ic/{cluster.name}", "-n", cluster.name, "--timeout=60s")
    cluster.target.control(
        *("wait", "--for=delete", "pods", "-l", "gpupools.dev/component=engine", "-n", cluster.name),
        "--timeout=60s",
    )


def test_in_external_mode_kubectl_scale_sets_the_size(new_cluster: ClusterFactory) -> None:
    cluster = new_cluster("external", scaling={"mode": "External"})
    cluster.wait_ready()
    cluster.target.control("scale", "enginepool/external-decode", "-n", cluster.name, "--replicas=3")
    cluster.wait(lambda: cluster.ready_replicas("decode") == 3, "three decode replicas")


def test_a_deleted_replica_finishes_what_it_holds_and_is_replaced(new_cluster: ClusterFactory) -> None:
    cluster = new_cluster("evicted", pools={"decode": {"minReplicas": 2}})
    cluster.wait_ready()
    decode = [pod for pod in cluster.replicas() if pod["metadata"]["labels"]["gpupools.dev/pool"] == "decode"]
    with streams(cluster, count=6, output_tokens=150) as finish:
        time.sleep(1.5)
        cluster.target.control(
            "delete", "pod", decode[0]["metadata"]["name"], "-n", cluster.name, "--wait=false"
        )
        assert finish() == [150] * 6
    cluster.wait(lambda: cluster.ready_replicas("decode") == 2, "the replica is replaced")


def test_a_spec_that_only_the_operator_can_judge_stalls_and_the_last_good_fleet_serves(
    new_cluster: ClusterFactory,
) -> None:
    cluster = new_cluster("stalls")
    cluster.wait_ready()
    before = {pod["metadata"]["uid"] for pod in cluster.replicas()}
    cluster.change({"pools": {"decode": {"performance": {"profile": "no-such-model/on-a-toaster"}}}})
    cluster.wait(lambda: cluster.condition("Stalled").get("status") == "True", "Stalled is True")
    message = cluster.condition("Stalled")["message"]
    assert "no-such-model/on-a-toaster" in message
    assert "spec.pools.decode" in message
    assert cluster.complete(prompt_tokens=50, output_tokens=5)["usage"]["completion_tokens"] == 5
    assert {pod["metadata"]["uid"] for pod in cluster.replicas()} == before
    cluster.change({"pools": {"decode": {"performance": {"profile": "llama-3.1-70b-bf16/a100-tp4"}}}})
    cluster.wait_ready()


def test_one_apply_gives_a_serving_cluster_with_honest_status(new_cluster: ClusterFactory) -> None:
    cluster = new_cluster("serves")
    cluster.wait_ready()
    completion = cluster.complete(prompt_tokens=300, output_tokens=25)
    usage = completion["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (300, 25, 325)
    assert requests_by_path(cluster.admin_url()) == {"disaggregated": 1}
    status = cluster.get()["status"]
    assert {pool["name"]: pool["ready"] for pool in status["pools"]} == {
        "prefill": 1,
        "decode": 1,
        "mixed": 0,
    }
    assert status["summary"]["gpus"] == f"{2 * GPUS_PER_REPLICA}/64"
    assert cluster.condition("Disaggregated")["status"] == "True"
    prefill = cluster.pool("prefill")
    assert (prefill["nodes"], prefill["allocatableGpus"]) == (1, 64)
    pools = cluster.target.get("enginepools", "-n", cluster.name)["items"]
    assert {pool["spec"]["pool"] for pool in pools} == {"prefill", "decode", "mixed"}
    _the_live_commands_see_it(cluster)


def _the_live_commands_see_it(cluster: Cluster) -> None:
    """In this test, since it has a cluster at rest whose sizes are known."""
    explained = json.loads(_kubectl_ic(cluster, "explain", cluster.name, "--format", "json"))
    assert {pool["sizes"]["name"]: pool["sizes"]["ready"] for pool in explained["pools"]} == {
        "prefill": 1,
        "decode": 1,
        "mixed": 0,
    }
    shown = _kubectl_ic(cluster, "top", cluster.name)
    assert "queue 0 tokens" in shown, "routers are read through the API server"
    assert "note:" not in shown


def _kubectl_ic(cluster: Cluster, *words: str) -> str:
    command = [sys.executable, "-m", "inferencecluster.cli", *words, "--namespace", cluster.name]
    environment = os.environ | {"KUBECONFIG": str(cluster.target.kubeconfig)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout

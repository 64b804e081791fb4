"""Pools on a fleet of fifty GPU nodes: where replicas go, what status counts, and what happens when nodes are full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.conftest import ClusterFactory
from e2e.stack.cluster import GPUS_PER_REPLICA, Cluster
from e2e.stack.fake_nodes import TOLERATION, NodeGroup, add_nodes, fake_nodes, nodes_by_replica
from e2e.stack.target import Target

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

H200 = NodeGroup("h200", count=30, gpus=8)
A100 = NodeGroup("a100", count=18, gpus=8)
L40S = NodeGroup("l40s", count=2, gpus=4)
MORE_L40S = NodeGroup("l40s", count=3, gpus=4)


@pytest.fixture(scope="module", autouse=True)
def nodes(installed: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Outlives the clusters of the tests: their Pods end only while somebody plays the kubelet."""
    log = tmp_path_factory.mktemp("kwok") / "kwok.log"
    with fake_nodes(installed, (H200, A100, L40S), log=log):
        yield


def on(group: NodeGroup, **changes: Any) -> dict[str, Any]:
    """A pool that may use the nodes of a group, which are tainted."""
    return {"nodeSelector": group.selector, "tolerations": [TOLERATION], **changes}


def capacity(cluster: Cluster, pool: str) -> dict[str, int | None]:
    """What status says about the nodes that a pool may use."""
    seen = cluster.pool(pool)
    return {name: seen.get(name) for name in ("nodes", "allocatableGpus", "usedGpus", "freeGpus")}


def counted(*, nodes: int, allocatable: int, used: int) -> dict[str, int | None]:
    return {
        "nodes": nodes,
        "allocatableGpus": allocatable,
        "usedGpus": used,
        "freeGpus": allocatable - used,
    }


def test_each_pool_lives_on_its_own_nodes_and_status_counts_their_gpus(new_cluster: ClusterFactory) -> None:
    cluster = new_cluster(
        "placed",
        budget={"gpus": 100},
        scaling={"mode": "Fixed"},
        pools={
            "prefill": on(H200, minReplicas=20, maxReplicas=20),
            "decode": on(A100),
            "mixed": {"nodeSelector": H200.selector},  # right label, but nothing tolerates the taint
        },
    )
    cluster.wait_ready()

    places = nodes_by_replica(cluster.replicas())
    homes = Counter(node.rpartition("-")[0] for node in places.values())
    assert homes == {"h200": 20, "a100": 1}
    assert max(Counter(places.values()).values()) * GPUS_PER_REPLICA <= H200.gpus

    def told(pool: str, wanted: dict[str, int | None]) -> None:
        cluster.wait(lambda: capacity(cluster, pool) == wanted, f"{pool} has {wanted}")

    told("prefill", counted(nodes=30, allocatable=240, used=80))
    told("decode", counted(nodes=18, allocatable=144, used=4))
    told("mixed", counted(nodes=0, allocatable=0, used=0))

    empty = sorted({f"h200-{index}" for index in range(H200.count)} - set(places.values()))[:10]
    cluster.target.control("cordon", *empty)
    # A cordoned node is still one of the pool's, with nothing to give.
    told("prefill", counted(nodes=30, allocatable=160, used=80))
    cluster.target.control("uncordon", *empty)
    told("prefill", counted(nodes=30, allocatable=240, used=80))


def test_a_pool_stops_at_what_its_nodes_hold_and_goes_on_when_a_node_comes(
    new_cluster: ClusterFactory,
) -> None:
    none = {"minReplicas": 0, "maxReplicas": 0}
    cluster = new_cluster(
        "filled",
        scaling={"mode": "Fixed", "startupTimeoutSeconds": 10},
        pools={"prefill": none, "decode": none, "mixed": on(L40S, minReplicas=3)},
    )
    cluster.wait(
        lambda: cluster.condition("ScalingLimited").get("reason") == "NodesExhausted",
        "ScalingLimited says that no node has room",
    )
    assert cluster.ready_replicas("mixed") == L40S.count
    assert capacity(cluster, "mixed") == counted(nodes=2, allocatable=8, used=8)

    add_nodes(cluster.target, [MORE_L40S])
    cluster.wait_ready()
    assert set(nodes_by_replica(cluster.replicas()).values()) == {"l40s-0", "l40s-1", "l40s-2"}
    cluster.wait(
        lambda: capacity(cluster, "mixed") == counted(nodes=3, allocatable=12, used=12),
        "status counts the new node",
    )

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from inferencecluster.api.inferencecluster import InferenceCluster
from inferencecluster.core.fleet import PoolName
from inferencecluster.render.context import Platform
from inferencecluster.render.enginepool import render_enginepool
from inferencecluster.render.router import (
    render_router,
    render_router_deployment,
    render_router_disruption_budget,
    render_router_role_binding,
    render_router_service,
    render_router_service_account,
)
from inferencecluster.router.configuration import read_configuration

MakeCluster = Callable[..., InferenceCluster]


def test_a_single_router_has_no_disruption_budget(make_cluster: MakeCluster, platform: Platform) -> None:
    assert render_router_disruption_budget(make_cluster(router={"replicas": 1})) is None
    kinds = [manifest["kind"] for manifest in render_router(make_cluster(), platform)]
    assert kinds == ["ServiceAccount", "RoleBinding", "Service", "Deployment"]


@pytest.mark.parametrize("replicas", [2, 3, 32])
def test_a_drain_takes_one_router_at_a_time(
    make_cluster: MakeCluster, platform: Platform, replicas: int
) -> None:
    cluster = make_cluster(router={"replicas": replicas})
    *_, budget = render_router(cluster, platform)
    assert budget["kind"] == "PodDisruptionBudget"
    assert budget["spec"]["minAvailable"] == replicas - 1
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_service_budget_and_deployment_select_the_same_pods(
    make_cluster: MakeCluster, platform: Platform
) -> None:
    cluster = make_cluster(router={"replicas": 2})
    deployment = render_router_deployment(cluster, platform)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = (
        render_router_service(cluster)["spec"]["selector"],
        deployment["spec"]["selector"]["matchLabels"],
        (render_router_disruption_budget(cluster) or {})["spec"]["selector"]["matchLabels"],
    )
    for selector in selectors:
        assert selector == {"gpupools.dev/cluster": "llama-70b", "gpupools.dev/component": "router"}
        assert selector.items() <= labels.items()


def test_clients_reach_the_router_under_the_clusters_name(make_cluster: MakeCluster) -> None:
    service = render_router_service(
        make_cluster(router={"service": {"type": "LoadBalancer", "annotations": {"internal": "true"}}})
    )
    assert service["metadata"]["name"] == "llama-70b"
    assert service["metadata"]["annotations"] == {"internal": "true"}
    assert service["spec"]["type"] == "LoadBalancer"
    assert service["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": "http"}]


def test_a_rollout_never_takes_a_router_away_first(make_cluster: MakeCluster, platform: Platform) -> None:
    specification = render_router_deployment(make_cluster(router={"replicas": 3}), platform)["spec"]
    assert specification["replicas"] == 3
    assert specification["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_a_router_may_stay_as_long_as_a_drain(make_cluster: MakeCluster, platform: Platform) -> None:
    deployment = render_router_deployment(make_cluster(scaling={"drainTimeoutSeconds": 900}), platform)
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 5 + 900 + 60


@pytest.mark.parametrize(
    ("router", "image"),
    [
        pytest.param({}, "registry.example/inferencecluster-operator:0.1.0", id="the operator's"),
        pytest.param({"image": "registry.example/own:1"}, "registry.example/own:1", id="the user's"),
    ],
)
def test_routers_run_the_operators_image_unless_told(
    make_cluster: MakeCluster, platform: Platform, router: dict[str, Any], image: str
) -> None:
    deployment = render_router_deployment(make_cluster(router=router), platform)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == image
    assert container["command"] == ["python", "-m", "inferencecluster.router"]


@pytest.mark.parametrize(
    ("router", "seconds", "body"),
    [
        pytest.param({}, "120", 8 << 20, id="unless told"),
        pytest.param(
            {"prefillTimeoutSeconds": 900, "maxBodyMegabytes": 64},
            "900",
            64 << 20,
            id="long prompts, images",
        ),
        pytest.param({"prefillTimeoutSeconds": 30}, "30", 8 << 20, id="short prompts"),
    ],
)
def test_the_limits_of_requests_reach_the_router(
    make_cluster: MakeCluster,
    platform: Platform,
    router: dict[str, Any],
    seconds: str,
    body: int,
) -> None:
    deployment = render_router_deployment(make_cluster(router=router), platform)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    values = {entry["name"]: entry.get("value") for entry in container["env"]}
    configuration = read_configuration(
        {"IC_NAMESPACE": "n"} | {key: value for key, value in values.items() if value is not None}
    )
    assert values["IC_PREFILL_SECONDS"] == seconds
    assert configuration.bodies.most_bytes == body <= configuration.bodies.reading_bytes
    # A client that sends the largest body at 280 kB/s is waited for.
    assert configuration.bodies.seconds >= body / 280_000


def test_routers_go_where_the_user_wants_them_and_pull_with_the_users_secrets(
    make_cluster: MakeCluster, platform: Platform
) -> None:
    router = {
        "imagePullSecrets": [{"name": "registry"}],
        "priorityClassName": "serving",
        "nodeSelector": {"pool": "cpu"},
        "tolerations": [{"key": "serving", "operator": "Exists"}],
    }
    deployment = render_router_deployment(make_cluster(router=router), platform)
    pod = deployment["spec"]["template"]["spec"]
    assert {name: pod[name] for name in router} == router


def test_routers_tolerate_nothing_unless_told(make_cluster: MakeCluster, platform: Platform) -> None:
    pod = render_router_deployment(make_cluster(), platform)["spec"]["template"]["spec"]
    assert pod.keys().isdisjoint({"tolerations", "nodeSelector", "affinity", "imagePullSecrets"})


def test_resources_without_devices_have_limits_only_from_the_user(
    make_cluster: MakeCluster, platform: Platform
) -> None:
    def resources(**router: Any) -> Any:
        deployment = render_router_deployment(make_cluster(router=router), platform)
        return deployment["spec"]["template"]["spec"]["containers"][0]["resources"]

    assert resources() == {"requests": {"cpu": "100m", "memory": "128Mi"}}
    assert resources(resources={"limits": {"memory": "1Gi"}}) == {
        "requests": {"cpu": "100m"},
        "limits": {"memory": "1Gi"},
    }


def test_routers_get_the_charts_role_in_their_namespace_only(
    make_cluster: MakeCluster, platform: Platform
) -> None:
    cluster = make_cluster()
    binding = render_router_role_binding(cluster, platform)
    account = render_router_service_account(cluster)
    assert binding["kind"] == "RoleBinding"
    assert binding["roleRef"]["name"] == platform.router_cluster_role
    (subject,) = binding["subjects"]
    assert (subject["name"], subject["namespace"]) == (account["metadata"]["name"], "serving")


def test_every_object_is_collected_with_its_cluster(make_cluster: MakeCluster, platform: Platform) -> None:
    cluster = make_cluster(router={"replicas": 2})
    objects = [*render_router(cluster, platform), render_enginepool(cluster, PoolName.MIXED, replicas=0)]
    for manifest in objects:
        (owner,) = manifest["metadata"]["ownerReferences"]
        assert owner["uid"] == cluster.metadata.uid
        assert manifest["metadata"]["namespace"] == "serving"


@pytest.mark.parametrize(("replicas", "expected"), [(None, {}), (0, {"replicas": 0}), (3, {"replicas": 3})])
def test_an_engine_pool_carries_its_size_only_while_the_operator_writes_it(
    make_cluster: MakeCluster, replicas: int | None, expected: dict[str, int]
) -> None:
    child = render_enginepool(make_cluster(), PoolName.DECODE, replicas=replicas)
    assert child["metadata"]["name"] == "llama-70b-decode"
    assert child["spec"] == {"clusterRef": {"name": "llama-70b"}, "pool": "decode", **expected}

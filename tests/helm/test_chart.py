"""The chart: what it renders, which rights it grants, which values it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.localkube import builds
from e2e.localkube.paths import default_cache

from inferencecluster.api.names import OPERATOR_HTTP_PORT, ROUTER_ADMIN_PORT

CHART = Path(__file__).resolve().parents[2] / "helm" / "inferencecluster-operator"
GOLDEN = Path(__file__).parent / "golden"
NAMESPACE = "inferencecluster-system"
NAME = "inferencecluster-operator"
IMAGE = {"image": {"repository": "registry.example/operator", "tag": "1.0.0"}}
EVERYTHING = {
    **IMAGE,
    "prometheus": {"url": "https://prometheus.example/api"},
    "networkPolicy": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "stack"}},
    "podMonitor": {"enabled": True, "labels": {"release": "stack"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "stack"}},
}
NAMESPACED = {**EVERYTHING, "watchNamespaces": ["team-a", "team-b"], "nodes": {"read": False}}

Manifest = dict[str, Any]


@cache
def helm() -> Path:
    """helm from PATH or from the embedded Kubernetes' cache. Skips the test where neither has it, fails in CI."""
    found = shutil.which("helm")
    for candidate in ([Path(found)] if found else []) + [builds.HELM.folder(default_cache()) / "helm"]:
        if candidate.exists():
            return candidate
    message = "helm is neither on PATH nor built: run `python -m e2e.localkube prepare`"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@dataclass(frozen=True, slots=True)
class Rendered:
    """The objects of one rendering."""

    objects: tuple[Manifest, ...]

    def of_kind(self, kind: str) -> list[Manifest]:
        return [item for item in self.objects if item["kind"] == kind]

    def one(self, kind: str, name: str = NAME) -> Manifest:
        [found] = [item for item in self.of_kind(kind) if item["metadata"]["name"] == name]
        return found

    @property
    def container(self) -> Manifest:
        containers: list[Manifest] = self.one("Deployment")["spec"]["template"]["spec"]["containers"]
        [container] = containers
        return container

    @property
    def environment(self) -> dict[str, str]:
        return {entry["name"]: entry.get("value", "") for entry in self.container["env"]}


def run(values: Mapping[str, Any], *, release: str = NAME) -> subprocess.CompletedProcess[str]:
    command = [str(helm()), "template", release, str(CHART), "--namespace", NAMESPACE, "--values", "-"]
    return subprocess.run(
        command, input=json.dumps(values), capture_output=True, text=True, check=False, timeout=60
    )


def render(values: Mapping[str, Any] = IMAGE, *, release: str = NAME) -> Rendered:
    result = run(values, release=release)
    assert result.returncode == 0, result.stderr
    return Rendered(tuple(item for item in yaml.load_all(result.stdout, yaml.CSafeLoader) if item))


def refusal(values: Mapping[str, Any]) -> str:
    result = run(values)
    assert result.returncode != 0, "the values were accepted"
    return result.stderr


def rules(*roles: Manifest) -> Iterator[Manifest]:
    for role in roles:
        yield from role["rules"]


def granted(rendered: Rendered, verb: str) -> set[str]:
    """`group/resource` of everything that the operator's own roles allow `verb` on."""
    roles = [
        role
        for role in rendered.of_kind("ClusterRole") + rendered.of_kind("Role")
        if role["metadata"]["name"] in (NAME, f"{NAME}-nodes", f"{NAME}-leader")
    ]
    return {
        f"{group}/{resource}"
        for rule in rules(*roles)
        if verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


@pytest.mark.parametrize(
    ("values", "name"),
    [
        pytest.param(IMAGE, "default", id="default"),
        pytest.param(NAMESPACED, "namespaced", id="namespaces, monitoring and network policy"),
    ],
)
def test_the_rendering_changes_only_on_purpose(values: Manifest, name: str) -> None:
    """With GOLDEN=write in the environment the files are rewritten; review them as a diff."""
    objects = render({**values, "crds": {"enabled": False}}).objects
    ordered = sorted(
        objects, key=lambda item: (item["kind"], item["metadata"]["name"], str(item["metadata"]))
    )
    text = yaml.safe_dump_all(ordered, sort_keys=False)
    golden = GOLDEN / f"{name}.yaml"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_nothing_runs_as_root_or_writes_outside_tmp() -> None:
    rendered = render()
    pod = rendered.one("Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert rendered.container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert rendered.container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
    assert rendered.environment["USER"], "kopf fails in getpass without it"


def test_two_replicas_stand_apart_and_survive_a_drain() -> None:
    rendered = render()
    deployment = rendered.one("Deployment")["spec"]
    assert deployment["replicas"] == 2
    assert "podAntiAffinity" in deployment["template"]["spec"]["affinity"]
    assert rendered.one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_a_single_replica_has_no_budget_that_could_block_a_drain() -> None:
    assert render({**IMAGE, "replicas": 1}).of_kind("PodDisruptionBudget") == []


def test_selectors_match_the_pods_and_probes_the_operator_port() -> None:
    rendered = render()
    deployment = rendered.one("Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    for selector in (
        deployment["selector"]["matchLabels"],
        rendered.one("Service")["spec"]["selector"],
        rendered.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert rendered.container["ports"] == [{"name": "http", "containerPort": OPERATOR_HTTP_PORT}]
    assert rendered.container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert rendered.container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    [port] = rendered.one("Service")["spec"]["ports"]
    assert port["port"] == OPERATOR_HTTP_PORT


def test_settings_reach_the_operator_through_its_environment() -> None:
    environment = render(
        {
            **IMAGE,
            "watchNamespaces": ["team-a", "team-b"],
            "prometheus": {"url": "http://prometheus.monitoring.svc:9090"},
            "router": {"image": "registry.example/router:2"},
            "nodes": {"read": False},
            "logLevel": "debug",
        }
    ).environment
    assert environment["IC_WATCH_NAMESPACES"] == "team-a,team-b"
    assert environment["IC_PROMETHEUS_URL"] == "http://prometheus.monitoring.svc:9090"
    assert environment["IC_ROUTER_IMAGE"] == "registry.example/router:2"
    assert environment["IC_CLUSTER_WIDE_NODES"] == "false"
    assert environment["IC_LOG_LEVEL"] == "debug"


def test_the_environment_names_the_objects_that_the_chart_makes() -> None:
    rendered = render()
    environment = rendered.environment
    assert rendered.one("ClusterRole", environment["IC_ROUTER_CLUSTER_ROLE"])
    [leader] = [rule for rule in rules(rendered.one("Role", f"{NAME}-leader")) if "update" in rule["verbs"]]
    assert leader["resourceNames"] == [environment["IC_LEASE_NAME"]]
    assert {"IC_POD_NAME", "IC_POD_NAMESPACE"} <= set(environment)


def test_routers_run_the_operators_image_unless_told() -> None:
    assert render().environment["IC_ROUTER_IMAGE"] == "registry.example/operator:1.0.0"


def test_a_digest_wins_over_the_tag() -> None:
    digest = "sha256:" + "0" * 64
    values = {"image": {"repository": "r.example/o", "tag": "1", "digest": digest}}
    assert render(values).container["image"] == f"r.example/o@{digest}"


@pytest.mark.parametrize(
    "values", [pytest.param(EVERYTHING, id="all namespaces"), pytest.param(NAMESPACED, id="two namespaces")]
)
def test_no_right_is_a_wildcard_reads_a_secret_or_escalates(values: Manifest) -> None:
    rendered = render(values)
    for rule in rules(*rendered.of_kind("ClusterRole"), *rendered.of_kind("Role")):
        words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
        assert not words & {"*", "secrets", "escalate", "impersonate", "pods/exec", "nodes/proxy"}, rule


@pytest.mark.parametrize("values", [pytest.param(IMAGE, id="all"), pytest.param(NAMESPACED, id="two")])
def test_the_operator_can_hand_out_the_routers_role_and_no_other(values: Manifest) -> None:
    rendered = render(values)
    binding = [
        rule
        for rule in rules(*rendered.of_kind("ClusterRole"), *rendered.of_kind("Role"))
        if "bind" in rule["verbs"]
    ]
    role = rendered.environment["IC_ROUTER_CLUSTER_ROLE"]
    assert binding
    assert all(rule["resourceNames"] == [role] and rule["verbs"] == ["bind"] for rule in binding)
    assert {verb for rule in rules(rendered.one("ClusterRole", role)) for verb in rule["verbs"]} == {
        "get",
        "list",
        "watch",
    }


def test_the_operator_may_write_only_what_it_makes() -> None:
    assert granted(render(), "create") == {
        "gpupools.dev/enginepools",
        "/pods",
        "/services",
        "/serviceaccounts",
        "/configmaps",
        "apps/deployments",
        "policy/poddisruptionbudgets",
        "rbac.authorization.k8s.io/rolebindings",
        "/events",
        "coordination.k8s.io/leases",
    }
    assert granted(render(), "delete") == granted(render(), "create") - {
        "/events",
        "coordination.k8s.io/leases",
    }


def test_with_named_namespaces_nothing_is_granted_elsewhere() -> None:
    rendered = render(NAMESPACED)
    assert rendered.of_kind("ClusterRoleBinding") == []
    assert {binding["metadata"]["namespace"] for binding in rendered.of_kind("RoleBinding")} == {
        "team-a",
        "team-b",
        NAMESPACE,
    }


def test_nodes_are_read_only_behind_their_switch() -> None:
    assert {"/nodes", "/pods"} <= granted(render(), "list")
    assert "/nodes" not in granted(render({**IMAGE, "nodes": {"read": False}}), "list")


def test_every_binding_points_at_a_role_of_the_chart_and_at_the_operator() -> None:
    rendered = render(NAMESPACED)
    roles = {(role["kind"], role["metadata"]["name"]) for role in rendered.of_kind("Role")}
    account = rendered.one("ServiceAccount")["metadata"]
    for binding in rendered.of_kind("RoleBinding"):
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in roles
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": account["name"], "namespace": NAMESPACE}
        ]


def test_users_with_the_built_in_roles_can_use_the_api() -> None:
    rendered = render()
    labels = {
        name: set(rendered.one("ClusterRole", f"{NAME}-{name}")["metadata"]["labels"])
        for name in ("view", "edit")
    }
    assert "rbac.authorization.k8s.io/aggregate-to-view" in labels["view"]
    assert "rbac.authorization.k8s.io/aggregate-to-edit" in labels["edit"]
    assert "rbac.authorization.k8s.io/aggregate-to-view" not in labels["edit"]
    assert render({**IMAGE, "rbac": {"aggregate": False}}).of_kind("ClusterRole") != rendered.of_kind(
        "ClusterRole"
    )


def test_uninstalling_keeps_the_crds_and_every_cluster_with_them() -> None:
    crds = render().of_kind("CustomResourceDefinition")
    assert len(crds) == 2
    assert all(crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"} for crd in crds)


def test_the_crds_of_the_chart_are_the_generated_ones_number_for_number() -> None:
    rendered = {crd["metadata"]["name"]: crd["spec"] for crd in render().of_kind("CustomResourceDefinition")}
    generated = [yaml.safe_load(path.read_text()) for path in (CHART / "files" / "crds").glob("*.yaml")]
    assert rendered == {crd["metadata"]["name"]: crd["spec"] for crd in generated}


@pytest.mark.parametrize(
    ("crds", "count", "annotated"),
    [
        pytest.param({"enabled": False}, 0, False, id="left to somebody else"),
        pytest.param({"keep": False}, 2, False, id="removed with the release"),
    ],
)
def test_crds_can_be_left_out_or_given_up(crds: Manifest, count: int, annotated: bool) -> None:
    found = render({**IMAGE, "crds": crds}).of_kind("CustomResourceDefinition")
    assert len(found) == count
    assert any("annotations" in crd["metadata"] for crd in found) is annotated


def test_monitors_select_routers_and_engines_on_their_own_paths() -> None:
    rendered = render(EVERYTHING)
    endpoints = {
        monitor["spec"]["selector"]["matchLabels"]["gpupools.dev/component"]: monitor["spec"][
            "podMetricsEndpoints"
        ][0]
        for monitor in rendered.of_kind("PodMonitor")
    }
    assert (endpoints["router"]["path"], endpoints["router"]["portNumber"]) == ("/metrics", ROUTER_ADMIN_PORT)
    assert endpoints["engine"]["path"] == "/prometheus/metrics"
    labels = [
        monitor["metadata"]["labels"]["release"]
        for monitor in rendered.of_kind("PodMonitor") + rendered.of_kind("ServiceMonitor")
    ]
    assert labels == ["stack"] * 3


@pytest.mark.parametrize(
    ("url", "port"),
    [
        pytest.param("http://prometheus.monitoring.svc:9091", 9091, id="port"),
        pytest.param("https://prometheus.example/api", 443, id="https"),
        pytest.param("http://prometheus", 80, id="http"),
        # Behind a Service on port 80 the Pods listen on another one, and policies apply after its translation.
        pytest.param("http://prometheus", 9090, id="behind a service"),
    ],
)
def test_the_network_policy_opens_the_way_to_prometheus(url: str, port: int) -> None:
    policy = render({**IMAGE, "networkPolicy": {"enabled": True}, "prometheus": {"url": url}}).one(
        "NetworkPolicy"
    )
    ports = [entry["port"] for rule in policy["spec"]["egress"] for entry in rule.get("ports", [])]
    assert port in ports


@pytest.mark.parametrize(
    ("release", "name"),
    [
        pytest.param("prod", f"prod-{NAME}", id="release of another name"),
        pytest.param(NAME, NAME, id="release named like the chart"),
    ],
)
def test_objects_are_named_after_the_release(release: str, name: str) -> None:
    assert render(release=release).one("Deployment", name)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({**IMAGE, "replcas": 3}, "replcas", id="typing error"),
        pytest.param({**IMAGE, "prometheus": {"URL": "http://p"}}, "URL", id="nested typing error"),
        pytest.param({**IMAGE, "replicas": 0}, "replicas", id="no replica"),
        pytest.param({**IMAGE, "prometheus": {"url": "prometheus:9090"}}, "url", id="URL without a scheme"),
        pytest.param({**IMAGE, "watchNamespaces": ["Team"]}, "watchNamespaces", id="impossible namespace"),
        pytest.param({**IMAGE, "logLevel": "loud"}, "logLevel", id="unknown level"),
        pytest.param({}, "image.repository is required", id="no image"),
        pytest.param(
            {**IMAGE, "serviceAccount": {"create": False}},
            "serviceAccount.name is required",
            id="no service account",
        ),
    ],
)
def test_a_wrong_value_is_refused_by_name(values: Manifest, words: str) -> None:
    assert words in refusal(values)


def test_the_chart_passes_lint() -> None:
    result = subprocess.run(
        [str(helm()), "lint", "--strict", str(CHART), "--values", "-"],
        input=json.dumps(EVERYTHING),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def described(values: Mapping[str, Any], schema: Mapping[str, Any], path: str = "values") -> None:
    """Every object of the schema is closed, and its properties are exactly the defaults' keys."""
    assert schema["additionalProperties"] is False, path
    assert set(values) == set(schema["properties"]) - {"global"}, path
    for key, value in values.items():
        entry = schema["properties"][key]
        if isinstance(value, dict) and "properties" in entry and key != "resources":
            described(value, entry, f"{path}.{key}")


def test_schema_and_default_values_name_the_same_keys() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    described(values, json.loads((CHART / "values.schema.json").read_text(encoding="utf-8")))


def test_chart_and_operator_carry_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = (CHART.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert chart["version"] == chart["appVersion"]
    assert f'version = "{chart["appVersion"]}"' in project


def test_recording_writes_into_the_pods_own_volume() -> None:
    (deployment,) = render({**IMAGE, "recording": {"enabled": True}}).of_kind("Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environment = {item["name"]: item.get("value") for item in container["env"]}
    assert environment["IC_RECORD_FILE"] == "/tmp/looks.jsonl"
    assert environment["IC_RECORD_MEGABYTES"] == "64"
    assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]

"""Certificates, configuration files, command lines: what the daemons need to hear."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from e2e.localkube import builds, configs, daemons, packages, pki, plan
from e2e.localkube.paths import State

STATE = State(Path("/state"))


def _flags(name: str) -> tuple[str, ...]:
    return next(daemon.argv for daemon in daemons.daemons(STATE, Path("/bin")) if daemon.name == name)


def test_the_api_server_serves_under_every_name_that_clients_dial() -> None:
    names = next(item.alternative_names for item in pki.IDENTITIES if item.name == "kube-apiserver")
    assert {"IP:127.0.0.1", f"IP:{plan.NODE_IP}", f"IP:{plan.KUBERNETES_SERVICE_IP}"} <= set(names)
    assert "DNS:kubernetes.default.svc.cluster.local" in names


def test_serving_and_client_certificates_are_told_apart() -> None:
    usages = {
        identity.name: next(
            word for word in pki.request_command(STATE, identity) if "extendedKeyUsage" in word
        )
        for identity in pki.IDENTITIES
    }
    assert usages["kube-apiserver"] == usages["kubelet-server"] == "extendedKeyUsage=serverAuth"
    assert usages["admin"] == usages["kubelet"] == "extendedKeyUsage=clientAuth"


def test_the_kubelet_speaks_as_the_node_that_it_registers() -> None:
    kubelet = next(item for item in pki.IDENTITIES if item.name == "kubelet")
    assert kubelet.subject == f"/O=system:nodes/CN=system:node:{plan.NODE_NAME}"
    assert f"--hostname-override={plan.NODE_NAME}" in _flags("kubelet")


def test_every_configuration_file_is_valid_json_but_containerds() -> None:
    for name, content in configs.files(STATE).items():
        if name != "containerd.toml":
            assert json.loads(content)


def _audit_level(*, verb: str, resource: str, user: str = "somebody", groups: tuple[str, ...] = ()) -> str:
    """What the policy says, by the API server's own reading: the first rule that matches."""
    for rule in configs.AUDIT_RULES:
        resources = {item for group in rule.get("resources", []) for item in group["resources"]}
        if (
            verb in rule.get("verbs", [verb])
            and (not resources or resource in resources)
            and (not rule.get("users") or user in rule["users"])
            and (not rule.get("userGroups") or set(groups) & set(rule["userGroups"]))
            and "nonResourceURLs" not in rule
        ):
            return str(rule["level"])
    raise AssertionError("no rule matches")


@pytest.mark.parametrize(
    ("verb", "resource", "groups", "level"),
    [
        pytest.param("create", "pods", (), "RequestResponse", id="a Pod's GPUs are in the log"),
        pytest.param("delete", "pods", ("system:nodes",), "RequestResponse", id="the kubelet's final delete"),
        pytest.param("patch", "pods", (), "Metadata", id="other writes are counted"),
        pytest.param("patch", "pods/status", ("system:nodes",), "None", id="the node's own reports are not"),
        pytest.param("create", "events", (), "None", id="events are not"),
        pytest.param("update", "leases", (), "None", id="leases are not"),
    ],
)
def test_the_audit_log_holds_what_tests_count(
    verb: str, resource: str, groups: tuple[str, ...], level: str
) -> None:
    assert _audit_level(verb=verb, resource=resource, groups=groups) == level


def test_no_request_is_answered_before_its_audit_line_is_written() -> None:
    assert "--audit-log-mode=blocking" in _flags("kube-apiserver")
    assert "--audit-log-maxsize=0" in _flags("kube-apiserver")


def test_pods_are_members_of_the_cgroup_that_down_ends() -> None:
    assert json.loads(configs.kubelet(STATE))["cgroupRoot"] == f"/{plan.CGROUP}"


def test_every_daemon_is_a_component_with_a_log() -> None:
    assert tuple(daemon.name for daemon in daemons.daemons(STATE, Path("/bin"))) == plan.COMPONENTS


def test_daemons_inherit_no_setting_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/somebody/elses")
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example")
    assert not {"KUBECONFIG", "HTTPS_PROXY"} & set(daemons.environment())


def test_the_go_sources_pin_the_version_that_is_stamped_into_the_binary() -> None:
    module = (builds.KUBE.sources / "go.mod").read_text(encoding="utf-8")
    assert f"k8s.io/kubernetes v{plan.KUBERNETES_VERSION}\n" in module
    staging = plan.KUBERNETES_VERSION.replace("1.", "0.", 1)
    replaced = [line for line in module.splitlines() if "=>" in line]
    assert replaced
    assert all(line.endswith(f" v{staging}") for line in replaced)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        pytest.param("go version go1.27.3 linux/amd64", (1, 27), id="release"),
        pytest.param("go version devel go1.28-abc linux/amd64", (1, 28), id="development"),
        pytest.param("gofmt: nonsense", (0, 0), id="something else"),
    ],
)
def test_the_go_version_is_read(text: str, version: tuple[int, int]) -> None:
    assert builds.parse_go_version(text) == version


def test_half_installed_packages_count_as_missing() -> None:
    query = "\n".join(f"{name} installed" for name in packages.PACKAGES[1:])
    assert packages.missing_in(f"{packages.PACKAGES[0]} half-configured\n{query}\n") == [packages.PACKAGES[0]]

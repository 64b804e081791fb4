"""The ways into the API server, and that none of them is a clear error."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferencecluster.adapters import credentials
from inferencecluster.adapters.credentials import Access, load_credentials, request_options
from inferencecluster.core.errors import ApiUnavailable


def kubeconfig(path: Path, user: dict[str, Any], **cluster: Any) -> Path:
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": "https://api:6443/", **cluster}}],
                "users": [{"name": "u", "user": user}],
            }
        )
    )
    return path


def text_of(path: str | None) -> str:
    return Path(path or "").read_text()


async def access(monkeypatch: pytest.MonkeyPatch, path: Path) -> Access:
    monkeypatch.setenv("KUBECONFIG", str(path))
    return await (await load_credentials()).access()


async def test_a_token_of_a_kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = await access(monkeypatch, kubeconfig(tmp_path / "config", {"token": "secret"}))
    assert (found.server, found.authorization) == ("https://api:6443", "Bearer secret")
    assert request_options(found) == {"headers": {"Authorization": "Bearer secret"}}


async def test_a_client_certificate_of_a_kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = {
        name: base64.b64encode(name.encode()).decode()
        for name in ("client-certificate-data", "client-key-data")
    }
    found = await access(monkeypatch, kubeconfig(tmp_path / "config", data))
    assert found.authorization is None
    assert text_of(found.certificate_path) == "client-certificate-data"
    assert text_of(found.key_path) == "client-key-data"


async def test_an_exec_plugin_is_run_and_asked_again_on_renewal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counter = tmp_path / "runs"
    script = tmp_path / "plugin"
    script.write_text(
        f"#!/bin/sh\necho x >> {counter}\n"
        'echo \'{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", '
        f'"status": {{"token": "run-\'$(wc -l < {counter} | tr -d \' \')\'"}}}}\'\n'
    )
    script.chmod(0o755)
    user = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(script),
            "interactiveMode": "Never",
        }
    }
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "config", user)))
    found = await load_credentials()
    first = (await found.access()).authorization
    assert (await found.access()).authorization == first == "Bearer run-1"
    await found.renew()
    assert (await found.access()).authorization == "Bearer run-2"


async def test_the_special_ways_of_a_kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    extra = {"insecure-skip-tls-verify": True, "tls-server-name": "real", "proxy-url": "http://proxy"}
    found = await access(monkeypatch, kubeconfig(tmp_path / "config", {"token": "x"}, **extra))
    assert (found.verify_tls, found.tls_server_name, found.proxy) == (False, "real", "http://proxy")
    options = request_options(found)
    assert (options["server_hostname"], options["proxy"]) == ("real", "http://proxy")
    assert found.ssl_context().check_hostname is False


@pytest.mark.parametrize(
    ("context", "server", "namespace"),
    [
        pytest.param(None, "https://api:6443", "default", id="the current one"),
        pytest.param("there", "https://other:6443", "team", id="another one"),
    ],
)
async def test_a_context_brings_its_server_and_its_namespace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, context: str | None, server: str, namespace: str
) -> None:
    path = kubeconfig(tmp_path / "config", {"token": "x"})
    content = yaml.safe_load(path.read_text())
    there = {"cluster": "other", "user": "u", "namespace": "team"}
    content["contexts"].append({"name": "there", "context": there})
    content["clusters"].append({"name": "other", "cluster": {"server": "https://other:6443"}})
    path.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("KUBECONFIG", str(path))
    # Inside of a Pod, too, a context that is named wins over the Pod's own account.
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    found = await load_credentials(context)
    assert ((await found.access()).server, found.namespace) == (server, namespace)
    await found.renew()
    assert ((await found.access()).server, found.namespace) == (server, namespace)


@pytest.mark.parametrize(("content", "namespace"), [("team\n", "team"), (None, "default")])
async def test_a_pod_looks_into_its_own_namespace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, namespace: str
) -> None:
    file = tmp_path / "namespace"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(credentials, "_NAMESPACE_FILE", file)
    monkeypatch.setattr("kubernetes.aio.config.load_incluster_config", lambda **_: None)
    monkeypatch.setenv("KUBECONFIG", "")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert (await load_credentials()).namespace == namespace


async def test_an_unknown_context_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "config", {"token": "x"})))
    with pytest.raises(ApiUnavailable, match="nowhere"):
        await load_credentials("nowhere")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="no file"),
        pytest.param("", id="empty"),
        pytest.param("clusters: []", id="no context"),
        pytest.param("- a", id="a list"),
        pytest.param("a: [b", id="no YAML"),
    ],
)
async def test_a_kubeconfig_that_cannot_be_used_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(ApiUnavailable, match="the Kubernetes configuration"):
        await load_credentials()


async def test_a_pod_without_its_token_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(ApiUnavailable, match="token file"):
        await load_credentials()

"""How this process reaches and convinces the API server: in-cluster, kubeconfig, client certificates, exec plugins.

The `kubernetes` package finds and reads all of that; only its configuration is used, not its client
(an SSA through raw aiohttp costs a fifth of the CPU, and its models refuse objects of newer servers).
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import Configuration

from inferencecluster.core.errors import ApiUnavailable

_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Of a Pod, beside its token."""
_DEFAULT_NAMESPACE: Final = "default"
_SOURCE: Final = "the Kubernetes configuration"
_NOT_A_KUBECONFIG: Final = (AttributeError, IndexError, KeyError, TypeError)
"""The package's answers to YAML of another shape."""


@dataclass(frozen=True, slots=True)
class Access:
    """One way in, good until the server answers 401."""

    server: str
    """URL without a trailing slash."""
    authorization: str | None = None
    """Value of the Authorization header; None when a client certificate, or nothing, identifies us."""
    ca_path: str | None = None
    certificate_path: str | None = None
    key_path: str | None = None
    verify_tls: bool = True
    tls_server_name: str | None = None
    proxy: str | None = None

    def ssl_context(self) -> ssl.SSLContext:
        """Reads the certificate files. Raises `OSError` when one is missing, `ssl.SSLError` when one is broken."""
        context = ssl.create_default_context(cafile=self.ca_path)
        if not self.verify_tls:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate_path:
            context.load_cert_chain(self.certificate_path, self.key_path)
        return context


class Credentials:
    """Keeps an `Access` current: service account tokens rotate hourly, exec plugins answer on demand."""

    def __init__(self, loaded: _Loaded) -> None:
        self._loaded = loaded

    @property
    def namespace(self) -> str:
        """Where kubectl would look without `--namespace`: the context's, else the Pod's own, else `default`."""
        return self._loaded.namespace

    async def access(self) -> Access:
        """What to use now; the in-cluster token is read again from its file every minute."""
        configuration = self._loaded.configuration
        return Access(
            server=configuration.host.rstrip("/"),
            authorization=await configuration.get_api_key_with_prefix("BearerToken", alias="authorization"),
            ca_path=configuration.ssl_ca_cert,
            certificate_path=configuration.cert_file,
            key_path=configuration.key_file,
            verify_tls=configuration.verify_ssl,
            tls_server_name=configuration.tls_server_name,
            proxy=configuration.proxy,
        )

    async def renew(self) -> None:
        """Read everything again, running the exec plugin if there is one; after the server answered 401."""
        self._loaded = await _load(self._loaded.context)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What was read, and how to read it again."""

    configuration: Any
    namespace: str
    context: str | None


async def load_credentials(context: str | None = None) -> Credentials:
    """From KUBECONFIG, else the Pod's service account, else `~/.kube/config`.

    `context` is the name of one in the kubeconfig, which is then read inside of a Pod, too. Raises `ApiUnavailable` when
    none of them can be used.
    """
    return Credentials(await _load(context))


async def _load(context: str | None) -> _Loaded:
    configuration = Configuration()
    # The location is read from the environment when the package is imported: say it again.
    path = os.environ.get("KUBECONFIG") or kubernetes_config.KUBE_CONFIG_DEFAULT_LOCATION
    in_kubeconfig = (
        bool(context or os.environ.get("KUBECONFIG")) or "KUBERNETES_SERVICE_HOST" not in os.environ
    )
    if in_kubeconfig:
        _refuse_absent(path)
    chosen: Mapping[str, Any] = {}
    try:
        if in_kubeconfig:
            loader = await kubernetes_config.load_kube_config(
                config_file=path, context=context, client_configuration=configuration, persist_config=False
            )
            chosen = loader.current_context["context"]
        else:
            kubernetes_config.load_incluster_config(client_configuration=configuration)
    except _NOT_A_KUBECONFIG as error:
        raise ApiUnavailable(source=_SOURCE, detail=f"{path} is not a kubeconfig") from error
    # ValueError: data that is no base64.
    except (kubernetes_config.ConfigException, OSError, ValueError, yaml.YAMLError) as error:
        raise ApiUnavailable(source=_SOURCE, detail=" ".join(str(error).split())) from error
    namespace = chosen.get("namespace") if in_kubeconfig else _own_namespace()
    return _Loaded(configuration, namespace or _DEFAULT_NAMESPACE, context)


def _refuse_absent(path: str) -> None:
    """Of the files that KUBECONFIG may name, those that do not exist are skipped, as kubectl does it; one has to."""
    if not any(Path(part).expanduser().exists() for part in path.split(os.pathsep) if part):
        raise ApiUnavailable(source=_SOURCE, detail=f"{path} does not exist")


def _own_namespace() -> str:
    """Empty where the token is mounted without it."""
    return _NAMESPACE_FILE.read_text(encoding="utf-8").strip() if _NAMESPACE_FILE.is_file() else ""


def request_options(access: Access) -> dict[str, Any]:
    """Keyword arguments of an aiohttp request that carry `access`, TLS context apart."""
    options: dict[str, Any] = {}
    if access.authorization:
        options["headers"] = {aiohttp.hdrs.AUTHORIZATION: access.authorization}
    if access.tls_server_name:
        options["server_hostname"] = access.tls_server_name
    if access.proxy:
        options["proxy"] = access.proxy
    return options

"""How this process reaches and convinces the API server: in-cluster, kubeconfig, client certificates, exec plugins.

The `kubernetes` package finds and reads all of that; only its configuration is used, not its client
(an SSA through raw aiohttp costs a fifth of the CPU, and its models refuse objects of newer servers).
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import Any

import aiohttp
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import Configuration

from inferencecluster.core.errors import ApiUnavailable


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

    def __init__(self, configuration: Any) -> None:
        self._configuration = configuration

    async def access(self) -> Access:
        """What to use now; the in-cluster token is read again from its file every minute."""
        configuration = self._configuration
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
        self._configuration = await _load_configuration()


async def load_credentials() -> Credentials:
    """From KUBECONFIG, else the Pod's service account, else `~/.kube/config`.

    Raises `ApiUnavailable` when none of them can be used.
    """
    return Credentials(await _load_configuration())


async def _load_configuration() -> Any:
    configuration = Configuration()
    try:
        if "KUBECONFIG" in os.environ or "KUBERNETES_SERVICE_HOST" not in os.environ:
            # The location is read from the environment when the package is imported: say it again.
            path = os.environ.get("KUBECONFIG", kubernetes_config.KUBE_CONFIG_DEFAULT_LOCATION)
            await kubernetes_config.load_kube_config(
                config_file=path, client_configuration=configuration, persist_config=False
            )
        else:
            kubernetes_config.load_incluster_config(client_configuration=configuration)
    except (kubernetes_config.ConfigException, OSError, TypeError) as error:
        # TypeError: the package's answer to a KUBECONFIG that names no existing file.
        raise ApiUnavailable(source="the Kubernetes configuration", detail=str(error)) from error
    return configuration


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

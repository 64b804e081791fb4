"""Keys and certificates of one run, made by the openssl program (the standard library cannot sign).

Elliptic keys (P-256): ten certificates take half a second where RSA takes several.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

from e2e.localkube.paths import State
from e2e.localkube.plan import (
    API_URL,
    CLUSTER_DOMAIN,
    KUBERNETES_SERVICE_IP,
    NODE_IP,
    NODE_NAME,
)
from e2e.localkube.shell import run

VALID_DAYS = 30
"""Longer than any run; a forgotten kubeconfig is worthless soon."""

AUTHORITY = "ca"
SERVICE_ACCOUNT = "service-account"
DNS = "dns"
DNS_USER = f"localkube:{DNS}"


@dataclass(frozen=True, slots=True)
class Identity:
    """One certificate: who it speaks for, and under which names it serves (none: a client only)."""

    name: str
    common_name: str
    organization: str = ""
    alternative_names: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """Distinguished name in openssl's notation."""
        organization = f"/O={self.organization}" if self.organization else ""
        return f"{organization}/CN={self.common_name}"


IDENTITIES = (
    Identity(
        "kube-apiserver",
        "kube-apiserver",
        alternative_names=(
            "DNS:localhost",
            "DNS:kubernetes",
            "DNS:kubernetes.default",
            "DNS:kubernetes.default.svc",
            f"DNS:kubernetes.default.svc.{CLUSTER_DOMAIN}",
            "IP:127.0.0.1",
            f"IP:{NODE_IP}",
            f"IP:{KUBERNETES_SERVICE_IP}",
        ),
    ),
    Identity(
        "kubelet-server", NODE_NAME, alternative_names=(f"DNS:{NODE_NAME}", f"IP:{NODE_IP}", "IP:127.0.0.1")
    ),
    Identity("kubelet-client", "kube-apiserver-kubelet-client", "system:masters"),
    Identity("admin", "kubernetes-admin", "system:masters"),
    Identity("kube-controller-manager", "system:kube-controller-manager"),
    Identity("kube-scheduler", "system:kube-scheduler"),
    Identity("kubelet", f"system:node:{NODE_NAME}", "system:nodes"),
    Identity("kube-proxy", "system:kube-proxy"),
    Identity(DNS, DNS_USER),
)
"""The default role bindings of Kubernetes know all of these except `dns`, which `up` binds."""

KUBECONFIG_USERS = ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", DNS)


def request_command(state: State, identity: Identity) -> list[str]:
    """The openssl command that makes key and certificate of `identity`, signed by our authority."""
    usage = "serverAuth" if identity.alternative_names else "clientAuth"
    extensions = [f"extendedKeyUsage={usage}", "keyUsage=critical,digitalSignature,keyEncipherment"]
    if identity.alternative_names:
        extensions.append("subjectAltName=" + ",".join(identity.alternative_names))
    command = _new_certificate(state, identity.name, identity.subject)
    command += ["-CA", str(state.certificate(AUTHORITY)), "-CAkey", str(state.key(AUTHORITY))]
    for extension in ("basicConstraints=critical,CA:FALSE", *extensions):
        command += ["-addext", extension]
    return command


def _new_certificate(state: State, name: str, subject: str) -> list[str]:
    return [
        *("openssl", "req", "-x509", "-nodes", "-sha256"),
        *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-days", str(VALID_DAYS), "-subj", subject),
        *("-keyout", str(state.key(name)), "-out", str(state.certificate(name))),
    ]


def create(state: State) -> None:
    """Write every key, certificate and kubeconfig below `state.pki`. Raises `CommandError`."""
    state.pki.mkdir(mode=0o700, parents=True)
    run(
        [
            *_new_certificate(state, AUTHORITY, "/CN=localkube"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"),
        ]
    )
    for identity in IDENTITIES:
        run(request_command(state, identity))
    private = str(state.key(SERVICE_ACCOUNT))
    run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", private])
    run(["openssl", "pkey", "-in", private, "-pubout", "-out", str(state.certificate(SERVICE_ACCOUNT))])
    for user in KUBECONFIG_USERS:
        state.component_kubeconfig(user).write_text(kubeconfig(state, user), encoding="utf-8")
    state.kubeconfig.touch(mode=0o600)
    state.kubeconfig.write_text(kubeconfig(state, "admin"), encoding="utf-8")


def kubeconfig(state: State, user: str) -> str:
    """A self-contained kubeconfig (JSON is YAML) of one identity."""

    def embedded(name: str, *, private: bool = False) -> str:
        file = state.key(name) if private else state.certificate(name)
        return base64.b64encode(file.read_bytes()).decode()

    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "localkube",
                    "cluster": {"server": API_URL, "certificate-authority-data": embedded(AUTHORITY)},
                }
            ],
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate-data": embedded(user),
                        "client-key-data": embedded(user, private=True),
                    },
                }
            ],
            "contexts": [{"name": "localkube", "context": {"cluster": "localkube", "user": user}}],
            "current-context": "localkube",
        },
        indent=2,
    )

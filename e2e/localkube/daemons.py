"""The command lines of the daemons, and the order they start in."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from e2e.localkube.paths import REPOSITORY, State
from e2e.localkube.pki import AUTHORITY, SERVICE_ACCOUNT
from e2e.localkube.plan import (
    API_PORT,
    CLUSTER_DOMAIN,
    NODE_IP,
    NODE_NAME,
    SERVICE_CIDR,
)

ETCD_URL = "http://127.0.0.1:2379"
"""Plain text on the loopback of a private network namespace: nobody else can reach it."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """One supervised process.

    `after_api` daemons start once the API server is ready: their own retry back-off would cost seconds.
    """

    name: str
    argv: tuple[str, ...]
    after_api: bool = True


def daemons(state: State, binaries: Path) -> tuple[Daemon, ...]:
    """Every daemon in start order; `binaries` is the folder of the built programs."""
    return (
        Daemon("etcd", (str(binaries / "etcd"), *_etcd(state)), after_api=False),
        Daemon(
            "containerd", ("containerd", "--config", str(state.config / "containerd.toml")), after_api=False
        ),
        Daemon("kube-apiserver", (str(binaries / "kube-apiserver"), *_api_server(state)), after_api=False),
        Daemon(
            "kube-controller-manager",
            (str(binaries / "kube-controller-manager"), *_controller_manager(state)),
        ),
        Daemon(
            "kube-scheduler",
            (str(binaries / "kube-scheduler"), f"--config={state.config / 'kube-scheduler.json'}"),
        ),
        Daemon("kubelet", (str(binaries / "kubelet"), *_kubelet(state))),
        Daemon("kube-proxy", (str(binaries / "kube-proxy"), *_kube_proxy(state))),
        Daemon("dns", (sys.executable, "-P", "-m", "e2e.localkube.dns", str(state.root))),
    )


def environment() -> dict[str, str]:
    """Environment of every daemon: the system's paths, and no proxy or credential of the caller."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONUNBUFFERED": "1",
    }


def _etcd(state: State) -> tuple[str, ...]:
    """No fsync: the data does not outlive the run, and a slow disk must not slow the API down."""
    return (
        f"--data-dir={state.root / 'etcd'}",
        f"--listen-client-urls={ETCD_URL}",
        f"--advertise-client-urls={ETCD_URL}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=default=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
        "--quota-backend-bytes=2147483648",
        "--log-level=warn",
    )


def _api_server(state: State) -> tuple[str, ...]:
    """`--kubelet-preferred-address-types=InternalIP`: logs and exec fail on the unresolvable node name."""
    return (
        f"--etcd-servers={ETCD_URL}",
        "--bind-address=0.0.0.0",
        f"--advertise-address={NODE_IP}",
        f"--secure-port={API_PORT}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--client-ca-file={state.certificate(AUTHORITY)}",
        f"--tls-cert-file={state.certificate('kube-apiserver')}",
        f"--tls-private-key-file={state.key('kube-apiserver')}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-certificate-authority={state.certificate(AUTHORITY)}",
        f"--kubelet-client-certificate={state.certificate('kubelet-client')}",
        f"--kubelet-client-key={state.key('kubelet-client')}",
        f"--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
        f"--service-account-key-file={state.certificate(SERVICE_ACCOUNT)}",
        f"--service-account-signing-key-file={state.key(SERVICE_ACCOUNT)}",
        f"--audit-policy-file={state.config / 'audit-policy.json'}",
        f"--audit-log-path={state.audit_log}",
        # Written before the answer is sent, and never rotated: a test that got its answer finds the line.
        "--audit-log-mode=blocking",
        "--audit-log-maxsize=0",
        "--max-requests-inflight=1000",
        "--max-mutating-requests-inflight=500",
    )


def _controller_manager(state: State) -> tuple[str, ...]:
    return (
        f"--kubeconfig={state.component_kubeconfig('kube-controller-manager')}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={state.key(SERVICE_ACCOUNT)}",
        f"--root-ca-file={state.certificate(AUTHORITY)}",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    )


def _kubelet(state: State) -> tuple[str, ...]:
    return (
        f"--config={state.config / 'kubelet.json'}",
        f"--kubeconfig={state.component_kubeconfig('kubelet')}",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={NODE_IP}",
        f"--root-dir={state.root / 'kubelet'}",
    )


def _kube_proxy(state: State) -> tuple[str, ...]:
    return (f"--config={state.config / 'kube-proxy.json'}", f"--hostname-override={NODE_NAME}")

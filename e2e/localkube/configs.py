"""Configuration files of the daemons, as text (JSON wherever YAML is read)."""

from __future__ import annotations

import json
from typing import Any

from e2e.localkube.paths import State
from e2e.localkube.pki import AUTHORITY, DNS_USER
from e2e.localkube.plan import (
    CGROUP,
    CLUSTER_DOMAIN,
    MAX_PODS,
    NODE_IP,
    NODE_POD_CIDR,
    POD_CIDR,
)

PAUSE_IMAGE = "localhost/pause:1"

AUDIT_RULES: tuple[dict[str, Any], ...] = (
    # Creates and deletes of Pods with their bodies: the requests for GPUs and the moment of the last delete
    # (the kubelet's own, with a grace period of 0) let a test integrate GPUs over time. Before the node rule.
    {
        "level": "RequestResponse",
        "verbs": ["create", "delete", "deletecollection"],
        "resources": [{"group": "", "resources": ["pods"]}],
    },
    # What was written, so that a test that expected nothing can tell.
    {
        "level": "Request",
        "verbs": ["patch"],
        "resources": [{"group": "gpupools.dev", "resources": ["*"]}],
    },
    {"level": "None", "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}]},
    {
        "level": "None",
        "resources": [
            {"group": "", "resources": ["events"]},
            {"group": "events.k8s.io", "resources": ["events"]},
        ],
    },
    {"level": "None", "userGroups": ["system:nodes"]},
    {"level": "None", "users": [DNS_USER]},
    {"level": "None", "nonResourceURLs": ["/*"]},
    {"level": "Metadata"},
)
"""The first rule that matches decides."""


def audit_policy() -> str:
    """Which requests the audit log holds: one line each, when the answer was complete."""
    return json.dumps(
        {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": list(AUDIT_RULES),
        },
        indent=2,
    )


def scheduler(state: State) -> str:
    """High client limits: the default of 50 requests/s makes a burst of 100 Pods wait for seconds."""
    return json.dumps(
        {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": False},
            "clientConnection": {
                "kubeconfig": str(state.component_kubeconfig("kube-scheduler")),
                "qps": 1000,
                "burst": 2000,
            },
        },
        indent=2,
    )


def kube_proxy(state: State) -> str:
    """Iptables mode; conntrack limits stay as they are (these sysctls are read-only in a namespace)."""
    return json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clusterCIDR": str(POD_CIDR),
            "conntrack": {"maxPerCore": 0, "min": 0},
            # The default of 1 s between rule writes is most of the time from Ready to routed.
            "iptables": {"minSyncPeriod": "200ms"},
            "metricsBindAddress": "127.0.0.1:10249",
            "clientConnection": {"kubeconfig": str(state.component_kubeconfig("kube-proxy"))},
        },
        indent=2,
    )


def kubelet(state: State) -> str:
    """Cgroupfs driver below our own cgroup; nothing of the machine's own resources is guarded or evicted."""
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(state.certificate(AUTHORITY))},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(state.certificate("kubelet-server")),
            "tlsPrivateKeyFile": str(state.key("kubelet-server")),
            "containerRuntimeEndpoint": f"unix://{state.containerd_socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{CGROUP}",
            "failCgroupV1": False,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            # No resolver of the host: names outside cannot be reached anyway. `dns` answers on the node.
            "resolvConf": "",
            "clusterDomain": CLUSTER_DOMAIN,
            "clusterDNS": [str(NODE_IP)],
            "maxPods": MAX_PODS,
            "serializeImagePulls": False,
            "registryPullQPS": 0,
            "kubeAPIQPS": 200,
            "kubeAPIBurst": 400,
            "eventRecordQPS": 0,
            "localStorageCapacityIsolation": False,
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "podLogsDir": str(state.root / "pod-logs"),
            "volumePluginDir": str(state.root / "volume-plugins"),
            "shutdownGracePeriod": "0s",
        },
        indent=2,
    )


def containerd(state: State) -> str:
    """Settings of containerd 1.6 with its CRI plugin.

    `restrict_oom_score_adj`: lowering the score needs CAP_SYS_RESOURCE, which containers often lack; without
    this no Pod starts there. `netns_mounts_under_state_dir`: namespaces are mounted where the tmpfs is ours.
    """
    return f"""\
version = 2
root = "{state.root}/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
  address = "{state.containerd_socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  max_concurrent_downloads = 2
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{state.config}/cni"
"""


def cni(state: State) -> str:
    """Bridge with addresses out of the node's range; no masquerading, as nothing leaves the machine."""
    return json.dumps(
        {
            "cniVersion": "1.0.0",
            "name": "localkube",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "hairpinMode": True,
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": str(NODE_POD_CIDR)}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                        "dataDir": str(state.root / "cni-addresses"),
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        },
        indent=2,
    )


def files(state: State) -> dict[str, str]:
    """Every configuration file: name below `state.config` -> content."""
    return {
        "audit-policy.json": audit_policy(),
        "kube-scheduler.json": scheduler(state),
        "kube-proxy.json": kube_proxy(state),
        "kubelet.json": kubelet(state),
        "containerd.toml": containerd(state),
        "cni/10-localkube.conflist": cni(state),
    }


def write(state: State) -> None:
    """Write every configuration file, and make the folders that daemons expect to find."""
    for name, content in files(state).items():
        file = state.config / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    volume_plugins = state.root / "volume-plugins"
    for folder in (
        state.logs,
        state.imported,
        state.audit_log.parent,
        state.root / "kubelet",
        volume_plugins,
    ):
        folder.mkdir(parents=True, exist_ok=True)

"""The fixed names, addresses and versions of the one Kubernetes that a machine can hold.

Everything is a constant on purpose: cleanup after a crash must know every name without reading
any file that the crash may have left half-written.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

KUBERNETES_VERSION = "1.36.3"
"""Must match `kube/go.mod`: the builder checks it, and stamps it into the binary."""

NODE_NAME = "node-0"
GPU_CAPACITY = 64
"""`nvidia.com/gpu` that the node advertises: eight 8-GPU machines in one, enough for every test."""

MAX_PODS = 200

SERVICE_CIDR = IPv4Network("10.96.0.0/16")
POD_CIDR = IPv4Network("10.244.0.0/16")
"""The whole cluster's range; fake (kwok) nodes take `FAKE_POD_CIDR` out of it."""
NODE_POD_CIDR = IPv4Network("10.244.0.0/24")
FAKE_POD_CIDR = IPv4Network("10.244.128.0/17")
LINK_CIDR = IPv4Network("10.245.0.0/30")
HOST_IP = IPv4Address("10.245.0.1")
NODE_IP = IPv4Address("10.245.0.2")
KUBERNETES_SERVICE_IP = IPv4Address("10.96.0.1")
API_PORT = 6443
API_URL = f"https://{NODE_IP}:{API_PORT}"
CLUSTER_DOMAIN = "cluster.local"

HOST_LINK = "lk0"
NODE_LINK = "eth0"
SAFETY_METRIC = 4000
"""Worse than any real route, so the unreachable route answers only while ours is absent."""

CGROUP = "lk"
"""Directory made in every cgroup hierarchy: its `cgroup.procs` files are the list of our processes."""
DAEMONS_CGROUP = "daemons"

PRIVATE_DIRECTORIES = ("/run", "/var/lib/cni", "/var/lib/kubelet", "/var/log")
"""Paths that daemons write to whatever their flags say; each is a tmpfs inside our mount namespace.
The host needs the mount points; those that were missing are recorded, and removed by `down`."""

COMPONENTS = (
    "etcd",
    "containerd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "dns",
)
"""Names that `logs` knows, beside `init`."""

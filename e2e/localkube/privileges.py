"""Can this machine run localkube? Every reason why not, in words."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from e2e.localkube import cgroups, network
from e2e.localkube.errors import CommandError
from e2e.localkube.paths import default_state
from e2e.localkube.shell import succeeds

CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}
"""Name -> bit, from linux/capability.h: links and routes; mounts and namespaces."""

SOCKET_PATH_LIMIT = 107
"""Bytes in `sockaddr_un.sun_path`, without its final zero."""


def missing_privileges() -> list[str]:
    """Why this machine cannot run localkube, one sentence each; empty when it can."""
    if sys.platform != "linux":
        return [f"the system is {sys.platform}, but namespaces and cgroups need Linux"]
    if os.geteuid() != 0:
        return [f"the user id is {os.geteuid()}, but namespaces, mounts and routes need root (0)"]
    return [
        *_architecture(),
        *missing_capabilities(Path("/proc/self/status").read_text(encoding="ascii")),
        *missing_overlayfs(Path("/proc/filesystems").read_text(encoding="ascii")),
        *_cgroups(),
        *_namespaces(),
        *_routes(),
        *socket_path_problem(default_state().containerd_socket),
    ]


def missing_build_privileges() -> list[str]:
    """Why this machine cannot build images, one sentence each; empty when it can. Nothing of localkube has to run."""
    if sys.platform != "linux":
        return [f"the system is {sys.platform}, but images are built in Linux namespaces"]
    if os.geteuid() != 0:
        return [f"the user id is {os.geteuid()}, but mounts and namespaces need root (0)"]
    status = Path("/proc/self/status").read_text(encoding="ascii")
    filesystems = Path("/proc/filesystems").read_text(encoding="ascii")
    return [
        *_architecture(),
        *(reason for reason in missing_capabilities(status) if reason.startswith("CAP_SYS_ADMIN")),
        *missing_overlayfs(filesystems),
    ]


def _architecture() -> list[str]:
    machine = platform.machine()
    return [] if machine in {"x86_64", "aarch64"} else [f"the processor is {machine}: use x86_64 or aarch64"]


def missing_capabilities(status: str) -> list[str]:
    """Capabilities that the text of `/proc/self/status` lacks."""
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    held = int(effective, 16)
    return [
        f"{name} is not held: start the container with it (for example `--privileged`)"
        for name, bit in CAPABILITIES.items()
        if not held >> bit & 1
    ]


def missing_overlayfs(filesystems: str) -> list[str]:
    """Whether the kernel's list of file systems lacks overlay (a module may still be loaded)."""
    if "overlay" in filesystems.split() or succeeds(["modprobe", "overlay"]):
        return []
    return ["the kernel has no overlayfs, which containerd keeps images on: load the module `overlay`"]


def _cgroups() -> list[str]:
    found = cgroups.hierarchies()
    if not found:
        return ["no cgroup file system is mounted below /sys/fs/cgroup"]
    reasons = [
        f"cgroup hierarchy {hierarchy.path} is read-only: mount it writable"
        for hierarchy in found
        if os.statvfs(hierarchy.path).f_flag & os.ST_RDONLY
    ]
    if not reasons and cgroups.is_pure_version_2(found):
        root = found[0].path
        available = set((root / "cgroup.controllers").read_text(encoding="ascii").split())
        absent = sorted(set(cgroups.V2_CONTROLLERS) - available)
        if absent:
            reasons.append(f"cgroup controllers {', '.join(absent)} are not delegated to {root}")
    return reasons


def _namespaces() -> list[str]:
    if succeeds(["unshare", "--mount", "--net", "--pid", "--fork", "--propagation", "private", "true"]):
        return []
    return [
        "new mount, network and pid namespaces are refused (seccomp or an LSM): allow `unshare` and `mount`"
    ]


def _routes() -> list[str]:
    try:
        taken = network.conflicts(network.host_routes())
    except CommandError:
        return []  # iproute2 is installed by `prepare`; nothing to say before
    return [f"route {route} overlaps an address range of localkube: remove that network" for route in taken]


def socket_path_problem(socket: Path) -> list[str]:
    """Whether the path of containerd's socket is too long for the kernel."""
    length = len(os.fsencode(socket))
    if length <= SOCKET_PATH_LIMIT:
        return []
    return [
        f"{socket} has {length} bytes, a socket path at most {SOCKET_PATH_LIMIT}: set a shorter XDG_CACHE_HOME"
    ]

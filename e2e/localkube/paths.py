"""Where everything lies: the cache that survives, and the state of one running Kubernetes that does not."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parents[1]

LOCK_FILE = Path("/run/inferencecluster-localkube.lock")
"""One per machine, not per cache: links, routes and cgroups are the machine's. Holds the state's path."""


def cache_root() -> Path:
    """`${XDG_CACHE_HOME:-~/.cache}/inferencecluster`."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "inferencecluster"


@dataclass(frozen=True, slots=True)
class Cache:
    """Folders of things that are expensive to make; every entry is keyed by the hash of its sources."""

    root: Path

    @property
    def binaries(self) -> Path:
        """Programs built by Go, one folder per source hash."""
        return self.root / "bin"

    @property
    def images(self) -> Path:
        """Image archives, `<name>-<key>.tar`."""
        return self.root / "images"

    @property
    def wheels(self) -> Path:
        """Wheelhouses, one folder per hash of their lock files."""
        return self.root / "wheels"

    @property
    def rootfs(self) -> Path:
        """Debian root file systems as tar files."""
        return self.root / "rootfs"

    @property
    def debian_files(self) -> Path:
        """Single files out of Debian packages."""
        return self.root / "debian"

    @property
    def buildah(self) -> Path:
        """Buildah's own storage: layers that make the next build incremental."""
        return self.root / "buildah"

    @property
    def build_lock(self) -> Path:
        """Held while anything is added to the cache."""
        return self.root / "build.lock"

    @property
    def failure_logs(self) -> Path:
        """Logs of the last `up` that failed, kept after its state was removed."""
        return self.root / "last-failure"


@dataclass(frozen=True, slots=True)
class State:
    """Files of one running Kubernetes; `down` removes the whole folder."""

    root: Path

    @property
    def pki(self) -> Path:
        """Keys, certificates and the kubeconfigs made of them."""
        return self.root / "pki"

    @property
    def config(self) -> Path:
        """Configuration files of the daemons."""
        return self.root / "config"

    @property
    def logs(self) -> Path:
        """One log per component."""
        return self.root / "log"

    @property
    def kubeconfig(self) -> Path:
        """Administrator's kubeconfig, certificates inside."""
        return self.root / "kubeconfig"

    @property
    def audit_log(self) -> Path:
        """One JSON line per request to the API server."""
        return self.root / "audit" / "audit.log"

    @property
    def containerd_socket(self) -> Path:
        """On the disk, not in a private tmpfs: `ctr` on the host imports images through it."""
        return self.root / "containerd.sock"

    @property
    def marker(self) -> Path:
        """Written last by `up`: what runs, and from which sources."""
        return self.root / "ready.json"

    @property
    def imported(self) -> Path:
        """One empty file per image archive that containerd has."""
        return self.root / "imported"

    def log(self, component: str) -> Path:
        """Log file of one component."""
        return self.logs / f"{component}.log"

    def certificate(self, name: str) -> Path:
        """Certificate file of one identity."""
        return self.pki / f"{name}.crt"

    def key(self, name: str) -> Path:
        """Private key file of one identity."""
        return self.pki / f"{name}.key"

    def component_kubeconfig(self, name: str) -> Path:
        """Kubeconfig that one daemon uses."""
        return self.pki / f"{name}.kubeconfig"


def default_cache() -> Cache:
    """The cache of this user."""
    return Cache(cache_root())


def default_state() -> State:
    """Where `up` puts the state; always the same path, so that a KUBECONFIG stays valid over restarts."""
    return State(cache_root() / "state")

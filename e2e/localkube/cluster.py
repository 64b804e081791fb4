"""`up`, `down`, `status`: the life of the one Kubernetes of this machine."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from e2e.localkube import (
    builds,
    cgroups,
    configs,
    containerd,
    images,
    launch,
    packages,
    pki,
    prepare,
    teardown,
)
from e2e.localkube.api import ApiClient, ApiError
from e2e.localkube.errors import LocalKubeError, MissingPrivilegesError, NotRunningError, StartError
from e2e.localkube.hashing import hash_files, hash_texts
from e2e.localkube.locks import exclusive
from e2e.localkube.paths import LOCK_FILE, PACKAGE, Cache, State, default_cache, default_state
from e2e.localkube.plan import COMPONENTS, GPU_CAPACITY, NODE_IP, NODE_NAME, PRIVATE_DIRECTORIES
from e2e.localkube.privileges import missing_privileges
from e2e.localkube.progress import step
from e2e.localkube.workspace import building

START_TIMEOUT_SECONDS = 180.0
"""Thirty times what an idle machine needs (5 s); shared CI machines are that slow at times."""

POLL_SECONDS = 0.05

LOG_TAIL_CHARACTERS = 3000

GPU_PATCH = [
    {"op": "add", "path": f"/status/{field}/nvidia.com~1gpu", "value": str(GPU_CAPACITY)}
    for field in ("capacity", "allocatable")
]

DNS_BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "localkube-dns"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
    "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": pki.DNS_USER}],
}


@dataclass(frozen=True, slots=True)
class RunningKubernetes:
    """A Kubernetes that is up, and everything a test needs to use it."""

    state: State
    kubeconfig: Path
    audit_log: Path
    node_ip: str
    node_name: str
    kubectl: Path
    helm: Path
    kwok: Path
    kwok_stages: Path
    init_pid: int
    """Host process id of process 1: `nsenter --target <pid> --net` enters the node's network."""


def fingerprint() -> str:
    """Hash of the Python and Go sources of this package: a running Kubernetes made from others is made anew."""
    return hash_texts(hash_files(PACKAGE, sorted(PACKAGE.glob("*.py"))), builds.KUBE.key)


def _describe(state: State, cache: Cache, init_pid: int) -> RunningKubernetes:
    kwok = builds.KWOK.folder(cache)
    return RunningKubernetes(
        state=state,
        kubeconfig=state.kubeconfig,
        audit_log=state.audit_log,
        node_ip=str(NODE_IP),
        node_name=NODE_NAME,
        kubectl=builds.KUBE.folder(cache) / "kubectl",
        helm=builds.HELM.folder(cache) / "helm",
        kwok=kwok / "kwok",
        kwok_stages=kwok / "stages.yaml",
        init_pid=init_pid,
    )


def status() -> RunningKubernetes | None:
    """The Kubernetes that is up and ready now, from whatever sources; None when there is none.

    Takes no lock and changes nothing.
    """
    state = teardown.Footprint.recorded().state
    pid = launch.init_pid(cgroups.hierarchies())
    if pid is None or not state.marker.is_file():
        return None
    try:
        client = ApiClient.from_state(state)
    except OSError:  # `down` is removing it at this moment
        return None
    if not client.is_ready() or not _node_is_ready(client):
        return None
    return _describe(state, default_cache(), pid)


def require_running() -> RunningKubernetes:
    """The running Kubernetes. Raises `NotRunningError`."""
    running = status()
    if running is None:
        raise NotRunningError
    return running


def _marker_fingerprint(state: State) -> str:
    try:
        return str(json.loads(state.marker.read_text(encoding="utf-8"))["fingerprint"])
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return ""


def up(*, fresh: bool = False, with_images: bool = True) -> RunningKubernetes:
    """A running Kubernetes: the present one if it is healthy and of the same sources, else a new one.

    Prepares what is missing first (the first time that takes minutes). Images that were built for the
    present sources are imported, unless `with_images` is False: they take longer than Kubernetes itself.
    Raises `MissingPrivilegesError`, `StartError`, `CommandError`, `BuildError`.
    """
    _require_privileges()
    prepare.prepare()
    with exclusive(LOCK_FILE):
        state = teardown.Footprint.recorded().state
        running = None if fresh or _marker_fingerprint(state) != fingerprint() else status()
        if running is None:
            teardown.remove_everything(quiet=True)
            running = _start(default_state(), default_cache())
        if with_images:
            _import(images.built_images(default_cache()).values())
    return running


def _require_privileges() -> None:
    if reasons := missing_privileges():
        raise MissingPrivilegesError(reasons)


def _start(state: State, cache: Cache) -> RunningKubernetes:
    """Start from nothing. On any failure the logs are saved, everything is removed, and the error raised."""
    try:
        with step("up: keys and configuration"):
            _write_files(state)
        with step("up: namespaces"):
            init_pid = launch.launch(state, builds.KUBE.folder(cache))
        with ThreadPoolExecutor(max_workers=1) as pool:
            pause = pool.submit(_import_pause, state, cache)
            with step("up: API server"):
                client = ApiClient.from_state(state)
                _wait(client.is_ready, "kube-apiserver", state)
            with step("up: node"):
                pause.result()
                _wait(lambda: _node_is_ready(client), "kubelet", state)
                _wait(lambda: _has_default_account(client), "kube-controller-manager", state)
                _finish_node(client)
        state.marker.write_text(json.dumps({"fingerprint": fingerprint()}), encoding="utf-8")
    except BaseException:
        _save_logs(state, cache)
        teardown.remove_everything(quiet=True)
        raise
    return _describe(state, cache, init_pid)


def _write_files(state: State) -> None:
    """Record what will exist, then make it: a crash in between leaves nothing that `down` does not know."""
    missing = tuple(Path(path) for path in PRIVATE_DIRECTORIES if not Path(path).exists())
    teardown.Footprint(state, missing).record()
    for path in missing:
        path.mkdir(parents=True)
    state.root.mkdir(mode=0o755, parents=True)
    pki.create(state)
    configs.write(state)


def _import_pause(state: State, cache: Cache) -> None:
    _wait(lambda: containerd.is_serving(state), "containerd", state)
    _import([images.archive_path(images.PAUSE, cache)])


def _wait(ready: Callable[[], bool], component: str, state: State) -> None:
    """Poll until `ready`. Raises `StartError` after the timeout, or at once when process 1 has died."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not ready():
        if launch.init_pid(cgroups.hierarchies()) is None:
            raise StartError("process 1 of the namespaces died", log_tail(state, "init"))
        if time.monotonic() > deadline:
            raise StartError(
                f"{component} was not ready within {START_TIMEOUT_SECONDS:.0f} s", log_tail(state, component)
            )
        time.sleep(POLL_SECONDS)


def log_tail(state: State, component: str) -> str:
    """The end of the log of `component` (or `init`); empty when it never wrote."""
    file = state.log(component)
    return file.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARACTERS:] if file.exists() else ""


def _node_is_ready(client: ApiClient) -> bool:
    try:
        node = client.request("GET", f"/api/v1/nodes/{NODE_NAME}")
    except ApiError:
        return False
    conditions = node["status"].get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def _has_default_account(client: ApiClient) -> bool:
    """Pods cannot be created in a namespace before its default ServiceAccount exists."""
    try:
        client.request("GET", "/api/v1/namespaces/default/serviceaccounts/default")
    except ApiError:
        return False
    return True


def _finish_node(client: ApiClient) -> None:
    """Advertise the GPUs, and let the DNS server read Services."""
    client.request(
        "PATCH", f"/api/v1/nodes/{NODE_NAME}/status", GPU_PATCH, content_type="application/json-patch+json"
    )
    client.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", DNS_BINDING)


def _save_logs(state: State, cache: Cache) -> None:
    shutil.rmtree(cache.failure_logs, ignore_errors=True)
    if state.logs.is_dir():
        shutil.copytree(state.logs, cache.failure_logs)


def component_pid(component: str) -> int | None:
    """Host process id of a running daemon, for tests that kill one; None while it is not running."""
    found = cgroups.hierarchies()
    init_pid = launch.init_pid(found)
    for pid in cgroups.processes(found):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            parent = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        # Only children of process 1: a Pod may run a program of the same name.
        if parent == init_pid and {component, f"e2e.localkube.{component}"} & {
            Path(word.decode()).name for word in words
        }:
            return pid
    return None


def down() -> None:
    """Remove every trace of a Kubernetes of ours from this machine, in whatever state it is.

    Returns when nothing is left. Raises `CleanupError` naming what could not be removed.
    """
    with exclusive(LOCK_FILE):
        teardown.remove_everything()


def load_image(archive: Path) -> None:
    """Import an image archive (docker or OCI) into the running Kubernetes. Raises `NotRunningError`."""
    with exclusive(LOCK_FILE):
        require_running()
        containerd.import_image(teardown.Footprint.recorded().state, archive)


def load_images() -> dict[str, str]:
    """Build what is missing, import everything if Kubernetes is up; returns name -> reference for Pods."""
    cache = default_cache()
    with building(cache):
        packages.install()
        archives = images.build_images(cache)
    with exclusive(LOCK_FILE):
        if status() is not None:
            _import(archives.values())
    return images.image_references(None)


def _import(archives: Iterable[Path]) -> None:
    """Import the archives that this run has not imported yet (its state remembers their names)."""
    state = teardown.Footprint.recorded().state
    for archive in archives:
        done = state.imported / archive.name
        if done.exists():
            continue
        with step(f"import {archive.stem}"):
            containerd.import_image(state, archive)
        done.touch()


def logs(component: str) -> Path:
    """Log file of a component of the present (or the last failed) run. Raises `LocalKubeError`."""
    known = ("init", *COMPONENTS)
    if component not in known:
        raise LocalKubeError(f"component {component!r} is unknown: use one of {', '.join(known)}")
    for folder in (teardown.Footprint.recorded().state.logs, default_cache().failure_logs):
        if (file := folder / f"{component}.log").exists():
            return file
    raise NotRunningError

"""The list of our processes: one directory in every cgroup hierarchy.

Everything localkube starts is a member of `<hierarchy>/lk/**` from its first instruction on, pods
included (the kubelet's `cgroupRoot` is `/lk`). So the `cgroup.procs` files below it are exactly the
processes to end: no pid files that a crash leaves stale, no matching of names.

Both layouts are supported: version 1 (one hierarchy per controller, with or without a `unified` mount
beside them) and version 2 (one hierarchy).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from e2e.localkube.errors import CleanupError, LocalKubeError
from e2e.localkube.plan import CGROUP, DAEMONS_CGROUP

V2_CONTROLLERS = ("cpuset", "cpu", "memory", "pids")
"""What the kubelet needs of a version 2 hierarchy."""

V2_OPTIONAL_CONTROLLERS = ("hugetlb", "io")
"""What it demands below its root if the machine's root has it."""

POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted cgroup file system: `path` is its mount point, `controllers` are empty for `unified`."""

    path: Path
    version: int
    controllers: frozenset[str]

    @property
    def ours(self) -> Path:
        """Our directory in it."""
        return self.path / CGROUP


def parse_hierarchies(mounts: str) -> tuple[Hierarchy, ...]:
    """The hierarchies in the text of `/proc/self/mounts`, one per directory, in order of appearance."""
    found: dict[Path, Hierarchy] = {}
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 4 or fields[2] not in {"cgroup", "cgroup2"}:
            continue
        path = Path(fields[1].replace(r"\040", " "))
        if fields[2] == "cgroup2":
            found[path] = Hierarchy(path, 2, frozenset())
        else:
            general = {
                "rw",
                "ro",
                "relatime",
                "noatime",
                "nosuid",
                "nodev",
                "noexec",
                "xattr",
                "clone_children",
            }
            controllers = frozenset(fields[3].split(",")) - general
            found[path] = Hierarchy(path, 1, controllers)
    return tuple(found.values())


def hierarchies() -> tuple[Hierarchy, ...]:
    """The hierarchies of this machine."""
    return parse_hierarchies(Path("/proc/self/mounts").read_text(encoding="utf-8"))


def is_pure_version_2(found: Iterable[Hierarchy]) -> bool:
    """Whether no version 1 hierarchy is mounted, so that version 2 carries the controllers."""
    return all(hierarchy.version == 2 for hierarchy in found)


def create(found: tuple[Hierarchy, ...]) -> tuple[Path, ...]:
    """Make our directories; returns the `cgroup.procs` files that a new process must join, in order."""
    joins: list[Path] = []
    pure_v2 = is_pure_version_2(found)
    for hierarchy in found:
        daemons = hierarchy.ours / DAEMONS_CGROUP
        if pure_v2:
            _enable_controllers(hierarchy.path)
        hierarchy.ours.mkdir(exist_ok=True)
        if pure_v2:
            _enable_controllers(hierarchy.ours)
        _inherit_cpuset(hierarchy, hierarchy.ours)
        daemons.mkdir(exist_ok=True)
        _inherit_cpuset(hierarchy, daemons)
        joins.append(daemons / "cgroup.procs")
    return tuple(joins)


def _enable_controllers(directory: Path) -> None:
    """Version 2: let the children of `directory` use the controllers that the kubelet needs.

    Raises `LocalKubeError` when the kernel refuses: a directory that holds processes (the root as a container
    sees it) cannot delegate.
    """
    available = (directory / "cgroup.controllers").read_text(encoding="ascii").split()
    wanted = [f"+{name}" for name in (*V2_CONTROLLERS, *V2_OPTIONAL_CONTROLLERS) if name in available]
    try:
        (directory / "cgroup.subtree_control").write_text(" ".join(wanted), encoding="ascii")
    except OSError as error:
        raise LocalKubeError(
            f"cgroup {directory} refuses to delegate {' '.join(wanted)} ({error.strerror}): "
            "in a container, run it in the host's cgroup namespace (for example `--cgroupns=host`)"
        ) from error


def _inherit_cpuset(hierarchy: Hierarchy, directory: Path) -> None:
    """Version 1: a new cpuset is empty, and a process cannot join an empty cpuset."""
    if "cpuset" not in hierarchy.controllers:
        return
    for name in ("cpuset.cpus", "cpuset.mems"):
        # Mounted with `noprefix` (as a container engine may do) the files lack the controller's name.
        file = directory / name if (directory / name).exists() else directory / name.removeprefix("cpuset.")
        if not file.read_text(encoding="ascii").strip():
            file.write_text((directory.parent / file.name).read_text(encoding="ascii"), encoding="ascii")


def directories(found: Iterable[Hierarchy]) -> list[Path]:
    """Every directory of ours, children before their parents."""
    return [
        Path(directory)
        for hierarchy in found
        for directory, _, _ in os.walk(hierarchy.ours, topdown=False, onerror=None)
    ]


def processes(found: Iterable[Hierarchy]) -> set[int]:
    """Process ids of everything that runs inside our directories."""
    pids: set[int] = set()
    for directory in directories(found):
        try:
            pids.update(
                int(line) for line in (directory / "cgroup.procs").read_text(encoding="ascii").split()
            )
        except OSError:  # removed since the listing
            continue
    return pids


def kill_all(found: tuple[Hierarchy, ...], *, timeout_seconds: float) -> None:
    """End every process of ours; returns when none is left. Raises `CleanupError` after the timeout.

    SIGKILL at once: the state is thrown away, so nothing is gained by asking first, and the way that
    `down` takes every day is the same as the recovery from a crash. pid 1 of our pid namespace is among
    them, and with it the kernel kills all others by itself; killing the rest too saves waiting for that.
    """
    deadline = time.monotonic() + timeout_seconds
    while pids := processes(found):
        for pid in pids:
            _kill(pid)
        if time.monotonic() > deadline:
            raise CleanupError([f"process {pid} in cgroup {CGROUP} survives SIGKILL" for pid in sorted(pids)])
        time.sleep(POLL_SECONDS)


def _kill(pid: int) -> None:
    """SIGKILL `pid` unless the id belongs to another process by now."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # The id may have been reused between the listing and pidfd_open: the handle is checked, not the number.
        if is_member(Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except (ProcessLookupError, FileNotFoundError):
        return
    finally:
        os.close(handle)


def is_member(membership: str) -> bool:
    """Whether the text of a `/proc/<pid>/cgroup` names a directory of ours in any hierarchy."""
    paths = [line.split(":", 2)[2] for line in membership.splitlines() if line.count(":") >= 2]
    # A containerised host shows its own prefix before our name; the name is searched as a whole component.
    return any(CGROUP in path.split("/") for path in paths)


def remove(found: tuple[Hierarchy, ...], *, timeout_seconds: float) -> None:
    """Remove our directories, children first. Raises `CleanupError` if one stays busy until the timeout.

    A directory stays busy for some milliseconds after its last process was killed, until the kernel has
    released that process. Whoever joins in the meantime is ended too: an `up` that was killed leaves a shell
    that is on its way into our directories, and nobody else would ever end it.
    """
    deadline = time.monotonic() + timeout_seconds
    while left := directories(found):
        for directory in left:
            try:
                directory.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                break  # its parents are busy too: wait, then list again
        else:
            continue
        if time.monotonic() > deadline:
            raise CleanupError([f"cgroup {directory} stays busy" for directory in left])
        for pid in processes(found):
            _kill(pid)
        time.sleep(POLL_SECONDS)

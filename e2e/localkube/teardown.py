"""Removes everything of ours from the machine, whatever state a crash left it in, and proves it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from e2e.localkube import cgroups, network
from e2e.localkube.errors import CleanupError
from e2e.localkube.paths import LOCK_FILE, State, default_state
from e2e.localkube.progress import step
from e2e.localkube.shell import run

KILL_TIMEOUT_SECONDS = 60.0
"""Two hundred Pods end within one second; the rest is slack for a machine that swaps."""

REMOVE_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a run may leave that its fixed names do not tell: written into the lock file before it exists."""

    state: State
    mount_points: tuple[Path, ...] = ()
    """Directories made only to be mounted over."""

    def record(self) -> None:
        """Write to the lock file, which the caller holds."""
        content = {"state": str(self.state.root), "mountPoints": [str(path) for path in self.mount_points]}
        LOCK_FILE.write_text(json.dumps(content), encoding="utf-8")

    @staticmethod
    def forget() -> None:
        """Empty the record: what was removed may be made again by others, and is theirs then."""
        LOCK_FILE.write_text("", encoding="utf-8")

    @classmethod
    def recorded(cls) -> Footprint:
        """The last record; the default state when there is none (or half of one)."""
        try:
            content = json.loads(LOCK_FILE.read_text(encoding="utf-8"))
            return cls(State(Path(content["state"])), tuple(Path(path) for path in content["mountPoints"]))
        except (FileNotFoundError, json.JSONDecodeError):
            return cls(default_state())


def mounts_below(root: Path, mounts: str) -> list[Path]:
    """Mount points at or below `root` in the text of `/proc/self/mounts`, the last mounted first."""
    points = [Path(line.split()[1].replace(r"\040", " ")) for line in mounts.splitlines()]
    return [point for point in reversed(points) if point.is_relative_to(root)]


def _host_mounts(state: State) -> list[Path]:
    return mounts_below(state.root, Path("/proc/self/mounts").read_text(encoding="utf-8"))


def leftovers() -> list[str]:
    """Everything of ours that exists on this machine now, one line each; empty after `down`."""
    found = cgroups.hierarchies()
    footprint = Footprint.recorded()
    return [
        *(f"process {pid}" for pid in sorted(cgroups.processes(found))),
        *(f"cgroup {directory}" for directory in cgroups.directories(found)),
        *(f"mount {point}" for point in _host_mounts(footprint.state)),
        *network.leftovers(),
        *(f"state {root}" for root in {footprint.state.root, default_state().root} if root.exists()),
        *(f"directory {path}" for path in footprint.mount_points if path.exists()),
    ]


def remove_everything(*, quiet: bool = False) -> None:
    """End and remove whatever exists. The caller holds the machine's lock. Raises `CleanupError`.

    Each step copes with what the steps before may have removed already, so it can be interrupted and
    run again. Order: processes first (they hold the rest), the safety routes after the link.
    """
    found = cgroups.hierarchies()
    footprint = Footprint.recorded()
    with step("down: processes", quiet=quiet) as current:
        current.note = f"{len(cgroups.processes(found))} ended"
        cgroups.kill_all(found, timeout_seconds=KILL_TIMEOUT_SECONDS)
    with step("down: cgroups", quiet=quiet):
        cgroups.remove(found, timeout_seconds=REMOVE_TIMEOUT_SECONDS)
    with step("down: network", quiet=quiet):
        network.remove()
    with step("down: files", quiet=quiet):
        for point in _host_mounts(footprint.state):
            run(["umount", "--lazy", str(point)], check=False)
        for root in {footprint.state.root, default_state().root}:
            shutil.rmtree(root, ignore_errors=True)
        for path in footprint.mount_points:
            _remove_if_empty(path)
    if left := leftovers():
        raise CleanupError(left)
    Footprint.forget()


def _remove_if_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return
    except OSError:
        # Somebody else put files there since: it is theirs now, so stop listing it as ours.
        recorded = Footprint.recorded()
        kept = tuple(path for path in recorded.mount_points if path != directory)
        Footprint(recorded.state, kept).record()

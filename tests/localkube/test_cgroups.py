"""The list of processes: hierarchies of both versions, membership, removal."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.localkube import cgroups
from e2e.localkube.errors import CleanupError

HYBRID = """\
tmpfs /sys/fs/cgroup tmpfs rw,relatime,mode=755 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,nodev,noexec,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,name=systemd 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
"""


def test_a_hybrid_machine_has_one_directory_per_hierarchy() -> None:
    found = cgroups.parse_hierarchies(HYBRID)
    assert [str(hierarchy.ours) for hierarchy in found] == [
        "/sys/fs/cgroup/cpu,cpuacct/lk",
        "/sys/fs/cgroup/cpuset/lk",
        "/sys/fs/cgroup/systemd/lk",
        "/sys/fs/cgroup/unified/lk",
    ]
    assert found[0].controllers == {"cpu", "cpuacct"}
    assert not cgroups.is_pure_version_2(found)


def test_a_version_2_machine_is_told_apart() -> None:
    found = cgroups.parse_hierarchies("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n")
    assert cgroups.is_pure_version_2(found)


def test_a_new_cpuset_takes_over_its_parents_processors(tmp_path: Path) -> None:
    # A plain folder stands for the hierarchy; the kernel would create these files in each new directory.
    for directory in (tmp_path, tmp_path / "lk", tmp_path / "lk" / "daemons"):
        directory.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            (directory / name).write_text("0-1\n" if directory == tmp_path else "\n")
    joins = cgroups.create((cgroups.Hierarchy(tmp_path, 1, frozenset({"cpuset"})),))
    assert joins == (tmp_path / "lk" / "daemons" / "cgroup.procs",)
    assert (tmp_path / "lk" / "daemons" / "cpuset.cpus").read_text() == "0-1\n"


def test_version_2_delegates_the_controllers_that_exist(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "lk"):
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.controllers").write_text("cpu io memory pids\n")
    cgroups.create((cgroups.Hierarchy(tmp_path, 2, frozenset()),))
    for directory in (tmp_path, tmp_path / "lk"):
        assert (directory / "cgroup.subtree_control").read_text() == "+cpu +memory +pids +io"


def test_processes_of_all_directories_are_listed_once(tmp_path: Path) -> None:
    pod = tmp_path / "lk" / "kubepods" / "pod1"
    pod.mkdir(parents=True)
    (tmp_path / "lk" / "cgroup.procs").write_text("11\n12\n")
    (pod / "cgroup.procs").write_text("12\n13\n")
    assert cgroups.processes([cgroups.Hierarchy(tmp_path, 1, frozenset())]) == {11, 12, 13}


@pytest.mark.parametrize(
    ("membership", "ours"),
    [
        pytest.param("4:memory:/lk/daemons\n0::/\n", True, id="daemon"),
        pytest.param("4:memory:/lk\n", True, id="top"),
        pytest.param("0::/docker/abc/lk/kubepods/pod1/c\n", True, id="below a container's prefix"),
        pytest.param("4:memory:/lkx/daemons\n0::/silk\n", False, id="names that only look alike"),
        pytest.param("", False, id="a process that is gone"),
    ],
)
def test_only_members_of_our_directories_are_ended(membership: str, *, ours: bool) -> None:
    assert cgroups.is_member(membership) is ours


def test_directories_are_removed_children_first(tmp_path: Path) -> None:
    (tmp_path / "lk" / "kubepods" / "pod1").mkdir(parents=True)
    found = (cgroups.Hierarchy(tmp_path, 1, frozenset()),)
    cgroups.remove(found, timeout_seconds=1)
    assert not (tmp_path / "lk").exists()
    cgroups.remove(found, timeout_seconds=1)


def test_a_directory_that_stays_busy_is_named(tmp_path: Path) -> None:
    (tmp_path / "lk").mkdir()
    (tmp_path / "lk" / "file").touch()  # makes rmdir fail as a live process does
    with pytest.raises(CleanupError, match="lk stays busy"):
        cgroups.remove((cgroups.Hierarchy(tmp_path, 1, frozenset()),), timeout_seconds=0.05)

"""Reasons why a machine cannot run localkube, and what a crash may leave."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.localkube import launch, privileges, teardown
from e2e.localkube.errors import CommandError, MissingPrivilegesError
from e2e.localkube.paths import State, default_state
from e2e.localkube.shell import run


@pytest.mark.parametrize(
    ("status", "missing"),
    [
        pytest.param("CapEff:\t000001ffffffffff\n", [], id="all"),
        pytest.param(
            "CapEff:\t00000000a80425fb\n", ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"], id="a plain container"
        ),
        pytest.param("CapEff:\t0000000000200000\n", ["CAP_NET_ADMIN"], id="only CAP_SYS_ADMIN"),
    ],
)
def test_missing_capabilities_are_named(status: str, missing: list[str]) -> None:
    assert [reason.split()[0] for reason in privileges.missing_capabilities(status)] == missing


def test_a_socket_path_that_the_kernel_cannot_hold_is_refused() -> None:
    assert privileges.socket_path_problem(Path("/" + "a" * 106)) == []
    assert "at most 107" in privileges.socket_path_problem(Path("/" + "a" * 107))[0]


def test_all_reasons_are_in_one_message() -> None:
    assert str(MissingPrivilegesError(["first", "second"])).count("\n  - ") == 2


@pytest.mark.parametrize(
    ("status", "is_init"),
    [
        pytest.param("Name:\tpython3\nNSpid:\t4483\t1\n", True, id="process 1 of our namespace"),
        pytest.param("NSpid:\t4490\t12\n", False, id="a daemon"),
        pytest.param("NSpid:\t4500\t40\t1\n", False, id="process 1 of a Pod"),
        pytest.param("NSpid:\t4482\n", False, id="its parent on the host"),
    ],
)
def test_process_one_is_told_apart(status: str, *, is_init: bool) -> None:
    assert launch.is_init(status) is is_init


def test_mounts_below_the_state_are_listed_last_first() -> None:
    mounts = (
        "/dev/vda / ext4 rw 0 0\n"
        "tmpfs /state/kubelet tmpfs rw 0 0\n"
        "tmpfs /state/kubelet/with\\040space tmpfs rw 0 0\n"
        "tmpfs /stateless tmpfs rw 0 0\n"
    )
    found = teardown.mounts_below(Path("/state"), mounts)
    assert found == [Path("/state/kubelet/with space"), Path("/state/kubelet")]


def test_the_footprint_survives_in_the_lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teardown, "LOCK_FILE", tmp_path / "lock")
    footprint = teardown.Footprint(State(Path("/state")), (Path("/var/lib/cni"),))
    footprint.record()
    assert teardown.Footprint.recorded() == footprint
    footprint.forget()
    assert teardown.Footprint.recorded().mount_points == ()


def test_half_a_footprint_means_the_default_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teardown, "LOCK_FILE", tmp_path / "lock")
    assert teardown.Footprint.recorded().mount_points == ()
    (tmp_path / "lock").write_text('{"state": "/st')
    assert teardown.Footprint.recorded() == teardown.Footprint(default_state())


def test_a_failing_tool_is_named_with_its_output() -> None:
    with pytest.raises(CommandError, match=r"exit status 3 from: sh -c .*\nboom"):
        run(["sh", "-c", "echo boom >&2; exit 3"])


def test_a_missing_tool_and_a_hanging_one_are_errors_too() -> None:
    with pytest.raises(CommandError, match="no such program"):
        run(["no-such-program-of-localkube"])
    with pytest.raises(CommandError, match="no end after"):
        run(["sleep", "5"], timeout_seconds=0.05)

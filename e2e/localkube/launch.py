"""Starts process 1 of the private namespaces and joins its network to the host."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from e2e.localkube import cgroups, network
from e2e.localkube.daemons import environment
from e2e.localkube.errors import StartError
from e2e.localkube.paths import State
from e2e.localkube.shell import run

INIT_TIMEOUT_SECONDS = 20.0
POLL_SECONDS = 0.01

JOIN_AND_EXECUTE = """\
set -e
while [ "$1" != -- ]; do echo $$ >"$1"; shift; done
shift
exec "$@"
"""
"""Shell: join the cgroups named before `--`, then become the command after it. Joining before anything
else runs means that there is no instant at which a process of ours is not on the list of processes to end."""


def init_command(state: State, binaries: Path) -> list[str]:
    """The command line that becomes process 1."""
    return [
        *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=SIGKILL"),
        *("--propagation", "private", "--"),
        *(sys.executable, "-P", "-m", "e2e.localkube.init", str(state.root), str(binaries)),
    ]


def launch(state: State, binaries: Path) -> int:
    """Start process 1 in our cgroups, connect it; returns its process id as the host sees it.

    Raises `StartError` when it does not come to life, `OSError` when a cgroup cannot be made.
    """
    found = cgroups.hierarchies()
    joins = [str(file) for file in cgroups.create(found)]
    for command in network.safety_commands():
        run(command)
    log = state.log("init")
    # `setsid --fork` returns at once: the new process has no parent that would have to wait for it.
    redirect = 'log=$1; shift; exec "$@" >>"$log" 2>&1 </dev/null'
    shell = ["sh", "-c", JOIN_AND_EXECUTE, "sh", *joins, "--", *init_command(state, binaries)]
    run(["setsid", "--fork", "sh", "-c", redirect, "sh", str(log), *shell], env=environment())
    deadline = time.monotonic() + INIT_TIMEOUT_SECONDS
    while (pid := init_pid(found)) is None:
        if time.monotonic() > deadline:
            tail = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
            raise StartError(f"process 1 did not start within {INIT_TIMEOUT_SECONDS:.0f} s", tail)
        time.sleep(POLL_SECONDS)
    network.connect(pid)
    return pid


def init_pid(found: tuple[cgroups.Hierarchy, ...]) -> int | None:
    """Process id, as the host sees it, of process 1 of our namespaces; None when there is none."""
    for pid in cgroups.processes(found):
        try:
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if is_init(status):
            return pid
    return None


def is_init(status: str) -> bool:
    """Whether the text of a `/proc/<pid>/status` is of process 1, one pid namespace below the reader's.

    The processes 1 of Pods are one level deeper still.
    """
    line = next((line for line in status.splitlines() if line.startswith("NSpid:")), "")
    numbers = line.split()[1:]
    return len(numbers) == 2 and numbers[1] == "1"

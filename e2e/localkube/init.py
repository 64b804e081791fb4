"""Process 1 of the private namespaces: prepares them, starts the daemons, restarts those that die.

Run by `launch` as ``python -m e2e.localkube.init STATE BINARIES`` inside fresh mount, network and pid
namespaces. When this process ends, however it ends, the kernel kills every other process of the pid
namespace, and mounts, links and iptables rules vanish with the other two.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from e2e.localkube import network
from e2e.localkube.api import ApiClient
from e2e.localkube.daemons import Daemon, daemons, environment
from e2e.localkube.errors import StartError
from e2e.localkube.paths import State
from e2e.localkube.plan import NODE_LINK, PRIVATE_DIRECTORIES
from e2e.localkube.shell import run

LINK_TIMEOUT_SECONDS = 20.0
"""`launch` moves the link in right after the start; if it was killed before that, give up."""

RESTART_SECONDS = 1.0
"""Between the death of a daemon and its next start: quick for tests, no busy loop if it dies at once."""

POLL_SECONDS = 0.02


def prepare_mounts() -> None:
    """Private /proc and tmpfs folders; shared propagation, which the kubelet needs for volumes."""
    run(["mount", "-t", "proc", "proc", "/proc"])
    for directory in PRIVATE_DIRECTORIES:
        run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", directory])
    run(["mount", "--make-rshared", "/"])


def prepare_network() -> None:
    """Wait for the link, then give it its address. Raises `StartError` when it does not come."""
    run(["ip", "link", "set", "lo", "up"])
    deadline = time.monotonic() + LINK_TIMEOUT_SECONDS
    while NODE_LINK not in {name for _, name in socket.if_nameindex()}:
        if time.monotonic() > deadline:
            raise StartError(f"{NODE_LINK} did not arrive within {LINK_TIMEOUT_SECONDS:.0f} s", "")
        time.sleep(POLL_SECONDS)
    for command in network.node_commands():
        run(command)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")


@dataclass(slots=True)
class Supervisor:
    """Starts daemons and reaps: its own children and every orphan of the namespace."""

    state: State
    running: dict[int, Daemon] = field(default_factory=dict)
    due: list[tuple[float, Daemon]] = field(default_factory=list)
    """Daemons to start again, with the monotonic time when."""

    def start(self, daemon: Daemon) -> None:
        """Start `daemon` in its own session, output appended to its log."""
        log = str(self.state.log(daemon.name))
        pid = os.posix_spawnp(
            daemon.argv[0],
            daemon.argv,
            environment(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
        )
        self.running[pid] = daemon
        print(f"started {daemon.name}", flush=True)

    def reap(self) -> None:
        """Collect every dead child; a daemon among them is due again after `RESTART_SECONDS`."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            daemon = self.running.pop(pid, None)
            if daemon is not None:
                code = os.waitstatus_to_exitcode(status)
                print(f"{daemon.name} ended with status {code}: starting it again", flush=True)
                self.due.append((time.monotonic() + RESTART_SECONDS, daemon))

    def restart_due(self) -> None:
        """Start the daemons whose time has come."""
        now = time.monotonic()
        ready = [daemon for when, daemon in self.due if when <= now]
        self.due = [(when, daemon) for when, daemon in self.due if when > now]
        for daemon in ready:
            self.start(daemon)


def supervise(state: State, binaries: Path) -> None:
    """Start everything and keep it running until SIGTERM."""
    wanted = daemons(state, binaries)
    supervisor = Supervisor(state)
    waiting = [daemon for daemon in wanted if daemon.after_api]
    for daemon in wanted:
        if not daemon.after_api:
            supervisor.start(daemon)
    client = ApiClient.from_state(state)
    signals = {signal.SIGCHLD, signal.SIGTERM}
    while True:
        # While the API server starts, look at it 20 times a second; later only signals and restarts matter.
        timeout = 0.05 if waiting else RESTART_SECONDS / 2
        arrived = signal.sigtimedwait(signals, timeout)
        if arrived is not None and arrived.si_signo == signal.SIGTERM:
            return
        supervisor.reap()
        supervisor.restart_due()
        if waiting and client.is_ready():
            for daemon in waiting:
                supervisor.start(daemon)
            waiting = []


def main(arguments: list[str]) -> None:
    """Entry point: state folder and binary folder."""
    # Blocked from the start, so that no child's death is missed between here and `sigtimedwait`.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    state = State(Path(arguments[0]))
    prepare_mounts()
    prepare_network()
    supervise(state, Path(arguments[1]))


if __name__ == "__main__":
    main(sys.argv[1:])

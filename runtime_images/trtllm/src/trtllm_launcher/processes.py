"""Child processes: start, reap, end them all. Linux only, as the image is."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

PR_SET_CHILD_SUBREAPER: Final = 36
"""linux/prctl.h"""
IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
"""An ignored signal stays ignored in the programs one starts."""


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends, as process 1 of a container is anyway."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def start(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Start `command` in a process group of its own, with signals as a shell leaves them and our output.

    Returns its process id, which is the group's too.

    Raises `OSError` when it cannot be started.
    """
    return os.posix_spawnp(
        command[0],
        list(command),
        dict(environment),
        setpgroup=0,
        setsigmask=(),
        setsigdef=IGNORED_BY_PYTHON,
    )


def reap() -> Iterator[tuple[int, int]]:
    """(process id, exit status) of every child that has ended, adopted ones included. Never waits."""
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if process == 0:
            return
        yield process, status


def exit_code(status: int) -> int:
    """As a shell shows it: 128 + N after signal N."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def send(process: int, number: signal.Signals) -> None:
    """Signal one process, unless it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def kill_everything(group: int) -> None:
    """SIGKILL the engine's process group and whatever else descends from us, and reap it all.

    Killed processes leave their children to us (`adopt_orphans`), so the next round meets those that had left
    the group.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    while children := tuple(_children()):
        for process in children:
            send(process, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> Iterator[int]:
    """Direct children that have not been reaped."""
    own = os.getpid()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = (entry / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # ended while we looked
        # The command's name, in parentheses, may hold anything; state and parent follow the last one.
        if int(fields.rpartition(")")[2].split()[1]) == own:
            yield int(entry.name)

"""Run the tools of the system, and turn their failures into errors that name the command."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from e2e.localkube.errors import CommandError


def run(
    argv: Sequence[str],
    *,
    check: bool = True,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_seconds: float = 120.0,
) -> str:
    """Standard output of `argv`, whose standard error is kept for the error message.

    `env` is added to this process's environment. Raises `CommandError` for a non-zero exit status
    (unless `check` is false), for a missing program and when `timeout_seconds` have passed.
    """
    try:
        done = subprocess.run(
            argv,
            check=False,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
        )
    except FileNotFoundError as error:
        raise CommandError(argv, 127, f"{error.filename}: no such program; run `prepare` first") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(argv, 124, f"no end after {timeout_seconds:.0f} s") from error
    if check and done.returncode != 0:
        raise CommandError(argv, done.returncode, done.stdout + done.stderr)
    return done.stdout


def succeeds(argv: Sequence[str], *, timeout_seconds: float = 30.0) -> bool:
    """Whether `argv` exists and exits with status 0 in time; what it prints is dropped."""
    try:
        run(argv, timeout_seconds=timeout_seconds)
    except CommandError:
        return False
    return True

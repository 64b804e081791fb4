"""The Python environment of the project, made by whatever Python >= 3.11 runs this: `python3 -m e2e.bootstrap`.

Standard library only. Running it again does nothing while the lock file, the package metadata and the
interpreter are the same; an interrupted run starts over, because the stamp is written last.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from e2e.localkube.locks import exclusive
from e2e.localkube.progress import step

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / "bootstrap.sha256"
LOCK = ROOT / "requirements-dev.lock"
UV_LOCK = ROOT / "requirements-uv.lock"
UV_OF_PIP = {"index-url": "--default-index", "extra-index-url": "--index", "find-links": "--find-links"}
"""Where packages come from: pip's settings, which users have, as arguments of uv, which knows none of them."""
MINIMUM_PYTHON = (3, 11)


class BootstrapError(Exception):
    """The environment could not be made; the message says what to do."""


def fingerprint() -> str:
    """Hash of everything the environment is made from."""
    digest = hashlib.sha256()
    for part in (
        *(sys.version, str(VENV)),
        *(file.read_text() for file in (UV_LOCK, LOCK, ROOT / "pyproject.toml")),
    ):
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()


def run(*command: str) -> str:
    """Run quietly and return what the command said. Raises `BootstrapError` with it on failure."""
    result = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode != 0:
        raise BootstrapError(f"`{' '.join(command)}` exited {result.returncode}:\n{result.stdout}")
    return result.stdout


def ensure_venv_module() -> None:
    """Debian ships Python without ensurepip: bring its package when this Python has none."""
    try:
        import ensurepip  # noqa: F401, PLC0415  (only its presence matters)
    except ImportError:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise BootstrapError(
                "this Python has no ensurepip: install python3-venv, or run as root on Debian"
            ) from None
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-qq", "-y", "--no-install-recommends", "python3-venv")


def make_environment() -> None:
    """A fresh virtual environment with the locked dependencies and the project itself, editable."""
    shutil.rmtree(VENV, ignore_errors=True)
    ensure_venv_module()
    run(sys.executable, "-m", "venv", str(VENV))
    python = str(VENV / "bin" / "python")
    pip = (python, "-m", "pip", "--disable-pip-version-check", "--no-input")
    locked = ("install", "--quiet", "--require-hashes", "--requirement")
    try:
        run(*pip, *locked, str(UV_LOCK))
        uv = (python, "-m", "uv", "pip")
        run(*uv, *locked, str(LOCK), "--compile-bytecode", "--python", python, *uv_sources(pip))
    except BootstrapError as error:
        # Slower, but it may have ways to packages that uv does not know.
        print(f"uv cannot install the environment, pip does: {error}", file=sys.stderr)
        run(*pip, *locked, str(LOCK))
    run(*pip, "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")


def uv_sources(pip: Sequence[str]) -> list[str]:
    """Arguments of uv for the indexes and folders that pip is configured with."""
    sources = []
    for line in run(*pip, "config", "list").splitlines():
        key, _, value = line.partition("=")
        if option := UV_OF_PIP.get(key.rpartition(".")[2]):
            for source in value.strip("'\"").replace("\\n", " ").split():
                sources += [option, source]
    return sources


def main() -> int:
    """Make the environment when it is missing or stale; 0, or 1 with the reason on standard error."""
    if sys.version_info < MINIMUM_PYTHON:
        found = ".".join(map(str, sys.version_info[:2]))
        print(f"Python {found} is too old: run make with PYTHON=python3.11 or newer", file=sys.stderr)
        return 1
    try:
        with exclusive(ROOT / "build" / "bootstrap.lock"), step("Python environment") as current:
            wanted = fingerprint()
            if STAMP.is_file() and STAMP.read_text() == wanted:
                current.cached()
            else:
                make_environment()
                STAMP.write_text(wanted)
    except BootstrapError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

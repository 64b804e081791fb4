"""Wheelhouses: the locked Python dependencies of an image, downloaded once, so that builds are offline."""

from __future__ import annotations

import functools
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.localkube.errors import BuildError
from e2e.localkube.hashing import hash_texts
from e2e.localkube.paths import Cache
from e2e.localkube.progress import step
from e2e.localkube.rootfs import PYTHON_VERSION
from e2e.localkube.shell import run, succeeds
from e2e.localkube.workspace import temporary_folder

GLIBC_MINOR = 36
"""Of Debian 12: a wheel may ask for this glibc or an older one."""

OLDEST_GLIBC_MINOR = 17
"""Of manylinux2014, the oldest that current packages still build for."""

DOWNLOAD_TIMEOUT_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock file (requirements with hashes) and the packages of it that are wanted; none named: all."""

    file: Path
    only: tuple[str, ...] = ()

    def text(self) -> str:
        """The requirements, reduced to `only`."""
        return select(self.file.read_text(encoding="utf-8"), self.only)


def normalized(name: str) -> str:
    """The canonical form of a distribution name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def select(lock: str, only: Sequence[str]) -> str:
    """The entries of a lock file for the distributions `only` (all, when empty), continuation lines included.

    Raises `BuildError` for a distribution that the lock does not hold.
    """
    if not only:
        return lock
    wanted = {normalized(name) for name in only}
    found: set[str] = set()
    kept: list[str] = []
    keeping = False
    for line in lock.splitlines():
        match = re.match(r"([A-Za-z0-9][\w.-]*)(\[[^]]*\])?\s*==", line)
        if match:
            keeping = normalized(match[1]) in wanted
            found.add(normalized(match[1]))
        if keeping:
            kept.append(line)
    if absent := sorted(wanted - found):
        raise BuildError(f"the lock file has no {', '.join(absent)}: add them to it and lock again")
    return "\n".join(kept) + "\n"


def platforms() -> list[str]:
    """Wheel platform tags that Debian 12 on this processor accepts, newest first."""
    machine = platform.machine()
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC_MINOR, OLDEST_GLIBC_MINOR - 1, -1)]
    return [*tags, f"manylinux2014_{machine}"]


def key(locks: Sequence[Lock]) -> str:
    """Key of the wheelhouse for `locks`."""
    return hash_texts(PYTHON_VERSION, platform.machine(), *(lock.text() for lock in locks))


def wheelhouse(cache: Cache, locks: Sequence[Lock]) -> Path:
    """Folder with every wheel of `locks` for the images' Python; downloaded with pip if the cache has none.

    Hashes are checked by pip. Raises `CommandError`, also for a dependency without a fitting wheel.
    """
    folder = cache.wheels / key(locks)
    with step(f"wheels of {', '.join(lock.file.name for lock in locks)}") as current:
        if folder.is_dir():
            current.cached()
            return folder
        with temporary_folder(cache.wheels) as temporary:
            target = temporary / "wheels"
            target.mkdir()
            for number, lock in enumerate(locks):
                requirements = temporary / f"{number}.txt"
                requirements.write_text(lock.text(), encoding="utf-8")
                _download(cache, requirements, target)
            target.rename(folder)
    return folder


def _download(cache: Cache, requirements: Path, target: Path) -> None:
    run(
        [
            *(*_pip(cache), "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--require-hashes", "--only-binary=:all:", "--implementation", "cp"),
            *("--python-version", PYTHON_VERSION, "--dest", str(target), "--requirement", str(requirements)),
            *(argument for tag in platforms() for argument in ("--platform", tag)),
        ],
        timeout_seconds=DOWNLOAD_TIMEOUT_SECONDS,
    )


@functools.cache
def _pip(cache: Cache) -> tuple[str, ...]:
    """A pip: of this interpreter, or of a virtual environment made for it."""
    own = (sys.executable, "-m", "pip")
    if succeeds([*own, "--version"]):
        return own
    environment = cache.root / "pip"
    python = str(environment / "bin" / "python")
    if not succeeds([python, "-m", "pip", "--version"]):
        shutil.rmtree(environment, ignore_errors=True)
        run([sys.executable, "-m", "venv", str(environment)], timeout_seconds=300)
    return (python, "-m", "pip")

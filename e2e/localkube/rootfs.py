"""Files out of Debian: the root file system of our images, and single files of packages."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

from e2e.localkube.errors import BuildError, CommandError
from e2e.localkube.hashing import hash_texts
from e2e.localkube.paths import Cache
from e2e.localkube.progress import step
from e2e.localkube.shell import run
from e2e.localkube.workspace import DIES_WITH_US, temporary_folder

SUITE = "bookworm"
PYTHON_VERSION = "3.11"
"""Of this suite; wheelhouses are filled for it."""

BASE_PACKAGES = ("ca-certificates", "python3", "python3-pip", "python3-venv")
EXCLUDED = ("doc", "info", "locale", "man")
"""Folders of /usr/share that no container reads: a fifth of the size."""

SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
"""Where a Debian host names its mirror; used when it is of the same suite."""

BUILD_TIMEOUT_SECONDS = 900.0
DOWNLOAD_TIMEOUT_SECONDS = 600.0


def base_key() -> str:
    """Key of the base root file system: what is in it, not when it was made."""
    return hash_texts(SUITE, PYTHON_VERSION, platform.machine(), *BASE_PACKAGES, *EXCLUDED)


def base_archive(cache: Cache) -> Path:
    """Tar file of the base root file system; made with mmdebstrap if the cache has none (16-30 s)."""
    archive = cache.rootfs / f"{SUITE}-{base_key()}.tar"
    with step("base root file system") as current:
        if archive.exists():
            current.cached()
            return archive
        with temporary_folder(cache.rootfs) as temporary:
            target = temporary / "base.tar"
            run(
                [
                    *(
                        *DIES_WITH_US,
                        "nice",
                        "mmdebstrap",
                        "--quiet",
                        "--variant=essential",
                        f"--include={','.join(BASE_PACKAGES)}",
                    ),
                    *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in EXCLUDED),
                    *(SUITE, str(target), *_sources()),
                ],
                timeout_seconds=BUILD_TIMEOUT_SECONDS,
            )
            target.rename(archive)
    return archive


def _sources() -> list[str]:
    """The host's own sources of packages, if it runs the same suite; else mmdebstrap's default."""
    for file in SOURCES:
        if file.is_file() and SUITE in file.read_text(encoding="utf-8"):
            return [str(file)]
    return []


def debian_file(cache: Cache, package: str, path: str) -> Path:
    """The file `path` (relative to /) of a Debian package, without installing the package.

    Raises `BuildError` when the package does not hold it, `CommandError` when it cannot be downloaded.
    """
    target = cache.debian_files / package / path
    with step(f"file of package {package}") as current:
        if target.is_file():
            current.cached()
            return target
        with temporary_folder(cache.debian_files) as folder:
            _download(package, folder)
            (archive,) = folder.glob("*.deb")
            run(["dpkg-deb", "--extract", str(archive), str(folder / "root")])
            if not (folder / "root" / path).is_file():
                raise BuildError(f"package {package} ({archive.name}) holds no /{path}")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder / "root" / path, target)
    return target


def _download(package: str, folder: Path) -> None:
    """The .deb file of `package` into `folder`; the package lists are fetched first if they are missing."""
    # apt downloads as the user `_apt`, which may not enter a private temporary folder.
    argv = ["apt-get", "-o", "APT::Sandbox::User=root", "download", package]
    try:
        run(argv, cwd=folder, timeout_seconds=DOWNLOAD_TIMEOUT_SECONDS)
    except CommandError:
        run(["apt-get", "update"], timeout_seconds=DOWNLOAD_TIMEOUT_SECONDS)
        run(argv, cwd=folder, timeout_seconds=DOWNLOAD_TIMEOUT_SECONDS)

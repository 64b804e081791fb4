"""Temporary folders inside the cache: results are made there and renamed, so nothing half-made has a final name."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.localkube.locks import exclusive
from e2e.localkube.paths import Cache

PREFIX = ".building-"

DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
"""Start of a command line whose process the kernel ends when ours dies: no build goes on unseen."""


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder below `parent` (made if missing, on the same file system as the final name); removed at the end."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=PREFIX) as folder:
        yield Path(folder)


@contextmanager
def building(cache: Cache) -> Iterator[None]:
    """Hold the build lock, after removing what builds that were killed have left."""
    with exclusive(cache.build_lock):
        for parent in (
            cache.root,
            cache.binaries,
            cache.images,
            cache.wheels,
            cache.rootfs,
            cache.debian_files,
        ):
            for stale in parent.glob(f"{PREFIX}*"):
                shutil.rmtree(stale, ignore_errors=True)
        yield

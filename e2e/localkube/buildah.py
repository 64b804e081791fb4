"""Image builds with buildah, offline and disposable at any moment.

Every build runs in its own mount, pid and (empty) network namespaces: nothing can be downloaded
unnoticed, and a build that is killed leaves neither processes nor mounts. Layers live in a storage of our
own inside the cache; the folder for runtime state is fresh each time, so no stale mount counters survive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from e2e.localkube.paths import Cache
from e2e.localkube.shell import run, succeeds
from e2e.localkube.workspace import DIES_WITH_US, temporary_folder

BUILD_TIMEOUT_SECONDS = 1800.0

ISOLATED = (
    *DIES_WITH_US,
    *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=SIGKILL"),
    *("--mount-proc", "--propagation", "private", "--"),
)


@dataclass(frozen=True, slots=True)
class Build:
    """One image build: files, arguments and read-only volumes (host path -> path in the build)."""

    reference: str
    dockerfile: Path
    context: Path
    arguments: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[Path, str] = field(default_factory=dict)


@contextmanager
def _storage(cache: Cache) -> Iterator[list[str]]:
    """The start of a buildah command line, valid inside the block."""
    cache.buildah.mkdir(parents=True, exist_ok=True)
    with temporary_folder(cache.root) as runtime:
        yield [
            "buildah",
            "--storage-driver",
            "overlay",
            "--root",
            str(cache.buildah),
            "--runroot",
            str(runtime),
        ]


def exists(cache: Cache, reference: str) -> bool:
    """Whether the storage holds an image of this name."""
    with _storage(cache) as buildah:
        return succeeds([*ISOLATED, *buildah, "inspect", "--type", "image", reference])


def build(cache: Cache, wanted: Build) -> None:
    """Build an image into the storage; layers that did not change are reused. Raises `CommandError`."""
    arguments = [f"--build-arg={name}={value}" for name, value in wanted.arguments.items()]
    volumes = [f"--volume={source}:{target}:ro" for source, target in wanted.volumes.items()]
    with _storage(cache) as buildah:
        # Working containers of builds that were killed; the build lock is held, so none is in use.
        run([*ISOLATED, *buildah, "rm", "--all"], check=False)
        run(
            [
                *("nice", *ISOLATED, *buildah, "bud", "--quiet", "--layers", "--pull-never"),
                *("--file", str(wanted.dockerfile), "--tag", wanted.reference),
                *(*arguments, *volumes, str(wanted.context)),
            ],
            env={"BUILDAH_ISOLATION": "chroot"},
            timeout_seconds=BUILD_TIMEOUT_SECONDS,
        )


def save(cache: Cache, reference: str, archive: Path) -> None:
    """Write an image of the storage as a docker archive (layers uncompressed: import needs no inflating)."""
    with _storage(cache) as buildah:
        run(
            [*ISOLATED, *buildah, "push", "--quiet", reference, f"docker-archive:{archive}:{reference}"],
            timeout_seconds=BUILD_TIMEOUT_SECONDS,
        )


def push(cache: Cache, archive: Path, reference: str, remote: str) -> None:
    """Push an archive to a registry as `remote`; credentials are those of the user's own configuration."""
    with _storage(cache) as buildah:
        run([*buildah, "pull", "--quiet", f"docker-archive:{archive}"], timeout_seconds=BUILD_TIMEOUT_SECONDS)
        run(
            [*buildah, "push", "--quiet", reference, f"docker://{remote}"],
            timeout_seconds=BUILD_TIMEOUT_SECONDS,
        )

"""Everything that `up` needs and that outlives it: packages, programs, the pause image."""

from __future__ import annotations

from e2e.localkube import builds, images, packages
from e2e.localkube.paths import default_cache
from e2e.localkube.workspace import building


def prepare() -> None:
    """Install and build what is missing. Instant when nothing is; the first time takes minutes.

    Can be interrupted at any point and run again. Raises `BuildError`, `CommandError`.
    """
    cache = default_cache()
    with building(cache):
        packages.install()
        builds.build_all(cache)
        images.build_image(images.PAUSE, cache)

"""Image references for Pods, and the way into a registry of the user."""

from __future__ import annotations

from e2e.localkube import images, packages
from e2e.localkube.errors import MissingPrivilegesError
from e2e.localkube.paths import default_cache
from e2e.localkube.privileges import missing_build_privileges
from e2e.localkube.workspace import building


def image_references(registry: str | None = None) -> dict[str, str]:
    """Image name -> reference to put into a Pod: local ones, or those of `push_images(registry)`."""
    return images.image_references(registry)


def push_images(registry: str) -> dict[str, str]:
    """Build every image, push it to `registry` (host and path prefix); returns name -> reference.

    Nothing of localkube is started. Raises `MissingPrivilegesError`, `BuildError` and `CommandError`.
    """
    if reasons := missing_build_privileges():
        raise MissingPrivilegesError(reasons, purpose="build images")
    cache = default_cache()
    with building(cache):
        packages.install()
        return images.push_images(registry, cache)

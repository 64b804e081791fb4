"""The images that Pods run here, as data, and their way into the cache, containerd or a registry."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.localkube import buildah, rootfs, wheels
from e2e.localkube.errors import BuildError
from e2e.localkube.hashing import hash_files, hash_texts
from e2e.localkube.paths import PACKAGE, REPOSITORY, Cache
from e2e.localkube.progress import step
from e2e.localkube.workspace import temporary_folder

BUILD_METHOD = "1"
"""Part of every key: raise it when the way of building changes what is built."""

PIP_CONFIGURATION = "[global]\nno-index = true\nfind-links = /wheelhouse\n"

BUILD_BACKEND = ("hatchling", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers")
"""The build backend of the images' packages and what it needs, taken from the locked development requirements."""


@dataclass(frozen=True, slots=True)
class ExtraFile:
    """A file that the context gets from outside the repository: of the host, or of a Debian package."""

    target: str
    host_path: Path | None = None
    package: str = ""
    package_path: str = ""

    def identity(self) -> str:
        """What decides its content; a package counts by its name, so that a key needs no download."""
        content = hash_files(self.host_path.parent, [self.host_path]) if self.host_path else ""
        return f"{self.target}:{content}:{self.package}:{self.package_path}"

    def source(self, cache: Cache) -> Path:
        """Where it lies now (a package is downloaded if needed)."""
        return self.host_path or rootfs.debian_file(cache, self.package, self.package_path)


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """One image. Paths that the Dockerfile copies are read from its text: they alone enter build and key."""

    name: str
    dockerfile: Path
    context: Path
    tag: str = "dev"
    uses_base: bool = True
    locks: tuple[wheels.Lock, ...] = ()
    extra_files: tuple[ExtraFile, ...] = ()

    @property
    def reference(self) -> str:
        """Name inside the local Kubernetes."""
        return f"localhost/{self.name}:{self.tag}"


def _runtime_image(name: str) -> ImageSpec:
    context = REPOSITORY / "runtime_images" / name
    own_lock = context / "requirements.lock"
    return ImageSpec(
        f"{name}-engine",
        context / "Dockerfile",
        context,
        locks=(
            wheels.Lock(own_lock if own_lock.exists() else REPOSITORY / "requirements.lock"),
            wheels.Lock(REPOSITORY / "requirements-dev.lock", BUILD_BACKEND),
        ),
    )


PAUSE = ImageSpec(
    "pause",
    PACKAGE / "dockerfiles" / "pause" / "Dockerfile",
    PACKAGE / "dockerfiles" / "pause",
    tag="1",
    uses_base=False,
    extra_files=(ExtraFile("busybox", host_path=Path("/bin/busybox")),),
)
IMAGES = (
    PAUSE,
    ImageSpec(
        "inferencecluster-operator",
        REPOSITORY / "operator" / "Dockerfile",
        REPOSITORY,
        locks=(
            wheels.Lock(REPOSITORY / "requirements.lock"),
            wheels.Lock(REPOSITORY / "requirements-dev.lock", BUILD_BACKEND),
        ),
    ),
    _runtime_image("emulated"),
    ImageSpec(
        "prometheus",
        PACKAGE / "dockerfiles" / "prometheus" / "Dockerfile",
        PACKAGE / "dockerfiles" / "prometheus",
        extra_files=(ExtraFile("prometheus", package="prometheus", package_path="usr/bin/prometheus"),),
    ),
)


def copied_paths(dockerfile: str) -> list[str]:
    """What the COPY and ADD instructions of a Dockerfile take out of the context, in order, globs unexpanded."""
    joined = dockerfile.replace("\\\n", " ")
    sources: list[str] = []
    for line in joined.splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction.upper() not in {"COPY", "ADD"}:
            continue
        rest = rest.strip()
        options = [word for word in rest.split() if word.startswith("--")]
        if any(option.startswith("--from=") for option in options):
            continue
        if "[" in rest and rest.endswith("]"):
            words = [str(word) for word in json.loads(rest[rest.index("[") :])]
        else:
            words = [word for word in shlex.split(rest) if not word.startswith("--")]
        sources.extend(words[:-1])
    return sources


def context_files(spec: ImageSpec) -> list[Path]:
    """The files and folders of the context that the build uses. Raises `BuildError` for one that is missing."""
    found: list[Path] = []
    extra = {file.target for file in spec.extra_files}
    for source in copied_paths(spec.dockerfile.read_text(encoding="utf-8")):
        if source in extra:
            continue
        matches = (
            sorted(spec.context.glob(source.strip("/") or "*"))
            if source not in {".", "./"}
            else [spec.context]
        )
        if not matches:
            raise BuildError(f"{spec.dockerfile}: COPY {source}: no such file below {spec.context}")
        found.extend(matches)
    return found


def image_key(spec: ImageSpec) -> str:
    """Hash of everything that decides the content of the image."""
    dockerfile = spec.dockerfile.read_text(encoding="utf-8")
    return hash_texts(
        BUILD_METHOD,
        spec.reference,
        dockerfile,
        rootfs.base_key() if spec.uses_base else "",
        wheels.key(spec.locks) if spec.locks else "",
        hash_files(spec.context, context_files(spec)),
        *(file.identity() for file in spec.extra_files),
    )


def archive_path(spec: ImageSpec, cache: Cache) -> Path:
    """Where the archive for the present sources lies, whether it was built yet or not."""
    return cache.images / f"{spec.name}-{image_key(spec)}.tar"


def build_image(spec: ImageSpec, cache: Cache) -> Path:
    """Archive of the image, built if the cache has none. The caller holds the build lock.

    Raises `BuildError` for a missing file, `CommandError` for a failing build.
    """
    if not spec.dockerfile.is_file():
        raise BuildError(f"image {spec.name}: {spec.dockerfile} does not exist")
    archive = archive_path(spec, cache)
    with step(f"image {spec.name}") as current:
        if archive.exists():
            current.cached()
            return archive
        arguments = {"BASE_IMAGE": _base_image(cache)} if spec.uses_base else {}
        with temporary_folder(cache.images) as folder:
            context = folder / "context"
            _stage(spec, cache, context)
            volumes = _offline_pip(spec, cache, folder)
            buildah.build(cache, buildah.Build(spec.reference, spec.dockerfile, context, arguments, volumes))
            buildah.save(cache, spec.reference, folder / "image.tar")
            for old in cache.images.glob(f"{spec.name}-*.tar"):
                old.unlink()
            (folder / "image.tar").rename(archive)
    return archive


def _base_image(cache: Cache) -> str:
    """Reference, in buildah's storage, of the Debian base image; made from its archive if missing."""
    reference = f"localhost/base:{rootfs.SUITE}-{rootfs.base_key()}"
    if not buildah.exists(cache, reference):
        archive = rootfs.base_archive(cache)
        with step("base image"), temporary_folder(cache.rootfs) as context:
            os.link(archive, context / "base.tar")
            dockerfile = context / "Dockerfile"
            dockerfile.write_text("FROM scratch\nADD base.tar /\n", encoding="utf-8")
            buildah.build(cache, buildah.Build(reference, dockerfile, context))
    return reference


def _stage(spec: ImageSpec, cache: Cache, context: Path) -> None:
    """Copy what the build uses into `context`: the rest of the repository cannot leak into an image."""
    context.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", ".git", ".venv", ".*_cache")
    for source in context_files(spec):
        target = context / source.relative_to(spec.context)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignore, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)
    for file in spec.extra_files:
        shutil.copy2(file.source(cache), context / file.target)


def _offline_pip(spec: ImageSpec, cache: Cache, folder: Path) -> dict[Path, str]:
    """Volumes that make pip inside the build install from the wheelhouse alone."""
    if not spec.locks:
        return {}
    configuration = folder / "pip.conf"
    configuration.write_text(PIP_CONFIGURATION, encoding="utf-8")
    return {wheels.wheelhouse(cache, spec.locks): "/wheelhouse", configuration: "/etc/pip.conf"}


def build_images(cache: Cache, specs: Sequence[ImageSpec] = IMAGES) -> dict[str, Path]:
    """Archive of every image, by name. The caller holds the build lock."""
    return {spec.name: build_image(spec, cache) for spec in specs}


def built_images(cache: Cache, specs: Sequence[ImageSpec] = IMAGES) -> dict[str, Path]:
    """The archives that exist for the present sources, by name; nothing is built."""
    candidates = [
        spec
        for spec in specs
        if spec.dockerfile.is_file() and all(lock.file.is_file() for lock in spec.locks)
    ]
    found = {spec.name: archive_path(spec, cache) for spec in candidates}
    return {name: archive for name, archive in found.items() if archive.is_file()}


def image_references(registry: str | None) -> dict[str, str]:
    """Image name -> reference for a Pod: local names, or those that `push_images` makes in `registry`.

    A pushed tag is the content's key, so that a node never runs an older image of the same name.
    """
    if registry is None:
        return {spec.name: spec.reference for spec in IMAGES}
    prefix = registry.rstrip("/")
    return {spec.name: f"{prefix}/{spec.name}:{image_key(spec)}" for spec in IMAGES if spec is not PAUSE}


def push_images(registry: str, cache: Cache) -> dict[str, str]:
    """Build every image and push it to `registry`; returns the references. The caller holds the build lock."""
    references = image_references(registry)
    specs = {spec.name: spec for spec in IMAGES}
    for name, remote in references.items():
        archive = build_image(specs[name], cache)
        with step(f"push {remote}"):
            buildah.push(cache, archive, specs[name].reference, remote)
    return references

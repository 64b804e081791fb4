"""Import image archives into the running containerd."""

from __future__ import annotations

from pathlib import Path

from e2e.localkube.paths import State
from e2e.localkube.shell import run

IMPORT_TIMEOUT_SECONDS = 300.0


def import_image(state: State, archive: Path) -> None:
    """Import a docker or OCI archive; layers that are there already are not unpacked again."""
    run([*_ctr(state), "images", "import", str(archive)], timeout_seconds=IMPORT_TIMEOUT_SECONDS)


def image_names(state: State) -> set[str]:
    """References of every image that Pods can use."""
    return set(run([*_ctr(state), "images", "list", "--quiet"]).split())


def is_serving(state: State) -> bool:
    """Whether containerd accepts connections yet."""
    return state.containerd_socket.is_socket()


def _ctr(state: State) -> list[str]:
    """`k8s.io` is the namespace of the CRI plugin."""
    return ["ctr", "--address", str(state.containerd_socket), "--namespace", "k8s.io"]

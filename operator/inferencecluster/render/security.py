"""Security contexts, at the `restricted` level of the Pod Security Standards unless a device forbids it."""

from __future__ import annotations

from typing import Final

from inferencecluster.render.manifest import Manifest

_USER: Final = 1000
"""Any fixed user that is not root; NGC images know 1000 as `ubuntu`."""

RESTRICTED_POD: Final[Manifest] = {
    "runAsNonRoot": True,
    "runAsUser": _USER,
    "runAsGroup": _USER,
    "fsGroup": _USER,
    # Changing the owner of a shared cache with millions of files would delay every boot.
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
RESTRICTED_CONTAINER: Final[Manifest] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
LOCKED_MEMORY_POD: Final[Manifest] = {
    **RESTRICTED_POD,
    "runAsNonRoot": False,
    "runAsUser": 0,
    "runAsGroup": 0,
}
"""RDMA pins memory, which takes IPC_LOCK; Kubernetes has no ambient capabilities, so only root holds an added one."""
LOCKED_MEMORY_CONTAINER: Final[Manifest] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"], "add": ["IPC_LOCK"]},
}


def read_only(container: Manifest) -> Manifest:
    """`container` without a writable root file system."""
    return {**container, "readOnlyRootFilesystem": True}

"""Take everything away again that was put on a user's Kubernetes, however far it came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from e2e.stack.install import OWNER, OWNER_LABEL, RELEASE, SYSTEM_NAMESPACE
from e2e.stack.preflight import CRDS
from e2e.stack.target import StackError, Target

DRAIN_SECONDS = 300
"""The longest answer of the demo's trace, three times."""
NAMESPACE_SECONDS = 300
"""Its Pods end within their grace period of two to three minutes."""


class RemovalError(StackError):
    """Something of ours may still be there; `faults` holds one sentence each."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("not everything could be removed; look yourself:\n  - " + "\n  - ".join(faults))


@dataclass(frozen=True, slots=True)
class _Removal:
    target: Target
    namespace: str

    def cluster(self) -> None:
        """The cluster before its namespace and its operator: a namespace takes the routers away that its drain asks."""
        if self.target.find("crd", CRDS[0]) is None or self.target.find("namespace", self.namespace) is None:
            return
        where = ("--all", "--namespace", self.namespace)
        try:
            self.target.control(
                *("delete", CRDS[0], *where, f"--timeout={DRAIN_SECONDS}s"), timeout=DRAIN_SECONDS + 30
            )
        except StackError:
            # No operator drains it, because it never started or is gone; nothing here is worth waiting for.
            for found in self.target.get(CRDS[0], "--namespace", self.namespace)["items"]:
                self.target.control(
                    *("patch", CRDS[0], found["metadata"]["name"], "--namespace", self.namespace),
                    *("--type=merge", "--patch", '{"metadata":{"finalizers":null}}'),
                )

    def release(self) -> None:
        """The operator, and the CRDs with it, unless somebody else has begun to use them."""
        if self.target.find("crd", CRDS[0]) is not None:
            others = self.target.get(CRDS[0], "--all-namespaces")["items"]
            if others:
                names = ", ".join(
                    f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in others
                )
                raise StackError(f"operator and CRDs stay, because these InferenceClusters use them: {names}")
        self.target.run(
            self.target.helm,
            *("uninstall", RELEASE, "--namespace", SYSTEM_NAMESPACE),
            *("--ignore-not-found", "--wait", "--timeout", "120s"),
            timeout=150,
        )

    def made_namespace(self, name: str) -> None:
        """A namespace, if it has our label."""
        self.target.control(
            *("delete", "namespace", "--selector", f"{OWNER_LABEL}={OWNER}"),
            *("--field-selector", f"metadata.name={name}", "--ignore-not-found"),
            f"--timeout={NAMESPACE_SECONDS}s",
            timeout=NAMESPACE_SECONDS + 30,
        )


def remove_clusters(target: Target, *, namespace: str) -> None:
    """Delete the InferenceClusters of `namespace`, drained if an operator is there, and the namespace. Raises `StackError`."""
    removal = _Removal(target, namespace)
    removal.cluster()
    removal.made_namespace(namespace)


def remove_everything(target: Target, *, namespace: str, made_namespaces: Sequence[str]) -> None:
    """Cluster, operator, CRDs and `made_namespaces`; each step is tried whatever became of the one before.

    The namespace of an operator that has to stay, stays. Raises `RemovalError` with every fault.
    """
    removal = _Removal(target, namespace)
    faults: list[str] = []

    def attempt(step: Callable[[], None]) -> bool:
        try:
            step()
        except StackError as error:
            faults.append(str(error))
            return False
        return True

    attempt(removal.cluster)
    is_released = attempt(removal.release)
    for name in made_namespaces:
        if is_released or name != SYSTEM_NAMESPACE:
            attempt(partial(removal.made_namespace, name))
    if faults:
        raise RemovalError(faults)

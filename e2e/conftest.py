"""Fixtures of the end-to-end tests: the product installed on the embedded Kubernetes, and clusters on it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from e2e import localkube
from e2e.localkube.locks import exclusive
from e2e.localkube.paths import REPOSITORY
from e2e.stack.audit import AuditLog
from e2e.stack.cluster import Cluster, emulated_cluster
from e2e.stack.control import Kubectl
from e2e.stack.install import install_operator, install_prometheus, wait_for_prometheus
from e2e.stack.target import Target, embedded_target


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lifecycle tests of the embedded Kubernetes run first (they end it), the product's tests last.

    Where privileges are missing every test here is skipped with one message; in CI that is a failure instead.
    """
    items.sort(key=lambda item: ORDER.get(item.path.stem, len(ORDER)))
    reasons = localkube.missing_privileges()
    if not reasons:
        return
    message = f"the embedded Kubernetes cannot run here: {'; '.join(reasons)}"
    if os.environ.get("CI") == "true":
        raise pytest.UsageError(message)
    for item in items:
        item.add_marker(pytest.mark.skip(reason=message))


ORDER = {"test_localkube": 0, "test_api": 1, "test_api_refusals": 1}


@pytest.fixture(scope="module")
def kubectl() -> Iterator[Kubectl]:
    """CRDs that were not there before are removed again: helm adopts no object that it did not make."""
    running = localkube.up(with_images=False)
    control = Kubectl(running.kubectl, running.kubeconfig, f"api-{uuid.uuid4().hex[:8]}")
    files = ("-f", str(REPOSITORY / "crds"))
    existed = control.run("get", "crd", "inferenceclusters.gpupools.dev").returncode == 0
    control.succeed("apply", "--server-side", "--force-conflicts", *files)
    control.succeed("wait", "--for=condition=Established", *files, "--timeout=60s")
    control.succeed("create", "namespace", control.namespace)
    yield control
    control.run("delete", "namespace", control.namespace, "--wait=false")
    if not existed:
        control.run("delete", *files)


@pytest.fixture(scope="session")
def target() -> Target:
    """The embedded Kubernetes with every image."""
    return embedded_target()


@pytest.fixture(scope="session")
def installed(target: Target) -> Target:
    """Prometheus and the operator's chart, ready. Of test processes side by side one installs, the others find it done."""
    with exclusive(REPOSITORY / "build" / "e2e" / "install.lock"):
        install_prometheus(target)
        install_operator(target)
        wait_for_prometheus(target)
    return target


@pytest.fixture
def audit(installed: Target) -> AuditLog:
    """The audit log from the start of the test."""
    assert installed.audit_log is not None
    return AuditLog(installed.audit_log)


@dataclass(frozen=True, slots=True)
class ClusterFactory:
    """Makes clusters in namespaces of their own."""

    make: Callable[..., Cluster]

    def __call__(self, name: str, **overrides: object) -> Cluster:
        """Apply a cluster of emulated engines called `name`; keyword arguments override parts of its spec."""
        return self.make(name, **overrides)


@pytest.fixture
def new_cluster(installed: Target) -> Iterator[ClusterFactory]:
    """A factory of clusters that are deleted, drained, after the test."""
    made: list[Cluster] = []

    def make(name: str, **overrides: object) -> Cluster:
        cluster = emulated_cluster(installed, name, overrides)
        made.append(cluster)
        cluster.create()
        return cluster

    yield ClusterFactory(make)
    for cluster in made:
        cluster.remove()

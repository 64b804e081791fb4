"""A real single-node Kubernetes without a container engine, in private namespaces of this machine.

From the command line: ``python -m e2e.localkube up``. From tests::

    from e2e import localkube

    kubernetes = localkube.up()
    ...  # kubernetes.kubeconfig, kubernetes.kubectl, kubernetes.audit_log
    localkube.down()

Only the standard library is needed. See README.md beside this file.
"""

from e2e.localkube.cluster import (
    RunningKubernetes,
    component_pid,
    down,
    load_image,
    load_images,
    logs,
    require_running,
    status,
    up,
)
from e2e.localkube.errors import (
    BuildError,
    CleanupError,
    CommandError,
    LocalKubeError,
    MissingPrivilegesError,
    NotRunningError,
    StartError,
)
from e2e.localkube.prepare import prepare
from e2e.localkube.privileges import missing_privileges
from e2e.localkube.publish import image_references, push_images
from e2e.localkube.teardown import leftovers

__all__ = [
    "BuildError",
    "CleanupError",
    "CommandError",
    "LocalKubeError",
    "MissingPrivilegesError",
    "NotRunningError",
    "RunningKubernetes",
    "StartError",
    "component_pid",
    "down",
    "image_references",
    "leftovers",
    "load_image",
    "load_images",
    "logs",
    "missing_privileges",
    "prepare",
    "push_images",
    "require_running",
    "status",
    "up",
]

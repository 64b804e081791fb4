"""kopf, wired thinly: it watches the clusters and wakes their loops; it stores nothing and writes nothing.

No daemon: kopf starts none for an object that is already being deleted, and takes its finalizer away instead
(kopf 1.45 `_core/reactor/processing.py`), so that an operator that restarts during a drain would cut it. Our own
finalizer, which kopf does not know, holds the object until the loop lets it go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import kopf

from inferencecluster.adapters.credentials import Access, Credentials
from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.api.names import CLUSTER_PLURAL, FIELD_MANAGER, GROUP, VERSION
from inferencecluster.controller.clusters import ClusterStore, cluster_view
from inferencecluster.controller.loop import Loops

KOPF_FINALIZER: Final = f"{GROUP}/kopf"
"""Never set, because no handler here asks for one. It must not be ours: kopf removes the one it is told when nothing
needs it."""

SERVER_SECONDS: Final = 300
CLIENT_SECONDS: Final = 310
CONNECT_SECONDS: Final = 30
"""Bounds on a watch of kopf's, beside its own 70 s of silence: each end says when it is over."""


def build_registry(clusters: ClusterStore, loops: Loops, credentials: Credentials) -> kopf.OperatorRegistry:
    """Handlers of one operator, in a registry of its own."""
    registry = kopf.OperatorRegistry()
    last: list[Access] = []

    @kopf.on.login(registry=registry)
    async def login(**_: object) -> kopf.ConnectionInfo:
        access = await credentials.access()
        if last and last[-1] == access:
            # kopf asks again only after a 401: what we had is not good any more.
            await credentials.renew()
            access = await credentials.access()
        last[:] = [access]
        return connection_info(access)

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: object) -> None:
        # kopf waits five seconds for tasks that it did not start, before it cancels them.
        await loops.stop()

    @kopf.on.event(GROUP, VERSION, CLUSTER_PLURAL, registry=registry)
    async def changed(event: Mapping[str, Any], **_: object) -> None:
        take_in(clusters, loops, event)

    return registry


def take_in(clusters: ClusterStore, loops: Loops, event: Mapping[str, Any]) -> None:
    """One event of the watch (`type` is None for objects of the first list): remember the object, wake its loop."""
    manifest = event["object"]
    if event["type"] == "DELETED":
        key = ObjectKey(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        clusters.remove(key)
        loops.ensure(key)
        return
    view = cluster_view(manifest)
    if clusters.put(view) or view.key not in loops.keys:
        loops.ensure(view.key)


def build_settings() -> kopf.OperatorSettings:
    """Kopf's settings, each with its reason in reference to what it would do otherwise."""
    settings = kopf.OperatorSettings()
    settings.persistence.finalizer = KOPF_FINALIZER
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP, key="last-handled")
    settings.watching.server_timeout = SERVER_SECONDS
    settings.watching.client_timeout = CLIENT_SECONDS
    settings.watching.connect_timeout = CONNECT_SECONDS
    settings.networking.enforce_retry_after = True
    # No list and watch of all CRDs and namespaces; we wait for our own CRDs before kopf starts.
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.posting.reporting_component = FIELD_MANAGER
    # There is no synchronous handler; this only bounds a mistake.
    settings.execution.max_workers = 2
    return settings


def connection_info(access: Access) -> kopf.ConnectionInfo:
    """Our way in, as kopf wants it told."""
    scheme, _, token = (access.authorization or "").partition(" ")
    return kopf.ConnectionInfo(
        server=access.server,
        ca_path=access.ca_path,
        insecure=not access.verify_tls,
        certificate_path=access.certificate_path,
        private_key_path=access.key_path,
        scheme=scheme.capitalize() or None,
        token=token.strip() or None,
        proxy_url=access.proxy,
    )

"""Worlds of the whole operator with one settled cluster, and what users do to it."""

from __future__ import annotations

from tests.fakes.apiserver import ApiError, Manifest
from tests.fakes.world import NAME, World, cluster, node

SETTLED = {"demo-engine-0": "prefill", "demo-engine-1": "decode"}
REFUSALS = {
    "NamespaceTerminating": ApiError(403, "it is being terminated", cause="NamespaceTerminating"),
    "QuotaExceeded": ApiError(403, "exceeded quota: gpus", cause="QuotaExceeded"),
    "Forbidden": ApiError(403, 'cannot create resource "pods"'),
    "InvalidPod": ApiError(422, "spec.containers: Invalid value"),
}
"""What an API server says against a Pod or a child, by the reason that users are told."""


def world_with(manifest: Manifest | None = None) -> World:
    world = World()
    world.server.put(node())
    world.server.put(manifest or cluster())
    world.add_router()
    return world


def delete_cluster(world: World) -> None:
    def mark(manifest: Manifest) -> None:
        manifest["metadata"]["deletionTimestamp"] = "2026-11-21T08:00:00Z"

    world.server.change("inferenceclusters", "default", NAME, mark)


def break_spec(manifest: Manifest) -> None:
    """Passes the CRD, but the engine could not start with it."""
    manifest["spec"]["engine"]["env"] = [{"name": "POD_IP", "value": "1.2.3.4"}]

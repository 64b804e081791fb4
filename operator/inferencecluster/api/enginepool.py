"""The custom resource `EnginePool`: one pool of a cluster, with a `/scale` subresource for HPA, KEDA and kubectl scale."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from inferencecluster.api.inferencecluster import ObjectMeta
from inferencecluster.api.names import API_VERSION, POOL_KIND
from inferencecluster.api.scalars import MAX_REPLICAS, ObjectName, Text
from inferencecluster.api.schema import ApiModel, Rule, checked
from inferencecluster.api.status import Count
from inferencecluster.core.fleet import PoolName

_IMMUTABLE = checked(
    Rule(
        rule="self == oldSelf",
        message="the field is immutable: delete the EnginePool, the operator makes it anew",
    )
)


class ClusterRef(ApiModel):
    """The InferenceCluster that a pool belongs to."""

    name: ObjectName
    """Name of the InferenceCluster, in the same namespace."""


class EnginePoolSpec(ApiModel):
    """The pool and its wished size. The operator seeds it and, unless the mode is External, keeps it."""

    cluster_ref: Annotated[ClusterRef, _IMMUTABLE]
    """The InferenceCluster that the pool belongs to."""
    pool: Annotated[PoolName, _IMMUTABLE]
    """prefill, decode or mixed."""
    replicas: Annotated[int, Field(ge=0, le=MAX_REPLICAS)]
    """Wished replicas; in External mode HPA, KEDA or people write it, and the pool's bounds and the budget still hold."""


class EnginePoolStatus(ApiModel):
    """What the pool has."""

    replicas: Count = 0
    """Existing replicas that are not on their way out."""
    ready_replicas: Count = 0
    """Replicas that serve."""
    selector: Text | None = None
    """Label selector of the pool's Pods, as the scale subresource wants it."""


class EnginePool(ApiModel):
    """The size of one pool of an InferenceCluster, made by the operator; its scale subresource counts in External mode."""

    api_version: str = API_VERSION
    kind: str = POOL_KIND
    metadata: ObjectMeta
    spec: EnginePoolSpec
    """The pool and its wished size."""
    status: EnginePoolStatus | None = None
    """What the pool has."""

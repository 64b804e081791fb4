"""`spec.router`: the data plane that clients talk to."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from inferencecluster.api.engine import LocalObjectReference
from inferencecluster.api.placement import Affinity, ContainerResources, Toleration
from inferencecluster.api.scalars import Annotations, Image, NodeLabels, ObjectName
from inferencecluster.api.schema import ATOMIC, DEFAULTED, ApiModel, list_map


class ServiceType(StrEnum):
    """core/v1 `ServiceType`, as far as it fits a router."""

    CLUSTER_IP = "ClusterIP"
    LOAD_BALANCER = "LoadBalancer"


class RouterService(ApiModel):
    """The Service in front of the routers."""

    type: Annotated[ServiceType, DEFAULTED] = ServiceType.CLUSTER_IP
    """ClusterIP, or LoadBalancer to reach the router from outside; it speaks plain HTTP without authentication."""
    annotations: Annotations = Field(default_factory=dict)
    """Annotations of the Service, such as the cloud's load balancer settings."""


class Router(ApiModel):
    """The routers of this cluster."""

    replicas: Annotated[int, Field(ge=1, le=32), DEFAULTED] = 1
    """Router processes; each sees all replicas, and of their work only what it sent itself: few large ones queue better than many small."""
    overflow_tokens: Annotated[int, Field(ge=0, le=100_000_000)] | None = None
    """Prompt tokens waiting on the best prefill replica above which a request goes to mixed or borrowed replicas; its own do not count.
    Absent means what a replica prefills in 0.3 of slo.ttftMilliseconds, for each pool by its performance."""
    max_queue_seconds: Annotated[int, Field(ge=1, le=3600), DEFAULTED] = 30
    """A request that waits longer for a replica is refused with 429 and Retry-After."""
    wake_queue_seconds: Annotated[int, Field(ge=1, le=7200)] | None = None
    """The same while a cluster that has scaled to zero wakes; absent means twice scaling.expectedBootSeconds and maxQueueSeconds."""
    prefill_timeout_seconds: Annotated[int, Field(ge=1, le=1800), DEFAULTED] = 120
    """A prompt that takes longer on its replica is tried on another one. Prompts of several 100,000 tokens need more."""
    max_body_megabytes: Annotated[int, Field(ge=1, le=64), DEFAULTED] = 8
    """MiB of a request's body; larger ones are refused with 413. Requests with images need more."""
    image: Image | None = None
    """Container image of the router; absent means the operator's own."""
    image_pull_secrets: Annotated[
        tuple[LocalObjectReference, ...], Field(max_length=8), list_map("name")
    ] = ()
    """Secrets with registry credentials for that image, in this namespace."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the routers: without them nobody is served."""
    node_selector: NodeLabels = Field(default_factory=dict)
    """Labels that a router's node must carry."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32), ATOMIC] = ()
    """Taints that routers accept."""
    affinity: Affinity | None = None
    """Node affinity of the routers."""
    resources: ContainerResources | None = None
    """CPU and memory of one router; absent means the operator's default."""
    service: Annotated[RouterService, DEFAULTED] = RouterService()
    """Service in front of the routers."""

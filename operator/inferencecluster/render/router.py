"""The routers of one cluster: Deployment, Service, and the rights that they need in their namespace."""

from __future__ import annotations

from typing import Final

from inferencecluster.api.inferencecluster import InferenceCluster
from inferencecluster.api.names import COMPONENT_ROUTER, ROUTER_ADMIN_PORT, ROUTER_PORT
from inferencecluster.api.routing import Router
from inferencecluster.render.context import Platform
from inferencecluster.render.manifest import Manifest, component_labels, object_metadata, selector_labels
from inferencecluster.render.placement import admitted_nodes, references
from inferencecluster.render.resources import container_resources
from inferencecluster.render.security import RESTRICTED_CONTAINER, RESTRICTED_POD, read_only

_SERVICE_PORT: Final = 80
_PORT_NAME: Final = "http"
_ADMIN_PORT_NAME: Final = "admin"
_NOTICE_SECONDS: Final = 5
"""Until kube-proxy and load balancers have dropped the endpoint; the router accepts requests meanwhile."""
_ENDING_SECONDS: Final = 60
_REQUESTS: Final = {"cpu": "100m", "memory": "128Mi"}
_BODY_SECONDS: Final = 30
_BODY_MEBIBYTES: Final = 8
"""280 kB/s are enough for a body of any size that is allowed."""
_KEPT_REVISIONS: Final = 2
"""ReplicaSets of the last rollouts, for `kubectl rollout undo`."""


def router_name(cluster_name: str) -> str:
    """Name of the Deployment, and of all that the routers own alone."""
    return f"{cluster_name}-router"


def render_router(cluster: InferenceCluster, platform: Platform) -> tuple[Manifest, ...]:
    """Every object that the routers need, in the order in which to apply them."""
    optional = render_router_disruption_budget(cluster)
    return (
        render_router_service_account(cluster),
        render_router_role_binding(cluster, platform),
        render_router_service(cluster),
        render_router_deployment(cluster, platform),
        *((optional,) if optional is not None else ()),
    )


def render_router_service_account(cluster: InferenceCluster) -> Manifest:
    """Identity of the routers."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(cluster),
        "automountServiceAccountToken": False,
    }


def render_router_role_binding(cluster: InferenceCluster, platform: Platform) -> Manifest:
    """What the chart's ClusterRole for routers allows, in this namespace only."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": _metadata(cluster),
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": platform.router_cluster_role,
        },
        "subjects": [
            {
                "kind": "ServiceAccount",
                "name": router_name(cluster.metadata.name),
                "namespace": cluster.metadata.namespace,
            }
        ],
    }


def render_router_service(cluster: InferenceCluster) -> Manifest:
    """The address that clients use: the cluster's own name, port 80."""
    service = cluster.spec.router.service
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": object_metadata(
            cluster,
            name=cluster.metadata.name,
            labels=component_labels(cluster, COMPONENT_ROUTER),
            annotations=service.annotations,
        ),
        "spec": {
            "type": service.type.value,
            "selector": selector_labels(cluster, COMPONENT_ROUTER),
            "ports": [{"name": _PORT_NAME, "port": _SERVICE_PORT, "targetPort": _PORT_NAME}],
        },
    }


def render_router_disruption_budget(cluster: InferenceCluster) -> Manifest | None:
    """Keeps all routers but one while nodes are drained; None for a single router, which it would pin to its node."""
    replicas = cluster.spec.router.replicas
    if replicas == 1:
        return None
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(cluster),
        "spec": {
            "minAvailable": replicas - 1,
            "selector": {"matchLabels": selector_labels(cluster, COMPONENT_ROUTER)},
            # A router that never becomes ready must not block a drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def render_router_deployment(cluster: InferenceCluster, platform: Platform) -> Manifest:
    """The routers; a rollout starts each new one before it ends an old one."""
    labels = component_labels(cluster, COMPONENT_ROUTER)
    selector = {"matchLabels": selector_labels(cluster, COMPONENT_ROUTER)}
    router = cluster.spec.router
    specification: Manifest = {
        "serviceAccountName": router_name(cluster.metadata.name),
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        # Streams that a router holds end with it, so it may stay as long as a drain.
        "terminationGracePeriodSeconds": _NOTICE_SECONDS
        + cluster.spec.scaling.drain_timeout_seconds
        + _ENDING_SECONDS,
        "securityContext": RESTRICTED_POD,
        **references(router.priority_class_name, router.image_pull_secrets),
        **admitted_nodes(router.node_selector, router.tolerations, router.affinity),
        "containers": [_container(cluster, platform)],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": selector,
            }
        ],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(cluster),
        "spec": {
            "replicas": router.replicas,
            "revisionHistoryLimit": _KEPT_REVISIONS,
            "selector": selector,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": labels}, "spec": specification},
        },
    }


def _container(cluster: InferenceCluster, platform: Platform) -> Manifest:
    return {
        "name": COMPONENT_ROUTER,
        "image": cluster.spec.router.image or platform.router_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-m", "inferencecluster.router"],
        "env": [
            {"name": "IC_CLUSTER", "value": cluster.metadata.name},
            {"name": "IC_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            *_limits(cluster.spec.router),
        ],
        "ports": [
            {"name": _PORT_NAME, "containerPort": ROUTER_PORT},
            # In no Service: clients have no business with what the operator and Prometheus read.
            {"name": _ADMIN_PORT_NAME, "containerPort": ROUTER_ADMIN_PORT},
        ],
        "resources": container_resources(cluster.spec.router.resources, defaults=_REQUESTS, devices={}),
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": _ADMIN_PORT_NAME},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": 2,
        },
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": _ADMIN_PORT_NAME},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": _NOTICE_SECONDS}}},
        "securityContext": read_only(RESTRICTED_CONTAINER),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - where Python's tempfile writes
    }


def _limits(router: Router) -> list[Manifest]:
    """Those that a user may set."""
    values = {
        "IC_PREFILL_SECONDS": router.prefill_timeout_seconds,
        "IC_MAX_BODY_BYTES": router.max_body_megabytes << 20,
        "IC_BODY_SECONDS": max(_BODY_SECONDS, _BODY_SECONDS * router.max_body_megabytes // _BODY_MEBIBYTES),
    }
    return [{"name": name, "value": str(value)} for name, value in values.items()]


def _metadata(cluster: InferenceCluster) -> Manifest:
    return object_metadata(
        cluster,
        name=router_name(cluster.metadata.name),
        labels=component_labels(cluster, COMPONENT_ROUTER),
    )

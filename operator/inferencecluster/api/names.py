"""Names that operator, router, engines and users share: API group, labels, annotations, ports, field managers."""

from __future__ import annotations

from typing import Final

GROUP: Final = "gpupools.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
CLUSTER_KIND: Final = "InferenceCluster"
CLUSTER_PLURAL: Final = "inferenceclusters"
POOL_KIND: Final = "EnginePool"
POOL_PLURAL: Final = "enginepools"

FIELD_MANAGER: Final = "inferencecluster-operator"
STATUS_MANAGER: Final = "inferencecluster-operator-status"
FINALIZER: Final = f"{GROUP}/drain"

LABEL_CLUSTER: Final = f"{GROUP}/cluster"
LABEL_POOL: Final = f"{GROUP}/pool"
"""Home pool: prefill, decode or mixed."""
LABEL_ROLE: Final = f"{GROUP}/role"
LABEL_REVISION: Final = f"{GROUP}/revision"
LABEL_COMPONENT: Final = f"{GROUP}/component"
"""`engine` on replicas, `router` on routers."""
COMPONENT_ENGINE: Final = "engine"
COMPONENT_ROUTER: Final = "router"

ANNOTATION_FENCED_AT: Final = f"{GROUP}/fenced-at"
"""Unix seconds (decimal string) at which the operator asked for the fence; absent = not fenced."""
ANNOTATION_FENCE_REASON: Final = f"{GROUP}/fence-reason"
ANNOTATION_TEMPLATE: Final = f"{GROUP}/template"
"""Hash of the pool's fields that the replica was made from; another one is a reason to replace it."""
ANNOTATION_RENDERED: Final = f"{GROUP}/rendered"
"""Digest of what the operator last applied: what it leaves out now, and wrote then, shows in nothing else."""
ANNOTATION_KV_CAPACITY: Final = f"{GROUP}/kv-capacity-tokens"
"""KV capacity of one replica in tokens, from the pool's performance model; read by the router."""
ANNOTATION_MAX_BATCH: Final = f"{GROUP}/max-batch-size"
ANNOTATION_ENGINE_VERSION: Final = f"{GROUP}/engine-version"
"""Release of the replica's engine: the router speaks its protocol, not the one that the newest spec names."""
ANNOTATION_SERVED_NAME: Final = f"{GROUP}/served-name"
"""Name of the model that the replica serves: the router gives it requests for that name only."""

EMULATED_ENGINE: Final = "emulated-engine"
"""Command of the containers of emulated engines, which alone serve DCGM's counters themselves."""

ENGINE_PORT: Final = 8000
ROUTER_PORT: Final = 8080
"""OpenAI API, /healthz and /readyz of the router: what its Service offers."""
ROUTER_ADMIN_PORT: Final = 8082
"""/state, /metrics, /healthz and /readyz of the router: for operator, Prometheus and kubelet, in no Service."""
OPERATOR_HTTP_PORT: Final = 8081
"""/healthz, /readyz, /metrics and the http_sd targets (`/targets`) of the operator."""

CLUSTER_SHORT_NAME: Final = "ic"
POOL_SHORT_NAME: Final = "icpool"
"""Not `ep`, which is the built-in short name of Endpoints."""

CLUSTER_NAME_PATTERN: Final = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
MAX_CLUSTER_NAME_LENGTH: Final = 39
"""The longest child name is a router Pod, `<cluster>-router-<10>-<5>`: 24 characters of the 63 of a label value and host name."""

"""A replica: one Pod that the cluster owns, and the immutable ConfigMap that its engine reads."""

from __future__ import annotations

import hashlib
from typing import Final, assert_never

from inferencecluster.api.engine import Backend, Engine
from inferencecluster.api.names import (
    ANNOTATION_ENGINE_VERSION,
    ANNOTATION_KV_CAPACITY,
    ANNOTATION_MAX_BATCH,
    ANNOTATION_SERVED_NAME,
    ANNOTATION_TEMPLATE,
    COMPONENT_ENGINE,
    ENGINE_PORT,
    LABEL_POOL,
    LABEL_REVISION,
    LABEL_ROLE,
)
from inferencecluster.core.errors import SpecError
from inferencecluster.render.context import PoolContext
from inferencecluster.render.emulated import emulated_engine
from inferencecluster.render.engineparts import CONFIG_DIRECTORY, ENDING_SECONDS, EngineParts, ProbeTiming
from inferencecluster.render.manifest import Manifest, component_labels, object_metadata
from inferencecluster.render.placement import placement, references
from inferencecluster.render.resources import container_resources
from inferencecluster.render.tensorrt import TOKEN_VARIABLE, tensorrt_engine
from inferencecluster.render.trtllm.shape import configured_version

DRAINED_GRACE_SECONDS: Final = 5
"""`gracePeriodSeconds` for deleting a replica that is fenced and idle: it need not sit out its preStop wait.
Never 0, which removes the Pod before the kubelet has freed its GPUs."""

_DIGEST_CHARACTERS: Final = 10
_CONFIG_VOLUME: Final = "config"

_POD_FIELDS: Final = {
    "POD_NAME": "metadata.name",
    "POD_NAMESPACE": "metadata.namespace",
    "POD_IP": "status.podIP",
}
_RESERVED: Final = frozenset({*_POD_FIELDS, TOKEN_VARIABLE})


def replica_name(cluster_name: str, ordinal: int) -> str:
    """Name of a replica: neutral towards its pool, which may change while it lives."""
    return f"{cluster_name}-engine-{ordinal}"


def render_engine_config(context: PoolContext) -> Manifest:
    """The ConfigMap that the pool's replicas mount.

    Its name carries a digest of content and revision: another content is another object, an equal one exists
    already (409), and replicas that still run keep what they started with. Raises `SpecError`.
    """
    return _config_map(context, _engine(context))


def render_replica(context: PoolContext, *, ordinal: int) -> Manifest:
    """The Pod of replica `ordinal` (>= 0) of `context.pool`, which needs `render_engine_config(context)` to exist.

    Raises `SpecError` for a spec that the engine could not start with.
    """
    engine = _engine(context)
    spec = context.cluster.spec
    labels = {**context.pool_spec.labels, **engine.labels, **_labels(context)}
    annotations = {
        **context.pool_spec.annotations,
        ANNOTATION_TEMPLATE: context.shape.template,
        ANNOTATION_KV_CAPACITY: str(context.performance.kv_capacity_tokens),
        ANNOTATION_MAX_BATCH: str(context.performance.max_batch_size),
        ANNOTATION_ENGINE_VERSION: str(configured_version(spec.engine)),
        ANNOTATION_SERVED_NAME: spec.model.served_name or spec.model.source,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": object_metadata(
            context.cluster,
            name=replica_name(context.cluster.metadata.name, ordinal),
            labels=labels,
            annotations=annotations,
        ),
        "spec": _pod_spec(context, engine),
    }


def _engine(context: PoolContext) -> EngineParts:
    backend = context.cluster.spec.engine.backend
    match backend:
        case Backend.TENSORRT_LLM:
            return tensorrt_engine(context)
        case Backend.EMULATED:
            return emulated_engine(context)
        case _:
            assert_never(backend)


def _labels(context: PoolContext) -> dict[str, str]:
    return {
        **component_labels(context.cluster, COMPONENT_ENGINE),
        LABEL_POOL: context.pool.value,
        LABEL_ROLE: context.pool.value,
        LABEL_REVISION: context.revision,
    }


def _config_map(context: PoolContext, engine: EngineParts) -> Manifest:
    content = f"{context.revision}\n{engine.config_file}\n{engine.config_text}"
    digest = hashlib.sha256(content.encode()).hexdigest()[:_DIGEST_CHARACTERS]
    is_shared = context.shape.interchangeable
    labels = {
        **component_labels(context.cluster, COMPONENT_ENGINE),
        **({} if is_shared else {LABEL_POOL: context.pool.value}),
        LABEL_REVISION: context.revision,
    }
    used_by = COMPONENT_ENGINE if is_shared else context.pool.value
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": object_metadata(
            context.cluster,
            name=f"{context.cluster.metadata.name}-{used_by}-{digest}",
            labels=labels,
        ),
        "immutable": True,
        "data": {engine.config_file: engine.config_text},
    }


def _pod_spec(context: PoolContext, engine: EngineParts) -> Manifest:
    chosen = context.cluster.spec.engine
    scaling = context.cluster.spec.scaling
    volumes: list[Manifest] = [
        {
            "name": _CONFIG_VOLUME,
            "configMap": {"name": _config_map(context, engine)["metadata"]["name"]},
        },
        *({"name": name, **source} for name, _, source in engine.volumes),
    ]
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": engine.pre_stop_seconds
        + scaling.drain_timeout_seconds
        + ENDING_SECONDS,
        "securityContext": engine.pod_security,
        **_references(chosen),
        **placement(
            context.cluster, None if context.shape.interchangeable else context.pool, context.pool_spec
        ),
        "containers": [_container(context, engine)],
        "volumes": volumes,
    }


def _references(engine: Engine) -> Manifest:
    """Objects of others that the Pod names; absent where the user names none."""
    account = engine.service_account_name
    return references(engine.priority_class_name, engine.image_pull_secrets) | (
        {} if account is None else {"serviceAccountName": account}
    )


def _container(context: PoolContext, engine: EngineParts) -> Manifest:
    pool = context.pool_spec
    container: Manifest = {
        "name": COMPONENT_ENGINE,
        "image": engine.image,
        "imagePullPolicy": "IfNotPresent",
    }
    if engine.command:
        container["command"] = list(engine.command)
    container |= {
        "args": list(engine.arguments),
        "env": _environment(context.cluster.spec.engine, engine),
        "ports": [{"name": "http", "containerPort": ENGINE_PORT}],
        "resources": container_resources(
            pool.resources,
            defaults=engine.requests,
            devices={**pool.extra_resources, pool.gpu_resource_name: pool.gpus_per_replica},
        ),
        **_probes(engine.probes, startup_seconds=context.cluster.spec.scaling.startup_timeout_seconds),
        # The kubelet sleeps (Kubernetes 1.30), so that the image needs no shell.
        "lifecycle": {"preStop": {"sleep": {"seconds": engine.pre_stop_seconds}}},
        "securityContext": engine.container_security,
        "volumeMounts": [
            {"name": _CONFIG_VOLUME, "mountPath": CONFIG_DIRECTORY, "readOnly": True},
            *({"name": name, "mountPath": path} for name, path, _ in engine.volumes),
        ],
    }
    return container


def _environment(chosen: Engine, engine: EngineParts) -> list[Manifest]:
    """Identity of the Pod, token, then defaults with the user's variables over them; each name once."""
    for position, variable in enumerate(chosen.env):
        if variable.name in _RESERVED:
            raise SpecError(
                field=f"spec.engine.env[{position}].name",
                value=variable.name,
                rule="the operator sets this variable",
                advice="remove it; an access token belongs into a Secret that spec.model.tokenSecretRef names",
            )
    identity: list[Manifest] = [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in _POD_FIELDS.items()
    ]
    literal = {**engine.environment, **{variable.name: variable.value for variable in chosen.env}}
    return [
        *identity,
        *engine.secret_environment,
        *({"name": name, "value": value} for name, value in literal.items()),
    ]


def _probes(timing: ProbeTiming, *, startup_seconds: int) -> Manifest:
    """All on /health, which answers once the model is loaded and never waits behind requests."""
    health: Manifest = {"httpGet": {"path": "/health", "port": "http"}}
    return {
        "startupProbe": {
            **health,
            "periodSeconds": timing.startup_period_seconds,
            # The operator gives the replica up at the same time; until then nobody restarts a load.
            "failureThreshold": -(-startup_seconds // timing.startup_period_seconds),
        },
        "readinessProbe": {
            **health,
            "periodSeconds": timing.readiness_period_seconds,
            "timeoutSeconds": 5,
            "failureThreshold": 2,
        },
        "livenessProbe": {
            **health,
            "periodSeconds": timing.liveness_period_seconds,
            "timeoutSeconds": timing.liveness_timeout_seconds,
            "failureThreshold": timing.liveness_failures,
        },
    }

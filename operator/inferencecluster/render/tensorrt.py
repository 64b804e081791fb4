"""TensorRT-LLM engines: one container with all GPUs of the replica, started by the image's own entrypoint."""

from __future__ import annotations

from typing import Final

import yaml

from inferencecluster.api.engine import ModelCache
from inferencecluster.api.pools import Pool
from inferencecluster.core.fleet import PoolName
from inferencecluster.render.context import PoolContext
from inferencecluster.render.engineparts import (
    CONFIG_DIRECTORY,
    ENDING_SECONDS,
    NOTICE_SECONDS,
    EngineParts,
    ProbeTiming,
)
from inferencecluster.render.manifest import Manifest
from inferencecluster.render.security import (
    LOCKED_MEMORY_CONTAINER,
    LOCKED_MEMORY_POD,
    RESTRICTED_CONTAINER,
    RESTRICTED_POD,
)
from inferencecluster.render.trtllm.command import TELEMETRY_OFF, serve_arguments
from inferencecluster.render.trtllm.config import engine_config
from inferencecluster.render.trtllm.profiles import CONTEXT_ONLY_POOLS
from inferencecluster.render.trtllm.shape import engine_shape
from inferencecluster.render.trtllm.versions import EngineVersion

CONFIG_FILE: Final = "config.yaml"
TOKEN_VARIABLE: Final = "HF_TOKEN"  # noqa: S105 - the variable's name
_CACHE_DIRECTORY: Final = "/cache"

_LAUNCHER_MARGIN_SECONDS: Final = ENDING_SECONDS // 2
"""The launcher ends the engine itself before the kubelet kills both."""

_SHM_GIB_PER_GPU: Final = 8
_SHM_GIB_LEAST: Final = 16
_SHM_GIB_MOST: Final = 64
"""NCCL, MPI and the post-processing workers exchange through /dev/shm; NVIDIA's deployments take 16 to 64 GiB."""

_CORES_PER_GPU: Final = 2
_MEMORY_GIB_PER_GPU: Final = 8
"""Small enough for any GPU node; it lifts the Pod out of BestEffort, which is evicted first."""

_PROBES: Final = ProbeTiming(
    startup_period_seconds=10,
    readiness_period_seconds=5,
    # /health shares its process with streaming; only a server that is gone for five minutes is restarted.
    liveness_period_seconds=30,
    liveness_timeout_seconds=10,
    liveness_failures=10,
)

_LLM_D_ROLES: Final = {
    PoolName.PREFILL: "prefill",
    PoolName.DECODE: "decode",
    PoolName.MIXED: "prefill-decode",
}
"""Labels by which a Gateway API endpoint picker (llm-d) finds engines."""


def tensorrt_engine(context: PoolContext) -> EngineParts:
    """The TensorRT-LLM engine of one pool. Raises `SpecError` for a spec that the engine could not start with."""
    engine = context.cluster.spec.engine
    model = context.cluster.spec.model
    pool = context.pool_spec
    shape = engine_shape(context)
    arguments = serve_arguments(
        shape.version,
        model=model.source,
        served_name=model.served_name or model.source,
        config_path=f"{CONFIG_DIRECTORY}/{CONFIG_FILE}",
    )
    return EngineParts(
        image=engine.image,
        arguments=tuple(arguments),
        config_file=CONFIG_FILE,
        config_text=yaml.safe_dump(engine_config(shape, engine.config), sort_keys=True),
        environment={**_environment(shape.version), **_launcher_environment(context)},
        secret_environment=_token(context),
        requests={
            "cpu": str(_CORES_PER_GPU * pool.gpus_per_replica),
            "memory": f"{_MEMORY_GIB_PER_GPU * pool.gpus_per_replica}Gi",
        },
        probes=_PROBES,
        pod_security=LOCKED_MEMORY_POD if pool.extra_resources else RESTRICTED_POD,
        container_security=LOCKED_MEMORY_CONTAINER if pool.extra_resources else RESTRICTED_CONTAINER,
        volumes=(
            ("cache", _CACHE_DIRECTORY, _cache_source(engine.model_cache)),
            ("shm", "/dev/shm", _shared_memory(pool)),  # noqa: S108 - the place that NCCL and MPI expect
        ),
        # A prefill answer ends before its KV cache was fetched, so the engine's own wait for open answers is not enough.
        pre_stop_seconds=NOTICE_SECONDS + _transfer_seconds(context),
        labels={"llm-d.ai/role": _LLM_D_ROLES[context.pool], "llm-d.ai/engine-type": "trtllm-serve"},
    )


def _environment(version: EngineVersion) -> dict[str, str]:
    """Variables that the user may override. Compiled kernels are kept per release, weights are shared."""
    name, value = TELEMETRY_OFF
    return {
        "HF_HOME": f"{_CACHE_DIRECTORY}/huggingface",
        # The image's home belongs to root; Triton, FlashInfer and torch compile into the home directory.
        "HOME": f"{_CACHE_DIRECTORY}/home/{version}",
        # PyTorch asks for the user's name, which a container without a passwd entry does not have.
        "USER": "engine",
        name: value,
    }


def _transfer_seconds(context: PoolContext) -> int:
    """How long others may still fetch KV caches after the engine's last answer; 0 where nobody does."""
    if context.shape.tuned_for not in CONTEXT_ONLY_POOLS:
        return 0
    return context.cluster.spec.engine.kv_transfer.timeout_seconds


def _launcher_environment(context: PoolContext) -> dict[str, str]:
    """Settings of `runtime_images/trtllm`; images without the launcher ignore them."""
    deadline = context.cluster.spec.scaling.drain_timeout_seconds + _LAUNCHER_MARGIN_SECONDS
    return {
        "TRTLLM_LAUNCHER_DEADLINE_SECONDS": str(deadline),
        "TRTLLM_LAUNCHER_KV_TRANSFER_SECONDS": str(_transfer_seconds(context)),
    }


def _token(context: PoolContext) -> tuple[Manifest, ...]:
    """The access token by reference: it never stands in arguments, objects or logs."""
    reference = context.cluster.spec.model.token_secret_ref
    if reference is None:
        return ()
    return (
        {
            "name": TOKEN_VARIABLE,
            "valueFrom": {"secretKeyRef": {"name": reference.name, "key": reference.key}},
        },
    )


def _cache_source(cache: ModelCache | None) -> Manifest:
    if cache is not None and cache.persistent_volume_claim is not None:
        return {"persistentVolumeClaim": {"claimName": cache.persistent_volume_claim}}
    if cache is not None and cache.size_limit is not None:
        return {"emptyDir": {"sizeLimit": cache.size_limit}}
    return {"emptyDir": {}}


def _shared_memory(pool: Pool) -> Manifest:
    gibibytes = min(max(_SHM_GIB_PER_GPU * pool.gpus_per_replica, _SHM_GIB_LEAST), _SHM_GIB_MOST)
    return {"emptyDir": {"medium": "Memory", "sizeLimit": f"{gibibytes}Gi"}}

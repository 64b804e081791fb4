"""An option as an InferenceCluster, ready for kubectl apply."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from inferencecluster.api.names import API_VERSION, CLUSTER_KIND, MAX_CLUSTER_NAME_LENGTH
from inferencecluster.api.routing import Router
from inferencecluster.api.scalars import MAX_BUDGET_GPUS, MAX_REPLICAS
from inferencecluster.api.translate import GPU_PRODUCT_LABEL
from inferencecluster.core.fleet import PoolName
from inferencecluster.planner.answer import Option, Question
from inferencecluster.planner.designs import Disaggregated, PoolShape

ROOM: Final = 1.25
"""Bounds and budget above the planned peak: for bursts beyond the trace, and so that a new revision's first replicas come up
beside the old ones. The planned cost does not contain it, because it is only used when it is needed."""
ENGINE_REPOSITORY: Final = "nvcr.io/nvidia/tensorrt-llm/release"

_ENGINE_KEYS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {"qwen3-32b-fp8": {"kv_cache_config": {"dtype": "fp8"}}}
)
"""What a profile's model needs beside its checkpoint: this one does not say that its KV cache is FP8, and the profile is."""


def manifest(question: Question, option: Option, *, engine_version: str) -> dict[str, Any]:
    """The object as plain data. `minReplicas` is what the quietest window needs, `maxReplicas` the peak and some room."""
    pools = _pools(option)
    budget = question.max_gpus or min(
        MAX_BUDGET_GPUS, sum(pool["maxReplicas"] * pool["gpusPerReplica"] for pool in _base_pools(pools))
    )
    engine: dict[str, Any] = {"backend": "TensorRTLLM", "image": f"{ENGINE_REPOSITORY}:{engine_version}"}
    keys = _ENGINE_KEYS.get(question.model.model.name)
    if keys:
        engine["config"] = {key: dict(value) for key, value in keys.items()}
    return {
        "apiVersion": API_VERSION,
        "kind": CLUSTER_KIND,
        "metadata": {"name": _name(question.model.model.name)},
        "spec": {
            "model": {"source": question.model.source},
            "engine": engine,
            "slo": {
                "percentile": round(question.target.share * 100),
                "ttftMilliseconds": round(question.target.ttft_seconds * 1000),
                "itlMilliseconds": round(question.target.itl_seconds * 1000),
            },
            "budget": {"gpus": budget},
            "pools": pools,
            **_router(question),
            "scaling": {"expectedBootSeconds": max(1, round(question.boot_seconds))},
        },
    }


def _router(question: Question) -> dict[str, Any]:
    """Requests may wait as long as their TTFT target: the CRD refuses less."""
    seconds = math.ceil(question.target.ttft_seconds)
    return {"router": {"maxQueueSeconds": seconds}} if seconds > Router().max_queue_seconds else {}


def _pools(option: Option) -> dict[str, dict[str, Any]]:
    """Every pool of the design, and beside base pools a mixed one that takes bursts."""
    fitted = option.fitted
    pools = {
        name.value: _pool(shape, least=least, most=_with_room(peak))
        for (name, shape), least, peak in zip(option.design.pools, fitted.quietest, fitted.peak, strict=True)
    }
    if isinstance(option.design, Disaggregated):
        room = _with_room(fitted.peak[1]) - fitted.peak[1]
        pools[PoolName.MIXED.value] = _pool(option.design.decode, least=0, most=room)
    return pools


def _base_pools(pools: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Those whose sum is the budget: the mixed pool beside others shares their room."""
    return [pool for name, pool in pools.items() if len(pools) == 1 or name != PoolName.MIXED]


def _with_room(peak: int) -> int:
    return min(MAX_REPLICAS, math.ceil(peak * ROOM))


def _pool(shape: PoolShape, *, least: int, most: int) -> dict[str, Any]:
    profile = shape.profile
    return {
        "minReplicas": least,
        "maxReplicas": most,
        "gpusPerReplica": shape.gpus,
        "parallelism": {"tensor": profile.tensor_parallel},
        "performance": {"profile": profile.name},
        # Of two spellings the later one is that of the GPU feature discovery: NVIDIA-A100-SXM4-80GB.
        "nodeSelector": {GPU_PRODUCT_LABEL: max(profile.gpu.products)},
    }


def _name(model: str) -> str:
    """A DNS label of the model's name."""
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:MAX_CLUSTER_NAME_LENGTH].rstrip("-")

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from inferencecluster.api.inferencecluster import InferenceCluster, parse_cluster
from inferencecluster.core.fleet import PoolName
from inferencecluster.render.context import Platform, PoolContext, pool_context

MakeCluster = Callable[..., InferenceCluster]
MakeContext = Callable[..., PoolContext]

PLATFORM = Platform(
    router_image="registry.example/inferencecluster-operator:0.1.0",
    router_cluster_role="inferencecluster-operator-router",
)

COEFFICIENTS = {
    "prefill": {
        "baseNanoseconds": 8_320_000,
        "perTokenPicoseconds": 61_170_000,
        "perTokenSquaredPicoseconds": 892,
    },
    "decode": {
        "baseNanoseconds": 12_340_000,
        "perSequencePicoseconds": 32_200_000,
        "perContextTokenPicoseconds": 19_520,
    },
    "kvCapacityTokens": 500_000,
    "maxBatchSize": 192,
}


def _manifest() -> dict[str, Any]:
    pool = {
        "minReplicas": 1,
        "maxReplicas": 4,
        "gpusPerReplica": 2,
        "performance": {"coefficients": COEFFICIENTS},
    }
    return {
        "apiVersion": "gpupools.dev/v1alpha1",
        "kind": "InferenceCluster",
        "metadata": {
            "name": "llama-70b",
            "namespace": "serving",
            "uid": "6b1f9a52-5a0e-4a44-9c53-0a5d1f6f0d11",
        },
        "spec": {
            "model": {"source": "nvidia/Llama-3.1-70B-Instruct-FP8", "servedName": "llama-70b"},
            "engine": {
                "backend": "TensorRTLLM",
                "image": "nvcr.io/nvidia/tensorrt-llm/release:1.2.1",
            },
            "slo": {"ttftMilliseconds": 400, "itlMilliseconds": 40},
            "budget": {"gpus": 64},
            "pools": {name: copy.deepcopy(pool) for name in ("prefill", "decode", "mixed")},
        },
    }


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(value, Mapping) and isinstance(old, dict) else value
    return result


@pytest.fixture(scope="session")
def platform() -> Platform:
    return PLATFORM


@pytest.fixture(scope="session")
def make_cluster() -> MakeCluster:
    """A cluster of real engines, with `spec` merged over it."""

    def make(**spec: Any) -> InferenceCluster:
        return parse_cluster(_merged(_manifest(), {"spec": spec}))

    return make


@pytest.fixture(scope="session")
def make_context(make_cluster: MakeCluster) -> MakeContext:
    """The context of one pool's replicas, with `spec` merged over the cluster."""

    def make(pool: PoolName = PoolName.PREFILL, *, platform: Platform = PLATFORM, **spec: Any) -> PoolContext:
        return pool_context(make_cluster(**spec), pool, platform)

    return make

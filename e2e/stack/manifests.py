"""Clusters for the API tests: small, good, and changed in one place."""

from __future__ import annotations

import copy
from typing import Any

Manifest = dict[str, Any]


def pool(**changes: Any) -> Manifest:
    return {"minReplicas": 1, "maxReplicas": 4, "gpusPerReplica": 2, **changes}


def cluster(**spec: Any) -> Manifest:
    """A cluster without optional fields; `spec` replaces whole sections."""
    return {
        "apiVersion": "gpupools.dev/v1alpha1",
        "kind": "InferenceCluster",
        "metadata": {"name": "llama"},
        "spec": {
            "model": {"source": "nvidia/Llama-3.1-70B-Instruct-FP8"},
            "engine": {"image": "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"},
            "slo": {"ttftMilliseconds": 400, "itlMilliseconds": 40},
            "budget": {"gpus": 16},
            "pools": {"prefill": pool(), "decode": pool(), "mixed": pool(minReplicas=0)},
            **spec,
        },
    }


def with_field(path: str, value: Any) -> Manifest:
    """A good cluster whose field at `path`, counted from spec, is `value`."""
    manifest = copy.deepcopy(cluster())
    target = manifest["spec"]
    *parents, last = path.split(".")
    for part in parents:
        target = target.setdefault(part, {})
    target[last] = value
    return manifest


def named(name: str) -> Manifest:
    return {**cluster(), "metadata": {"name": name}}


def engine(**changes: Any) -> Manifest:
    return cluster(engine={"image": "nvcr.io/nvidia/tensorrt-llm/release:1.2.1", **changes})


def pools(**entries: Manifest) -> Manifest:
    return cluster(pools=entries)


def prefill(**changes: Any) -> Manifest:
    return pools(prefill=pool(**changes), decode=pool())


COEFFICIENTS = {
    "prefill": {"baseNanoseconds": 1, "perTokenPicoseconds": 1, "perTokenSquaredPicoseconds": 1},
    "decode": {"baseNanoseconds": 1, "perSequencePicoseconds": 1, "perContextTokenPicoseconds": 1},
    "kvCapacityTokens": 1000,
    "maxBatchSize": 8,
}

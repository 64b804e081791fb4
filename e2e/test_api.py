"""The CRDs on a real API server: what it takes, what it fills in, and what kubectl shows of it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.stack.control import Kubectl
from e2e.stack.manifests import (
    COEFFICIENTS,
    Manifest,
    cluster,
    engine,
    named,
    pool,
    pools,
    prefill,
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),  # the first test may have to build Kubernetes
]

REPOSITORY = Path(__file__).resolve().parents[1]
SAMPLES = sorted((REPOSITORY / "docs" / "samples").glob("*.yaml"))


ACCEPTED = [
    pytest.param(cluster(), id="only what is required"),
    pytest.param(pools(mixed=pool()), id="mixed alone"),
    pytest.param(pools(prefill=pool(minReplicas=0), decode=pool(minReplicas=0)), id="down to zero"),
    pytest.param(engine(backend="Emulated", emulated={"bootSeconds": 5}), id="emulated engines"),
    pytest.param(
        cluster(engine={"image": "registry.example:5000/e@sha256:" + "0" * 64, "version": "1.3.0rc29"}),
        id="an image by digest with its version",
    ),
    pytest.param(
        cluster(engine={"image": "registry.example:5000/e:1.3.0rc29-arm64@sha256:" + "0" * 64}),
        id="an image by tag and digest",
    ),
    pytest.param(
        engine(config={"kv_cache_config": {"free_gpu_memory_fraction": 0.85}, "moe": [1, {"a": None}]}),
        id="any configuration",
    ),
    pytest.param(
        prefill(gpusPerReplica=4, parallelism={"tensor": 2, "pipeline": 2}), id="pipeline parallelism"
    ),
    pytest.param(prefill(performance={"coefficients": COEFFICIENTS}), id="measured coefficients"),
    pytest.param(prefill(extraResources={"rdma/ib": 1}), id="a further device"),
    pytest.param(prefill(resources={"limits": {"cpu": 8}}), id="a number as quantity"),
    pytest.param(
        prefill(resources={"requests": {"cpu": "500m", "memory": "64Gi", "ephemeral-storage": "1.5Ti"}}),
        id="quantities",
    ),
    pytest.param(named("a" * 39), id="the longest name"),
]


@pytest.mark.parametrize("manifest", ACCEPTED)
def test_a_good_cluster_is_accepted(kubectl: Kubectl, manifest: Manifest) -> None:
    kubectl.create_dry(manifest)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
def test_the_samples_of_the_documentation_are_accepted(kubectl: Kubectl, sample: Path) -> None:
    for manifest in yaml.safe_load_all(sample.read_text(encoding="utf-8")):
        kubectl.create_dry(manifest)


def test_the_server_fills_in_only_the_deliberate_defaults(kubectl: Kubectl) -> None:
    sent = cluster()
    spec = kubectl.create_dry(sent)["spec"]
    added = {
        "engine": {"backend": "TensorRTLLM", "kvTransfer": {"backend": "NIXL", "timeoutSeconds": 60}},
        "slo": {"percentile": 90},
        "scaling": {
            "mode": "Automatic",
            "intervalSeconds": 15,
            "expectedBootSeconds": 120,
            "startupTimeoutSeconds": 1800,
            "drainTimeoutSeconds": 1800,
            "conversion": "Disabled",
            "objective": "Cost",
        },
        "router": {
            "replicas": 1,
            "maxQueueSeconds": 30,
            "prefillTimeoutSeconds": 120,
            "maxBodyMegabytes": 8,
            "service": {"type": "ClusterIP"},
        },
        "pools": {name: {"gpuResourceName": "nvidia.com/gpu"} for name in ("prefill", "decode", "mixed")},
    }
    assert spec == _overlaid(sent["spec"], added)


def _overlaid(base: Mapping[str, Any], over: Mapping[str, Any]) -> Manifest:
    result = dict(base)
    for key, value in over.items():
        result[key] = _overlaid(base.get(key, {}), value) if isinstance(value, dict) else value
    return result


def test_an_unknown_configuration_key_is_kept(kubectl: Kubectl) -> None:
    config = {"kv_cache_config": {"free_gpu_memory_fraction": 0.85}, "newest_key": {"deep": [1, 2]}}
    assert kubectl.create_dry(engine(config=config))["spec"]["engine"]["config"] == config


@pytest.mark.parametrize(
    ("path", "words"),
    [
        pytest.param("inferencecluster", "follow the live demand", id="the resource"),
        pytest.param("ic.spec.slo.ttftMilliseconds", "Time to first token", id="a target, by short name"),
        pytest.param(
            "ic.spec.pools.prefill.parallelism.tensor", "Tensor parallelism", id="deep inside a pool"
        ),
        pytest.param("ic.status.pools.borrowed", "mixed work for the opposite phase", id="status"),
        pytest.param("icpool.spec.replicas", "External mode", id="the child"),
    ],
)
def test_kubectl_explain_tells_what_a_field_means(kubectl: Kubectl, path: str, words: str) -> None:
    assert words in " ".join(kubectl.succeed("explain", path).split())


@pytest.fixture
def engine_pool(kubectl: Kubectl) -> Iterator[str]:
    name = f"llama-{uuid.uuid4().hex[:6]}"
    manifest = {
        "apiVersion": "gpupools.dev/v1alpha1",
        "kind": "EnginePool",
        "metadata": {"name": name},
        "spec": {"clusterRef": {"name": "llama"}, "pool": "decode", "replicas": 2},
    }
    kubectl.succeed("create", "-f", "-", stdin=json.dumps(manifest))
    yield name
    kubectl.run("delete", "enginepool", name)


def test_kubectl_scale_sets_the_wish_of_a_pool(kubectl: Kubectl, engine_pool: str) -> None:
    kubectl.succeed("scale", f"enginepool/{engine_pool}", "--replicas=5", "--current-replicas=2")
    assert kubectl.succeed("get", "icpool", engine_pool, "-o", "jsonpath={.spec.replicas}") == "5"


def test_an_autoscaler_finds_the_pool_through_its_scale_subresource(
    kubectl: Kubectl, engine_pool: str
) -> None:
    status = {"status": {"replicas": 3, "readyReplicas": 2, "selector": "gpupools.dev/pool=decode"}}
    kubectl.succeed(
        *(
            "patch",
            "enginepool",
            engine_pool,
            "--subresource=status",
            "--type=merge",
            f"--patch={json.dumps(status)}",
        )
    )
    scale = json.loads(kubectl.succeed("get", "enginepool", engine_pool, "--subresource=scale", "-o", "json"))
    assert scale["spec"]["replicas"] == 2
    assert scale["status"] == {"replicas": 3, "selector": "gpupools.dev/pool=decode"}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"pool": "prefill"}, id="its pool"),
        pytest.param({"clusterRef": {"name": "other"}}, id="its cluster"),
    ],
)
def test_a_child_never_changes_whom_it_belongs_to(
    kubectl: Kubectl, engine_pool: str, change: Manifest
) -> None:
    result = kubectl.run(
        *("patch", "enginepool", engine_pool, "--type=merge", f"--patch={json.dumps({'spec': change})}")
    )
    assert result.returncode != 0
    assert "the field is immutable" in result.stderr


def test_status_is_written_beside_spec_and_shown_in_columns(
    kubectl: Kubectl, clean_cluster: Callable[[Manifest], None]
) -> None:
    clean_cluster(cluster())
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "MinimumServing",
        "message": "Every pool holds its minimum.",
        "lastTransitionTime": "2026-11-01T00:00:00Z",
        "observedGeneration": 1,
    }
    status = {
        "observedGeneration": 1,
        "conditions": [condition],
        "summary": {"prefill": "3/3", "decode": "2/2", "mixed": "0/0", "gpus": "10/16"},
    }
    patch = f"--patch={json.dumps({'status': status})}"
    kubectl.succeed("patch", "ic", "llama", "--subresource=status", "--type=merge", patch)
    row = kubectl.succeed("get", "ic", "llama", "--no-headers").split()
    assert row[:7] == ["llama", "True", "3/3", "2/2", "0/0", "10/16", "Automatic"]


@pytest.fixture
def clean_cluster(kubectl: Kubectl) -> Iterator[Callable[[Manifest], None]]:
    created: list[str] = []

    def create(manifest: Manifest) -> None:
        kubectl.succeed("create", "-f", "-", stdin=json.dumps(manifest))
        created.append(manifest["metadata"]["name"])

    yield create
    for name in created:
        kubectl.run("delete", "inferencecluster", name)

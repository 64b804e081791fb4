"""The CRDs on a real API server: what it refuses, with which words, and what it fills in."""

from __future__ import annotations

import copy
import json
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e import localkube

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),  # the first test may have to build Kubernetes
]

REPOSITORY = Path(__file__).resolve().parents[1]
SAMPLES = sorted((REPOSITORY / "docs" / "samples").glob("*.yaml"))

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl against the embedded Kubernetes, in a namespace of this run."""

    program: Path
    kubeconfig: Path
    namespace: str

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [str(self.program), f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}"]
        return subprocess.run(
            [*command, *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=120
        )

    def succeed(self, *arguments: str, stdin: str | None = None) -> str:
        result = self.run(*arguments, stdin=stdin)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def create_dry(self, manifest: Manifest) -> Manifest:
        """The object as the API server would store it."""
        text = self.succeed("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(manifest))
        stored: Manifest = json.loads(text)
        return stored

    def refusal(self, manifest: Manifest) -> str:
        """What the API server says against the object."""
        result = self.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(manifest))
        assert result.returncode != 0, "the object was accepted"
        return result.stderr


@pytest.fixture(scope="module")
def kubectl() -> Iterator[Kubectl]:
    """CRDs that were not there before are removed again: helm adopts no object that it did not make."""
    running = localkube.up()
    control = Kubectl(running.kubectl, running.kubeconfig, f"api-{uuid.uuid4().hex[:8]}")
    files = ("-f", str(REPOSITORY / "crds"))
    existed = control.run("get", "crd", "inferenceclusters.gpupools.dev").returncode == 0
    control.succeed("apply", "--server-side", "--force-conflicts", *files)
    control.succeed("wait", "--for=condition=Established", *files, "--timeout=60s")
    control.succeed("create", "namespace", control.namespace)
    yield control
    control.run("delete", "namespace", control.namespace, "--wait=false")
    if not existed:
        control.run("delete", *files)


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

CROSS_FIELD_REFUSALS = [
    pytest.param(
        prefill(minReplicas=5),
        "spec.pools.prefill.minReplicas",
        "minReplicas 5 exceeds maxReplicas 4: lower minReplicas or raise maxReplicas",
        id="minimum above maximum",
    ),
    pytest.param(
        prefill(parallelism={"tensor": 4}),
        "spec.pools.prefill.parallelism",
        "parallelism.tensor 4 x parallelism.pipeline 1 must equal gpusPerReplica 2: change one of them",
        id="tensor parallelism is not the GPU count",
    ),
    pytest.param(
        prefill(gpusPerReplica=4, parallelism={"tensor": 4, "pipeline": 2}),
        "spec.pools.prefill.parallelism",
        "parallelism.tensor 4 x parallelism.pipeline 2 must equal gpusPerReplica 4",
        id="tensor times pipeline is not the GPU count",
    ),
    pytest.param(
        cluster(
            budget={"gpus": 8},
            pools={"prefill": pool(minReplicas=2), "decode": pool(minReplicas=4), "mixed": pool()},
        ),
        "spec.budget.gpus",
        "budget.gpus is 8, but the minimums need 14 GPUs (prefill 4, decode 8, mixed 2): "
        "raise budget.gpus or lower minReplicas",
        id="minimums above the budget",
    ),
    pytest.param(
        cluster(budget={"gpus": 3}, pools={"prefill": pool(minReplicas=0), "decode": pool(minReplicas=0)}),
        "spec.budget.gpus",
        "budget.gpus is 3, but one prefill and one decode replica, which only serve together, need 4 GPUs",
        id="no pair fits the budget",
    ),
    pytest.param(
        cluster(budget={"gpus": 1}, pools={"mixed": pool(minReplicas=0)}),
        "spec.budget.gpus",
        "budget.gpus does not hold one mixed replica: raise budget.gpus or lower pools.mixed.gpusPerReplica",
        id="no mixed replica fits the budget",
    ),
    pytest.param(
        pools(prefill=pool(), mixed=pool()),
        "spec.pools",
        "prefill.maxReplicas is 4 and decode.maxReplicas is 0, but neither phase can end without the other",
        id="prefill without decode",
    ),
    pytest.param(
        pools(prefill=pool(minReplicas=0, maxReplicas=0), decode=pool()),
        "spec.pools",
        "prefill.maxReplicas is 0 and decode.maxReplicas is 4",
        id="decode without prefill",
    ),
    pytest.param(
        pools(prefill=pool(minReplicas=0), decode=pool()),
        "spec.pools",
        "prefill.minReplicas is 0 and decode.minReplicas is 1, but one without the other serves nothing",
        id="only prefill scales to zero",
    ),
    pytest.param(
        pools(prefill=pool(minReplicas=0, maxReplicas=0), decode=pool(minReplicas=0, maxReplicas=0)),
        "spec.pools",
        "no pool may hold a replica: give mixed a maxReplicas of at least 1, or prefill and decode one each",
        id="all pools off",
    ),
    pytest.param(pools(), "spec.pools", "no pool may hold a replica", id="no pool at all"),
    pytest.param(
        prefill(performance={"profile": "some", "coefficients": COEFFICIENTS}),
        "spec.pools.prefill.performance",
        "exactly one of profile and coefficients describes the speed: set one, remove the other",
        id="profile and coefficients",
    ),
    pytest.param(
        prefill(performance={}),
        "spec.pools.prefill.performance",
        "exactly one of profile and coefficients describes the speed",
        id="neither profile nor coefficients",
    ),
    pytest.param(
        prefill(extraResources={"nvidia.com/gpu": 2}),
        "spec.pools.prefill.extraResources",
        "extraResources must not name gpuResourceName, whose count is gpusPerReplica: remove it there",
        id="GPUs as an extra resource",
    ),
    pytest.param(
        prefill(extraResources={"memory": 4}),
        "spec.pools.prefill.extraResources",
        "cpu, memory and ephemeral-storage belong into resources",
        id="memory as an extra resource",
    ),
    pytest.param(
        prefill(labels={"gpupools.dev/role": "decode"}),
        "spec.pools.prefill.labels",
        "keys that start with gpupools.dev/ belong to the operator: choose another prefix",
        id="a label of the operator",
    ),
    pytest.param(
        prefill(annotations={"gpupools.dev/fenced-at": "0"}),
        "spec.pools.prefill.annotations",
        "keys that start with gpupools.dev/ belong to the operator",
        id="an annotation of the operator",
    ),
    pytest.param(
        prefill(nodeSelector={"not a key": "value"}),
        "spec.pools.prefill.nodeSelector",
        "a key is [prefix/]name of letters, digits, '-', '_' and '.': correct the key",
        id="a node selector key with blanks",
    ),
    pytest.param(
        prefill(tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "value": "present"}]),
        "spec.pools.prefill.tolerations[0].value",
        "operator Exists takes no value",
        id="a toleration that exists and has a value",
    ),
    pytest.param(
        prefill(tolerations=[{"effect": "NoSchedule"}]),
        "spec.pools.prefill.tolerations[0].key",
        "a toleration without key needs operator Exists",
        id="a toleration without a key",
    ),
    pytest.param(
        prefill(tolerations=[{"key": "spot", "operator": "Exists", "tolerationSeconds": 5}]),
        "spec.pools.prefill.tolerations[0].tolerationSeconds",
        "tolerationSeconds needs effect NoExecute",
        id="toleration seconds without an effect",
    ),
    pytest.param(
        with_field(
            "pools.prefill.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms",
            [{"matchExpressions": [{"key": "zone", "operator": "In"}]}],
        ),
        "matchExpressions[0].values",
        "In and NotIn need values, Gt and Lt exactly one, Exists and DoesNotExist none",
        id="an affinity without values",
    ),
    pytest.param(
        with_field(
            "pools.prefill.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms",
            [{"matchExpressions": [{"key": "generation", "operator": "Gt", "values": ["v2"]}]}],
        ),
        "matchExpressions[0].values",
        "Gt and Lt compare whole numbers: write an integer of at most 18 digits, or use In",
        id="an affinity that compares with a word",
    ),
    pytest.param(
        prefill(resources={"requests": {"memory": "64Gi"}, "limits": {"memory": "1e9"}}),
        "spec.pools.prefill.resources.requests",
        "a container cannot reserve more memory than it may use: lower requests, or raise limits",
        id="more memory reserved than allowed",
    ),
    pytest.param(
        prefill(resources={"requests": {"cpu": 2}, "limits": {"cpu": "1500m"}}),
        "spec.pools.prefill.resources.requests",
        "a container cannot reserve more cpu than it may use",
        id="more cores reserved than allowed",
    ),
    pytest.param(
        prefill(resources={"requests": {"ephemeral-storage": "2Gi"}, "limits": {"ephemeral-storage": "1Gi"}}),
        "spec.pools.prefill.resources.requests",
        "a container cannot reserve more ephemeral-storage than it may use",
        id="more disk reserved than allowed",
    ),
    pytest.param(
        cluster(engine={"image": "registry.example:5000/engine:latest"}),
        "spec.engine.version",
        "version cannot be read from the tag of image: set version to the TensorRT-LLM release inside the image",
        id="an image whose tag tells no version",
    ),
    pytest.param(
        engine(emulated={"bootSeconds": 1}),
        "spec.engine.emulated",
        "emulated applies to backend Emulated only: remove emulated, or change backend",
        id="emulation settings of a real engine",
    ),
    pytest.param(
        engine(modelCache={"persistentVolumeClaim": "weights", "sizeLimit": "10Gi"}),
        "spec.engine.modelCache.sizeLimit",
        "sizeLimit bounds the node-local cache, which persistentVolumeClaim replaces: remove one of the two",
        id="a claim with a size limit",
    ),
    pytest.param(
        cluster(slo={"ttftMilliseconds": 40, "itlMilliseconds": 400}),
        "spec.slo.itlMilliseconds",
        "itlMilliseconds 400 exceeds ttftMilliseconds 40, but the first token takes at least one step: "
        "swap them if they are mixed up, or raise ttftMilliseconds",
        id="targets the wrong way round",
    ),
    pytest.param(
        cluster(slo={"ttftMilliseconds": 60000, "itlMilliseconds": 40}),
        "spec.router.maxQueueSeconds",
        "router.maxQueueSeconds is shorter than slo.ttftMilliseconds",
        id="requests refused before their target",
    ),
    pytest.param(
        cluster(scaling={"expectedBootSeconds": 3600}),
        "spec.scaling.expectedBootSeconds",
        "expectedBootSeconds 3600 exceeds startupTimeoutSeconds 1800, so every replica would be given up",
        id="a boot longer than its deadline",
    ),
    pytest.param(
        cluster(budget={"gpus": 16, "minGpus": 17}),
        "spec.budget.minGpus",
        "minGpus 17 exceeds gpus 16: lower minGpus or raise gpus",
        id="more GPUs kept than there may be",
    ),
    pytest.param(
        named("a" * 40),
        "InferenceCluster",
        "metadata.name must be a DNS label of at most 39 characters",
        id="a name too long for its Pods",
    ),
    pytest.param(
        named("llama.3"), "InferenceCluster", "metadata.name must be a DNS label", id="a name with a dot"
    ),
    pytest.param(
        named("3-llama"),
        "InferenceCluster",
        "that starts with a letter",
        id="a name that no Service can have",
    ),
]

FIELD_REFUSALS = [
    pytest.param("slo.ttftMilliseconds", "400ms", "must be of type integer", id="a unit in an integer"),
    pytest.param(
        "slo.ttftMilliseconds", 0.4, "must be of type integer", id="seconds instead of milliseconds"
    ),
    pytest.param("slo.ttftMilliseconds", 9, "greater than or equal to 10", id="an impossible TTFT"),
    pytest.param("slo.itlMilliseconds", 0, "greater than or equal to 1", id="an ITL of nothing"),
    pytest.param("slo.percentile", 100, "less than or equal to 99", id="every request"),
    pytest.param("budget.gpus", 0, "greater than or equal to 1", id="no GPU"),
    pytest.param("budget.gpus", -8, "greater than or equal to 1", id="a negative budget"),
    pytest.param("budget.gpus", "8", "must be of type integer", id="a budget in quotes"),
    pytest.param("pools.prefill.minReplicas", -1, "greater than or equal to 0", id="negative replicas"),
    pytest.param("pools.prefill.maxReplicas", 1001, "less than or equal to 1000", id="too many replicas"),
    pytest.param(
        "pools.prefill.gpusPerReplica", 0, "greater than or equal to 1", id="a replica without GPUs"
    ),
    pytest.param("pools.prefill.gpuResourceName", "gpu", "should match", id="a resource without a vendor"),
    pytest.param(
        "pools.prefill.resources",
        {"requests": {"memory": "64GB"}},
        "correct number or unit",
        id="a quantity in GB",
    ),
    pytest.param(
        "pools.prefill.resources", {"requests": {"cpu": "-1"}}, "a quantity is", id="a negative quantity"
    ),
    pytest.param("pools.prefill.resources", {"limits": {"cpu": -1}}, "a quantity is", id="a negative number"),
    pytest.param(
        "pools.prefill.resources",
        {"limits": {"cpu": "1" * 100}},
        "a quantity is",
        id="a quantity of many digits",
    ),
    pytest.param("engine.backend", "Torch", "supported values", id="a backend that does not exist yet"),
    pytest.param("engine.backend", "", "supported values", id="an empty backend"),
    pytest.param("engine.image", "--privileged", "should match", id="an image that is an option"),
    pytest.param("engine.version", "latest", "should match", id="a version that is a word"),
    pytest.param(
        "engine.config", "max_batch_size: 8", "must be of type object", id="a configuration as text"
    ),
    pytest.param(
        "engine.kvTransfer", {"backend": "MPI"}, "supported values", id="a transport with a fixed world"
    ),
    pytest.param("engine.env", [{"name": "A B"}], "should match", id="a variable with a blank"),
    pytest.param("engine.env", [{"name": "A"}, {"name": "A"}], "Duplicate value", id="a variable twice"),
    pytest.param("model.source", "--help", "should match", id="a model that is an option"),
    pytest.param("model.source", "a b", "should match", id="a model with a blank"),
    pytest.param("scaling.mode", "automatic", "supported values", id="a mode in lower case"),
    pytest.param("scaling.conversion", "enabled", "supported values", id="conversion in lower case"),
    pytest.param("scaling.intervalSeconds", 0, "greater than or equal to 1", id="no interval"),
    pytest.param(
        "scaling.behavior",
        {"scaleUp": {"policies": [{"type": "Pods", "value": 0, "periodSeconds": 15}]}},
        "greater than or equal to 1",
        id="a policy that forbids everything",
    ),
    pytest.param("router.replicas", 0, "greater than or equal to 1", id="no router"),
    pytest.param(
        "router.service", {"type": "NodePort"}, "supported values", id="a service type we do not offer"
    ),
]

UNKNOWN_FIELDS = [
    pytest.param("pools.prefill.hostNetwork", True, id="a Pod field outside the allow-list"),
    pytest.param("pools.encode", pool(), id="a pool that does not exist"),
    pytest.param("engine.env", [{"name": "TOKEN", "valueFrom": {}}], id="a variable from elsewhere"),
    pytest.param("slo.ttftMillisecond", 400, id="a typing error"),
]


@pytest.mark.parametrize(("manifest", "field", "message"), CROSS_FIELD_REFUSALS)
def test_a_broken_rule_is_refused_naming_field_and_remedy(
    kubectl: Kubectl, manifest: Manifest, field: str, message: str
) -> None:
    refusal = kubectl.refusal(manifest)
    assert field in refusal
    assert message in refusal


@pytest.mark.parametrize(("path", "value", "message"), FIELD_REFUSALS)
def test_a_bad_value_is_refused_naming_its_field(
    kubectl: Kubectl, path: str, value: object, message: str
) -> None:
    refusal = kubectl.refusal(with_field(path, value))
    assert f"spec.{path}" in refusal
    assert message in refusal


@pytest.mark.parametrize(("path", "value"), UNKNOWN_FIELDS)
def test_an_unknown_field_is_refused(kubectl: Kubectl, path: str, value: object) -> None:
    assert "unknown field" in kubectl.refusal(with_field(path, value))


@pytest.mark.parametrize(
    "missing", ["model", "engine", "slo", "budget", "pools"], ids=lambda name: f"without {name}"
)
def test_a_section_without_a_sensible_default_is_required(kubectl: Kubectl, missing: str) -> None:
    manifest = cluster()
    del manifest["spec"][missing]
    assert f"spec.{missing}: Required value" in kubectl.refusal(manifest)


def test_an_engine_without_an_image_is_refused(kubectl: Kubectl) -> None:
    assert "spec.engine.image: Required value" in kubectl.refusal(cluster(engine={"backend": "Emulated"}))


@pytest.mark.parametrize(
    "path",
    [
        "model.source",
        "model.servedName",
        "engine.image",
        "engine.version",
        "engine.priorityClassName",
        "pools.prefill.gpuResourceName",
        "router.image",
    ],
)
def test_an_absurdly_long_string_is_refused(kubectl: Kubectl, path: str) -> None:
    assert "Too long" in kubectl.refusal(with_field(path, "a" * 100_000))


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
        },
        "router": {
            "replicas": 1,
            "overflowTokens": 8192,
            "maxQueueSeconds": 30,
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

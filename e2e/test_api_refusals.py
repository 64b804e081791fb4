"""The CRDs on a real API server: what it refuses, and with which words."""

from __future__ import annotations

import pytest

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
    with_field,
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),  # the first test may have to build Kubernetes
]

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
        "budget.gpus is 3, but one prefill and one decode replica, which only serve together, and mixed.minReplicas need 4 GPUs",
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

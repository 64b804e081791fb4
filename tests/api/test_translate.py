"""From the custom resource to the core: units, defaults, absent pools, speed, revision."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from inferencecluster.api.inferencecluster import InferenceCluster, parse_cluster
from inferencecluster.api.translate import engine_version, gpu_product, revision_of, template_of, to_core
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.profiles import PROFILES, profile
from inferencecluster.core.spec import (
    Behavior,
    Objective,
    PolicyType,
    PoolSpec,
    ScalingMode,
    ScalingPolicy,
    ScalingRules,
    SelectPolicy,
    Slo,
)

SAMPLES = sorted((Path(__file__).resolve().parents[2] / "docs" / "samples").glob("*.yaml"))
PROFILE = "llama-3.1-70b-fp8/h200-tp2"
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

Manifest = dict[str, Any]


def pool(**changes: Any) -> Manifest:
    return {
        "minReplicas": 1,
        "maxReplicas": 4,
        "gpusPerReplica": 2,
        "performance": {"profile": PROFILE},
        **changes,
    }


def manifest(**spec: Any) -> Manifest:
    return {
        "apiVersion": "gpupools.dev/v1alpha1",
        "kind": "InferenceCluster",
        "metadata": {"name": "llama", "namespace": "team", "uid": "u-1", "generation": 7},
        "spec": {
            "model": {"source": "nvidia/Llama-3.1-70B-Instruct-FP8"},
            "engine": {"image": "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"},
            "slo": {"ttftMilliseconds": 400, "itlMilliseconds": 40},
            "budget": {"gpus": 16},
            "pools": {"prefill": pool(), "decode": pool(minReplicas=2), "mixed": pool(minReplicas=0)},
            **spec,
        },
    }


def cluster(**spec: Any) -> InferenceCluster:
    return parse_cluster(manifest(**spec))


def one_pool(**changes: Any) -> InferenceCluster:
    """Mixed alone, without performance unless given."""
    entry = pool(**changes)
    if "performance" not in changes:
        del entry["performance"]
    return cluster(pools={"mixed": entry})


def test_the_core_gets_seconds_generation_and_revision() -> None:
    spec = to_core(
        cluster(
            slo={"percentile": 95, "ttftMilliseconds": 400, "itlMilliseconds": 40},
            scaling={
                "mode": "Recommend",
                "intervalSeconds": 5,
                "expectedBootSeconds": 90,
                "startupTimeoutSeconds": 600,
                "drainTimeoutSeconds": 300,
            },
            router={"overflowTokens": 4096},
            budget={"gpus": 16, "minGpus": 12},
        ),
        revision="abc",
    )
    assert (spec.generation, spec.revision, spec.budget_gpus, spec.kept_gpus) == (7, "abc", 16, 12)
    assert spec.slo == Slo(percentile=95, ttft_seconds=0.4, itl_seconds=0.04)
    assert spec.mode is ScalingMode.RECOMMEND
    assert (spec.interval_seconds, spec.boot_seconds) == (5.0, 90.0)
    assert (spec.startup_deadline_seconds, spec.drain_deadline_seconds) == (600.0, 300.0)
    assert spec.overflow_tokens == 4096


def test_the_defaults_are_the_documented_ones() -> None:
    spec = to_core(cluster(), revision="r")
    assert (spec.mode, spec.slo.percentile) == (ScalingMode.AUTOMATIC, 90)
    assert spec.kept_gpus == 0
    assert not any(pool.interchangeable for pool in spec.pools)
    assert (spec.interval_seconds, spec.boot_seconds) == (15.0, 120.0)
    assert (spec.startup_deadline_seconds, spec.drain_deadline_seconds) == (1800.0, 1800.0)
    assert spec.overflow_tokens is None
    assert spec.behavior == Behavior(
        scale_up=ScalingRules(0.0, SelectPolicy.MAX, ()), scale_down=ScalingRules(0.0, SelectPolicy.MAX, ())
    )


def test_behavior_keeps_the_meaning_of_the_autoscaler_fields() -> None:
    behavior = to_core(
        cluster(
            scaling={
                "behavior": {
                    "scaleUp": {"selectPolicy": "Disabled"},
                    "scaleDown": {
                        "stabilizationWindowSeconds": 0,
                        "selectPolicy": "Min",
                        "policies": [{"type": "Percent", "value": 50, "periodSeconds": 60}],
                    },
                }
            }
        ),
        revision="r",
    ).behavior
    assert behavior.scale_up == ScalingRules(0.0, SelectPolicy.DISABLED, ())
    assert behavior.scale_down == ScalingRules(
        0.0, SelectPolicy.MIN, (ScalingPolicy(PolicyType.PERCENT, 50, 60.0),)
    )


def test_pools_come_in_order_with_their_bounds() -> None:
    pools = to_core(cluster(), revision="r").pools
    assert [(entry.name, entry.min_replicas, entry.max_replicas) for entry in pools] == [
        (PoolName.PREFILL, 1, 4),
        (PoolName.DECODE, 2, 4),
        (PoolName.MIXED, 0, 4),
    ]


@pytest.mark.parametrize(
    "absent",
    [
        pytest.param({}, id="absent"),
        pytest.param({"mixed": {"minReplicas": 0, "maxReplicas": 0, "gpusPerReplica": 1}}, id="switched off"),
    ],
)
def test_a_pool_that_is_off_needs_no_speed_and_holds_nothing(absent: Manifest) -> None:
    mixed = to_core(cluster(pools={"prefill": pool(), "decode": pool(), **absent}), revision="r").pool(
        PoolName.MIXED
    )
    assert (mixed.name, mixed.min_replicas, mixed.max_replicas) == (PoolName.MIXED, 0, 0)
    assert mixed.performance == profile(PROFILE).performance


def test_measured_coefficients_become_seconds() -> None:
    performance = (
        to_core(one_pool(performance={"coefficients": COEFFICIENTS}), revision="r").pools[2].performance
    )
    assert performance.prefill.seconds(1000) == pytest.approx(0.00832 + 0.06117 + 0.000892)
    assert performance.decode.step_seconds(10, 10_000) == pytest.approx(0.01234 + 0.000322 + 0.0001952)
    assert (performance.kv_capacity_tokens, performance.max_batch_size) == (500_000, 192)


def affinity(*terms: list[Manifest]) -> Manifest:
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": term} for term in terms]
            }
        }
    }


def product_in(*values: str) -> Manifest:
    return {"key": "nvidia.com/gpu.product", "operator": "In", "values": list(values)}


@pytest.mark.parametrize(
    ("placement", "product"),
    [
        pytest.param(
            {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H200"}}, "NVIDIA-H200", id="selector"
        ),
        pytest.param({"affinity": affinity([product_in("NVIDIA-H200")])}, "NVIDIA-H200", id="affinity"),
        pytest.param(
            {"affinity": affinity([product_in("NVIDIA-H200")], [product_in("NVIDIA-H200")])},
            "NVIDIA-H200",
            id="all alternatives agree",
        ),
        pytest.param({"affinity": affinity([product_in("A", "B")])}, None, id="two products"),
        pytest.param(
            {"affinity": affinity([product_in("A")], [{"key": "zone", "operator": "Exists"}])},
            None,
            id="one alternative is open",
        ),
        pytest.param(
            {"affinity": affinity([{**product_in("A"), "operator": "NotIn"}])}, None, id="an excluded product"
        ),
        pytest.param({"affinity": {}}, None, id="empty affinity"),
        pytest.param({}, None, id="no placement"),
    ],
)
def test_the_gpu_product_is_known_only_when_the_placement_pins_it(
    placement: Manifest, product: str | None
) -> None:
    mixed = one_pool(**placement).spec.pools.mixed
    assert mixed is not None
    found = gpu_product(mixed)
    assert (None if isinstance(found, Missing) else found) == product


def test_a_pinned_gpu_product_finds_the_built_in_profile() -> None:
    spec = to_core(one_pool(nodeSelector={"nvidia.com/gpu.product": "NVIDIA-H200"}), revision="r")
    assert spec.pools[2].performance == profile(PROFILE).performance


@pytest.mark.parametrize(
    ("bad", "field", "words"),
    [
        pytest.param(
            one_pool(), "spec.pools.mixed.performance", "nvidia.com/gpu.product", id="unknown hardware"
        ),
        pytest.param(
            one_pool(nodeSelector={"nvidia.com/gpu.product": "Abacus"}),
            "spec.pools.mixed.performance",
            "no built-in profile fits nvidia/Llama-3.1-70B-Instruct-FP8 on 2 x Abacus",
            id="hardware without a profile",
        ),
        pytest.param(
            one_pool(
                nodeSelector={"nvidia.com/gpu.product": "NVIDIA-H200"},
                gpusPerReplica=4,
                parallelism={"tensor": 2, "pipeline": 2},
            ),
            "spec.pools.mixed.performance",
            "one pipeline stage",
            id="pipeline parallelism",
        ),
        pytest.param(
            one_pool(performance={"profile": "nothing/like-it"}),
            "spec.pools.mixed.performance.profile",
            "nothing/like-it",
            id="unknown profile",
        ),
        pytest.param(
            one_pool(performance={"profile": PROFILE}, gpusPerReplica=4),
            "spec.pools.mixed.performance.profile",
            "it was measured with tensor parallelism 2 and the pool has tensor 4 x pipeline 1",
            id="profile of another parallelism",
        ),
        pytest.param(
            one_pool(performance={}),
            "spec.pools.mixed.performance",
            "exactly one of profile and coefficients",
            id="empty performance",
        ),
        pytest.param(cluster(pools={}), "spec.pools", "at least one pool", id="no pool"),
    ],
)
def test_what_cel_cannot_see_is_a_spec_error_naming_the_field(
    bad: InferenceCluster, field: str, words: str
) -> None:
    with pytest.raises(SpecError) as caught:
        to_core(bad, revision="r")
    assert caught.value.field == field
    assert words in str(caught.value)
    assert caught.value.advice


@pytest.mark.parametrize("name", PROFILES)
def test_every_built_in_profile_can_be_named(name: str) -> None:
    gpus = PROFILES[name].tensor_parallel
    spec = to_core(one_pool(performance={"profile": name}, gpusPerReplica=gpus), revision="r")
    assert spec.pools[2].performance == PROFILES[name].performance


@pytest.mark.parametrize(
    ("engine", "version"),
    [
        pytest.param({"image": "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"}, "1.2.1", id="release"),
        pytest.param({"image": "r:5000/e:1.3.0rc29-arm64"}, "1.3.0rc29", id="candidate with a suffix"),
        pytest.param({"image": "e:v1.4.0rc1@sha256:" + "0" * 64}, "1.4.0rc1", id="tag and digest"),
        pytest.param({"image": "e:latest", "version": "1.2.0"}, "1.2.0", id="told"),
        pytest.param({"image": "e:1.2.1", "version": "1.3.0rc1"}, "1.3.0rc1", id="told against the tag"),
        pytest.param({"image": "e:latest"}, None, id="neither"),
        pytest.param({"image": "r.example:5000/1.2.1/e"}, None, id="numbers elsewhere"),
    ],
)
def test_the_engine_version_comes_from_the_field_or_the_tag(engine: Manifest, version: str | None) -> None:
    found = engine_version(cluster(engine=engine).spec.engine)
    assert (None if isinstance(found, Missing) else found) == version


ENGINE = {"image": "e:1.2.1"}

ROLLS_OUT = [
    pytest.param({"model": {"source": "other"}}, id="model"),
    pytest.param({"engine": {**ENGINE, "image": "e:1.2.2"}}, id="image"),
    pytest.param({"engine": {**ENGINE, "backend": "Emulated"}}, id="backend"),
    pytest.param({"engine": {**ENGINE, "version": "1.2.1"}}, id="version"),
    pytest.param({"engine": {**ENGINE, "config": {"max_seq_len": 1}}}, id="configuration"),
    pytest.param({"engine": {**ENGINE, "kvTransfer": {"backend": "UCX"}}}, id="KV transfer"),
    pytest.param({"engine": {**ENGINE, "env": [{"name": "UCX_TLS", "value": "tcp"}]}}, id="environment"),
]
STAYS = [
    pytest.param({"budget": {"gpus": 99}}, id="budget"),
    pytest.param({"slo": {"ttftMilliseconds": 999, "itlMilliseconds": 9}}, id="targets"),
    pytest.param({"scaling": {"mode": "Fixed"}}, id="mode"),
    pytest.param({"router": {"replicas": 3}}, id="router"),
    pytest.param({"pools": {"mixed": pool(maxReplicas=9)}}, id="bounds"),
    pytest.param({"engine": {**ENGINE, "priorityClassName": "high"}}, id="priority"),
    pytest.param({"engine": {**ENGINE, "kvTransfer": {"backend": "NIXL"}}}, id="a default written out"),
]


@pytest.mark.parametrize("change", ROLLS_OUT)
def test_a_change_of_what_engines_must_share_is_a_new_revision(change: Manifest) -> None:
    assert revision_of(cluster(engine=ENGINE)) != revision_of(cluster(**{"engine": ENGINE, **change}))


@pytest.mark.parametrize("change", STAYS)
def test_a_change_of_anything_else_keeps_the_revision(change: Manifest) -> None:
    assert revision_of(cluster(engine=ENGINE)) == revision_of(cluster(**{"engine": ENGINE, **change}))


def template(**changes: Any) -> str:
    mixed = one_pool(**changes).spec.pools.mixed
    assert mixed is not None
    return template_of(mixed)


TOLERATION = {"key": "gpu", "operator": "Exists"}
NODES = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
        }
    }
}
SPREAD = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"gpusPerReplica": 4, "parallelism": {"tensor": 4}}, id="GPUs"),
        pytest.param({"gpusPerReplica": 2, "parallelism": {"tensor": 1, "pipeline": 2}}, id="parallelism"),
        pytest.param({"gpuResourceName": "nvidia.com/mig-3g.40gb"}, id="kind of GPU"),
        pytest.param({"nodeSelector": {"zone": "a"}}, id="node selector"),
        pytest.param({"tolerations": [TOLERATION]}, id="tolerations"),
        pytest.param({"affinity": NODES}, id="affinity"),
        pytest.param({"topologySpread": [SPREAD]}, id="spread"),
        pytest.param({"resources": {"limits": {"memory": "64Gi"}}}, id="resources"),
        pytest.param({"extraResources": {"rdma/ib": 1}}, id="devices"),
        pytest.param({"labels": {"team": "a"}}, id="labels"),
        pytest.param({"annotations": {"team": "a"}}, id="annotations"),
        pytest.param({"performance": {"coefficients": {**COEFFICIENTS, "maxBatchSize": 7}}}, id="batch"),
    ],
)
def test_a_change_of_what_a_pool_puts_into_its_pods_is_another_template(change: Manifest) -> None:
    base = {"gpusPerReplica": 2, "performance": {"coefficients": COEFFICIENTS}}
    assert template(**base) != template(**{**base, **change})


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"minReplicas": 2, "maxReplicas": 7}, id="bounds"),
        pytest.param(
            {"performance": {"coefficients": {**COEFFICIENTS, "kvCapacityTokens": 7}}}, id="a measured speed"
        ),
        pytest.param({"parallelism": {"tensor": 2}}, id="the parallelism that it has anyway"),
        pytest.param(
            {
                "gpuResourceName": "nvidia.com/gpu",
                "nodeSelector": {},
                "tolerations": [],
                "topologySpread": [],
                "extraResources": {},
                "labels": {},
                "annotations": {},
            },
            id="defaults, written out",
        ),
    ],
)
def test_a_change_that_reaches_no_pod_keeps_the_template(change: Manifest) -> None:
    base = {"gpusPerReplica": 2, "performance": {"coefficients": COEFFICIENTS}}
    assert template(**base) == template(**{**base, **change})


def test_a_template_is_the_same_in_every_release() -> None:
    """Whoever changes this value replaces every replica of every user at the next upgrade."""
    chosen = {"gpusPerReplica": 2, "nodeSelector": {"zone": "a"}, "tolerations": [TOLERATION]}
    assert template(**chosen, performance={"coefficients": COEFFICIENTS}) == "320457da0c"


def test_each_pool_has_its_own_template() -> None:
    pools = {"prefill": pool(nodeSelector={"zone": "a"}), "decode": pool(), "mixed": pool()}
    prefill, decode, mixed = to_core(cluster(pools=pools), revision="r").pools
    assert prefill.template != decode.template == mixed.template


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(config=st.dictionaries(st.text(min_size=1, max_size=5), json_values, max_size=4))
def test_the_order_of_configuration_keys_never_matters(config: Manifest) -> None:
    backwards = dict(reversed(config.items()))
    one = revision_of(cluster(engine={**ENGINE, "config": config}))
    assert one == revision_of(cluster(engine={**ENGINE, "config": backwards}))
    assert len(one) == 10
    assert one.isalnum()


def test_fields_of_a_newer_crd_are_ignored() -> None:
    newer = copy.deepcopy(manifest())
    newer["spec"]["engine"]["speculation"] = {"depth": 3}
    newer["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    assert parse_cluster(newer) == parse_cluster(manifest())


def test_an_object_of_a_foreign_crd_names_the_field_that_cannot_be_read() -> None:
    foreign = copy.deepcopy(manifest())
    foreign["spec"]["scaling"] = {"mode": "Psychic"}
    with pytest.raises(SpecError, match=r"spec\.scaling\.mode is Psychic.*install the CRDs") as caught:
        parse_cluster(foreign)
    assert caught.value.field == "spec.scaling.mode"


def test_parsing_keeps_the_identity_that_guards_every_write() -> None:
    parsed = parse_cluster(
        {
            **manifest(),
            "metadata": {
                "name": "llama",
                "namespace": "team",
                "uid": "u-1",
                "resourceVersion": "12",
                "generation": 7,
                "deletionTimestamp": "2026-11-01T00:00:00Z",
                "finalizers": ["gpupools.dev/drain"],
            },
        }
    )
    assert (parsed.metadata.uid, parsed.metadata.resource_version) == ("u-1", "12")
    assert parsed.metadata.deletion_timestamp is not None
    assert parsed.metadata.finalizers == ("gpupools.dev/drain",)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
def test_every_sample_can_be_decided_on(sample: Path) -> None:
    for document in yaml.safe_load_all(sample.read_text(encoding="utf-8")):
        if document["kind"] == "InferenceCluster":
            parsed = parse_cluster(document)
            to_core(parsed, revision=revision_of(parsed))


def test_the_folder_of_samples_is_not_empty() -> None:
    assert SAMPLES


def converting(**pools: Manifest) -> dict[PoolName, PoolSpec]:
    spec = to_core(cluster(pools=pools, scaling={"conversion": "Enabled"}), revision="r")
    return {item.name: item for item in spec.pools}


@pytest.mark.parametrize(
    ("pools", "expected"),
    [
        pytest.param(
            {"prefill": pool(), "decode": pool(minReplicas=2), "mixed": pool(minReplicas=0)},
            {PoolName.PREFILL, PoolName.DECODE, PoolName.MIXED},
            id="bounds may differ",
        ),
        pytest.param(
            {"prefill": pool(), "decode": pool()}, {PoolName.PREFILL, PoolName.DECODE}, id="two pools"
        ),
        pytest.param(
            {"prefill": pool(), "decode": pool(nodeSelector={"zone": "b"}), "mixed": pool()},
            {PoolName.PREFILL, PoolName.MIXED},
            id="one on other nodes",
        ),
        pytest.param({"prefill": pool(), "decode": pool(labels={"team": "b"})}, set(), id="none alike"),
        pytest.param(
            {"prefill": pool(), "decode": pool(), "mixed": pool(maxReplicas=0, minReplicas=0)},
            {PoolName.PREFILL, PoolName.DECODE},
            id="one is off",
        ),
        pytest.param({"mixed": pool()}, set(), id="nobody to exchange with"),
    ],
)
def test_pools_that_agree_are_interchangeable(pools: dict[str, Manifest], expected: set[PoolName]) -> None:
    found = converting(**pools)
    assert {name for name, item in found.items() if item.interchangeable} == expected
    assert len({found[name].template for name in expected}) <= 1


def test_pools_of_unlike_speed_are_not_interchangeable() -> None:
    slow = {**COEFFICIENTS, "kvCapacityTokens": 1000}
    entries = {
        name: pool(performance={"coefficients": speed})
        for name, speed in (("prefill", COEFFICIENTS), ("decode", slow))
    }
    assert not any(item.interchangeable for item in converting(**entries).values())


def test_a_pool_that_becomes_interchangeable_replaces_its_replicas() -> None:
    """Their engines were configured for their phase and may refuse the other one."""
    apart = {item.name: item.template for item in to_core(cluster(), revision="r").pools}
    together = converting(prefill=pool(), decode=pool(minReplicas=2), mixed=pool(minReplicas=0))
    assert all(together[name].template != template for name, template in apart.items())


def test_prices_are_exact_decimals_and_absent_ones_stay_unknown() -> None:
    priced = pool(pricePerGpuHour="2.49", wattsPerGpu=700)
    spec = to_core(
        parse_cluster(manifest(pools={"prefill": priced, "decode": pool()}, scaling={"objective": "Power"})),
        revision="r",
    )
    prefill, decode, _mixed = spec.pools
    assert (prefill.price_per_gpu_hour, prefill.watts_per_gpu) == (2.49, 700.0)
    assert (decode.price_per_gpu_hour, decode.watts_per_gpu) == (None, None)
    assert (spec.objective, to_core(parse_cluster(manifest()), revision="r").objective) == (
        Objective.POWER,
        Objective.COST,
    )


@pytest.mark.parametrize("price", ["2,49", "-1", "2.49 USD", "", "1e3", 2.5])
def test_a_price_that_is_no_decimal_string_is_refused(price: object) -> None:
    with pytest.raises(SpecError, match="pricePerGpuHour"):
        parse_cluster(manifest(pools={"prefill": pool(pricePerGpuHour=price), "decode": pool()}))

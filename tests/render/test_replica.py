from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferencecluster.api.translate import template_of
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.token_budget import PREFILL_TOKENS
from inferencecluster.render.context import Platform, PoolContext
from inferencecluster.render.emulated import emulated_engine
from inferencecluster.render.replica import render_engine_config, render_replica, replica_name

MakeContext = Callable[..., PoolContext]
Manifest = dict[str, Any]

EMULATED = {"backend": "Emulated", "image": "registry.example/emulated-engine:0.1.0"}


def pod(context: PoolContext, ordinal: int = 0) -> Manifest:
    return render_replica(context, ordinal=ordinal)


def container(context: PoolContext) -> Manifest:
    (only,) = pod(context)["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def variables(context: PoolContext) -> dict[str, Manifest]:
    entries = container(context)["env"]
    by_name = {entry["name"]: entry for entry in entries}
    assert len(by_name) == len(entries), "a name that appears twice fails a server-side apply"
    return by_name


def volume(context: PoolContext, name: str) -> Manifest:
    (found,) = [entry for entry in pod(context)["spec"]["volumes"] if entry["name"] == name]
    assert isinstance(found, dict)
    return found


def test_names_are_dense_and_neutral_towards_the_pool(make_context: MakeContext) -> None:
    for pool in PoolName:
        assert pod(make_context(pool), ordinal=7)["metadata"]["name"] == "llama-70b-engine-7"
    assert replica_name("a", 0) == "a-engine-0"


def test_a_replica_is_controlled_by_its_cluster(make_context: MakeContext) -> None:
    (owner,) = pod(make_context())["metadata"]["ownerReferences"]
    assert owner == {
        "apiVersion": "gpupools.dev/v1alpha1",
        "kind": "InferenceCluster",
        "name": "llama-70b",
        "uid": "6b1f9a52-5a0e-4a44-9c53-0a5d1f6f0d11",
        "controller": True,
        "blockOwnerDeletion": True,
    }


@pytest.mark.parametrize("pool", PoolName)
def test_operator_and_router_find_a_replica_by_its_labels(make_context: MakeContext, pool: PoolName) -> None:
    context = make_context(pool)
    metadata = pod(context)["metadata"]
    assert (
        metadata["labels"].items()
        >= {
            "gpupools.dev/cluster": "llama-70b",
            "gpupools.dev/component": "engine",
            "gpupools.dev/pool": pool.value,
            "gpupools.dev/role": pool.value,
            "gpupools.dev/revision": context.revision,
        }.items()
    )
    assert metadata["annotations"] == {
        "gpupools.dev/kv-capacity-tokens": "500000",
        "gpupools.dev/max-batch-size": "192",
        "gpupools.dev/engine-version": "1.2.1",
        "gpupools.dev/served-name": "llama-70b",
        "gpupools.dev/template": template_of(context.pool_spec),
    }


def test_labels_of_the_user_never_replace_those_of_the_operator(make_context: MakeContext) -> None:
    metadata = pod(
        make_context(
            pools={
                "prefill": {
                    "labels": {"team": "search", "llm-d.ai/role": "none"},
                    "annotations": {"note": "x"},
                }
            }
        )
    )["metadata"]
    assert metadata["labels"]["team"] == "search"
    assert metadata["labels"]["llm-d.ai/role"] == "prefill"
    assert metadata["annotations"]["note"] == "x"


def test_gpus_are_limits_in_text(make_context: MakeContext) -> None:
    context = make_context(
        pools={"prefill": {"gpuResourceName": "nvidia.com/mig-3g.40gb", "extraResources": {"rdma/ib": 1}}}
    )
    assert container(context)["resources"]["limits"] == {"rdma/ib": "1", "nvidia.com/mig-3g.40gb": "2"}


def test_an_emulated_replica_holds_its_gpus_too(make_context: MakeContext) -> None:
    assert container(make_context(engine=EMULATED))["resources"] == {
        "requests": {"cpu": "5m", "memory": "48Mi"},
        "limits": {"nvidia.com/gpu": "2"},
    }


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        pytest.param(None, {"cpu": "4", "memory": "16Gi"}, id="defaults"),
        pytest.param({"requests": {"cpu": 12}}, {"cpu": "12", "memory": "16Gi"}, id="one is chosen"),
        pytest.param(
            {"requests": {"ephemeral-storage": "9Gi"}},
            {"cpu": "4", "memory": "16Gi", "ephemeral-storage": "9Gi"},
            id="another kind",
        ),
        pytest.param({"limits": {"memory": "8Gi"}}, {"cpu": "4"}, id="a limit below the default request"),
    ],
)
def test_requests_are_the_users_and_never_above_their_limit(
    make_context: MakeContext, resources: Manifest | None, expected: dict[str, str]
) -> None:
    changes = {"resources": resources} if resources else {}
    assert container(make_context(pools={"prefill": changes}))["resources"]["requests"] == expected


def test_the_token_is_named_and_never_shown(make_context: MakeContext) -> None:
    context = make_context(model={"tokenSecretRef": {"name": "hugging-face"}})
    assert variables(context)["HF_TOKEN"] == {
        "name": "HF_TOKEN",
        "valueFrom": {"secretKeyRef": {"name": "hugging-face", "key": "token"}},
    }
    assert "HF_TOKEN" not in variables(make_context())


def test_variables_of_the_user_replace_defaults_once(make_context: MakeContext) -> None:
    context = make_context(
        engine={"env": [{"name": "HOME", "value": "/home/me"}, {"name": "UCX_TLS", "value": "tcp"}]}
    )
    assert variables(context)["HOME"]["value"] == "/home/me"
    assert variables(context)["UCX_TLS"]["value"] == "tcp"
    assert variables(context)["TRTLLM_NO_USAGE_STATS"]["value"] == "1"


@pytest.mark.parametrize("name", ["HF_TOKEN", "POD_IP", "POD_NAME", "POD_NAMESPACE"])
@pytest.mark.parametrize("backend", ["TensorRTLLM", "Emulated"])
def test_variables_of_the_operator_cannot_be_replaced(
    make_context: MakeContext, name: str, backend: str
) -> None:
    context = make_context(
        engine={"backend": backend, "env": [{"name": "A", "value": "1"}, {"name": name, "value": "x"}]}
    )
    with pytest.raises(SpecError) as refused:
        pod(context)
    assert refused.value.field == "spec.engine.env[1].name"


@pytest.mark.parametrize(
    ("engine", "source"),
    [
        pytest.param({}, {"emptyDir": {}}, id="node-local"),
        pytest.param({"modelCache": {}}, {"emptyDir": {}}, id="empty block"),
        pytest.param(
            {"modelCache": {"sizeLimit": "200Gi"}}, {"emptyDir": {"sizeLimit": "200Gi"}}, id="bounded"
        ),
        pytest.param(
            {"modelCache": {"persistentVolumeClaim": "weights"}},
            {"persistentVolumeClaim": {"claimName": "weights"}},
            id="shared",
        ),
    ],
)
def test_weights_are_cached_where_the_user_says(
    make_context: MakeContext, engine: Manifest, source: Manifest
) -> None:
    assert volume(make_context(engine=engine), "cache") == {"name": "cache", **source}


@pytest.mark.parametrize(("gpus", "size"), [(1, "16Gi"), (2, "16Gi"), (4, "32Gi"), (8, "64Gi"), (16, "64Gi")])
def test_shared_memory_grows_with_the_gpus(make_context: MakeContext, gpus: int, size: str) -> None:
    context = make_context(pools={"prefill": {"gpusPerReplica": gpus}})
    assert volume(context, "shm")["emptyDir"] == {"medium": "Memory", "sizeLimit": size}


def test_pod_and_configuration_name_the_same_object(make_context: MakeContext) -> None:
    context = make_context()
    config = render_engine_config(context)
    assert volume(context, "config")["configMap"]["name"] == config["metadata"]["name"]
    assert config["immutable"] is True
    assert config["metadata"]["labels"]["gpupools.dev/revision"] == context.revision


def test_another_content_or_revision_is_another_object(make_context: MakeContext) -> None:
    contexts = (
        make_context(),
        make_context(PoolName.DECODE),
        # Parallelism changes the content but not the revision, the image the revision but not the content.
        make_context(pools={"prefill": {"parallelism": {"tensor": 1, "pipeline": 2}}}),
        make_context(engine={"image": "registry.example/release:1.2.1"}),
    )
    names = {render_engine_config(context)["metadata"]["name"] for context in contexts}
    assert len(names) == len(contexts)
    assert render_engine_config(make_context())["metadata"]["name"] in names


@pytest.mark.parametrize(
    ("pool", "transfer"), [(PoolName.PREFILL, 600), (PoolName.MIXED, 600), (PoolName.DECODE, 0)]
)
def test_deletion_waits_for_transfers_and_then_for_the_longest_drain(
    make_context: MakeContext, pool: PoolName, transfer: int
) -> None:
    context = make_context(
        pool, engine={"kvTransfer": {"timeoutSeconds": 600}}, scaling={"drainTimeoutSeconds": 900}
    )
    notice = 5 + transfer
    assert container(context)["lifecycle"] == {"preStop": {"sleep": {"seconds": notice}}}
    grace = pod(context)["spec"]["terminationGracePeriodSeconds"]
    assert grace == notice + 900 + 60
    environment = variables(context)
    assert environment["TRTLLM_LAUNCHER_KV_TRANSFER_SECONDS"]["value"] == str(transfer)
    deadline = int(environment["TRTLLM_LAUNCHER_DEADLINE_SECONDS"]["value"])
    assert 900 < deadline < grace - notice, (
        "the launcher ends before the kubelet kills it, and not before the drain"
    )


@pytest.mark.parametrize(("engine", "period"), [({}, 10), (EMULATED, 1)])
def test_nobody_restarts_a_replica_that_still_may_start(
    make_context: MakeContext, engine: Manifest, period: int
) -> None:
    probe = container(make_context(engine=engine, scaling={"startupTimeoutSeconds": 1795}))["startupProbe"]
    assert probe["periodSeconds"] == period
    assert 1795 <= probe["periodSeconds"] * probe["failureThreshold"] < 1795 + period


def test_a_pool_with_rdma_may_lock_memory_and_nothing_else(make_context: MakeContext) -> None:
    context = make_context(pools={"prefill": {"extraResources": {"rdma/ib": 1}}})
    assert pod(context)["spec"]["securityContext"]["runAsUser"] == 0
    assert container(context)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": ["IPC_LOCK"]},
    }


@pytest.mark.parametrize("engine", [{}, EMULATED], ids=["TensorRTLLM", "Emulated"])
def test_a_replica_meets_the_restricted_pod_security_standard(
    make_context: MakeContext, engine: Manifest
) -> None:
    specification = pod(make_context(engine=engine))["spec"]
    assert specification["securityContext"]["runAsNonRoot"] is True
    assert specification["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert specification["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostIPC", "hostPID"} & specification.keys()
    (only,) = specification["containers"]
    assert only["securityContext"]["allowPrivilegeEscalation"] is False
    assert only["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_placement_is_passed_on(make_context: MakeContext) -> None:
    expressions = [{"key": "zone", "operator": "In", "values": ["a"]}, {"key": "gpu", "operator": "Exists"}]
    context = make_context(
        pools={
            "prefill": {
                "nodeSelector": {"disk": "nvme"},
                "tolerations": [{"key": "team", "operator": "Equal", "value": "ml", "effect": "NoExecute"}],
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [{"matchExpressions": expressions}]
                        }
                    }
                },
                "topologySpread": [
                    {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
                ],
            }
        }
    )
    specification = pod(context)["spec"]
    assert specification["nodeSelector"] == {"disk": "nvme"}
    assert specification["tolerations"] == [
        {"key": "team", "operator": "Equal", "value": "ml", "effect": "NoExecute"},
        {"key": "nvidia.com/gpu", "operator": "Exists"},
    ]
    assert specification["affinity"] == {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": expressions}]
            }
        }
    }
    (spread,) = specification["topologySpreadConstraints"]
    assert spread == {
        "maxSkew": 1,
        "topologyKey": "zone",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {
            "matchLabels": {
                "gpupools.dev/cluster": "llama-70b",
                "gpupools.dev/component": "engine",
                "gpupools.dev/pool": "prefill",
            }
        },
    }


@pytest.mark.parametrize(
    "own",
    [
        pytest.param({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}, id="named"),
        pytest.param({"operator": "Exists"}, id="everything"),
    ],
)
def test_the_users_own_words_on_gpu_taints_hold(make_context: MakeContext, own: dict[str, str]) -> None:
    context = make_context(pools={"prefill": {"tolerations": [own]}})
    assert pod(context)["spec"]["tolerations"] == [own]


def test_objects_of_others_are_named_only_where_the_user_names_them(make_context: MakeContext) -> None:
    named = pod(
        make_context(
            engine={
                "serviceAccountName": "puller",
                "priorityClassName": "serving",
                "imagePullSecrets": [{"name": "ngc"}],
            }
        )
    )["spec"]
    assert named["serviceAccountName"] == "puller"
    assert named["priorityClassName"] == "serving"
    assert named["imagePullSecrets"] == [{"name": "ngc"}]
    unnamed = pod(make_context())["spec"]
    assert not {"serviceAccountName", "priorityClassName", "imagePullSecrets"} & unnamed.keys()


@pytest.mark.parametrize(
    ("version", "words"),
    [
        pytest.param("1.2.1", [], id="the option came later"),
        pytest.param("1.3.0rc6", [], id="one candidate before"),
        pytest.param("1.3.0rc7", ["--served_model_name", "llama-70b"], id="from its candidate on"),
    ],
)
def test_options_are_passed_only_to_releases_that_know_them(
    make_context: MakeContext, version: str, words: list[str]
) -> None:
    context = make_context(engine={"version": version})
    assert container(context)["args"] == [
        *("trtllm-serve", "nvidia/Llama-3.1-70B-Instruct-FP8"),
        *("--backend", "pytorch", "--host", "0.0.0.0", "--port", "8000"),
        *("--extra_llm_api_options", "/etc/engine/config.yaml", *words),
    ]
    assert "command" not in container(context), "the image's entrypoint starts the engine"


def test_the_engines_file_carries_the_users_keys(make_context: MakeContext) -> None:
    context = make_context(
        PoolName.DECODE,
        engine={
            "config": {"kv_cache_config": {"dtype": "fp8"}},
            "kvTransfer": {"backend": "UCX", "timeoutSeconds": 90},
        },
    )
    written = yaml.safe_load(render_engine_config(context)["data"]["config.yaml"])
    assert written["kv_cache_config"]["dtype"] == "fp8"
    assert written["cache_transceiver_config"]["backend"] == "UCX"
    assert written["cache_transceiver_config"]["kv_transfer_timeout_ms"] == 90_000
    assert written["tensor_parallel_size"] == 2


@pytest.mark.parametrize("engine", [{}, EMULATED], ids=["TensorRTLLM", "Emulated"])
def test_a_wrong_key_is_found_before_anything_exists(make_context: MakeContext, engine: Manifest) -> None:
    context = make_context(engine={**engine, "config": {"max_num_token": 1}})
    for render in (render_engine_config, pod):
        with pytest.raises(SpecError, match="max_num_token"):
            render(context)


def test_an_emulated_engine_gets_the_speed_of_its_pool(make_context: MakeContext) -> None:
    context = make_context(
        PoolName.DECODE,
        engine={
            **EMULATED,
            "version": "1.3.0rc29",
            "emulated": {"bootSeconds": 5, "jitterPercent": 20, "streamInterval": 3},
            "config": {"max_num_tokens": 4096, "return_perf_metrics": False},
        },
    )
    written = json.loads(render_engine_config(context)["data"]["config.json"])
    assert written["prefill"] == pytest.approx(
        {"base_seconds": 8.32e-3, "per_token_seconds": 6.117e-5, "per_token_squared_seconds": 8.92e-10}
    )
    assert written["decode"] == pytest.approx(
        {"base_seconds": 12.34e-3, "per_sequence_seconds": 3.22e-5, "per_context_token_seconds": 1.952e-8}
    )
    expected = {
        "served_model_name": "llama-70b",
        "role": "decode",
        "version": "1.3.0rc29",
        "kv_capacity_tokens": 500_000,
        "max_batch_size": 192,
        "max_num_tokens": 4096,
        "enable_chunked_prefill": True,
        "return_perf_metrics": False,
        "kv_bytes_per_token": 163_840,
        "kv_bandwidth_bytes_per_second": 100e9,
        "boot_seconds": 5.0,
        "boot_jitter": 0.2,
        "step_jitter": 0.2,
        "stream_interval": 3,
        "kv_transfer_timeout_seconds": 60.0,
        "gpus": 2,
        "allow_faults": False,
    }
    assert written.items() >= expected.items()
    assert written.keys() == expected.keys() | {"prefill", "decode"}


def test_the_source_names_a_model_without_a_served_name(make_context: MakeContext) -> None:
    source = "nvidia/Llama-3.1-70B-Instruct-FP8"
    context = make_context(model={"servedName": None}, engine=EMULATED)
    assert json.loads(render_engine_config(context)["data"]["config.json"])["served_model_name"] == source
    real = make_context(model={"servedName": None}, engine={"version": "1.3.0rc29"})
    assert container(real)["args"][-2:] == ["--served_model_name", source]


def test_faults_are_the_installations_decision(make_context: MakeContext) -> None:
    platform = Platform(router_image="r", router_cluster_role="r", emulated_faults=True)
    context = make_context(platform=platform, engine=EMULATED)
    assert json.loads(render_engine_config(context)["data"]["config.json"])["allow_faults"] is True


@pytest.mark.parametrize(
    ("change", "field"),
    [
        pytest.param({"mixed": None}, "spec.pools.mixed", id="absent"),
        pytest.param(
            {"mixed": {"minReplicas": 0, "maxReplicas": 0}}, "spec.pools.mixed.maxReplicas", id="switched off"
        ),
    ],
)
def test_a_pool_without_replicas_cannot_be_rendered(
    make_context: MakeContext, change: Manifest, field: str
) -> None:
    with pytest.raises(SpecError) as refused:
        make_context(PoolName.MIXED, pools=change)
    assert refused.value.field == field


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    pool=st.sampled_from(PoolName),
    ordinal=st.integers(0, 9999),
    items=st.permutations(
        [("dtype", "auto"), ("stream_interval", 2), ("max_seq_len", 4096), ("revision", "a")]
    ),
    labels=st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from(["x", "y"])),
)
def test_equal_specs_render_equal_objects_and_stay_unchanged(
    make_context: MakeContext,
    pool: PoolName,
    ordinal: int,
    items: list[tuple[str, Any]],
    labels: dict[str, str],
) -> None:
    ordered = make_context(
        pool, engine={"config": dict(sorted(items))}, pools={pool.value: {"labels": labels}}
    )
    shuffled = make_context(pool, engine={"config": dict(items)}, pools={pool.value: {"labels": labels}})
    first = (render_engine_config(ordered), pod(ordered, ordinal))
    snapshot = copy.deepcopy(first)
    second = (render_engine_config(shuffled), pod(shuffled, ordinal))
    assert first == second == snapshot
    assert json.dumps(first) == json.dumps(snapshot)


SPREAD = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param({}, id="TensorRTLLM"),
        pytest.param({"backend": "Emulated", "image": "emulated-engine:1"}, id="Emulated"),
    ],
)
def test_pods_of_interchangeable_pools_differ_in_nothing_but_their_home(
    make_context: MakeContext, engine: dict[str, Any]
) -> None:
    pools = {name.value: {"topologySpread": [SPREAD]} for name in PoolName}
    spec = {"scaling": {"conversion": "Enabled"}, "pools": pools, "engine": engine}
    contexts = [make_context(name, **spec) for name in PoolName]
    assert len({render_engine_config(context)["metadata"]["name"] for context in contexts}) == 1
    first, *others = (pod(context) for context in contexts)
    of_home = {"gpupools.dev/pool", "gpupools.dev/role", "llm-d.ai/role"}
    for other in others:
        assert other["spec"] == first["spec"]
        assert other["metadata"]["annotations"] == first["metadata"]["annotations"]
        differing = {
            key
            for key, value in other["metadata"]["labels"].items()
            if first["metadata"]["labels"][key] != value
        }
        assert differing <= of_home


@pytest.mark.parametrize("pool", PoolName)
def test_engines_of_interchangeable_pools_take_every_phase(make_context: MakeContext, pool: PoolName) -> None:
    (config,) = render_engine_config(make_context(pool, scaling={"conversion": "Enabled"}))["data"].values()
    (mixed,) = render_engine_config(make_context(PoolName.MIXED))["data"].values()
    whole_prompts = {"max_num_tokens": PREFILL_TOKENS}
    assert yaml.safe_load(config) == {**yaml.safe_load(mixed), **whole_prompts}


def test_a_pool_of_its_own_shape_keeps_its_own_engines(make_context: MakeContext) -> None:
    """Only prefill and mixed agree."""
    pools = {"decode": {"nodeSelector": {"zone": "b"}}}
    alone = make_context(PoolName.DECODE, pools=pools, scaling={"conversion": "Enabled"})
    before = make_context(PoolName.DECODE, pools=pools)
    assert pod(alone) == pod(before)
    assert render_engine_config(alone) == render_engine_config(before)


def test_an_emulated_engine_is_told_of_a_prefix_cache_only_where_there_is_one(
    make_context: MakeContext,
) -> None:
    def configured(**emulated: int) -> object:
        context = make_context(engine={**EMULATED, "emulated": emulated})
        return json.loads(emulated_engine(context).config_text).get("prefix_hit_share")

    assert configured(prefixHitPercent=40) == 0.4
    assert configured() is None

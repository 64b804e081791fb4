"""What a file with an InferenceCluster may not hold, whichever command reads it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferencecluster.cli.cluster_file import read_cluster
from inferencecluster.core.errors import SpecError

POOL: dict[str, Any] = {"minReplicas": 1, "maxReplicas": 3, "gpusPerReplica": 2}
CLUSTER: dict[str, Any] = {
    "apiVersion": "gpupools.dev/v1alpha1",
    "kind": "InferenceCluster",
    "metadata": {"name": "tiny", "creationTimestamp": None},
    "spec": {
        "model": {"source": "nvidia/Llama-3.1-70B-Instruct-FP8"},
        "engine": {"image": "nvcr.io/nvidia/tensorrt-llm/release:1.2.1", "config": {"anything": {"goes": 1}}},
        "slo": {"ttftMilliseconds": 400, "itlMilliseconds": 40},
        "budget": {"gpus": 4},
        "pools": {
            "prefill": {**POOL, "nodeSelector": {"any/label": "x"}, "tolerations": [{"key": "gpu"}]},
            "decode": POOL,
        },
        "scaling": {"mode": "Fixed", "behavior": {"scaleUp": {"policies": []}}},
    },
}
ABSENT: object = object()


def written(folder: Path, *changes: tuple[str, object]) -> Path:
    """The cluster with some fields set, or taken away."""
    manifest = copy.deepcopy(CLUSTER)
    for path, value in changes:
        *above, last = path.split(".")
        place: Any = manifest
        for name in above:
            place = place[int(name)] if isinstance(place, list) else place[name]
        if value is ABSENT:
            del place[last]
        else:
            place[last] = value
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(manifest))
    return file


def refusal(file: Path) -> str:
    with pytest.raises(SpecError) as refused:
        read_cluster(file)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_cluster_with_labels_configuration_and_lists_is_read(tmp_path: Path) -> None:
    cluster = read_cluster(written(tmp_path))
    assert cluster.spec.budget.gpus == 4
    assert cluster.metadata.namespace == "default"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param(
            "spec.pools.prefill.minReplicas",
            9,
            "spec.pools.prefill.minReplicas is 9, but it must be at most maxReplicas, 3: lower it, or raise maxReplicas",
            id="more at least than at most",
        ),
        pytest.param(
            "spec.budget.gpus",
            2,
            "spec.budget.gpus is 2, but the pools' minReplicas need 4 GPUs: raise it, or lower a minReplicas",
            id="a budget below the minimums",
        ),
        pytest.param(
            "spec.scaling.mod",
            "Fixed",
            "spec.scaling.mod is Fixed, but no such field exists: did you mean mode?",
            id="a mistyped field",
        ),
        pytest.param(
            "spec.pools.prefill.min_replicas",
            1,
            "spec.pools.prefill.min_replicas is 1, but no such field exists: did you mean minReplicas?",
            id="a field in Python's spelling",
        ),
        pytest.param(
            "spec.pools.prefill.tolerations.0.efect",
            "NoSchedule",
            "spec.pools.prefill.tolerations.0.efect is NoSchedule, but no such field exists: did you mean effect?",
            id="a mistyped field in a list",
        ),
        pytest.param(
            "spec.scaling.behavior.scaleUp.zzz",
            1,
            "spec.scaling.behavior.scaleUp.zzz is 1, but no such field exists: remove it; known are "
            "stabilizationWindowSeconds, selectPolicy, policies",
            id="a field like no other",
        ),
        pytest.param(
            "spec.slo.ttftMilliseconds",
            ABSENT,
            "spec.slo.ttftMilliseconds is absent, but it is required: add it",
            id="a missing field",
        ),
        pytest.param("spec", ABSENT, "spec is absent, but it is required: add it", id="no spec"),
        pytest.param(
            "spec.budget.gpus",
            "many",
            "spec.budget.gpus is many, but it should be a valid integer, unable to parse string as an integer: "
            "correct the field",
            id="a field of another type",
        ),
        pytest.param(
            "spec.pools.prefill.parallelism",
            {"tensor": 4},
            "spec.pools.prefill.parallelism is tensor 4 x pipeline 1, but it must equal gpusPerReplica, 2: change one of them",
            id="ranks that are not the GPUs",
        ),
        *(
            pytest.param(
                "metadata.name",
                name,
                f"metadata.name is {name}, but it must be a DNS label of at most 39 characters that starts with a letter, "
                "because the names of its Pods and Services continue it: choose another name",
                id=f"the name {name}",
            )
            for name in ("Llama_70B", "1st", "ends-", "a" * 40)
        ),
        pytest.param(
            "apiVersion",
            "gpupools.dev/v1",
            "apiVersion is gpupools.dev/v1, but this release knows InferenceCluster in gpupools.dev/v1alpha1 only: "
            "write apiVersion: gpupools.dev/v1alpha1",
            id="another version",
        ),
        pytest.param(
            "apiVersion",
            ABSENT,
            "apiVersion is absent, but this release knows InferenceCluster in gpupools.dev/v1alpha1 only: "
            "write apiVersion: gpupools.dev/v1alpha1",
            id="no version",
        ),
    ],
)
def test_what_the_api_server_would_refuse_is_refused_with_field_value_rule_and_advice(
    tmp_path: Path, path: str, value: object, message: str
) -> None:
    assert refusal(written(tmp_path, (path, value))) == message


def _text(text: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(text)


@pytest.mark.parametrize(
    ("write", "cause"),
    [
        pytest.param(
            _text("kind: InferenceCluster\nspec: {a: [1, 2\nb: 3\n"), "line 3, column 2: ", id="an open list"
        ),
        pytest.param(_text("a: \x00"), "special characters are not allowed", id="a control character"),
        pytest.param(_text("a: 2026-13-45"), "month must be in", id="a day that does not exist"),
        pytest.param(lambda file: file.write_bytes(b"\xff\xfe\xfa"), "codec can't decode", id="no text"),
        pytest.param(lambda _: None, "No such file", id="no file"),
    ],
)
def test_what_is_no_yaml_is_told_in_one_line(
    tmp_path: Path, write: Callable[[Path], object], cause: str
) -> None:
    file = tmp_path / "cluster.yaml"
    write(file)
    assert f"FILE is {file}, but it could not be read: " in refusal(file)
    assert cause in refusal(file)

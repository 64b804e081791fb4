from __future__ import annotations

import json
import runpy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from inferencecluster.cli import __main__ as program
from inferencecluster.cli.__main__ import application

SAMPLES = sorted((Path(__file__).resolve().parents[2] / "docs" / "samples").glob("*.yaml"))
CLUSTER_SAMPLES = [file for file in SAMPLES if "kind: InferenceCluster\n" in file.read_text(encoding="utf-8")]

CLUSTER: dict[str, Any] = {
    "apiVersion": "gpupools.dev/v1alpha1",
    "kind": "InferenceCluster",
    "metadata": {"name": "tiny"},
    "spec": {
        "model": {"source": "nvidia/Llama-3.1-70B-Instruct-FP8"},
        "engine": {"image": "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"},
        "slo": {"ttftMilliseconds": 400, "itlMilliseconds": 40},
        "budget": {"gpus": 4},
        "pools": {
            "mixed": {
                "minReplicas": 1,
                "maxReplicas": 2,
                "gpusPerReplica": 2,
                "performance": {"profile": "llama-3.1-70b-fp8/h200-tp2"},
            }
        },
    },
}


def run(*arguments: str, standard_input: str | None = None) -> Result:
    return CliRunner().invoke(application, ["render", *arguments], input=standard_input)


def test_it_prints_what_a_replica_would_run(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump_all([{"kind": "Namespace"}, CLUSTER, None]))
    result = run(str(file), "--pool", "mixed")
    assert result.exit_code == 0, result.stderr
    header = [line for line in result.stdout.splitlines() if line.startswith("#")]
    assert header[0].startswith("# InferenceCluster default/tiny, pool mixed, revision ")
    assert header[1] == "# TensorRTLLM 1.2.1, model nvidia/Llama-3.1-70B-Instruct-FP8"
    config, pod = yaml.safe_load_all(result.stdout)
    assert (config["kind"], pod["kind"]) == ("ConfigMap", "Pod")
    assert pod["metadata"]["name"] == "tiny-engine-0"
    assert yaml.safe_load(config["data"]["config.yaml"])["tensor_parallel_size"] == 2
    assert "config.yaml: |" in result.stdout, "the engine's file is shown line by line"
    assert "&id" not in result.stdout


def test_json_is_one_list_that_kubectl_takes() -> None:
    result = run("-", "--pool", "mixed", "--format", "json", standard_input=json.dumps(CLUSTER))
    assert result.exit_code == 0, result.stderr
    listed = json.loads(result.stdout)
    assert listed["kind"] == "List"
    assert [item["kind"] for item in listed["items"]] == ["ConfigMap", "Pod"]


@pytest.mark.parametrize("sample", CLUSTER_SAMPLES, ids=lambda path: path.name)
def test_every_sample_can_be_rendered(sample: Path) -> None:
    result = run(str(sample), "--pool", "prefill")
    assert result.exit_code == 0, result.stderr


def refused(tmp_path: Path, text: str, *, pool: str = "mixed") -> str:
    """What is said on standard error; nothing is printed, and the exit status is 2."""
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    result = run(str(file), "--pool", pool)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1 or "could not be read" in result.stderr
    return result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a: [", "could not be read", id="no YAML"),
        pytest.param("", "holds 0 objects of kind InferenceCluster", id="empty"),
        pytest.param("kind: Pod", "holds 0 objects", id="another kind"),
        pytest.param(yaml.safe_dump_all([CLUSTER, CLUSTER]), "holds 2 objects", id="several"),
        pytest.param(
            "apiVersion: gpupools.dev/v1alpha1\nkind: InferenceCluster\n", "metadata", id="nothing in it"
        ),
    ],
)
def test_a_file_without_exactly_one_cluster_is_refused(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    result = run(str(tmp_path / "absent.yaml"), "--pool", "mixed")
    assert result.exit_code == 2
    assert "could not be read" in result.stderr


def test_a_key_that_the_engine_does_not_know_is_refused_with_the_right_one(tmp_path: Path) -> None:
    engine = {**CLUSTER["spec"]["engine"], "config": {"max_num_token": 1}}
    wrong = {**CLUSTER, "spec": {**CLUSTER["spec"], "engine": engine}}
    assert refused(tmp_path, yaml.safe_dump(wrong)) == (
        "error: spec.engine.config.max_num_token is 1, but TensorRT-LLM 1.2.1 does not know the key: "
        "did you mean max_num_tokens?\n"
    )


def test_a_release_that_is_read_from_the_tag_is_refused_there(tmp_path: Path) -> None:
    wrong = {**CLUSTER, "spec": {**CLUSTER["spec"], "engine": {"image": "registry.example/engine:1.1.0"}}}
    assert refused(tmp_path, yaml.safe_dump(wrong)).startswith(
        "error: spec.engine.image is registry.example/engine:1.1.0, but its tag says TensorRT-LLM 1.1.0, "
        "and the operator knows the configuration of 1.2.x and 1.3.0rcN only: "
    )


def test_a_pool_that_the_cluster_does_not_have_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, yaml.safe_dump(CLUSTER), pool="prefill")
    assert message.startswith("error: spec.pools.prefill is absent")


def test_an_unknown_pool_is_a_usage_error() -> None:
    assert run("-", "--pool", "other").exit_code == 2


def test_the_program_tells_its_version() -> None:
    result = CliRunner().invoke(application, ["--version"])
    assert result.exit_code == 0
    assert result.stdout == f"kubectl-ic {version('inferencecluster-operator')}\n"


def test_the_program_says_what_it_can_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["kubectl-ic", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(program.__file__, run_name="__main__")
    assert ended.value.code == 0
    assert "render" in capsys.readouterr().out

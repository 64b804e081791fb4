from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from inferencecluster.api.inferencecluster import parse_cluster
from inferencecluster.cli import plan as plan_module
from inferencecluster.cli.__main__ import application
from inferencecluster.planner.answer import Option
from inferencecluster.planner.capacity import Target
from inferencecluster.planner.verify import Verified

STEADY = ("--rate", "6", "--prompt-tokens", "1155", "--output-tokens", "211", "--gpu", "h200=3.8")
MODEL = ("--model", "nvidia/Llama-3.1-70B-Instruct-FP8")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(application, ["plan", *arguments])


def test_yaml_is_one_cluster_under_a_comment_that_tells_the_verdict() -> None:
    result = run(*MODEL, *STEADY, "--no-verify", "--format", "yaml")
    assert result.exit_code == 0, result.stderr
    comments = [line for line in result.stdout.splitlines() if line.startswith("# ")]
    assert comments[0].startswith("# 6 requests/s of 1155 prompt and 211 output tokens; 90% within 1000 ms")
    assert "# not simulated" in comments
    assert any("h200 $3.8" in line for line in comments)
    found = yaml.safe_load(result.stdout)
    found["metadata"] |= {"namespace": "default"}
    assert parse_cluster(found).spec.slo.itl_milliseconds == 40


def test_json_holds_options_staircase_and_the_simulators_measurement() -> None:
    result = run(*MODEL, *STEADY, "--format", "json", "--ttft-ms", "500")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["slo"] == {"percentile": 90, "ttft_ms": 500, "itl_ms": 40}
    assert found["dollars_per_gpu_hour"] == {"h200": 3.8}
    assert found["options"][0]["why"] == "best"
    assert all(option["expected_attainment"] >= 0.9 for option in found["options"])
    assert found["simulated"]["holds"]
    assert found["simulated"]["static_attainment"] >= 0.9
    assert found["staircase"]["stairs"][1]["name"] == "continuous batching"
    assert found["manifest"]["kind"] == "InferenceCluster"


def test_the_table_ends_with_the_object_and_names_what_is_left_out() -> None:
    result = run(*MODEL, *STEADY, "--no-verify")
    assert result.exit_code == 0, result.stderr
    assert "designs that hold the SLO" in result.stdout
    assert "not on the stairs: FP4 KV cache: h200 has no FP4" in result.stdout
    assert yaml.safe_load(result.stdout.split("---\n", 1)[1])["kind"] == "InferenceCluster"


class Scripted:
    """Stands for the simulator: (static, autoscaled) attainment of every option."""

    answer = (0.0, 0.0)
    dollars_per_hour = 7.6

    def __init__(self, workload: object) -> None:
        pass

    def verify(self, option: Option, manifest: Mapping[str, Any], target: Target) -> Verified:
        static, autoscaled = self.answer
        return Verified(100, static, 4.0, autoscaled, 3.5, self.dollars_per_hour)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((0.5, 0.5), "THE SIMULATOR DOES NOT CONFIRM THIS PLAN"),
        ((0.95, 0.5), "the operator is surprised by this load"),
    ],
)
def test_a_plan_that_the_simulator_doubts_says_so(
    monkeypatch: pytest.MonkeyPatch, answer: tuple[float, float], expected: str
) -> None:
    monkeypatch.setattr(Scripted, "answer", answer)
    monkeypatch.setattr(plan_module, "SimulatorVerifier", Scripted)
    result = run(*MODEL, *STEADY)
    assert result.exit_code == 0, result.stderr
    assert expected in result.stdout
    assert (
        f"simulated: {answer[0]:.1%} of 100 requests in time on 4 GPUs; {answer[1]:.1%} on 3.5"
        in result.stdout
    )


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        pytest.param(0.5, "50% less than the static peak", id="cheaper"),
        pytest.param(1.004, "about the static peak", id="equal"),
        pytest.param(
            2.0,
            "100% more than the static peak: Fixed is cheaper here "
            "(scaling.mode: Fixed, minReplicas: 1 mixed; the object is written for Automatic)",
            id="dearer",
        ),
    ],
)
def test_the_operators_own_bill_stands_beside_the_ideal_one(
    monkeypatch: pytest.MonkeyPatch, share: float, expected: str
) -> None:
    planned = json.loads(run(*MODEL, *STEADY, "--no-verify", "--format", "json").stdout)
    # A steady load lasts an hour.
    dollars = share * planned["options"][0]["static_peak"]["dollars"]
    monkeypatch.setattr(Scripted, "answer", (0.95, 0.95))
    monkeypatch.setattr(Scripted, "dollars_per_hour", dollars)
    monkeypatch.setattr(plan_module, "SimulatorVerifier", Scripted)
    text = run(*MODEL, *STEADY).stdout
    assert "; following the demand (ideal) " in text
    assert f"on 3.5 on average where the operator sizes the pools, ${dollars:.2f}, {expected}\n" in text


def test_a_single_request_has_no_bill_of_the_operator(tmp_path: Path) -> None:
    file = tmp_path / "one.csv"
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n0,100,10\n")
    result = run(*MODEL, "--trace", str(file), "--gpu", "h200")
    assert result.exit_code == 0, result.stderr
    assert "on average where the operator sizes the pools\n" in result.stdout


def test_without_the_simulator_json_says_null() -> None:
    assert json.loads(run(*MODEL, *STEADY, "--no-verify", "--format", "json").stdout)["simulated"] is None


def test_a_throughput_table_shows_the_load_that_fits() -> None:
    result = run(*MODEL, *STEADY, "--no-verify", "--objective", "throughput", "--max-gpus", "8")
    assert result.exit_code == 0, result.stderr
    assert " times 6 requests/s" in result.stdout.splitlines()[0]
    assert "load" in result.stdout


def trace(path: Path, minutes: int = 4) -> Path:
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    lines += [
        f"{second * 0.5},{800 + second % 7 * 100},{100 + second % 5 * 20}" for second in range(minutes * 120)
    ]
    path.write_text("\n".join(lines))
    return path


def test_a_trace_is_planned_and_multiplied(tmp_path: Path) -> None:
    file = trace(tmp_path / "requests.csv")
    once, thrice = (
        json.loads(run(*MODEL, "--trace", str(file), *extra, "--format", "json").stdout)
        for extra in ((), ("--copies", "3"))
    )
    assert once["traffic"] == "requests.csv: 480 requests in 4 min"
    assert "1440 requests" in thrice["traffic"]
    assert once["simulated"]["requests"] >= 480


def test_throughput_scales_the_trace_until_the_gpus_are_full(tmp_path: Path) -> None:
    file = trace(tmp_path / "requests.csv")
    arguments = ("--objective", "throughput", "--max-gpus", "4", "--gpu", "h200", "--format", "json")
    result = run(*MODEL, "--trace", str(file), *arguments)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["options"][0]["load_scale"] > 1
    assert found["options"][0]["pools"]
    assert found["manifest"]["spec"]["budget"] == {"gpus": 4}


def test_mixed_only_is_an_answer() -> None:
    result = run(*MODEL, *STEADY, "--no-verify", "--format", "json")
    assert json.loads(result.stdout)["verdict"].startswith("mixed only")


def test_a_load_is_a_trace_or_a_rate(tmp_path: Path) -> None:
    result = run(*MODEL, *STEADY, "--trace", str(trace(tmp_path / "requests.csv")))
    assert result.exit_code == 2
    assert "--rate is 6, but the load already is the trace requests.csv" in result.stderr


@pytest.mark.parametrize("option", ["--prompt-tokens", "--output-tokens"])
def test_the_requests_of_a_trace_have_their_own_lengths(tmp_path: Path, option: str) -> None:
    result = run(*MODEL, "--trace", str(trace(tmp_path / "requests.csv")), option, "9")
    assert result.exit_code == 2
    assert f"{option} is 9, but each request of the trace requests.csv has its own length" in result.stderr


@pytest.mark.parametrize("seconds", ["inf", "nan", "86401", "0"])
def test_a_boot_takes_a_second_to_a_day(seconds: str) -> None:
    result = run(*MODEL, *STEADY, "--boot-seconds", seconds)
    assert result.exit_code == 2
    assert "Invalid value for '--boot-seconds'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("--model", "gpt-2", *STEADY), "--model is 'gpt-2'", id="unknown model"),
        pytest.param((*MODEL, *STEADY, "--gpu", "v100"), "--gpu is 'v100'", id="unknown GPU"),
        pytest.param(
            (*MODEL, "--rate", "3"),
            "--prompt-tokens is absent, but --rate needs the lengths of its requests: give --prompt-tokens and --output-tokens",
            id="a rate without lengths",
        ),
        pytest.param(
            (*MODEL, "--rate", "3", "--prompt-tokens", "9"),
            "--output-tokens is absent",
            id="half of the lengths",
        ),
        pytest.param(
            MODEL,
            "--trace is absent, but a plan needs a load: give --trace FILE, or --rate with --prompt-tokens and --output-tokens",
            id="no load",
        ),
        pytest.param((*MODEL, "--trace", "absent.csv"), "could not be read", id="absent file"),
        pytest.param(
            (*MODEL, *STEADY[2:], "--rate", "1e9"),
            "--rate is 1e+09, but it must be at most 100,000 requests per second",
            id="more than any service",
        ),
        pytest.param(
            (*MODEL, *STEADY[2:], "--rate", "3600"),
            "--rate is 3600, but the simulator serves at most 3,000 requests per second: add --no-verify",
            id="more than the simulator bears",
        ),
        pytest.param((*MODEL, *STEADY[2:], "--rate", "nan"), "--rate is nan", id="no number"),
        pytest.param((*MODEL, *STEADY, "--ttft-ms", "30"), "--itl-ms is 40", id="targets mixed up"),
        pytest.param((*MODEL, *STEADY, "--itl-ms", "5"), "no design holds them", id="out of reach"),
        pytest.param(
            (*MODEL, *STEADY, "--engine-version", "1.1.0"), "--engine-version is 1.1.0", id="old engine"
        ),
        pytest.param(
            (*MODEL, *STEADY, "--engine-version", "new"), "--engine-version is new", id="no release"
        ),
        pytest.param(
            (*MODEL, *STEADY, "--copies", "10"), "--copies is 10, but it multiplies", id="no trace to copy"
        ),
    ],
)
def test_bad_questions_end_with_status_2_and_say_what_to_do(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert not result.stdout


TRANSCRIPTION = (
    *("--model", "llama-3.1-8b-bf16", "--gpu", "a100=2.5"),
    *("--rate", "0.28", "--prompt-tokens", "300", "--output-tokens", "250"),
)


def test_a_refusal_names_the_levers_that_would_reach_the_target_and_their_cost() -> None:
    result = run(*TRANSCRIPTION, "--itl-ms", "8", "--format", "json")
    assert result.exit_code == 2
    assert result.stdout == ""
    refusal, header, way, *unknown = result.stderr.splitlines()
    assert "a step over one sequence is longer than the ITL of 8 ms" in refusal
    assert "ESTIMATE" in header
    assert way.startswith(
        "  speculation, 3 drafts at 70%: 5.0 ms per token alone; mixed a100 x1: 1 mixed, 1 GPUs, $2.50 per hour"
    )
    assert way.endswith("a draft head; full batches gain least")
    assert "  FP8 weights is not known here: a100 has no FP8 arithmetic" in unknown


def test_a_refusal_that_no_lever_helps_says_so() -> None:
    result = run(*TRANSCRIPTION, "--itl-ms", "1", "--acceptance", "0.3")
    assert result.exit_code == 2
    assert "no lever reaches it on these GPUs either" in result.stderr

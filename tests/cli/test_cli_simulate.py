from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from threading import Thread
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import typer
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from inferencecluster.api.inferencecluster import InferenceCluster
from inferencecluster.cli.line_chart import Chart, Series, nice_ceiling, svg
from inferencecluster.cli.policy_option import KNOBS, Knob
from inferencecluster.cli.simulate import simulate_command
from inferencecluster.cli.simulate_inputs import cluster_of
from inferencecluster.cli.simulate_tables import milliseconds, percent_of, sparkline
from inferencecluster.cli.workload import Workload
from inferencecluster.simulator.policies.registry import POLICIES
from inferencecluster.simulator.workload import Request, with_mirrored_warm_up

application = typer.Typer()
application.command()(simulate_command)

PROFILE = {"profile": "llama-3.1-70b-fp8/h200-tp2"}
POOL: dict[str, Any] = {"minReplicas": 1, "maxReplicas": 4, "gpusPerReplica": 2, "performance": PROFILE}
CLUSTER: dict[str, Any] = {
    "apiVersion": "gpupools.dev/v1alpha1",
    "kind": "InferenceCluster",
    "metadata": {"name": "tiny"},
    "spec": {
        "model": {"source": "nvidia/Llama-3.1-70B-Instruct-FP8"},
        "engine": {"image": "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"},
        "slo": {"ttftMilliseconds": 1000, "itlMilliseconds": 40},
        "budget": {"gpus": 16},
        "pools": {"prefill": POOL, "decode": POOL},
        "scaling": {"expectedBootSeconds": 30},
    },
}
COEFFICIENTS = {
    "coefficients": {
        "prefill": {
            "baseNanoseconds": 8_000_000,
            "perTokenPicoseconds": 60_000_000,
            "perTokenSquaredPicoseconds": 900,
        },
        "decode": {
            "baseNanoseconds": 12_000_000,
            "perSequencePicoseconds": 32_000_000,
            "perContextTokenPicoseconds": 19_000,
        },
        "kvCapacityTokens": 500_000,
        "maxBatchSize": 128,
    }
}


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    return write(tmp_path, CLUSTER)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    lines = [f"2023-11-16 18:{second // 60:02d}:{second % 60:02d}.5,1000,100" for second in range(0, 900, 2)]
    return trace_of(tmp_path, lines)


def write(folder: Path, manifest: dict[str, Any]) -> Path:
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(manifest))
    return file


def trace_of(folder: Path, lines: list[str], header: str = "TIMESTAMP,ContextTokens,GeneratedTokens") -> Path:
    file = folder / "trace.csv"
    file.write_text("\n".join([header, *lines]) + "\n")
    return file


def run(*arguments: object, standard_input: str | None = None) -> Result:
    return CliRunner().invoke(application, [str(argument) for argument in arguments], input=standard_input)


def simulated(cluster: Path, trace: Path, *arguments: object) -> dict[str, Any]:
    result = run(cluster, "--trace", trace, "--format", "json", *arguments)
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_json_tells_service_speed_cost_and_sizes_over_time(cluster: Path, trace: Path) -> None:
    document = simulated(cluster, trace)
    assert document["requests"] == document["completed"] == 450
    assert document["failed"] == 0
    assert document["slo_attainment"] == 1.0
    for kind in ("ttft_ms", "tpot_ms"):
        assert document[kind]["p50"] <= document[kind]["p90"] <= document[kind]["p99"]
    # One prompt alone: 8.32 + 61.17 + 0.892 ms, and the way of its cache.
    assert 70 < document["ttft_ms"]["p50"] < 90
    assert 12.34 < document["tpot_ms"]["p50"] < 16
    # Two replicas of two GPUs from the first to the last arrival.
    assert document["gpu_hours"] == pytest.approx(4 * 898 / 3600)
    assert document["gpu_hours_static_peak"] == pytest.approx(4 * 898 / 3600)
    assert (document["scale_events"], document["conversions"]) == (0, 0)
    assert document["sizes"] == [{"time": 0.0, "prefill": 1, "decode": 1, "mixed": 0}]
    assert document["timeline"][0]["replicas"] == {"prefill": 1.0, "decode": 1.0, "mixed": 0.0}
    assert document["boot_seconds"] == 30.0
    # A prompt of 70.4 ms every 2 s: tensor pipes are active for 92 % of that.
    prefill = document["utilization"]["prefill"]
    assert prefill["gpus"] == pytest.approx(2.0)
    assert prefill["useful_gpus"] == pytest.approx(2 * 0.92 * 0.0704 / 2, rel=0.01)


def test_equal_runs_print_the_same_and_another_seed_moves_the_copies(cluster: Path, trace: Path) -> None:
    arguments = ("--copies", 2)
    first = simulated(cluster, trace, *arguments)
    assert simulated(cluster, trace, *arguments) == first
    assert first["requests"] == 900
    assert simulated(cluster, trace, *arguments, "--seed", 1)["timeline"] != first["timeline"]


@pytest.mark.parametrize("conversion", ["Disabled", "Enabled"])
def test_a_cluster_whose_pools_trade_converts_only_where_it_may(
    tmp_path: Path, trace: Path, conversion: str
) -> None:
    manifest = {**CLUSTER, "spec": {**CLUSTER["spec"]}}
    manifest["spec"] |= {
        "budget": {"gpus": 8, "minGpus": 8},
        "scaling": {"expectedBootSeconds": 30, "conversion": conversion},
    }
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(manifest))
    found = simulated(file, trace, "--copies", 60, "--warm-up-seconds", 0)
    assert (found["conversions"] > 0) == (conversion == "Enabled")


@pytest.mark.parametrize("performance", [PROFILE, COEFFICIENTS])
@pytest.mark.parametrize(("conversion", "tokens"), [("Disabled", {8192, 384}), ("Enabled", {8192})])
def test_engines_are_simulated_with_the_iterations_that_the_operator_configures(
    performance: dict[str, Any], conversion: str, tokens: set[int]
) -> None:
    pool = {**POOL, "performance": performance}
    spec = {**CLUSTER["spec"], "pools": {"prefill": pool, "decode": pool}}
    spec["scaling"] = {"conversion": conversion}
    found = cluster_of(InferenceCluster.model_validate({**CLUSTER, "spec": spec}), boot_seconds=None)
    assert {item.max_num_tokens for item in found.hardware.values()} == tokens


def test_pools_follow_a_load_that_one_replica_cannot_carry_after_a_boot(cluster: Path, trace: Path) -> None:
    arguments = ("--copies", 60, "--warm-up-seconds", 0)
    quick = simulated(cluster, trace, *arguments, "--boot-seconds", 5)
    slow = simulated(cluster, trace, *arguments, "--boot-seconds", 400)
    assert quick["scale_events"] > 0
    assert max(item["replicas"]["prefill"] for item in quick["timeline"]) > 1
    assert quick["slo_attainment"] > slow["slo_attainment"]
    assert slow["boot_seconds"] == 400.0


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_can_be_named(cluster: Path, trace: Path, policy: str) -> None:
    assert simulated(cluster, trace, "--policy", policy)["policy"] == policy


def test_static_peak_holds_what_the_busiest_moment_needs(cluster: Path, trace: Path) -> None:
    document = simulated(cluster, trace, "--policy", "static", "--copies", 60)
    scored = [item for item in document["timeline"] if item["start"] + 60 <= document["seconds"]]
    assert len({item["replicas"]["prefill"] for item in scored}) == 1
    assert scored[0]["replicas"]["prefill"] > 1


def test_the_knob_of_a_policy_is_set_behind_an_at_sign(cluster: Path, trace: Path) -> None:
    busy = simulated(cluster, trace, "--policy", "hpa-busy@0.9", "--copies", 20)
    assert busy["policy"] == "hpa-busy@0.9"
    idle = simulated(cluster, trace, "--policy", "hpa-busy@0.2", "--copies", 20)
    assert busy["gpu_hours"] < idle["gpu_hours"]


@pytest.mark.parametrize(
    "text",
    ["hpa-busy@0", "hpa-busy@nan", "hpa-busy@-1", "hpa-busy@70", "hpa-busy@", "hindsight@1", "hpa-queue@inf"],
)
def test_a_knob_out_of_its_range_is_refused_with_the_range(cluster: Path, trace: Path, text: str) -> None:
    result = run(cluster, "--trace", trace, "--policy", text)
    assert result.exit_code == 2
    knob = KNOBS[text.partition("@")[0]]
    assert result.stderr.startswith(
        f"error: --policy is '{text}', but the knob is a number from {knob.least:g} to {knob.most:g}, {knob.meaning}: "
    )


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in KNOBS])
def test_a_policy_without_a_knob_takes_none(cluster: Path, trace: Path, name: str) -> None:
    result = run(cluster, "--trace", trace, "--policy", f"{name}@0.7")
    assert result.exit_code == 2
    assert f"--policy is '{name}@0.7', but {name} has no knob: write {name}" in result.stderr


@pytest.mark.parametrize(("name", "knob"), KNOBS.items())
@pytest.mark.parametrize("end", ["least", "most"])
def test_both_ends_of_every_knob_can_be_simulated(
    cluster: Path, trace: Path, name: str, knob: Knob, end: str
) -> None:
    text = f"{name}@{getattr(knob, end):g}"
    assert simulated(cluster, trace, "--policy", text)["policy"] == text


@pytest.mark.parametrize(
    ("mode", "advice"),
    [
        ("External", "try --policy hpa-queue"),
        ("Recommend", "try mode Automatic, or --policy hpa-queue"),
        ("Automatic", None),
        ("Fixed", None),
    ],
)
def test_where_nobody_sizes_the_pools_a_note_says_so(
    tmp_path: Path, trace: Path, mode: str, advice: str | None
) -> None:
    spec = {**CLUSTER["spec"], "scaling": {"mode": mode}}
    file = write(tmp_path, {**CLUSTER, "spec": spec})
    note = f"mode {mode}: nobody sizes the pools here, they stay at minReplicas; {advice}"
    notes = [note] if advice else []
    assert simulated(file, trace)["notes"] == notes
    assert f"sized by {'nobody' if advice else 'the operator'} ({mode})" in run(file, "--trace", trace).stdout
    assert simulated(file, trace, "--policy", "hpa-queue")["notes"] == []


@pytest.mark.parametrize(
    "option",
    ["--boot-seconds", "--warm-up-seconds", "--copies", "--boot-spread", "--hours-to-failure", "--power-cap"],
)
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_options_are_finite_numbers(cluster: Path, trace: Path, option: str, value: str) -> None:
    result = run(cluster, "--trace", trace, option, value)
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.stderr


def test_a_boot_takes_a_day_at_most(cluster: Path, trace: Path) -> None:
    assert run(cluster, "--trace", trace, "--boot-seconds", 86_401).exit_code == 2


def test_a_warm_up_is_not_counted_and_may_be_left_out(cluster: Path, trace: Path) -> None:
    without = simulated(cluster, trace, "--warm-up-seconds", 0)
    assert without["requests"] == 450
    assert without["seconds"] == pytest.approx(simulated(cluster, trace)["seconds"])


def test_the_table_says_the_same_in_words(cluster: Path, trace: Path) -> None:
    result = run(cluster, "--trace", trace)
    assert result.exit_code == 0, result.stderr
    assert (
        "default/tiny, sized by the operator (Automatic): 100 % of 450 requests inside the SLO"
        in result.stdout
    )
    assert re.search(r"^prefill +1\.0 +1\.0 +1\.0 +█+", result.stdout, re.MULTILINE)


class _Links(HTMLParser):
    """Tags and every address."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")
        ]


def test_html_is_one_file_that_needs_nothing_from_elsewhere(cluster: Path, trace: Path) -> None:
    result = run(cluster, "--trace", trace, "--format", "html", "--copies", 20)
    assert result.exit_code == 0, result.stderr
    page = _Links()
    page.feed(result.stdout)
    assert page.addresses == []
    assert "script" not in page.tags
    assert "url(" not in result.stdout
    assert "@import" not in result.stdout
    assert page.tags.count("svg") == 3
    for picture in re.findall(r"<svg.*?</svg>", result.stdout):
        assert len(ET.fromstring(picture)) > 5  # noqa: S314 - our own output


def test_names_are_escaped_in_html(tmp_path: Path, trace: Path) -> None:
    odd = tmp_path / "a<b>&c.csv"
    odd.write_text(trace.read_text())
    result = run(write(tmp_path, CLUSTER), "--trace", odd, "--format", "html")
    assert "a&lt;b&gt;&amp;c.csv" in result.stdout
    assert "a<b>" not in result.stdout


def test_the_trace_may_come_through_standard_input(cluster: Path, trace: Path) -> None:
    result = run(cluster, "--trace", "-", "--format", "json", standard_input=trace.read_text())
    assert json.loads(result.stdout)["requests"] == 450


def test_a_trace_that_can_be_read_only_once_is_as_good_as_a_file(
    cluster: Path, trace: Path, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    writer = Thread(target=pipe.write_text, args=(trace.read_text(),))
    writer.start()
    piped = simulated(cluster, pipe, "--copies", 2)
    writer.join()
    assert piped == simulated(cluster, trace, "--copies", 2) | {"trace": str(pipe)}


@given(
    st.lists(st.floats(0.0, 2000.0), min_size=1, max_size=20).map(sorted),
    st.floats(0.0, 1.0),
)
def test_a_workload_knows_its_number_and_can_be_read_again(arrivals: list[float], share: float) -> None:
    requests = [Request(arrival, 10, 10) for arrival in arrivals]
    workload = Workload.of(lambda: iter(requests))
    assert workload.last_arrival == arrivals[-1]
    seconds = share * workload.last_arrival
    for served, expected in (
        (workload, requests),
        (workload.with_warm_up(seconds), list(with_mirrored_warm_up(requests, seconds))),
    ):
        assert list(served) == list(served) == expected
        assert len(served) == len(expected)


def test_replicas_fail_only_when_asked_to_and_as_often(cluster: Path, trace: Path) -> None:
    assert simulated(cluster, trace)["replica_failures"] == 0
    often = simulated(cluster, trace, "--hours-to-failure", 0.05)
    # Two replicas for half an hour with its warm-up, three minutes each: some twenty.
    assert 8 <= often["replica_failures"] <= 40
    assert often["slo_attainment"] < 1.0


def test_a_power_cap_slows_prompts_and_saves_energy(cluster: Path, trace: Path) -> None:
    full, capped = simulated(cluster, trace), simulated(cluster, trace, "--power-cap", 0.7)
    assert capped["kilowatt_hours"] == pytest.approx(0.7 * full["kilowatt_hours"])
    assert capped["ttft_ms"]["p50"] == pytest.approx(1.3 * full["ttft_ms"]["p50"], rel=0.05)
    assert capped["tpot_ms"]["p50"] == pytest.approx(full["tpot_ms"]["p50"], rel=0.01)


@pytest.mark.parametrize(
    ("lines", "count", "words"),
    [
        pytest.param(["0,1000,10", "9,19000,1000"], 0, "", id="all fit"),
        pytest.param(["0,1000,10", "9,19000,1001"], 1, "1 request is", id="fails"),
        pytest.param(["0,1000,10", "9,30000,10", "18,19000,1001"], 2, "2 requests are", id="fail"),
        # The first one keeps the only prefill replica busy for longer than the router holds the others.
        pytest.param([*["0,19999,1"] * 99, "1,20000,1"], 1, "1 request is", id="is refused"),
    ],
)
def test_requests_that_no_replica_can_hold_are_counted_and_told(
    tmp_path: Path, lines: list[str], count: int, words: str
) -> None:
    small = {"coefficients": {**COEFFICIENTS["coefficients"], "kvCapacityTokens": 20_000}}
    pool = {**POOL, "maxReplicas": 1, "performance": small}
    file = write(tmp_path, _pools(prefill=pool, decode=pool))
    document = simulated(file, trace_of(tmp_path, lines), "--warm-up-seconds", 0)
    assert document["too_large"] == count
    note = (
        f"{words} larger than the KV memory of a replica, whatever the sizes: the largest one (prefill) holds 20,000 tokens, "
        "prompt and output together"
    )
    told = [text for text in document["notes"] if "KV memory of a replica" in text]
    assert told == ([note] if count else [])


def _pools(**pools: dict[str, Any]) -> dict[str, Any]:
    return {**CLUSTER, "spec": {**CLUSTER["spec"], "pools": pools}}


def test_a_mixed_pool_alone_serves_whole_requests(tmp_path: Path, trace: Path) -> None:
    document = simulated(write(tmp_path, _pools(mixed=POOL)), trace)
    assert document["paths"]["mixed"] == 450
    assert document["notes"] == []


def test_measured_speeds_are_taken_and_what_is_unknown_is_said(tmp_path: Path, trace: Path) -> None:
    manifest = _pools(mixed={**POOL, "performance": COEFFICIENTS})
    manifest["spec"] = {**manifest["spec"], "model": {"source": "somebody/else"}}
    document = simulated(write(tmp_path, manifest), trace)
    assert document["requests"] == 450
    assert [note.partition(":")[0] for note in document["notes"]] == ["mixed", "mixed"]
    assert document["dollars"] == 0.0


@pytest.mark.parametrize("cut", [0, 1])
def test_a_trace_without_requests_is_refused(cluster: Path, tmp_path: Path, cut: int) -> None:
    file = trace_of(tmp_path, [])
    file.write_text("" if cut else file.read_text())
    result = run(cluster, "--trace", file)
    assert result.exit_code == 2
    assert ("TIMESTAMP" if cut else "it holds no request") in result.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("yesterday,10,10", "trace.csv, line 2, TIMESTAMP is 'yesterday'"),
        ("1.5,ten,10", "trace.csv, line 2, ContextTokens is 'ten'"),
        ("1.5,10,0", "trace.csv, line 2, GeneratedTokens is '0'"),
        ("1.5,10", "trace.csv, line 2, GeneratedTokens is absent"),
        (
            "1700000000000,10,10",
            "trace.csv, line 2, TIMESTAMP is '1700000000000', but a timestamp is a date, or seconds: milliseconds? divide by 1000",
        ),
        ("1,10,10\n1e18,10,10", "trace.csv is 11,574,074,074,075 days long"),
        (
            "0,10,10\n5184001,10,10",
            "trace.csv is 61 days long, but at most 60 days can be simulated, because every second of them is, with requests or without",
        ),
    ],
)
def test_a_bad_line_of_a_trace_is_named(cluster: Path, tmp_path: Path, line: str, message: str) -> None:
    result = run(cluster, "--trace", trace_of(tmp_path, [line]))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {message}")


def _trace_with_an_endless_cell(folder: Path) -> list[object]:
    return [write(folder, CLUSTER), "--trace", trace_of(folder, [f"{'1' * 200_000},10,10"])]


def _absent_trace(folder: Path) -> list[object]:
    return [write(folder, CLUSTER), "--trace", folder / "nowhere.csv"]


def _binary_trace(folder: Path) -> list[object]:
    file = folder / "trace.csv"
    file.write_bytes(b"\xff\xfe\x00")
    return [write(folder, CLUSTER), "--trace", file]


def _no_cluster(folder: Path) -> list[object]:
    return [write(folder, {"kind": "Pod"}), "--trace", trace_of(folder, ["0,1,1"])]


def _unknown_policy(folder: Path) -> list[object]:
    return [write(folder, CLUSTER), "--trace", trace_of(folder, ["0,1,1"]), "--policy", "magic"]


def _odd_knob(folder: Path) -> list[object]:
    return [write(folder, CLUSTER), "--trace", trace_of(folder, ["0,1,1"]), "--policy", "hpa-busy@high"]


def _standard_input_twice(_folder: Path) -> list[object]:
    return ["-", "--trace", "-"]


def _nameless_speed(folder: Path) -> list[object]:
    pool = {name: value for name, value in POOL.items() if name != "performance"}
    return [write(folder, _pools(mixed=pool)), "--trace", trace_of(folder, ["0,1,1"])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (_absent_trace, "--trace is"),
        (_binary_trace, "--trace is"),
        (_trace_with_an_endless_cell, "field larger than field limit"),
        (_no_cluster, "it holds 0 objects of kind InferenceCluster"),
        (_unknown_policy, "error: --policy is 'magic', but the known policies are static, "),
        (_odd_knob, "--policy is 'hpa-busy@high', but the knob is a number from 0.01 to 1"),
        (_standard_input_twice, "--trace is -, but standard input already holds the InferenceCluster"),
        (_nameless_speed, "spec.pools.mixed.performance is absent"),
    ],
)
def test_bad_input_is_told_in_one_line_and_ends_with_2(
    tmp_path: Path, arguments: Callable[[Path], list[object]], message: str
) -> None:
    result = run(*arguments(tmp_path))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_times_are_read_from_their_column_wherever_it_stands(cluster: Path, tmp_path: Path) -> None:
    header = "GeneratedTokens,TIMESTAMP,ContextTokens"
    file = trace_of(tmp_path, ["10,1.7e12,10"], header)
    assert "line 2, TIMESTAMP is '1.7e12'" in run(cluster, "--trace", file).stderr
    assert (
        simulated(cluster, trace_of(tmp_path, ["10,1.7e9,10", "10,1700000001,10"], header))["requests"] == 2
    )


def test_one_request_is_a_trace(cluster: Path, tmp_path: Path) -> None:
    file = trace_of(tmp_path, ["0,100,1"])
    document = simulated(cluster, file)
    assert document["requests"] == 1
    assert document["tpot_ms"]["p50"] is None
    for form in ("table", "html"):
        result = run(cluster, "--trace", file, "--format", form)
        assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("values", "line"),
    [([], ""), ([0.0, 0.0], "  "), ([0.01, 8.0], "▁█"), ([4.0, 8.0], "▄█"), ([1.0, 2.0, 8.0, 4.0], "▂█")],
)
def test_a_sparkline_shows_peaks_and_never_hides_a_little(values: list[float], line: str) -> None:
    assert sparkline(values, width=2) == line


@pytest.mark.parametrize(
    ("value", "ceiling"), [(0.0, 1.0), (0.3, 0.4), (1.0, 1.0), (5.1, 8.0), (9.0, 10.0), (130.0, 200.0)]
)
def test_axes_end_at_round_numbers(value: float, ceiling: float) -> None:
    assert nice_ceiling(value) == pytest.approx(ceiling)


def test_an_empty_chart_is_a_picture_all_the_same() -> None:
    assert ET.fromstring(svg(Chart("nothing", (Series("a", "prefill", ()),)), [], 1.0)).tag == "svg"  # noqa: S314 - ours


@pytest.mark.parametrize(("share", "text"), [(1.0, "100 %"), (0.999999, "99.99%"), (0.5, "50.00%")])
def test_a_share_is_never_rounded_up_to_all(share: float, text: str) -> None:
    assert percent_of(share) == text


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (12.34, "12.3 ms"), (1234.5, "1,234 ms")])
def test_milliseconds_are_as_exact_as_they_matter(value: float | None, text: str) -> None:
    assert milliseconds(value) == text

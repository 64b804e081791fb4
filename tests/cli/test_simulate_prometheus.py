"""`kubectl-ic simulate --prometheus`: a live cluster's past in place of a trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from tests.fakes.prometheus_server import FakePrometheus, serving
from typer.testing import CliRunner, Result

from inferencecluster.cli.simulate import simulate_command

application = typer.Typer()
application.command()(simulate_command)

SAMPLE = Path(__file__).resolve().parents[2] / "docs" / "samples" / "llama-70b.yaml"
START = 1_777_885_200
"""2026-05-04T09:00:00Z."""
RANGE = ("--start", "2026-05-04T09:00:00Z", "--end", "2026-05-04T09:10:00Z")
PER_STEP = {
    "inferencecluster_router_arrivals_total": 120.0,
    "inferencecluster_router_prompt_tokens_total": 120_000.0,
    "inferencecluster_router_prompt_tokens_squared_total": 2e8,
    "inferencecluster_router_completed_requests_total": 120.0,
    "inferencecluster_router_completed_output_tokens_total": 24_000.0,
}


def growth(counter: str, _: int) -> float | None:
    return PER_STEP.get(counter)


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    manifest = yaml.safe_load(SAMPLE.read_text())
    manifest["metadata"] = {"name": "tiny", "namespace": "team"}
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(manifest))
    return file


@pytest.fixture
def fake() -> FakePrometheus:
    return FakePrometheus(growth, selector='namespace="team",cluster="tiny"')


@pytest.fixture
def url(fake: FakePrometheus) -> Iterator[str]:
    with serving(fake) as base:
        yield base


def run(*arguments: object) -> Result:
    return CliRunner().invoke(application, [str(argument) for argument in arguments])


def simulated(cluster: Path, url: str, *arguments: object) -> dict[str, Any]:
    result = run(cluster, "--prometheus", url, *RANGE, "--format", "json", *arguments)
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_the_simulation_has_the_rates_and_means_that_the_routers_counted(cluster: Path, url: str) -> None:
    document = simulated(cluster, url)
    # Ten steps of 120 requests; Poisson's deviation is 35.
    assert document["requests"] == pytest.approx(1200, abs=6 * 35)
    timeline = document["timeline"]
    prompts = sum(item["prompt_tokens"] for item in timeline) / document["requests"]
    outputs = sum(item["output_tokens"] for item in timeline) / document["completed"]
    assert prompts == pytest.approx(1000, rel=0.15)
    assert outputs == pytest.approx(200, rel=0.2)
    assert document["trace"] == f"{url} from 2026-05-04T09:00:00Z to 2026-05-04T09:10:00Z in steps of 60 s"
    (note,) = document["notes"]
    assert note.startswith("arrivals and lengths are drawn step by step (10 of 60 s): ")


def test_equal_runs_are_equal_another_seed_draws_anew_and_copies_multiply(cluster: Path, url: str) -> None:
    first = simulated(cluster, url)
    assert simulated(cluster, url) == first
    assert simulated(cluster, url, "--seed", 1)["timeline"] != first["timeline"]
    assert simulated(cluster, url, "--copies", 2)["requests"] == 2 * first["requests"]


def test_steps_without_data_are_told_with_their_times_and_bring_nothing(
    cluster: Path, fake: FakePrometheus, url: str
) -> None:
    lost = {START + 120, START + 180, START + 420}
    fake.growth = lambda counter, time: "NaN" if time in lost else growth(counter, time)
    document = simulated(cluster, url, "--warm-up-seconds", 0)
    assert document["notes"][1] == (
        "3 of 10 steps have no data and bring no request: 2026-05-04T09:01:00Z to 2026-05-04T09:03:00Z, "
        "2026-05-04T09:06:00Z to 2026-05-04T09:07:00Z"
    )
    assert document["requests"] == pytest.approx(840, abs=6 * 29)
    result = run(cluster, "--prometheus", url, *RANGE)
    assert "note: 3 of 10 steps have no data" in result.stdout


def test_many_gaps_are_counted_and_not_all_named(cluster: Path, fake: FakePrometheus, url: str) -> None:
    fake.growth = lambda counter, time: None if time // 10 % 2 else growth(counter, time)
    note = simulated(cluster, url, "--step", 10)["notes"][1]
    assert note.startswith("30 of 60 steps have no data")
    assert note.endswith(" and 20 more")


def test_what_is_less_than_a_step_is_left_out_with_a_note(cluster: Path, url: str) -> None:
    document = simulated(cluster, url, "--step", 90)
    assert document["notes"][-1] == "the last 60 s before --end are less than a step and left out"


def test_times_may_be_unix_seconds_and_are_utc_without_a_zone(cluster: Path, url: str) -> None:
    expected = simulated(cluster, url)
    for start, end in (
        (str(START), str(START + 600)),
        ("2026-05-04 09:00:00", "2026-05-04T11:10:00+02:00"),
    ):
        assert simulated(cluster, url, "--start", start, "--end", end) == expected


def test_credentials_are_not_in_the_outcome(cluster: Path, fake: FakePrometheus, url: str) -> None:
    result = run(cluster, "--prometheus", url.replace("//", "//me:secret@"), *RANGE, "--format", "html")
    assert result.exit_code == 0, result.stderr
    assert fake.headers[0]["Authorization"].startswith("Basic ")
    assert "secret" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ("--end", "2026-05-04"), "--start is absent, but --prometheus needs a range", id="start"
        ),
        pytest.param(("--start", "2026-05-04"), "--end is absent, but --prometheus needs a range", id="end"),
        pytest.param(
            ("--start", "yesterday", "--end", "2026-05-04"),
            "--start is 'yesterday', but a time is a date",
            id="no time",
        ),
        pytest.param(
            ("--start", "1777885200000", "--end", "2026-05-04"), "milliseconds? divide by 1000", id="ms"
        ),
        pytest.param(("--start", "nan", "--end", "2026-05-04"), "--start is 'nan'", id="nan"),
        pytest.param(
            ("--start", "2026-05-05", "--end", "2026-05-04"),
            "--start is 2026-05-05T00:00:00Z, but it must be before --end, 2026-05-04T00:00:00Z: swap",
            id="backwards",
        ),
        pytest.param(
            ("--start", "2026-05-04", "--end", "2026-05-04"), "it must be before --end", id="nothing"
        ),
        pytest.param((*RANGE, "--step", 0), "--step is 0, but it is a whole number of seconds", id="step 0"),
        pytest.param((*RANGE, "--step", 601), "--step is 601, but it is a whole number", id="long step"),
        pytest.param(
            ("--start", "2025-05-04", "--end", "2026-05-04"),
            "--end is 365 days after --start, but at most 60 days can be simulated, because every second",
            id="long range",
        ),
        pytest.param((*RANGE, "--prometheus", "prometheus:9090"), "no http or https URL", id="no URL"),
        pytest.param((*RANGE, "--prometheus", "http://[::1"), "no http or https URL", id="half a URL"),
        pytest.param((*RANGE, "--trace", "a.csv"), "--trace is a.csv, but the requests already", id="both"),
        pytest.param(
            (*RANGE, "--prometheus", "http://127.0.0.1:9"),
            "could not be read",
            id="unreachable",
        ),
    ],
)
def test_bad_options_are_told_in_one_line_and_end_with_2(
    cluster: Path, arguments: tuple[object, ...], message: str
) -> None:
    result = run(cluster, "--prometheus", "http://127.0.0.1:9", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("counters", "message"),
    [
        pytest.param(
            {}, "it has no inferencecluster_router_arrivals_total of team/tiny in that range", id="empty"
        ),
        pytest.param(
            PER_STEP | {"inferencecluster_router_arrivals_total": 0.0},
            "team/tiny had no request then",
            id="idle",
        ),
        pytest.param(
            PER_STEP | {"inferencecluster_router_arrivals_total": 1e-5},
            "team/tiny had no request then",
            id="nearly idle",
        ),
        pytest.param(
            PER_STEP | {"inferencecluster_router_completed_requests_total": 0.0},
            "no request of team/tiny was completed then",
            id="nothing completed",
        ),
        pytest.param(
            PER_STEP | {"inferencecluster_router_arrivals_total": 1e12},
            "it tells 16,666,666,667 requests per second of team/tiny, and at most 100,000 can be meant",
            id="a wrong counter",
        ),
    ],
)
def test_answers_that_bring_no_requests_are_told_as_what_they_are(
    cluster: Path, fake: FakePrometheus, url: str, counters: dict[str, float], message: str
) -> None:
    fake.growth = lambda counter, _: counters.get(counter)
    result = run(cluster, "--prometheus", url, *RANGE)
    assert result.exit_code == 2
    assert f"error: --prometheus is {url} from 2026-05-04T09:00:00Z" in result.stderr
    assert message in result.stderr


def test_a_server_that_refuses_is_told_in_its_own_words(
    cluster: Path, fake: FakePrometheus, url: str
) -> None:
    fake.status, fake.body = 401, "sign in first"
    result = run(cluster, "--prometheus", url, *RANGE)
    assert result.exit_code == 2
    assert "HTTP Status Code 401 (b'sign in first')" in result.stderr
    assert "http://USER:PASSWORD@HOST signs in" in result.stderr


@pytest.mark.parametrize(("option", "value"), [("--start", "0"), ("--end", "9"), ("--step", "60")])
def test_options_of_prometheus_are_not_ignored_beside_a_trace(
    cluster: Path, tmp_path: Path, option: str, value: str
) -> None:
    result = run(cluster, "--trace", tmp_path / "trace.csv", option, value)
    assert result.exit_code == 2
    assert f"{option} is {value}, but it belongs to --prometheus, which is absent" in result.stderr


def test_without_requests_there_is_nothing_to_simulate(cluster: Path) -> None:
    result = run(cluster)
    assert result.exit_code == 2
    assert "--trace is absent, but a simulation needs requests: give --trace FILE, or --pro" in result.stderr

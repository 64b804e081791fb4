"""The agreement benchmark measures itself first: a demo that was simulated agrees with the simulator."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import typer
from benches.agreement import __main__ as program
from benches.agreement import engines as processes
from benches.agreement.comparison import (
    AIM,
    Figure,
    PoolDifference,
    all_pools,
    figures,
    pool_differences,
    side_of_demo,
)
from benches.agreement.recorded import read_demo
from benches.agreement.report import Outcome, markdown
from benches.agreement.simulated import IDLE_SECONDS, setting_of
from benches.scenarios.markdown import filled
from e2e.demo import evidence
from e2e.demo.load import Answer
from e2e.demo.monitor import PoolSample, Sample
from e2e.demo.scenario import Scenario as DemoScenario
from e2e.demo.scenario import cluster_manifest
from e2e.demo.summary import Slo
from e2e.demo.trace import Request as DemoRequest
from typer.testing import CliRunner

from inferencecluster.api.inferencecluster import parse_cluster
from inferencecluster.api.recording import Begin, Decided, Entry, to_line
from inferencecluster.cli.simulate_inputs import cluster_of
from inferencecluster.core.decision import Decision, Memory
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Observation
from inferencecluster.render.context import Platform, pool_context
from inferencecluster.render.emulated import emulated_engine
from inferencecluster.simulator.journeys import Journey
from inferencecluster.simulator.scenario import Scenario
from inferencecluster.simulator.simulation import Simulation
from inferencecluster.simulator.workload import Request

EPOCH = 1_800_000_000.0
SECONDS = 90
DEMO = DemoScenario(
    "synthetic",
    tuple(
        DemoRequest(number / 12, 900 + 40 * (number % 11), 60 + number % 90) for number in range(SECONDS * 12)
    ),
    seconds=float(SECONDS),
    compression=6.0,
    share=1.0,
)
MANIFEST: dict[str, Any] = dict(
    cluster_manifest(
        DEMO,
        name="llama-70b",
        namespace="demo",
        engine_image="registry.example/emulated:1",
        gpu_resource="nvidia.com/gpu",
    )
)


def looks_of(simulation: Simulation) -> list[str]:
    """Recorded as the operator records; filled while the simulation runs."""
    lines: list[str] = []

    def record(observation: Observation, decision: Decision) -> None:
        seen = replace(
            observation,
            now=EPOCH + observation.now,
            replicas=tuple(
                replace(
                    item,
                    created_at=EPOCH + item.created_at,
                    ready_at=None if item.ready_at is None else EPOCH + item.ready_at,
                    fenced_at=None if item.fenced_at is None else EPOCH + item.fenced_at,
                )
                for item in observation.replicas
            ),
        )
        is_first = not lines
        lines.append(
            to_line(
                Entry(
                    "demo/llama-70b",
                    seen,
                    Decided.of(decision),
                    Memory.empty() if is_first else Missing("NotRecorded"),
                    Begin.PROCESS if is_first else None,
                )
            ).rstrip("\n")
        )

    simulation.operator.on_decision = record
    return lines


def sample(second: int, ready: Mapping[PoolName, float], *, gpus: float) -> Sample:
    pools = {
        name.value: PoolSample(desired=round(count), ready=round(count)) for name, count in ready.items()
    }
    return Sample(float(second), pools, round(gpus), 64, 0, 0, "", ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a demo would leave that is exactly as the simulator says."""
    found = tmp_path_factory.mktemp("demo")
    evidence.write_plan(found, DEMO, MANIFEST)
    cluster = parse_cluster(MANIFEST)
    platform = Platform(router_image="r", router_cluster_role="r")
    engines = {
        name.value: json.loads(emulated_engine(pool_context(cluster, name, platform)).config_text)
        for name in PoolName
    }
    (found / evidence.ENGINES_FILE).write_text(json.dumps(engines))
    known = cluster_of(cluster, boot_seconds=None)
    scenario = Scenario(known.spec, known.hardware, warm_up_seconds=IDLE_SECONDS, timeline_seconds=1.0)
    journeys: list[Journey] = []
    simulation = Simulation(scenario, record=journeys.append)
    looks = looks_of(simulation)
    simulation.serve(
        [Request(IDLE_SECONDS + item.at, item.prompt_tokens, item.output_tokens) for item in DEMO.requests]
    )
    timeline = simulation.report().timeline
    samples = [sample(second, item.serving, gpus=item.gpus) for second, item in enumerate(timeline)]
    facts = evidence.RunFacts(
        "synthetic", float(SECONDS), 6.0, 1.0, EPOCH + IDLE_SECONDS, halved_budget=False
    )
    evidence.write_run(found, facts, samples)
    with (found / evidence.REQUESTS_FILE).open("w") as file:
        file.writelines(json.dumps(asdict(answer)) + "\n" for answer in answers_of(journeys))
    evidence.write_looks(found, looks, cluster="demo/llama-70b")
    return found


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the comparison draws."""
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def outcome(folder: Path, pictures: Path) -> Outcome:
    """That demo beside the simulator."""
    return program.compare(read_demo(folder), pictures)


def answers_of(journeys: list[Journey]) -> Iterator[Answer]:
    for journey in journeys:
        yield Answer(
            at=journey.arrived_at - IDLE_SECONDS,
            late=0.0,
            sent_at=EPOCH + journey.arrived_at,
            prompt_tokens=journey.prompt_tokens,
            output_tokens=journey.output_tokens,
            received_tokens=journey.output_tokens,
            ttft=journey.ttft_seconds,
            seconds=journey.ended_at - journey.arrived_at,
            error="",
        )


def test_what_a_demo_left_is_read_back_in_seconds_of_its_traffic(folder: Path) -> None:
    demo = read_demo(folder)
    assert demo.began_at == pytest.approx(EPOCH + IDLE_SECONDS)
    assert demo.samples[0].at == pytest.approx(0.0)
    assert demo.initial == {PoolName.PREFILL: 1, PoolName.DECODE: 1, PoolName.MIXED: 0}
    assert len(demo.answers) == len(DEMO.requests)
    boot = cluster_of(demo.cluster, boot_seconds=None).spec.boot_seconds
    assert demo.boots() == pytest.approx([boot] * len(demo.boots()))
    assert len(demo.boots()) > 2
    assert replace(demo, began_at=0.0).initial == {}


def test_the_simulator_is_given_the_engines_as_they_were_told(folder: Path, tmp_path: Path) -> None:
    demo = read_demo(folder)
    declared = cluster_of(demo.cluster, boot_seconds=None)
    assert setting_of(demo).hardware == declared.hardware
    slower = {**demo.engines[PoolName.DECODE], "kv_bandwidth_bytes_per_second": 1e9}
    changed = replace(demo, engines={**demo.engines, PoolName.DECODE: slower})
    assert setting_of(changed).hardware[PoolName.DECODE].link_bytes_per_second == 1e9


def test_a_simulated_demo_agrees_with_the_simulator(outcome: Outcome, pictures: Path) -> None:
    for figure in outcome.figures:
        # One of the simulated runs has the very ticks of the demo, and repeats it.
        assert any(value == pytest.approx(figure.demo, rel=0.02) for value in figure.simulated), figure
    assert outcome.pools[0].demo_minutes > 1.5
    assert {path.name for path in pictures.iterdir()} == {"pools.svg", "pools.png"}


def test_the_command_writes_a_table_for_the_page(folder: Path, tmp_path: Path) -> None:
    application = typer.Typer()
    application.command()(program.main)
    result = CliRunner().invoke(application, [str(folder), "--output", str(tmp_path)])
    assert result.exit_code == 0, result.stderr
    block = (tmp_path / "agreement.md").read_text()
    assert "| TTFT p90, ms |" in block
    assert "| decode |" in block
    page = program.DOCUMENT.read_text()
    assert block.strip() in filled(page, {program.BLOCK: block.strip()})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda folder: (folder / "looks.jsonl").unlink(), "looks.jsonl", id="a file is missing"),
        pytest.param(
            lambda folder: (folder / "requests.jsonl").write_text(""), "empty", id="nothing was answered"
        ),
        pytest.param(
            lambda folder: (folder / "requests.jsonl").write_text('{"at": 1}\n'),
            "cannot be read",
            id="another release",
        ),
        pytest.param(
            lambda folder: (folder / "run.json").write_text(
                (folder / "run.json").read_text().replace("false", "true")
            ),
            "halved",
            id="the budget was halved",
        ),
    ],
)
def test_a_run_that_cannot_be_compared_is_refused_with_its_reason(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    spoil(tmp_path)
    application = typer.Typer()
    application.command()(program.main)
    result = CliRunner().invoke(application, [str(tmp_path), "--output", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("demo", "simulated", "error", "holds"),
    [
        pytest.param(100.0, (109.0, 108.0, 250.0), 0.09, True, id="the median counts"),
        pytest.param(100.0, (89.0,), -0.11, False, id="below by more than the aim"),
        pytest.param(0.0, (0.0,), 0.0, True, id="nothing on both sides"),
        pytest.param(0.0, (5.0,), math.inf, False, id="nothing to compare with"),
    ],
)
def test_errors_are_relative_to_the_demo(
    demo: float, simulated: tuple[float, ...], error: float, holds: bool
) -> None:
    figure = Figure("TTFT p50, ms", demo, simulated, is_aimed_at=True)
    assert figure.error == pytest.approx(error)
    assert figure.holds is holds
    assert AIM == 0.1


def test_pools_are_compared_second_by_second(folder: Path) -> None:
    side = side_of_demo(read_demo(folder))
    more = replace(side, ready={name: [count + 1 for count in counts] for name, counts in side.ready.items()})
    for difference in pool_differences(side, more):
        assert difference.mean_difference == pytest.approx(1.0)
        assert difference.difference_minutes == pytest.approx(len(side.ready[PoolName.PREFILL]) / 60)
        assert difference.simulated_minutes - difference.demo_minutes == pytest.approx(
            difference.difference_minutes
        )


@pytest.mark.parametrize(
    ("demo_minutes", "apart", "error", "holds"),
    [
        pytest.param(50.0, 5.0, 0.1, True, id="at the aim"),
        pytest.param(7.1, 6.5, 6.5 / 7.1, False, id="a small pool that is nearly twice as large"),
        pytest.param(0.0, 0.0, 0.0, True, id="a pool that neither side has"),
        pytest.param(0.0, 0.5, math.inf, False, id="a pool that only the simulator has"),
    ],
)
def test_pool_sizes_have_the_same_aim_as_latencies(
    demo_minutes: float, apart: float, error: float, *, holds: bool
) -> None:
    found = PoolDifference("mixed", demo_minutes, demo_minutes + apart, 0.1, apart)
    assert found.error == pytest.approx(error)
    assert found.holds is holds


def test_what_one_pool_has_too_much_does_not_make_up_for_another() -> None:
    found = all_pools(
        (PoolDifference("prefill", 10.0, 12.0, 0.2, 2.0), PoolDifference("decode", 10.0, 8.0, 0.2, 2.0))
    )
    assert (found.demo_minutes, found.simulated_minutes) == (20.0, 20.0)
    assert found.error == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("mixed_apart", "said", "holds"),
    [
        pytest.param(0.0, "Every figure with an aim", True, id="all within"),
        pytest.param(
            1.5,
            "ready replicas over time, mixed, 1.5 (75%) replica-minutes apart (3.5 in the simulator, 2.0 in the demo)",
            False,
            id="mixed beyond",
        ),
    ],
)
def test_the_verdict_names_pools_that_miss_the_aim(
    folder: Path, outcome: Outcome, mixed_apart: float, said: str, *, holds: bool
) -> None:
    alike = tuple(PoolDifference(name, 50.0, 50.0, 0.0, 0.0) for name in ("prefill", "decode"))
    mixed = PoolDifference("mixed", 2.0, 2.0 + mixed_apart, mixed_apart / 10, mixed_apart)
    exact = tuple(replace(figure, simulated=(figure.demo,)) for figure in outcome.figures)
    found = replace(outcome, figures=exact, pools=(*alike, mixed), different=0)
    assert found.holds is holds
    assert said in markdown(read_demo(folder), found)


def test_both_sides_are_judged_by_the_same_rule(folder: Path) -> None:
    side = side_of_demo(read_demo(folder))
    slo = Slo(1.0, 0.035, lambda _tokens: 0.2)
    for figure in figures(side, [side, side], slo):
        assert figure.error == 0.0
        assert figure.simulated == (figure.demo, figure.demo)


def test_processes_and_simulator_serve_the_same_requests() -> None:
    """Two engines and a router for a second or two; how long anything takes is not judged here."""
    cluster = parse_cluster(MANIFEST)
    sizes = {PoolName.PREFILL: 1, PoolName.DECODE: 1, PoolName.MIXED: 0}
    fleet = processes.Fleet(cluster, cluster_of(cluster, boot_seconds=None), sizes)
    requests = tuple(DemoRequest(number / 10, 300, 10 + number) for number in range(5))
    answers = processes.play(fleet, requests)
    assert [(answer.received_tokens, answer.error) for answer in answers] == [(10 + n, "") for n in range(5)]
    found = processes.compare(fleet, answers)
    assert [figure.name for figure in found][:2] == ["TTFT p50, ms", "TTFT p90, ms"]
    assert all(figure.demo > 0 and figure.middle > 0 for figure in found)


@pytest.mark.parametrize(
    "sizes", [pytest.param("6,4", id="two sizes"), pytest.param("a,b,c", id="no numbers")]
)
def test_sizes_that_are_none_are_refused(sizes: str) -> None:
    application = typer.Typer()
    application.command()(processes.main)
    result = CliRunner().invoke(application, ["--sizes", sizes])
    assert result.exit_code == 2
    assert "6,4,1" in result.stderr

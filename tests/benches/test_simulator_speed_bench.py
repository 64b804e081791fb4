"""The bench of the simulator's speed: what it runs and how it compares. How long anything takes is not judged here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from benches.policy.cluster import fixed
from benches.policy.traces import FILES
from benches.simulator_speed import (
    LARGE_FLEET,
    PEER_REQUESTS,
    PEER_SECONDS,
    SMALL_FLEET,
    Case,
    Cost,
    Tenfold,
    main,
    measure,
    peer_lines,
    repeated,
    run,
    tenfold_lines,
)

from benches import simulator_speed
from inferencecluster.simulator.synthetic import Phase, Shape, alternating
from inferencecluster.simulator.workload import Request


def conversation(*, rate: float, seconds: float) -> Sequence[Request]:
    phase = Phase(Shape(1020, 129), rate)
    return list(alternating([phase], phase_seconds=seconds, duration_seconds=seconds, seed=1))


def case(name: str, fleet: tuple[int, int, int], requests: Sequence[Request]) -> Case:
    return Case(name, fixed(fleet, seed=1), lambda: requests)


@pytest.mark.parametrize(
    ("fleet", "once", "ten_times"),
    [
        pytest.param(SMALL_FLEET, (5.5, 90.0), (5.5, 900.0), id="longer"),
        pytest.param((0, 0, 3), (5.5, 90.0), (5.5, 900.0), id="longer, whole requests"),
        pytest.param(LARGE_FLEET, (5.5, 90.0), (55.0, 90.0), id="denser"),
    ],
)
def test_ten_times_the_requests_are_ten_times_the_events(
    fleet: tuple[int, int, int], once: tuple[float, float], ten_times: tuple[float, float]
) -> None:
    """Events are what a run costs, however long the trace and however busy the fleet."""
    few, many = (
        run(case("", fleet, conversation(rate=rate, seconds=seconds))) for rate, seconds in (once, ten_times)
    )
    assert many.requests == pytest.approx(10 * few.requests, rel=0.1)
    assert many.events / many.requests <= 1.1 * few.events / few.requests


def test_ten_hours_are_the_hour_ten_times() -> None:
    hour = [Request(0.0, 100, 10), Request(3500.0, 200, 20)]
    found = list(repeated(hour, 3))
    assert [request.arrival for request in found] == [0.0, 3500.0, 3600.0, 7100.0, 7200.0, 10700.0]
    assert {request.prompt_tokens for request in found[1::2]} == {200}


def test_the_fastest_of_several_rounds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter((2.0, 9.0, 1.0, 7.0, 3.0, 8.0))
    order: list[str] = []

    def timed(found: Case) -> Cost:
        order.append(found.name)
        return Cost(10, 50, next(seconds))

    monkeypatch.setattr(simulator_speed, "run", timed)
    costs = measure([case("a", SMALL_FLEET, ()), case("b", SMALL_FLEET, ())], rounds=3)
    assert {name: cost.seconds for name, cost in costs.items()} == {"a": 1.0, "b": 7.0}
    # In turn: a slow minute of the machine touches every case.
    assert order == ["a", "b"] * 3


@pytest.mark.parametrize(
    ("seconds", "holds"),
    [
        pytest.param((2.0, 22.0, 5.0, 50.0), [True, True, None, True], id="all within"),
        pytest.param((2.1, 22.0, 5.0, 55.5), [False, True, None, False], id="hour and density beyond"),
    ],
)
def test_the_hour_and_ten_times_of_it_have_aims(
    seconds: tuple[float, float, float, float], holds: list[bool | None]
) -> None:
    pairs = [
        Tenfold(case("hour", SMALL_FLEET, ()), case("ten", SMALL_FLEET, ())),
        Tenfold(case("thin", LARGE_FLEET, ()), case("dense", LARGE_FLEET, ())),
    ]
    names = ("hour", "ten", "thin", "dense")
    costs = {name: Cost(100, 500, value) for name, value in zip(names, seconds, strict=True)}
    found = list(tenfold_lines(pairs, costs))
    assert [line.holds for line in found] == holds
    assert found[1].ratio == pytest.approx(seconds[1] / seconds[0])


def test_the_peer_is_compared_by_requests_per_second() -> None:
    design, peer_seconds = next(iter(PEER_SECONDS.items()))
    peers = {design: case("cluster", SMALL_FLEET, ())}
    for ratio, holds in ((51.0, True), (49.0, False)):
        cost = Cost(2 * PEER_REQUESTS, 10, 2 * peer_seconds / ratio)
        (line,) = peer_lines(peers, {"cluster": cost})
        assert line.ratio == pytest.approx(ratio)
        assert line.holds is holds


def test_the_command_prints_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in FILES.values():
        lines = [f"{10 * number},{500 + number},{20 + number}" for number in range(20)]
        (tmp_path / name).write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]))
    assert main(["--traces", str(tmp_path), "--rounds", "1", "--json", str(tmp_path / "found.json")]) == 0
    printed = capsys.readouterr().out
    assert "| the hour | 20 |" in printed
    assert "| the hour x10, 24 replicas | 200 |" in printed
    assert (tmp_path / "found.json").is_file()


def test_a_folder_without_traces_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--traces", str(tmp_path)]) == 2
    assert "AzureLLMInferenceTrace_conv.csv" in capsys.readouterr().err

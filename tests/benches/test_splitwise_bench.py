"""The comparison with Splitwise's published results: its own arithmetic must be right."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pytest
from benches.splitwise import __main__ as bench
from benches.splitwise.__main__ import main
from benches.splitwise.cluster import HONEST, PEER, PHYSICS, scenario
from benches.splitwise.designs import (
    AA,
    BASE_A100,
    BASE_H100,
    HA,
    HH,
    ISO_COST,
    ISO_POWER,
    MODELS,
    Design,
    splits,
)
from benches.splitwise.pictures import Bars, draw_frontiers
from benches.splitwise.points import Outcomes, Place, Point, measure
from benches.splitwise.running import Runner, fingerprint
from benches.splitwise.search import Budget, Choice, Measure, candidates, find_best, find_frontiers
from benches.splitwise.slos import Latencies, Reference, Slowdowns
from benches.splitwise.table import Curve, HonestTimes, PeerTimes, Row, read_table
from benches.splitwise.traces import generate, lengths
from rich.console import Console

from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.simulator.sequences import Phase
from inferencecluster.simulator.sequences import Sequence as EngineSequence

# Prompts take 10 ms and 0.1 ms a token; steps 20 ms and 1 ms a sequence beyond the first, and 1 us a token of context.
ROWS = tuple(
    Row(
        prompt,
        batch,
        128,
        0.010 + 1e-4 * prompt * batch,
        0.019 + 0.001 * batch + 1e-6 * batch * (prompt + 64),
    )
    for prompt, batch in ((128, 1), (512, 1), (512, 2), (512, 64), (1024, 1), (2048, 1), (8192, 1))
)
HEADER = (
    "model,hardware,prompt_size,batch_size,token_size,peak_power,average_power,"
    "prompt_time,token_time,e2e_time,tensor_parallel"
)
PUBLISHED_PLACE = Place(Path("none"), Path("none"))


def chunks(*tokens: int) -> list[tuple[EngineSequence, int]]:
    return [(EngineSequence(number, Phase.WHOLE, size, 10), size) for number, size in enumerate(tokens)]


def write_table(path: Path) -> Path:
    lines = [
        f"bloom-176b,{hardware},{row.prompt_tokens},{row.batch},{row.output_tokens},1,1,"
        f"{row.prompt_seconds * 1000},{row.token_seconds * 1000},0,8"
        for hardware in ("a100-80gb", "h100-80gb", "h100-80gb-pcap")
        for row in ROWS
    ]
    path.write_text("\n".join((HEADER, *lines, "bloom-176b,a100-80gb,512,1,128,1,1,1,1,1,2")) + "\n")
    return path


def write_traces(folder: Path) -> Path:
    for name in ("conv", "code"):
        lines = [f"{number},{100 + 10 * number},{5 + number % 7}" for number in range(50)]
        (folder / f"AzureLLMInferenceTrace_{name}.csv").write_text(
            "\n".join(("TIMESTAMP,ContextTokens,GeneratedTokens", *lines)) + "\n"
        )
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(write_table(tmp_path / "table.csv"), write_traces(tmp_path), seconds=5.0)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        pytest.param(10, 1.0, id="a point"),
        pytest.param(15, 1.5, id="between points"),
        pytest.param(0, 0.0, id="before the first: its piece goes on"),
        pytest.param(30, 6.0, id="behind the last: its piece goes on"),
    ],
)
def test_a_curve_is_linear_between_medians_and_beyond_them(x: float, y: float) -> None:
    curve = Curve.of_medians([(20, 9.0), (20, 2.0), (20, 1.0), (10, 1.0), (25, 4.0)])
    assert curve.at(x) == pytest.approx(y)


def test_the_peer_looks_decode_steps_up_by_prompt_tokens_and_so_hardly_sees_the_batch() -> None:
    times = PeerTimes.of(ROWS)
    one, many = times.flat_step_seconds(1), times.flat_step_seconds(64)
    # Its curve begins at 128 tokens with 20.192 ms and rises by 0.384 ms to 512: 64 sequences add 0.063 ms.
    assert many - one == pytest.approx(63 * 0.384e-3 / 384)
    assert times.context_token_seconds == 0.0
    assert times.prefill_seconds(chunks(500, 1000)) == pytest.approx(0.160)
    seconds, share = times.mixed_seconds(chunks(1000), 50, 10**6)
    assert seconds == pytest.approx(1.1 * (0.010 + 1e-4 * 1050))
    assert share == pytest.approx(1000 / 1050)


def test_honest_decode_steps_grow_with_batch_and_context_as_they_were_measured() -> None:
    times = HonestTimes.of(ROWS)
    assert times.context_token_seconds == pytest.approx(1e-6)
    for row in ROWS:
        context = row.batch * (row.prompt_tokens + 64)
        found = times.flat_step_seconds(row.batch) + times.context_token_seconds * context
        assert found == pytest.approx(row.token_seconds)
    assert times.flat_step_seconds(100) == pytest.approx(0.119)
    # One pass over the weights: the larger base of 10 and 19 ms, once.
    seconds, share = times.mixed_seconds(chunks(1000), 10, 5000)
    assert seconds == pytest.approx(0.019 + 0.100 + 0.010 + 0.005)
    assert share == pytest.approx(0.100 / 0.115)


def test_a_table_is_read_in_seconds_at_tensor_parallel_eight_only(tmp_path: Path) -> None:
    rows = read_table(write_table(tmp_path / "table.csv"))["bloom-176b", "a100-80gb"]
    assert len(rows) == len(ROWS)
    assert rows[0].prompt_seconds == pytest.approx(ROWS[0].prompt_seconds)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        pytest.param("model,hardware\n", "prompt_size", id="a column is absent"),
        pytest.param("", "model", id="nothing in it"),
        pytest.param(f"{HEADER}\nm,h,x,1,1,1,1,1,1,1,8\n", "line 2", id="no number"),
        pytest.param(f"{HEADER}\nm,h,1,1,1,1,1,,1,1,8\n", "line 2", id="an empty time"),
    ],
)
def test_a_broken_table_is_refused_with_its_place(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(SpecError, match=named):
        read_table(path)


def test_traces_repeat_for_a_seed_and_draw_both_lengths_by_themselves() -> None:
    known = ((1, 2, 3), (10, 20, 30))
    found = generate(known, rate=50.0, seed=3, seconds=60.0)
    assert found == generate(known, rate=50.0, seed=3, seconds=60.0)
    assert found != generate(known, rate=50.0, seed=4, seconds=60.0)
    assert all(before.arrival <= after.arrival for before, after in itertools.pairwise(found))
    assert found[-1].arrival < 60.0
    assert len(found) == pytest.approx(3000, rel=0.1)
    pairs = {(request.prompt_tokens, request.output_tokens) for request in found}
    assert pairs == set(itertools.product(*known))


def test_a_higher_rate_sends_the_same_requests_earlier() -> None:
    known = ((1, 2, 3), (10, 20, 30))
    slow, fast = (generate(known, rate=rate, seed=0, seconds=10.0) for rate in (10.0, 20.0))
    assert len(fast) > len(slow)
    for one, other in zip(slow, fast, strict=False):
        assert other.arrival == pytest.approx(one.arrival / 2)
        assert (other.prompt_tokens, other.output_tokens) == (one.prompt_tokens, one.output_tokens)


def test_an_unknown_trace_is_refused() -> None:
    with pytest.raises(SpecError, match="conv, code"):
        lengths(Path("none"), "chat")


def test_a_request_alone_takes_its_prompt_and_a_step_for_each_further_token() -> None:
    alone = Reference.of(ROWS).latencies(1024, 11)
    # 1024 tokens are one prompt of 1024 and two of 512: the median of 21.088 and 22.152 ms.
    assert alone.ttft == pytest.approx(0.1124)
    assert alone.tbt == pytest.approx((0.021088 + 0.022152) / 2)
    assert alone.e2e == pytest.approx(alone.ttft + 10 * alone.tbt)


ALONE = Latencies(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("taken", "broken"),
    [
        pytest.param([Latencies(1.9, 1.2, 1.2)] * 100, (), id="inside"),
        pytest.param([Latencies(2.0, 1.2, 1.2)] * 100, ("ttft P50",), id="equal to a limit is outside"),
        pytest.param([Latencies(1.0, 1.3, 1.0)] * 100, ("tbt P50",), id="1.3 breaks the median of TBT only"),
        pytest.param(
            [Latencies(1.0, 1.0, 1.0)] * 88 + [Latencies(3.5, 1.6, 4.0)] * 12,
            ("ttft P90", "tbt P90", "e2e P90"),
            id="an eighth is slow",
        ),
        pytest.param(
            [Latencies(1.0, 1.0, 1.0)] * 97 + [Latencies(7.0, 6.0, 6.0)] * 3,
            ("ttft P99", "tbt P99", "e2e P99"),
            id="three of a hundred are very slow",
        ),
    ],
)
def test_the_nine_slos_bound_percentiles_of_slowdown(
    taken: Sequence[Latencies], broken: tuple[str, ...]
) -> None:
    assert Slowdowns.of((item, ALONE) for item in taken).broken == broken


def test_designs_of_equal_power_and_of_equal_cost_are_so() -> None:
    powers = [design.power for design in ISO_POWER]
    assert max(powers) / min(powers) < 1.02
    costs = [design.dollars_per_hour for design in ISO_COST]
    assert max(costs) / min(costs) < 1.1
    assert Design(BASE_A100, 86).dollars_per_hour == pytest.approx(
        Design(BASE_H100, 40).dollars_per_hour, rel=0.01
    )


def test_a_budget_buys_every_split_of_equal_machines() -> None:
    design = Design(AA, 45, 25)
    found = splits(AA, dollars_per_hour=design.dollars_per_hour, power=design.power)
    assert [(item.prompts, item.tokens) for item in found] == [(n, 70 - n) for n in range(1, 70)]


def test_a_budget_of_unequal_machines_is_spent_on_tokens_as_far_as_it_goes() -> None:
    design = Design(HA, 25, 26)
    found = splits(HA, dollars_per_hour=design.dollars_per_hour, power=design.power)
    assert design in found
    for item in found:
        assert item.dollars_per_hour <= design.dollars_per_hour + 1e-6
        assert item.power <= design.power + 1e-6
        more = Design(HA, item.prompts, item.tokens + 1)
        assert more.power > design.power or more.dollars_per_hour > design.dollars_per_hour


def test_a_baseline_has_no_split() -> None:
    base = Design(BASE_A100, 70)
    assert splits(BASE_A100, dollars_per_hour=base.dollars_per_hour, power=base.power) == (base,)


def holding_up_to(capacity: dict[int, float]) -> Measure:
    """Designs hold up to a rate that depends on their prompt machines."""

    def run(title: str, points: Sequence[Point]) -> dict[Point, Outcomes]:
        return {point: outcomes(holds=point.rate <= capacity[point.design.prompts]) for point in points}

    return run


def outcomes(*, holds: bool) -> Outcomes:
    slowdown = 1.0 if holds else 4.0
    return Outcomes(1, 0, 0, {}, Slowdowns.of([(Latencies(slowdown, 1.0, 1.0), ALONE)]))


@pytest.mark.parametrize("capacity", [0.0, 10.0, 75.0, 80.0, 110.0, 130.0, 305.0])
def test_a_frontier_is_the_last_rate_of_the_grid_that_holds(capacity: float) -> None:
    run = holding_up_to({40: capacity})
    design = Design(BASE_H100, 40)
    (found,) = find_frontiers(PUBLISHED_PLACE, [(design, "peer", 0)], run)
    assert found.rate == capacity // 10 * 10
    assert found.broken[0] == "ttft P50"


@pytest.mark.parametrize("start", [10.0, 50.0, 90.0, 200.0])
def test_the_best_split_is_found_from_any_start(start: float) -> None:
    budget = Budget("some", Design(HH, 4, 4).dollars_per_hour, Design(HH, 4, 4).power)
    tried = candidates(HH, budget)
    assert [item.prompts for item in tried] == [1, 2, 3, 4, 5, 6, 7]
    run = holding_up_to(dict(enumerate((0.0, 20.0, 40.0, 90.0, 90.0, 95.0, 30.0, 10.0))))
    choice = Choice(PUBLISHED_PLACE, budget, "peer", tried)
    best = find_best(choice, start=start, measure=run)
    assert (best.rate, best.design) == (90.0, Design(HH, 4, 4))
    assert [item.prompts for item in best.holding] == [3, 4, 5]


def test_a_budget_of_which_nothing_holds_says_so() -> None:
    budget = Budget("some", Design(HH, 1, 2).dollars_per_hour, Design(HH, 1, 2).power)
    run = holding_up_to({1: 0.0, 2: 0.0})
    choice = Choice(PUBLISHED_PLACE, budget, "peer", candidates(HH, budget))
    best = find_best(choice, start=30.0, measure=run)
    assert (best.rate, best.holding) == (0.0, ())


def test_physics_differ_in_what_they_say_they_differ_in(place: Place) -> None:
    profiles, model, design = read_table(place.table), MODELS["bloom-176b"], Design(HA, 2, 3)
    peer, honest = (scenario(design, model, item, profiles) for item in (PEER, HONEST))
    assert (peer.network.dedicated, honest.network.dedicated) == (True, False)
    # A design with A100 machines anywhere waits for the slower ones' last layer.
    assert honest.network.constant_seconds == 0.008
    assert (peer.knows_outputs, honest.knows_outputs) == (True, False)
    prefill = honest.hardware[PoolName.PREFILL]
    assert prefill.link_bytes_per_second == 400e9
    # 640 GiB less 329 GB of weights, at 4 * 70 * 14336 bytes a token.
    assert prefill.performance.kv_capacity_tokens == 89_234
    assert peer.initial == {PoolName.PREFILL: 2, PoolName.DECODE: 3, PoolName.MIXED: 0}


def test_grouped_heads_make_caches_eight_times_smaller() -> None:
    llama = MODELS["llama2-70b"]
    assert llama.peer_kv_bytes_per_token == 8 * llama.kv_bytes_per_token == 8 * 327_680


@pytest.mark.parametrize("physics", PHYSICS)
def test_an_idle_cluster_is_as_fast_as_the_reference(place: Place, physics: str) -> None:
    found = measure(Point(place, Design(AA, 8, 8), physics, rate=1.0))
    assert found.unanswered == 0
    assert found.slowdowns.values["ttft"][0] == pytest.approx(1.0)
    assert found.broken == ()
    assert Outcomes.of_document(found.document()) == found


def test_a_table_without_a_machine_is_refused(place: Place) -> None:
    with pytest.raises(SpecError, match="llama2-70b on"):
        scenario(Design(HH, 1, 1), MODELS["llama2-70b"], PEER, read_table(place.table))


def test_equal_rows_draw_equal_pictures(tmp_path: Path) -> None:
    rows = [Bars("AA(1P,1T)", 50.0, 40.0, 30.0, 35.0), Bars("HH(1P,1T)", None, 60.0, 10.0, 20.0)]
    for name in ("one.svg", "two.svg"):
        draw_frontiers(tmp_path / name, rows)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_a_table_that_is_not_there_ends_the_command_with_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--table", str(tmp_path / "none.csv"), "--traces", str(tmp_path)]) == 2
    assert "none.csv" in capsys.readouterr().err.replace("\n", "")  # the terminal is narrow


def test_the_command_writes_every_table_and_goes_on_from_what_it_has_run(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs are replaced by a rule: every design carries 2 requests/s a machine; honestly, half of it."""

    def carried(_runner: Runner, _title: str, points: Sequence[Point]) -> dict[Point, Outcomes]:
        return {
            point: outcomes(
                holds=point.rate <= point.design.machines * (1 if point.physics == "honest" else 2)
            )
            for point in points
        }

    monkeypatch.setattr(Runner, "__call__", carried)
    docs = tmp_path / "docs"
    docs.mkdir()
    page = docs / "splitwise.md"
    page.write_text("before\n<!-- begin bench-splitwise -->\n<!-- end bench-splitwise -->\nafter\n")
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    arguments = ["--table", str(place.table), "--traces", str(place.traces), "--seeds", "0,1"]
    assert main([*arguments, "--folder", str(tmp_path / "out"), "--workers", "1", "--write-docs"]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    # 70 machines carry 140 where splitwise-sim gives 110: more than a step apart.
    assert "| AA(45P,25T) | 110 | 140 | no | 70 | ttft P50, ttft P90 |" in text
    assert "| AA(45P,25T) to Base-A100(70): 2.15x | 1.00 | 1.00 | 1.00x | 1.00x |" in text
    # For 80 % of the cost of 40 H100 machines one gets 68 A100 machines, and they carry 136 where those carry 80.
    assert "1.62x (AA(" in text
    assert (docs / "pictures" / "splitwise-frontiers.svg").stat().st_size > 0
    results = json.loads((tmp_path / "out" / "results-bloom-176b.json").read_text())
    assert {item["seed"] for item in results["frontiers"]} == {0, 1}
    assert "### The headlines" in capsys.readouterr().out


def test_finished_runs_are_read_and_not_run_again(place: Place, tmp_path: Path) -> None:
    kept, points = tmp_path / "runs.jsonl", [Point(place, Design(AA, 2, 2), "peer", 1.0)]
    console = Console(file=StringIO())
    with Runner(kept, workers=1, console=console) as first:
        found = first("first", points)
        assert first.runs == 1
        assert first("again", points) == found
        assert first.runs == 1
    with kept.open("a") as file:
        file.write('{"point": "cut sh')
    with Runner(kept, workers=1, console=console) as second:
        assert second("second", points) == found
        assert second.runs == 0
    assert kept.read_text().count("\n") == 1
    assert kept.read_text().endswith("}\n")


def test_the_fingerprint_follows_the_data(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.csv")
    before = fingerprint(table)
    assert fingerprint(table) == before
    table.write_text(table.read_text().replace("128", "129"))
    assert fingerprint(table) != before

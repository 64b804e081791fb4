"""The policy benchmark judges others: its own arithmetic must be right."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benches.policy import __main__ as policy_bench
from benches.policy import fixed, store
from benches.policy.__main__ import main
from benches.policy.cluster import FIXED_GPUS, by_pool, elastic, hardware, reserved
from benches.policy.cluster import fixed as never_changing
from benches.policy.contenders import Contender, ablations, contender, everyone
from benches.policy.elastic import run_elastic
from benches.policy.facts import Facts, gather
from benches.policy.fixed import (
    ALL,
    EVERY,
    FROM_WRONG_SPLIT,
    SPLIT,
    SPLIT_WITHOUT_BORROWING,
    Arena,
    Runner,
    Setup,
)
from benches.policy.jobs import ElasticJob, FactsJob, FixedJob, Job
from benches.policy.loads import Load
from benches.policy.report import collect, write_docs
from benches.policy.summary import ElasticRow, Run, compare
from benches.policy.tables import BEGIN, END, share, write_between_marks
from benches.policy.traces import Traces
from benches.policy.variants import VARIANTS, Variant
from benches.policy.workloads import WARM_UP_SECONDS, WORKLOADS

from inferencecluster.core import demand
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.seasonality import SLOTS, DayProfile
from inferencecluster.core.spec import ScalingMode
from inferencecluster.simulator.simulation import Simulation

STAND_INS = Traces(None)


def load_of(name: str, *, share: float = 0.02, seed: int = 1) -> Load:
    return Load(name, STAND_INS, share, seed)


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_ascends_repeats_for_a_seed_and_grows_with_its_load(name: str) -> None:
    found = list(load_of(name).requests())
    assert all(before.arrival <= after.arrival for before, after in itertools.pairwise(found))
    assert found == list(load_of(name).requests())
    assert found != list(load_of(name, seed=2).requests())
    assert len(list(load_of(name, share=0.1).requests())) == pytest.approx(5 * len(found), rel=0.15)


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_warm_up_is_the_mirrored_beginning(name: str) -> None:
    found = list(load_of(name).requests())
    scored = list(load_of(name).scored())
    early = [request for request in found if request.arrival < WARM_UP_SECONDS]
    assert len(found) >= len(scored) + len(early)
    for mirrored, original in zip(
        reversed(early), (item for item in scored if item.arrival > 0), strict=False
    ):
        assert mirrored.arrival == pytest.approx(WARM_UP_SECONDS - original.arrival)
        assert mirrored.prompt_tokens == original.prompt_tokens


def test_phases_alternate_in_the_workload_that_says_so() -> None:
    workload = WORKLOADS["alternating"]
    scored = list(load_of("alternating", share=0.2).scored())
    prompts, outputs = [], []
    for spot in workload.spotlights:
        mine = [request for request in scored if spot.start <= request.arrival < spot.end]
        prompts.append(sum(item.prompt_tokens for item in mine) / len(mine))
        outputs.append(sum(item.output_tokens for item in mine) / len(mine))
    assert min(prompts[::2]) > 3 * max(prompts[1::2])
    assert min(outputs[1::2]) > 3 * max(outputs[::2])


def test_working_days_open_on_the_hour_of_the_clusters_clock_and_tenfold_within_minutes() -> None:
    """So that a quarter of an hour of the daily profile is the one that rises, and no trend could have seen it."""
    workload = WORKLOADS["working-days"]
    scored = list(load_of("working-days", share=0.3).scored())
    assert len(workload.spotlights) == 2
    for spot in workload.spotlights:
        assert (spot.start + WARM_UP_SECONDS) % 3600.0 == 0.0
        before, opened = (
            sum(begin <= request.arrival < begin + 600.0 for request in scored)
            for begin in (spot.start - 600.0, spot.start + 120.0)
        )
        assert 6 * before < opened < 16 * before


def test_where_nobody_boots_no_morning_is_judged(tmp_path: Path) -> None:
    options = policy_bench._parser().parse_args(["--folder", str(tmp_path)])
    asked = {job.load.workload_name for job in policy_bench._fixed_jobs(options, STAND_INS)}
    assert asked == set(WORKLOADS) - {"working-days"}


def test_the_cluster_is_the_one_of_the_definitions() -> None:
    scenario = elastic(boot_seconds=120.0, initial=(3, 1, 0), peak=(20, 5, 0), seed=1)
    assert (scenario.slo.ttft_seconds, scenario.slo.itl_seconds) == (1.0, 0.040)
    assert {pool.gpus_per_replica for pool in scenario.spec.pools} == {2}
    assert [pool.max_replicas for pool in scenario.spec.pools] == [40, 10, 20]
    performance = hardware()[PoolName.DECODE].performance
    assert performance.kv_capacity_tokens == 1_120_000
    assert performance.prefill.seconds(1000) == pytest.approx(0.00832 + 0.06117 + 0.000892)
    paid_for = reserved(boot_seconds=120.0, initial=(20, 4, 0), seed=1, conversion=True)
    assert paid_for.spec.budget_gpus == FIXED_GPUS == 48
    unmoved = never_changing((20, 4, 0), seed=1)
    assert unmoved.spec.mode is ScalingMode.FIXED
    assert unmoved.initial == by_pool((20, 4, 0))


def facts_of(**changes: Any) -> Facts:
    plain: dict[str, Any] = {
        "requests": 10,
        "scored": 8,
        "last_arrival": 4200.0,
        "prompt_tokens": 1000.0,
        "output_tokens": 100.0,
        "initial": (1, 1, 0),
        "peak": (2, 1, 0),
        "prefill": (2,) * 420,
        "decode": (1,) * 420,
        "fluid_gpu_hours": 2.0,
        "split_gpu_hours": 5.0,
    }
    return Facts(**{**plain, **changes})


def row(name: str, attainment: float, gpu_hours: float, **result: Any) -> ElasticRow:
    found = {"slo_attainment": attainment, "gpu_hours": gpu_hours, "spotlights": {}, **result}
    return ElasticRow("conversation", 120.0, name, (Run(1, found, facts_of()),))


def test_ratios_are_those_to_the_oracles_of_the_scored_hour() -> None:
    # Three replicas of two GPUs for the hour that is scored, and no boot in it.
    assert facts_of().scheduled_gpu_hours(120.0) == pytest.approx(6.0)
    found = row("product", 1.0, 9.0)
    assert (found.to_scheduled, found.to_bootless, found.to_split) == pytest.approx((1.5, 1.5, 1.8))


def test_a_boot_is_charged_to_the_oracle_where_its_sizes_rise() -> None:
    sizes = (1,) * 240 + (2,) * 180
    facts = facts_of(prefill=sizes, decode=(1,) * 420)
    without = facts.scheduled_gpu_hours(0.0)
    assert without == pytest.approx(2 * (1800 + 1800 * 2 + 3600) / 3600)
    assert facts.scheduled_gpu_hours(120.0) - without == pytest.approx(2 * 120 / 3600)


def test_the_best_baseline_is_the_cheapest_that_is_as_good() -> None:
    rows = [
        row("product", 0.995, 10.0),
        row("static", 0.999, 20.0),
        row("hpa-queue", 0.9945, 12.5),
        row("knative-kpa", 0.98, 5.0),
        row("hindsight", 0.999, 8.0),
    ]
    compared = {item.row.contender: item for item in compare(rows)}
    product = compared["product"]
    assert product.best is rows[2]
    assert product.to_best == pytest.approx(0.8)
    assert compared["static"].best is None


def test_a_tuned_baseline_stands_with_its_cheapest_setting_that_holds_the_slo() -> None:
    rows = [
        row("hpa-busy@0.5", 0.999, 20.0),
        row("hpa-busy@0.7", 0.991, 14.0),
        row("hpa-busy@0.9", 0.97, 10.0),
    ]
    (found,) = compare(rows)
    assert found.title == "hpa-busy, tuned here (0.7)"
    (worst,) = compare([rows[2]])
    assert worst.row is rows[2]


class FakeArena(Arena):
    """Carries what a table says."""

    def __init__(self, name: str, capacity: Mapping[str, float]) -> None:
        super().__init__(load_of(name))
        self.capacity = capacity

    def _run(self, setup: Setup, scale: float) -> dict[str, Any] | None:
        key = str(setup.split[0]) if setup.split else setup.name
        attained = 1.0 if scale <= self.capacity.get(key, 0.0) else 0.5
        every = 1.0 if scale <= 0.5 * self.capacity.get(key, 0.0) else 0.5
        return {"attainment": {ALL: attained, EVERY: every}, "conversions": 0}


def runner(arena: Arena) -> Runner:
    return Runner(arena, facts_of(prefill=(5,) * 420, decode=(1,) * 420), 120.0, 1)


@pytest.mark.parametrize("capacity", [0.2, 1.0, 3.1])
def test_bisection_finds_the_highest_load_to_its_resolution(capacity: float) -> None:
    found = runner(FakeArena("conversation", {"product": capacity})).run("product")
    load = found["criteria"][ALL]["load"]
    assert capacity / fixed.RESOLUTION <= load <= capacity
    assert found["runs"] < 20


def test_nothing_is_carried_by_who_carries_nothing() -> None:
    found = runner(FakeArena("conversation", {})).run("product")
    assert found["criteria"][ALL] == {"load": 0.0, "split": None, "outcome": None}


@pytest.mark.parametrize("best", [3, 14, 20, 22])
def test_the_best_split_is_found_on_either_side(best: int) -> None:
    # The oracle has 20 of 24 on average, and the search begins there.
    capacity = {str(prefill): 2.0 - 0.05 * abs(prefill - best) for prefill in range(1, 24)}
    found = runner(FakeArena("conversation", capacity)).run(SPLIT)["criteria"][ALL]
    assert found["split"] == (best, 24 - best, 0)
    assert 2.0 / fixed.RESOLUTION <= found["load"] <= 2.0


def test_phases_are_judged_by_themselves_too() -> None:
    found = runner(FakeArena("alternating", {"product": 2.0})).run("product")["criteria"]
    assert found[ALL]["load"] == pytest.approx(2.0, rel=0.02)
    assert found[EVERY]["load"] == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("row", ["product", "product-without-conversion"])
def test_the_wrong_split_is_the_opposite_of_what_is_needed(row: str) -> None:
    seen: list[Setup] = []

    class Noting(FakeArena):
        def _run(self, setup: Setup, scale: float) -> dict[str, Any] | None:
            seen.append(setup)
            return super()._run(setup, scale)

    name = f"{row}{FROM_WRONG_SPLIT}"
    runner(Noting("conversation", {name: 1.0})).run(name)
    assert seen[0].scenario.initial == by_pool((4, 20, 0))
    assert seen[0].contender.name == row


def test_replicas_that_are_paid_for_stay_and_move() -> None:
    """From four prefill and twenty decode replicas to what is needed, without a boot."""
    scenario = reserved(boot_seconds=120.0, initial=(4, 20, 0), seed=1, conversion=True)
    simulation = Simulation(scenario)
    whole_load = load_of("conversation", share=1.0).requests()
    simulation.serve(list(itertools.takewhile(lambda request: request.arrival < 90.0, whole_load)))
    assert {replica.uid for replica in simulation.replicas} == {f"uid-{number}" for number in range(1, 25)}
    assert simulation.replicas.conversions > 0


@pytest.mark.parametrize(
    ("row", "converts"),
    [
        ("product", True),
        ("product-without-borrowing", True),
        ("product-without-conversion", False),
        ("hpa-queue", False),
        ("hpa-gpu-utilization", False),
        ("hpa-busy@0.7", False),
    ],
)
def test_only_the_product_converts_and_the_others_trade_by_reboot(row: str, *, converts: bool) -> None:
    simulation = runner(Arena(load_of("conversation")))._setup(row).simulation([], lambda _journey: None)
    pools = simulation.replicas._scenario.spec.pools
    assert {pool.interchangeable for pool in pools} == {converts}


def test_engines_that_convert_make_iterations_as_long_as_prefill_ones() -> None:
    scenario = reserved(boot_seconds=120.0, initial=(4, 20, 0), seed=1, conversion=True)
    assert {item.max_num_tokens for item in scenario.hardware.values()} == {
        hardware()[PoolName.PREFILL].max_num_tokens
    }
    apart = VARIANTS["without-conversion"].scenario(scenario)
    assert apart.hardware == hardware()
    assert not any(pool.interchangeable for pool in apart.spec.pools)


def test_a_run_that_has_missed_too_much_ends_early() -> None:
    arena = Arena(load_of("conversation", share=0.05))
    setup = runner(arena)._fixed((2, 2, 0), SPLIT_WITHOUT_BORROWING)
    assert arena.outcome(setup, 0.2) is not None
    calls: list[float] = []
    original = Simulation.serve

    def serve(simulation: Simulation, *arguments: Any) -> None:
        try:
            original(simulation, *arguments)
        finally:
            calls.append(simulation.arrived)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Simulation, "serve", serve)
        assert arena.outcome(setup, 6.0) is None
    total = sum(1 for _ in load_of("conversation", share=0.05).requests(scale=6.0))
    assert calls[0] < 0.7 * total


def test_without_borrowing_no_request_is_served_by_a_borrowed_replica() -> None:
    arena = Arena(load_of("conversation", share=1.0))
    paths = {}
    for name in (SPLIT, SPLIT_WITHOUT_BORROWING):
        setup = runner(arena)._fixed((2, 22, 0), name)
        requests = list(arena._load.requests(scale=0.04))
        simulation = setup.simulation(requests, lambda _journey: None)
        simulation.serve(requests)
        paths[name] = simulation.report().paths
    assert paths[SPLIT]["borrowed"] > 0  # type: ignore[index]  # the paths are words
    assert paths[SPLIT_WITHOUT_BORROWING]["borrowed"] == 0  # type: ignore[index]  # the paths are words


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_runs(name: str) -> None:
    load = load_of("conversation", share=0.02)
    result = run_elastic(load, gather(load), contender(f"product-{name}"), boot_seconds=30.0)
    assert result["completed"] == result["requests"] - result["refused"] > 0


def test_a_variant_replaces_a_constant_for_one_run_only() -> None:
    before = demand.HOLD_BOOTS
    with contender("product-without-hold").applied():
        assert demand.HOLD_BOOTS == 0.0
    assert before == demand.HOLD_BOOTS


def test_without_the_daily_profile_a_profile_that_has_proven_itself_is_not_believed() -> None:
    proven = replace(DayProfile.empty(), verdicts=((1.0, 0.0),) * SLOTS)
    assert proven.is_trusted
    with contender("product-without-daily-profile").applied():
        assert not proven.is_trusted


def test_a_variant_of_what_is_not_there_any_more_is_an_error() -> None:
    outdated = Variant("old", "old", replaced={"arrivals.NO_SUCH": 1})
    with pytest.raises(SpecError, match=r"variant old is arrivals\.NO_SUCH"), outdated.applied():
        pass


@pytest.mark.parametrize("name", [*everyone(), *ablations()])
def test_every_contender_is_found_by_its_name(name: str) -> None:
    assert contender(name).name == name


def test_a_knob_is_read_from_the_name() -> None:
    assert contender("hpa-queue@7") == Contender("hpa-queue@7", "hpa-queue", 7.0)


@pytest.mark.parametrize("name", ["magic", "hpa-busy@high", "product-magic"])
def test_unknown_contenders_are_refused(name: str) -> None:
    with pytest.raises(SpecError):
        contender(name)


def test_the_generated_part_is_replaced_and_prose_stays(tmp_path: Path) -> None:
    file = tmp_path / "docs" / "benchmarks.md"
    write_between_marks(file, "first", introduction="# Title\n\nprose\n")
    file.write_text(file.read_text() + "\nmore prose\n")
    write_between_marks(file, "second", introduction="unused")
    text = file.read_text()
    assert text.startswith("# Title\n\nprose\n")
    assert text.endswith("\nmore prose\n")
    assert "second" in text
    assert "first" not in text
    assert text.count(BEGIN) == text.count(END) == 1


@pytest.mark.parametrize(("value", "text"), [(1.0, "100 %"), (0.99999, "99.99 %"), (0.5, "50.00 %")])
def test_a_share_is_never_rounded_up_to_all(value: float, text: str) -> None:
    assert share(value) == text


def test_comments_and_docstrings_do_not_make_results_stale(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    digests = []
    for text in ('"""One."""\nA = 1\n', '"""Two."""\n# why\nA = 1\n', '"""Two."""\nA = 2\n'):
        file.write_text(text)
        digests.append(store._digest(file))
    assert digests[0] == digests[1] != digests[2]


def test_baselines_do_not_depend_on_the_products_sizing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    load = load_of("conversation")
    jobs: list[Job] = [
        ElasticJob(load, tmp_path, "product", 120.0),
        ElasticJob(load, tmp_path, "hpa-queue", 120.0),
        FixedJob(load, tmp_path, SPLIT, 120.0),
        FactsJob(load, tmp_path),
    ]
    before = [job.cell.code for job in jobs]
    sources = dict(store.remembered_sources())
    (demand,) = (path for path in sources if path.name == "demand.py")
    monkeypatch.setattr(store, "remembered_sources", lambda: {**sources, demand: "changed"})
    after = [job.cell.code for job in jobs]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True, True, True]


def test_a_cell_counts_only_for_the_code_that_made_it(tmp_path: Path) -> None:
    path = tmp_path / "cells" / "one.json"
    store.Cell(path, "old").write({"a": 1})
    assert store.Cell(path, "old").read(stale=False) == {"a": 1}
    assert store.Cell(path, "new").read(stale=False) is None
    assert store.Cell(path, "new").read(stale=True) == {"a": 1}
    path.write_text("{")
    assert store.Cell(path, "old").read(stale=True) is None


def test_a_run_does_what_is_missing_and_no_more(tmp_path: Path) -> None:
    arguments = ["--question", "elastic", "--workloads", "conversation,alternating", "--boots", "30"]
    arguments += ["--seeds", "1", "--copies", "0.4", "--folder", str(tmp_path), "--workers", "2"]
    assert main([*arguments, "--policies", "product,static"]) == 0
    cells = {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json") if path.name != "results.json"
    }
    assert len(cells) == 2 + 4
    assert main([*arguments, "--policies", "product,static,hindsight"]) == 0
    again = {path: path.stat().st_mtime_ns for path in cells}
    assert again == cells
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["origin"] == "synthetic stand-ins"
    assert [item["policy"] for item in results["elastic"]] == ["product", "static", "hindsight"] * 2
    load = Load("conversation", STAND_INS, 0.02, 1)
    jobs = [ElasticJob(load, tmp_path, name, 30.0) for name in ("product", "static", "hindsight")]
    found = collect(jobs, [], origin="somewhere", load=0.02, stale=False)
    write_docs(tmp_path / "docs", found, pictured=("static",))
    text = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "| **product** |" in text
    pictures = sorted(path.name for path in (tmp_path / "docs" / "pictures").iterdir())
    assert pictures == ["conversation-product.svg", "conversation-static.svg", "cost-against-attainment.svg"]
    for name in pictures:
        assert f"pictures/{name}" in text


@pytest.mark.parametrize(
    "arguments",
    [("--workloads", "magic"), ("--policies", "magic"), ("--traces", "nowhere")],
    ids=["workload", "policy", "traces"],
)
def test_bad_arguments_end_with_2_before_anything_runs(arguments: tuple[str, str], tmp_path: Path) -> None:
    assert main([*arguments, "--folder", str(tmp_path)]) == 2
    assert list(tmp_path.iterdir()) == []


def test_facts_survive_their_file() -> None:
    facts = gather(load_of("conversation", share=0.001, seed=3))
    assert facts.scored > 0
    assert facts.initial >= (1, 1, 0)
    assert Facts.of_document(json.loads(json.dumps(facts.document()))) == facts

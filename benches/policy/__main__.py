"""How well does each policy size pools? `python -m benches.policy --help`.

Two questions on each workload: (i) elastic: GPU-hours and SLO attainment; (ii) fixed: the highest load that 24 replicas
carry inside the SLO. Each finished cell is one file; another run does only what is missing or was made by other code.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benches.policy.contenders import HINDSIGHT, PRODUCT, TUNED, TUNED_TARGETS, ablations, contender, everyone
from benches.policy.fixed import (
    ALL_MIXED,
    FROM_WRONG_SPLIT,
    SPLIT,
    SPLIT_WITHOUT_BORROWING,
    WITHOUT_CONVERSION,
    WRONG_START,
)
from benches.policy.jobs import ElasticJob, FactsJob, FixedJob, Job
from benches.policy.loads import Load
from benches.policy.report import Results, collect, write_docs, write_json
from benches.policy.running import run_missing
from benches.policy.summary import by_place, compare
from benches.policy.tables import share
from benches.policy.traces import Traces
from benches.policy.workloads import COPIES, WORKLOADS, workload
from inferencecluster.core.errors import SpecError

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "build" / "bench-policy"
BOOTS: Final = (120.0, 30.0, 300.0)
"""The usual one first: an interrupted run has it complete."""
SEEDS: Final = (1, 2, 3)
FIXED_ROWS: Final = (
    SPLIT_WITHOUT_BORROWING,
    SPLIT,
    ALL_MIXED,
    "hpa-gpu-utilization",
    "hpa-queue",
    *(f"{TUNED}@{target:g}" for target in TUNED_TARGETS),
    WITHOUT_CONVERSION,
    f"{WITHOUT_CONVERSION}{FROM_WRONG_SPLIT}",
    PRODUCT,
    WRONG_START,
)
_FIXED_ONLY: Final = (SPLIT_WITHOUT_BORROWING, SPLIT, ALL_MIXED)
QUICK_POLICIES: Final = (PRODUCT, "static", "hpa-queue", f"{TUNED}@0.7", HINDSIGHT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and report; 1 when cells failed, 2 for bad arguments, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    try:
        return _run(options, console)
    except SpecError as error:
        console.print(f"error: {error}", markup=False)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benches.policy", description=__doc__)
    add = parser.add_argument
    add("--question", choices=("elastic", "fixed", "ablation", "all"), default="all", help="default: all")
    add("--traces", type=Path, help="folder of the Azure traces; default: $TRACES, else synthetic stand-ins")
    add("--workloads", type=_names, default=tuple(WORKLOADS), help="default: " + ",".join(WORKLOADS))
    add(
        "--policies", type=_names, help="default: all; POLICY@0.7 sets a knob, product-VARIANT is an ablation"
    )
    add(
        "--boots",
        type=_numbers,
        default=BOOTS,
        help="seconds; default: 120,30,300; question fixed: the first",
    )
    add("--seeds", type=_numbers, default=SEEDS, help="default: 1,2,3")
    add(
        "--copies",
        type=float,
        default=COPIES,
        help=f"copies of a trace in place of {COPIES}: fewer for a quick look",
    )
    add("--quick", action="store_true", help="a few policies at a fifth of the load, boot 120 s, one seed")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes; default: one per core")
    add("--force", action="store_true", help="run finished cells again")
    add("--keep-stale", action="store_true", help="count cells that other code made")
    add("--report-only", action="store_true", help="run nothing")
    add("--write-docs", action="store_true", help="rewrite docs/benchmarks.md and docs/pictures")
    add("--pictured", type=_names, default=("hpa-queue",), help="policies with a picture beside the product")
    add("--folder", type=Path, default=FOLDER, help="of cells and results.json")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in _names(text))


def _run(options: argparse.Namespace, console: Console) -> int:
    if options.quick:
        options.copies = min(options.copies, COPIES / 5)
        options.boots, options.seeds = options.boots[:1], options.seeds[:1]
        options.policies = options.policies or QUICK_POLICIES
        options.question = "elastic" if options.question == "all" else options.question
    folder = options.traces or (Path(os.environ["TRACES"]) if os.environ.get("TRACES") else None)
    traces = Traces(folder.resolve() if folder else None)
    traces.check()
    for name in options.workloads:
        workload(name)
    elastic, fixed = _elastic_jobs(options, traces), _fixed_jobs(options, traces)
    failures = 0
    if not options.report_only:
        try:
            failures = _run_jobs(options, console, elastic, fixed)
        except KeyboardInterrupt:
            console.print("interrupted: finished cells are kept, the same command goes on from here")
            return 130
    results = collect(
        elastic, fixed, origin=traces.origin, load=options.copies / COPIES, stale=options.keep_stale
    )
    write_json(options.folder / "results.json", results)
    if options.write_docs:
        write_docs(ROOT / "docs", results, pictured=options.pictured)
    _print(results, Console(width=None if sys.stdout.isatty() else 140))
    return 1 if failures else 0


def _loads(options: argparse.Namespace, traces: Traces) -> list[Load]:
    return [
        Load(name, traces, options.copies / COPIES, int(seed))
        for seed in options.seeds
        for name in options.workloads
    ]


def _elastic_jobs(options: argparse.Namespace, traces: Traces) -> list[ElasticJob]:
    """By seed and boot, so that an interrupted run has whole tables."""
    if options.question == "fixed":
        return []
    names = options.policies
    if names is None:
        names = {"elastic": everyone(), "ablation": (PRODUCT, *ablations())}.get(
            options.question, (*everyone(), *ablations())
        )
    names = [name for name in names if name not in _FIXED_ONLY and not name.endswith(FROM_WRONG_SPLIT)]
    for name in names:
        contender(name)
    loads = _loads(options, traces)
    return [
        ElasticJob(load, options.folder, name, boot)
        for seed in options.seeds
        for boot in options.boots
        for load in loads
        if load.seed == seed
        for name in names
    ]


def _fixed_jobs(options: argparse.Namespace, traces: Traces) -> list[FixedJob]:
    if options.question not in ("fixed", "all"):
        return []
    names = options.policies or FIXED_ROWS
    for name in names:
        if name not in _FIXED_ONLY:
            contender(name.removesuffix(FROM_WRONG_SPLIT))
    return [
        FixedJob(load, options.folder, name, options.boots[0])
        for load in _loads(options, traces)
        if not load.workload.is_elastic_only
        for name in names
    ]


def _run_jobs(
    options: argparse.Namespace, console: Console, elastic: list[ElasticJob], fixed: list[FixedJob]
) -> int:
    def is_done(job: Job) -> bool:
        return not options.force and job.cell.read(stale=options.keep_stale) is not None

    def is_known(job: Job) -> bool:
        return job.cell.read(stale=options.keep_stale) is not None

    jobs: list[Job] = [*elastic, *fixed]
    facts = list({job.load: FactsJob(job.load, job.folder) for job in jobs}.values())
    workers = max(1, options.workers)
    failures = run_missing(facts, console, title="workloads", workers=workers, is_done=is_known)
    if failures:
        return failures
    failures += run_missing(elastic, console, title="elastic", workers=workers, is_done=is_done)
    failures += run_missing(fixed, console, title="fixed GPUs", workers=workers, is_done=is_done)
    return failures


def _print(results: Results, console: Console) -> None:
    """What the documentation's tables say, shorter."""
    for (name, boot), rows in by_place(results.elastic).items():
        shown = Table(box=None, title=f"{name}, boot {boot:.0f} s", title_justify="left")
        for column in (
            "policy",
            "inside SLO",
            "GPU-hours",
            "/ oracle",
            "/ bootless",
            "/ split",
            "best equal",
        ):
            shown.add_column(column, justify="left" if column == "policy" else "right", no_wrap=True)
        for column in ("events/h", "conversions", "parts"):
            shown.add_column(column, justify="right", no_wrap=True)
        for item in compare(rows):
            row = item.row
            spots = " ".join(f"{value:.1%}" for value in row.spotlights().values())
            shown.add_row(
                item.title,
                share(row.attainment),
                f"{row.gpu_hours:.1f}",
                f"{row.to_scheduled:.2f}",
                f"{row.to_bootless:.2f}",
                f"{row.to_split:.2f}",
                "-" if item.to_best is None else f"{item.to_best:.2f}",
                f"{row.events_per_hour:.0f}",
                f"{row.mean(lambda result: result['conversions']) or 0:.0f}",
                spots,
            )
        console.print(shown)
    for line in results.fixed:
        loads = ", ".join(f"{criterion} {line.load(criterion):.3f}" for criterion in line.criteria)
        split = line.splits(line.criteria[0])
        console.print(f"fixed: {line.workload}: {line.name}: {loads} {split}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())

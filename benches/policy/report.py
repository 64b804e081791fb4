"""Reads finished cells, and writes results.json, the generated part of docs/benchmarks.md, and pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benches.policy.contenders import PRODUCT
from benches.policy.jobs import ElasticJob, FactsJob, FixedJob, read_facts
from benches.policy.pictures import scatter, timeline
from benches.policy.summary import ElasticRow, FixedRow, Run, by_place, compare
from benches.policy.tables import elastic_details, elastic_overview, fixed_tables, write_between_marks
from benches.policy.workloads import WORKLOADS

SHOWN_BOOT: Final = 120.0
"""The boot time of pictures and of the tables that are not folded away, where it was run."""
_INTRODUCTION: Final = """# Benchmarks

Who sizes pools how well: every known policy and this operator on the same traces, in the same simulator.
"""


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that has been run."""

    origin: str
    load: float
    elastic: tuple[ElasticRow, ...]
    fixed: tuple[FixedRow, ...]


def collect(
    elastic: Iterable[ElasticJob], fixed: Iterable[FixedJob], *, origin: str, load: float, stale: bool
) -> Results:
    """The finished ones of these jobs, in their order."""
    runs: dict[tuple[str, float, str], list[Run]] = {}
    for job in elastic:
        result = job.cell.read(stale=stale)
        if result is not None and FactsJob(job.load, job.folder).cell.path.exists():
            place = (job.load.workload_name, job.boot_seconds, job.contender)
            runs.setdefault(place, []).append(Run(job.load.seed, result, read_facts(job)))
    rows: dict[tuple[str, float, str], list[Any]] = {}
    for row in fixed:
        result = row.cell.read(stale=stale)
        if result is not None:
            rows.setdefault((row.load.workload_name, row.boot_seconds, row.row), []).append(result)
    return Results(
        origin,
        load,
        tuple(ElasticRow(*place, tuple(found)) for place, found in runs.items()),
        tuple(FixedRow(*place, tuple(found)) for place, found in rows.items()),
    )


def write_json(path: Path, results: Results) -> None:
    """All rows with their seeds; timelines stay in the cells."""
    document = {
        "origin": results.origin,
        "load": results.load,
        "elastic": [_elastic(row) for row in results.elastic],
        "fixed": [
            {
                "workload": row.workload,
                "boot_seconds": row.boot_seconds,
                "row": row.name,
                "seeds": [result["criteria"] for result in row.results],
            }
            for row in results.fixed
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _elastic(row: ElasticRow) -> dict[str, Any]:
    return {
        "workload": row.workload,
        "boot_seconds": row.boot_seconds,
        "policy": row.contender,
        "slo_attainment": row.attainment,
        "gpu_hours": row.gpu_hours,
        "to_oracle": row.to_scheduled,
        "to_oracle_without_boots": row.to_bootless,
        "to_split_bound": row.to_split,
        "scale_events_per_hour": row.events_per_hour,
        "seeds": [
            {"seed": run.seed}
            | {name: value for name, value in run.result.items() if name != "timeline"}
            | {"fluid_gpu_hours": run.facts.fluid_gpu_hours}
            for run in row.runs
        ],
    }


def write_docs(folder: Path, results: Results, *, pictured: Sequence[str]) -> None:
    """benchmarks.md and pictures/ in `folder`."""
    parts = [
        "### What was run",
        (
            f"Traces: {results.origin}; load {results.load:g} of the full one. Seeds: {_seeds(results)}. "
            "Command: `make bench-policy TRACES=...`."
        ),
    ]
    if results.elastic:
        pictures = _pictures(folder / "pictures", results, pictured)
        parts += [
            "### Elastic: the product beside the oracle and the baselines",
            elastic_overview(results.elastic),
        ]
        parts += [f"![{title}](pictures/{name})" for title, name in pictures]
        parts.append("### Elastic: every policy")
        parts += [_place(place, rows) for place, rows in by_place(results.elastic).items()]
    if results.fixed:
        parts += ["### Fixed GPUs: the highest load inside the SLO", fixed_tables(results.fixed)]
    write_between_marks(folder / "benchmarks.md", "\n\n".join(parts), introduction=_INTRODUCTION)


def _seeds(results: Results) -> str:
    seeds = {run.seed for row in results.elastic for run in row.runs}
    return ", ".join(map(str, sorted(seeds))) or "those of the question below"


def _place(place: tuple[str, float], rows: Sequence[ElasticRow]) -> str:
    name, boot = place
    title = f"{name}, boot {boot:.0f} s"
    details = elastic_details(rows)
    if boot == SHOWN_BOOT:
        return f"#### {title}\n\n{WORKLOADS[name].title}\n\n{details}"
    return f"<details><summary>{title}</summary>\n\n{details}\n\n</details>"


def _pictures(folder: Path, results: Results, pictured: Sequence[str]) -> list[tuple[str, str]]:
    """Draws them; titles and file names."""
    drawn = []
    places = by_place(results.elastic)
    shown = {name: rows for (name, boot), rows in places.items() if boot == SHOWN_BOOT}
    if not shown:
        (_, boot), _ = next(iter(places.items()))
        shown = {name: rows for (name, other), rows in places.items() if other == boot}
    scatter(folder / "cost-against-attainment.svg", [(name, compare(rows)) for name, rows in shown.items()])
    drawn.append(("cost against attainment", "cost-against-attainment.svg"))
    for name, rows in shown.items():
        for row in rows:
            if row.contender == PRODUCT or row.contender in pictured:
                title = f"{name}: {row.contender}, boot {row.boot_seconds:.0f} s"
                file = f"{name}-{row.contender.replace('@', '-')}.svg"
                timeline(folder / file, title, row.runs[0])
                drawn.append((title, file))
    return drawn

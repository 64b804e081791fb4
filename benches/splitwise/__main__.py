"""Splitwise's published results in our simulator, and beside them what measured decode times leave of them.

`python -m benches.splitwise --table perf_model.csv --traces folder`. Finished runs are kept: the same command goes on
where it was interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from benches.splitwise.designs import MODELS
from benches.splitwise.points import Place
from benches.splitwise.report import tables, write_docs, write_json
from benches.splitwise.running import Runner, fingerprint
from benches.splitwise.study import SEEDS, conduct
from benches.splitwise.table import read_table
from benches.splitwise.traces import FILES, SECONDS
from inferencecluster.core.errors import SpecError

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "build" / "bench-splitwise"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and report; 2 for bad arguments, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    try:
        _run(options, console)
    except (SpecError, OSError) as error:
        console.print(f"error: {error}", markup=False)
        return 2
    except KeyboardInterrupt:
        console.print("interrupted: finished runs are kept, the same command goes on from here")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benches.splitwise", description=__doc__)
    add = parser.add_argument
    add("--table", type=Path, required=True, help="splitwise-sim's data/perf_model.csv")
    add("--traces", type=Path, required=True, help="folder with " + " and ".join(FILES.values()))
    add("--model", choices=tuple(MODELS), default="bloom-176b", help="default: bloom-176b")
    add(
        "--seeds",
        type=_seeds,
        default=SEEDS,
        help="of published designs; searches use the first; default: 0,1,2",
    )
    add("--seconds", type=float, default=SECONDS, help="length of a trace; default: 120")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes; default: one per core")
    add("--write-docs", action="store_true", help="rewrite docs/splitwise.md and its picture")
    add("--folder", type=Path, default=FOLDER, help="of finished runs and results.json")
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _run(options: argparse.Namespace, console: Console) -> None:
    table, traces = options.table.resolve(), options.traces.resolve()
    read_table(table)
    place = Place(table, traces, options.model, seconds=options.seconds)
    code = fingerprint(table, *(traces / name for name in FILES.values()))
    with Runner(
        options.folder / f"runs-{code}.jsonl", workers=max(1, options.workers), console=console
    ) as runner:
        study = conduct(place, options.seeds, runner)
    write_json(options.folder / f"results-{options.model}.json", study)
    if options.write_docs:
        write_docs(ROOT / "docs", study)
    sys.stdout.write(f"{tables(study)}\n")


if __name__ == "__main__":
    sys.exit(main())

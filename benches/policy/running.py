"""Runs what is missing, on all cores, and tells how far it is."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from benches.policy.jobs import Job
from benches.policy.store import remembered_sources

_SPEED_SECONDS: Final = 1800.0
"""The pace is judged over so long: single cells take minutes."""


def run_missing(
    jobs: Sequence[Job],
    console: Console,
    *,
    title: str,
    workers: int,
    is_done: Callable[[Job], bool],
) -> int:
    """Run every job that is not done, and write its cell. How many failed: the others go on."""
    missing = [job for job in jobs if not is_done(job)]
    if not missing:
        return 0
    failures = 0
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, speed_estimate_period=_SPEED_SECONDS)
    # Fresh processes: what a variant replaced, or a trace that was read, is nobody else's.
    executor = ProcessPoolExecutor(
        min(workers, len(missing)), mp_context=get_context("spawn"), initializer=_begin
    )
    try:
        with bar:
            task = bar.add_task(f"{title} ({len(jobs) - len(missing)} done before)", total=len(missing))
            futures: dict[Future[str], Job] = {executor.submit(_work, job): job for job in missing}
            for future in as_completed(futures):
                problem = future.result()
                failures += bool(problem)
                bar.advance(task)
                if problem:
                    console.print(f"[red]failed:[/red] {futures[future].cell.path.name}\n{problem}")
                elif not console.is_terminal:
                    cell = futures[future].cell.path
                    console.print(f"{title}: {cell.parent.parent.name}/{cell.parent.name}/{cell.name}")
    except KeyboardInterrupt:
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()
    return failures


def _begin() -> None:
    """Note the code that this process has loaded; Ctrl-C reaches workers, too: they end and print nothing."""
    remembered_sources()
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _work(job: Job) -> str:
    """Empty, or what went wrong. Whatever one cell raises must not cost the others."""
    try:
        job.cell.write(job.run())
    except Exception:  # noqa: BLE001 - the boundary between a cell and the whole run
        return traceback.format_exc()
    return ""

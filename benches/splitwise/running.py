"""Runs points on all cores, once each: finished ones are kept on disk as long as the code behind them stays as it is."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import inferencecluster.simulator.simulation
from benches.splitwise.points import Outcomes, Point, measure

_HERE: Final = Path(__file__).parent
_PACKAGE: Final = Path(inferencecluster.simulator.simulation.__file__).parents[1]
_REPORTING: Final = frozenset({"__main__", "pictures", "report", "running", "search", "study"})
"""Modules that no outcome depends on."""


def fingerprint(*data: Path) -> str:
    """Of everything that an outcome depends on: this benchmark, simulator and core, and the data files."""
    mine = [path for path in sorted(_HERE.glob("*.py")) if path.stem not in _REPORTING]
    theirs = [path for folder in ("core", "simulator") for path in sorted((_PACKAGE / folder).glob("*.py"))]
    found = hashlib.sha256()
    for path in (*mine, *theirs, *data):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


class Runner:
    """Measures points. A context manager: its processes end with it."""

    def __init__(self, kept: Path, *, workers: int, console: Console) -> None:
        """`kept`: file of finished points, one JSON a line; it grows."""
        self.runs = 0
        """Points that were run, not read."""
        self._kept = kept
        self._known: dict[str, Outcomes] = {}
        if kept.exists():
            text = kept.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            if whole != text:
                # Whoever was killed may have left half a line, and the next one must not be glued to it.
                kept.write_text(whole, encoding="utf-8")
            for line in whole.splitlines():
                document = json.loads(line)
                self._known[document["point"]] = Outcomes.of_document(document)
        self._console = console
        # Fresh processes: a table that was read is nobody else's.
        self._executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=error is None, cancel_futures=True)

    def __call__(self, title: str, points: Sequence[Point]) -> dict[Point, Outcomes]:
        """The outcome of each point. Whatever a run raises is raised here."""
        missing = [point for point in dict.fromkeys(points) if point.name not in self._known]
        if missing:
            self._run(title, missing)
        return {point: self._known[point.name] for point in points}

    def _run(self, title: str, points: Sequence[Point]) -> None:
        self._kept.parent.mkdir(parents=True, exist_ok=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as bar, self._kept.open("a", encoding="utf-8") as kept:
            task = bar.add_task(title, total=len(points))
            futures = {self._executor.submit(measure, point): point for point in points}
            for future in as_completed(futures):
                point, outcomes = futures[future], future.result()
                self._known[point.name] = outcomes
                self.runs += 1
                print(json.dumps({"point": point.name} | outcomes.document()), file=kept, flush=True)
                bar.advance(task)


def _begin() -> None:
    """Ctrl-C reaches workers, too: they end and print nothing."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

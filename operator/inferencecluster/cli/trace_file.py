"""The trace that a command is given, refused where its clock cannot be meant."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfileobj
from tempfile import NamedTemporaryFile
from typing import Final

from inferencecluster.cli.cluster_file import STANDARD_INPUT
from inferencecluster.cli.workload import Workload
from inferencecluster.core.errors import SpecError
from inferencecluster.simulator.workload import COLUMNS, Request, copied, parse_trace

JITTER_SECONDS: Final = 15.0
"""Copies of a request come up to so much earlier or later, as in the published benchmark."""
MAX_COPIES: Final = 10_000.0
"""Minutes of a service for millions; more is a slip, and would not end."""
LONGEST_DAYS: Final = 60
"""Two months: every second of a trace is simulated, so that a run with a slip in a timestamp would not end."""
_DAY_SECONDS: Final = 86_400.0
LONGEST_SECONDS: Final = LONGEST_DAYS * _DAY_SECONDS
LARGEST_SECONDS: Final = 1e11
"""The year 5138: larger numbers count milliseconds or less."""


def read_requests(trace: Path, *, copies: float, seed: int) -> list[Request]:
    """The requests of a CSV file or of standard input (`-`), each `copies` times; at least one.

    Raises `SpecError`.
    """
    with open_trace(trace, copies=copies, seed=seed) as workload:
        return list(workload)


@contextmanager
def open_trace(trace: Path, *, copies: float, seed: int) -> Iterator[Workload]:
    """The requests as `read_requests` has them, none of them held: the file is read again for each use.

    What can be read only once (standard input, a pipe) is kept in a temporary file meanwhile. Raises `SpecError`.
    """
    source = "standard input" if trace == STANDARD_INPUT else trace.name
    with _readable_again(trace) as file:
        workload = Workload.of(lambda: several(_requests(trace, file, source), copies=copies, seed=seed))
        if not workload.requests:
            raise SpecError(
                field="--trace",
                value=trace,
                rule="it holds no request",
                advice="name a trace with at least one",
            )
        yield workload


def several(requests: Iterator[Request], *, copies: float, seed: int) -> Iterator[Request]:
    """Each request `copies` times."""
    if copies == 1.0:
        return requests
    return copied(requests, copies=copies, jitter_seconds=JITTER_SECONDS, seed=seed)


def too_long(*, field: str, value: object, advice: str) -> SpecError:
    """Of more than `LONGEST_SECONDS`."""
    return SpecError(
        field=field,
        value=value,
        rule=f"at most {LONGEST_DAYS} days can be simulated, because every second of them is, with requests or without",
        advice=advice,
    )


@contextmanager
def _readable_again(trace: Path) -> Iterator[Path]:
    """The file itself, or a copy."""
    try:
        is_file = trace != STANDARD_INPUT and trace.is_file()
    except OSError as error:
        raise _unreadable(trace, error) from error
    if is_file:
        yield trace
        return
    with NamedTemporaryFile("w", encoding="utf-8", newline="", suffix=".csv") as copy:
        try:
            if trace == STANDARD_INPUT:
                copyfileobj(sys.stdin, copy)
            else:
                with trace.open(encoding="utf-8", newline="") as lines:
                    copyfileobj(lines, copy)
            copy.flush()
        except (OSError, UnicodeDecodeError) as error:
            raise _unreadable(trace, error) from error
        yield Path(copy.name)


def _requests(trace: Path, file: Path, source: str) -> Iterator[Request]:
    """Of `file`, which the user knows as `trace`."""
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            for request in parse_trace(_in_seconds(lines, source), source=source):
                if request.arrival > LONGEST_SECONDS:
                    raise too_long(
                        field=source,
                        value=f"{math.ceil(request.arrival / _DAY_SECONDS):,} days long",
                        advice=f"cut it, or correct {COLUMNS[0]}; it is in seconds",
                    )
                yield request
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(trace, error) from error


def _unreadable(trace: Path, error: Exception) -> SpecError:
    return SpecError(
        field="--trace", value=trace, rule=f"it could not be read: {error}", advice="name a CSV file"
    )


def _in_seconds(lines: Iterable[str], source: str) -> Iterator[str]:
    """The lines, once the clock of the first request has been looked at. The others are within the span from it."""
    place: int | None = None
    for number, line in enumerate(lines, start=1):
        if number == 1:
            header = [name.strip().lstrip("\ufeff") for name in next(csv.reader([line]), [])]
            place = header.index(COLUMNS[0]) if COLUMNS[0] in header else None
        elif place is not None and line.strip():
            cells = next(csv.reader([line]))
            if place < len(cells) and _is_too_large(cells[place]):
                raise SpecError(
                    field=f"{source}, line {number}, {COLUMNS[0]}",
                    value=repr(cells[place]),
                    rule="a timestamp is a date, or seconds",
                    advice="milliseconds? divide by 1000",
                )
            place = None
        yield line


def _is_too_large(text: str) -> bool:
    try:
        return LARGEST_SECONDS < abs(float(text)) < float("inf")
    except ValueError:
        return False

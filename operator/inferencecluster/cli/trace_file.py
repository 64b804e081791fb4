"""The trace that a command is given, refused where its clock cannot be meant."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from inferencecluster.cli.cluster_file import STANDARD_INPUT
from inferencecluster.core.errors import SpecError
from inferencecluster.simulator.workload import COLUMNS, Request, copied, parse_trace

JITTER_SECONDS: Final = 15.0
"""Copies of a request come up to so much earlier or later, as in the published benchmark."""
MAX_COPIES: Final = 10_000.0
"""Minutes of a service for millions; more is a slip, and would not end."""
LONGEST_DAYS: Final = 60
"""Two months: every second of a trace is simulated, so that a slip in a timestamp would not end."""
LARGEST_SECONDS: Final = 1e11
"""The year 5138: larger numbers count milliseconds or less."""
_DAY_SECONDS: Final = 86_400.0


def read_requests(trace: Path, *, copies: float, seed: int) -> list[Request]:
    """The requests of a CSV file or of standard input (`-`), each `copies` times; at least one.

    Raises `SpecError`.
    """
    try:
        if trace == STANDARD_INPUT:
            requests = _parsed(sys.stdin, "standard input")
        else:
            with trace.open(encoding="utf-8", newline="") as lines:
                requests = _parsed(lines, trace.name)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpecError(
            field="--trace", value=trace, rule=f"it could not be read: {error}", advice="name a CSV file"
        ) from error
    if copies != 1.0:
        requests = list(copied(requests, copies=copies, jitter_seconds=JITTER_SECONDS, seed=seed))
    if not requests:
        raise SpecError(
            field="--trace", value=trace, rule="it holds no request", advice="name a trace with at least one"
        )
    return requests


def _parsed(lines: Iterable[str], source: str) -> list[Request]:
    requests: list[Request] = []
    for request in parse_trace(_in_seconds(lines, source), source=source):
        if request.arrival > LONGEST_DAYS * _DAY_SECONDS:
            raise SpecError(
                field=source,
                value=f"{math.ceil(request.arrival / _DAY_SECONDS):,} days long",
                rule=f"a trace spans at most {LONGEST_DAYS} days",
                advice=f"cut it, or correct {COLUMNS[0]}; it is in seconds",
            )
        requests.append(request)
    return requests


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

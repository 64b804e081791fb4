"""Requests over time, as streams: read from a trace, copied, moved, joined. Nothing is held that need not be.

Every function takes requests by ascending arrival and yields them so. Where chance is involved, a seed says which.
"""

from __future__ import annotations

import csv
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import heappop, heappush, merge
from pathlib import Path
from typing import Final

from inferencecluster.core.errors import SpecError
from inferencecluster.simulator.chance import chance

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
"""Of a trace file (Azure LLM inference traces)."""
MAX_TOKENS: Final = 100_000_000
"""Longer requests are mistakes of the file."""


@dataclass(frozen=True, slots=True, order=True)
class Request:
    """One request of a workload. A workload is an iterable of these by ascending `arrival`."""

    arrival: float
    """Seconds since the beginning of the workload."""
    prompt_tokens: int
    """At least 1."""
    output_tokens: int
    """At least 1."""
    cached_tokens: int = 0
    """Prompt tokens that any engine finds in its prefix cache."""

    def moved(self, arrival: float) -> Request:
        """The same request at another time."""
        return Request(arrival, self.prompt_tokens, self.output_tokens, self.cached_tokens)


def read_trace(path: Path) -> Iterator[Request]:
    """The requests of a CSV file with the columns `COLUMNS`, one line at a time; the first one arrives at 0.

    Timestamps are dates (`2023-11-16 18:17:03.9799600`) or seconds. Raises `SpecError` that names line, field, value and
    rule, and `OSError`.
    """
    with path.open(encoding="utf-8", newline="") as lines:
        yield from parse_trace(lines, source=path.name)


def parse_trace(lines: Iterable[str], *, source: str) -> Iterator[Request]:
    """As `read_trace`, from lines of text; `source` is what errors call them."""
    rows = csv.reader(lines)
    places = _places(next(rows, []), source)
    first: datetime | float | None = None
    latest = 0.0
    for row in rows:
        if not row:
            continue
        line = _Line(source, rows.line_num, row, places)
        time = line.time()
        if first is None:
            first = time
        arrival = line.seconds_between(first, time)
        if arrival < latest:
            raise line.error(
                COLUMNS[0],
                "lines ascend in time, and the one before is later",
                "sort the file by its first column",
            )
        latest = arrival
        yield Request(arrival, line.tokens(COLUMNS[1]), line.tokens(COLUMNS[2]))


def _places(header: Sequence[str], source: str) -> dict[str, int]:
    names = [name.strip().lstrip("\ufeff") for name in header]
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise SpecError(
            field=f"{source}, line 1",
            value=",".join(header) or "empty",
            rule=f"the header names the columns {', '.join(COLUMNS)}, and {missing[0]} is absent",
            advice="add a header line",
        )
    return {column: names.index(column) for column in COLUMNS}


@dataclass(frozen=True, slots=True)
class _Line:
    source: str
    number: int
    row: Sequence[str]
    places: dict[str, int]

    def text(self, column: str) -> str:
        place = self.places[column]
        if place >= len(self.row):
            raise self.error(
                column, f"every line has at least {place + 1} fields", "complete or remove the line"
            )
        return self.row[place].strip()

    def time(self) -> datetime | float:
        text = self.text(COLUMNS[0])
        try:
            seconds = float(text)
        except ValueError:
            try:
                return datetime.fromisoformat(text)
            except ValueError:
                seconds = math.nan
        if not math.isfinite(seconds):
            raise self.error(
                COLUMNS[0],
                "a timestamp is a date and time (2023-11-16 18:17:03.97), or seconds",
                "correct the line",
            )
        return seconds

    def seconds_between(self, first: datetime | float, time: datetime | float) -> float:
        if isinstance(first, datetime) and isinstance(time, datetime):
            if (first.tzinfo is None) == (time.tzinfo is None):
                return (time - first).total_seconds()
        elif isinstance(first, float) and isinstance(time, float):
            return time - first
        raise self.error(COLUMNS[0], "all timestamps of a file have one form", "write them all alike")

    def tokens(self, column: str) -> int:
        text = self.text(column)
        is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_TOKENS))
        tokens = int(text) if is_number else 0
        if not 1 <= tokens <= MAX_TOKENS:
            raise self.error(
                column,
                f"it is a whole number from 1 to {MAX_TOKENS}",
                "correct the line, or remove it if the request failed",
            )
        return tokens

    def error(self, column: str, rule: str, advice: str) -> SpecError:
        place = self.places[column]
        value = repr(self.row[place]) if place < len(self.row) else "absent"
        return SpecError(
            field=f"{self.source}, line {self.number}, {column}", value=value, rule=rule, advice=advice
        )


def between(workload: Iterable[Request], begin: float, end: float) -> Iterator[Request]:
    """The requests from `begin` until before `end`; the clock starts at `begin`."""
    for request in workload:
        if request.arrival >= end:
            return
        if request.arrival >= begin:
            yield request.moved(request.arrival - begin)


def scaled_time(workload: Iterable[Request], factor: float) -> Iterator[Request]:
    """The same requests on a clock that runs `factor` times as long: 0.5 doubles the rate."""
    for request in workload:
        yield request.moved(request.arrival * factor)


def copied(
    workload: Iterable[Request], *, copies: float, jitter_seconds: float, seed: int
) -> Iterator[Request]:
    """Each request `copies` times, each copy moved by up to `jitter_seconds` either way, uniformly.

    Of a fraction of a copy, chance decides. Arrivals before 0 are mirrored at 0, so that the beginning is neither
    thinner nor denser. Holds the requests of twice the jitter.
    """
    source = chance(seed, "copied")
    waiting: list[Request] = []
    whole = int(copies)
    for request in workload:
        while waiting and waiting[0].arrival <= request.arrival - jitter_seconds:
            yield heappop(waiting)
        for _ in range(whole + (source.random() < copies - whole)):
            arrival = abs(request.arrival + source.uniform(-jitter_seconds, jitter_seconds))
            heappush(waiting, request.moved(arrival))
    while waiting:
        yield heappop(waiting)


def out_of_step(
    workload: Sequence[Request], *, copies: int, shift_seconds: float, seed: int
) -> Iterator[Request]:
    """`copies` of the whole trace, each moved by up to `shift_seconds` either way, uniformly: many tenants.

    What is moved beyond one end comes in again at the other, so that every tenant sends its whole trace and the load
    neither fades in nor out. Holds the trace.
    """
    if not workload:
        return iter(())
    source = chance(seed, "out-of-step")
    last = workload[-1].arrival
    # The gap between the last request and the first one of the next round is an average one.
    period = last + last / max(1, len(workload) - 1)
    shifts = [source.uniform(-shift_seconds, shift_seconds) for _ in range(copies)]
    return merge(*(_rotated(workload, shift % period if period else 0.0, period) for shift in shifts))


def _rotated(workload: Sequence[Request], shift: float, period: float) -> Iterator[Request]:
    """Each arrival `shift` later, modulo `period`."""
    start = bisect_left(workload, period - shift, key=lambda request: request.arrival)
    for request in workload[start:]:
        yield request.moved(request.arrival + shift - period)
    for request in workload[:start]:
        yield request.moved(request.arrival + shift)


def with_burst(
    workload: Iterable[Request], *, start: float, seconds: float, factor: int, seed: int
) -> Iterator[Request]:
    """`factor` times the load within `seconds` from `start`: additional copies of its requests lie anywhere in it.

    Holds the requests of the burst.
    """
    source = chance(seed, "burst")
    end = start + seconds
    burst: list[Request] = []
    for request in workload:
        if start <= request.arrival < end:
            burst.append(request)
            burst += (request.moved(start + seconds * source.random()) for _ in range(factor - 1))
            continue
        if burst and request.arrival >= end:
            yield from sorted(burst)
            burst = []
        yield request
    yield from sorted(burst)


def spliced(first: Iterable[Request], second: Iterable[Request], *, at: float) -> Iterator[Request]:
    """`first` until before `at`, then what `second` sends from `at` on: one service turns into another."""
    for request in first:
        if request.arrival >= at:
            break
        yield request
    for request in second:
        if request.arrival >= at:
            yield request


def with_mirrored_warm_up(workload: Iterable[Request], seconds: float) -> Iterator[Request]:
    """The first `seconds` backwards, then the whole workload: it begins as it would in the middle of a day.

    Everything moves by `seconds`, which is the scenario's `warm_up_seconds`: only the workload is scored, so what arrives at 0 has
    no mirror image. Holds the requests of the warm-up.
    """
    stream = iter(workload)
    beginning: list[Request] = []
    following: Request | None = None
    for request in stream:
        if request.arrival > seconds:
            following = request
            break
        beginning.append(request)
    for request in reversed(beginning):
        if seconds - request.arrival < seconds:
            yield request.moved(seconds - request.arrival)
    for request in beginning:
        yield request.moved(seconds + request.arrival)
    if following is None:
        return
    yield following.moved(seconds + following.arrival)
    for request in stream:
        yield request.moved(seconds + request.arrival)

"""Request traces: read from a file in the public Azure format, or synthetic from its published percentiles."""

from __future__ import annotations

import csv
import math
import random
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


class TraceError(Exception):
    """The trace file cannot be played; the message names the file, the line and the rule."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: seconds after the start of the trace, prompt and output tokens (both >= 1)."""

    at: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests ordered by time. `seconds` is the span of the original recording."""

    name: str
    requests: tuple[Request, ...]
    seconds: float


def read_trace(path: Path) -> Trace:
    """A trace file: CSV with TIMESTAMP, ContextTokens, GeneratedTokens (Azure LLM inference traces).

    Raises `TraceError` for a missing file, a missing column, a row that is not a request, or no rows.
    """
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise TraceError(f"{path}: column {missing[0]} is missing; needed: {', '.join(COLUMNS)}")
            rows = [_row(path, number, row) for number, row in enumerate(reader, start=2)]
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}; give a CSV file with {', '.join(COLUMNS)}") from error
    if not rows:
        raise TraceError(f"{path}: no requests in it")
    rows.sort(key=lambda row: row[0])
    start = rows[0][0]
    requests = tuple(Request(at - start, prompt, output) for at, prompt, output in rows)
    return Trace(path.stem, requests, max(requests[-1].at, 1.0))


def _row(path: Path, number: int, row: dict[str, str]) -> tuple[float, int, int]:
    try:
        # The Azure traces carry seven digits of a second; the standard library reads six.
        at = datetime.fromisoformat(row["TIMESTAMP"].strip()[:26]).timestamp()
        prompt, output = int(row["ContextTokens"]), int(row["GeneratedTokens"])
    except (ValueError, AttributeError, TypeError) as error:
        raise TraceError(f"{path}:{number}: {error}; a row is time, prompt tokens, output tokens") from error
    return at, max(prompt, 1), max(output, 1)


SYNTHETIC_SECONDS = 3600.0
SYNTHETIC_REQUESTS = 19_000
"""About the count of the Azure conversation hour (19,366 requests)."""
# Medians and 90th percentiles of the Azure 2023 conversation trace (prompt 1,020 / 2,735; output 129 / 424)
# fix the two parameters of a log-normal; lengths are cut at the trace's own extremes.
Z90 = 1.2816
PROMPT = (math.log(1020), math.log(2735 / 1020) / Z90, 14_050)
OUTPUT = (math.log(129), math.log(424 / 129) / Z90, 1_000)


def synthetic_trace(seed: int = 0) -> Trace:
    """An hour whose prompt-heavy hump (minutes 20-35) and decode-heavy shoulders pull the pools apart.

    Arrivals are Poisson by thinning; the same seed gives the same trace.
    """
    generator = random.Random(seed)
    mean_rate = SYNTHETIC_REQUESTS / SYNTHETIC_SECONDS
    requests: list[Request] = []
    at = 0.0
    while True:
        at += generator.expovariate(mean_rate * MAXIMUM_INTENSITY)
        if at >= SYNTHETIC_SECONDS:
            return Trace("synthetic", tuple(requests), SYNTHETIC_SECONDS)
        intensity, prompt_factor, output_factor = _shape(at / SYNTHETIC_SECONDS)
        if generator.random() * MAXIMUM_INTENSITY > intensity:
            continue
        requests.append(
            Request(at, _length(generator, PROMPT, prompt_factor), _length(generator, OUTPUT, output_factor))
        )


MAXIMUM_INTENSITY = 1.8


def _shape(position: float) -> tuple[float, float, float]:
    """Arrival intensity, prompt and output length factors at a position 0-1 of the hour."""
    hump = math.exp(-(((position - 0.45) / 0.13) ** 2))
    shoulder = math.exp(-(((position - 0.78) / 0.07) ** 2))
    return 0.65 + 0.9 * hump + 0.25 * shoulder, 1.0 + 0.3 * hump, 1.0 - 0.35 * hump + 0.9 * shoulder


def _length(generator: random.Random, shape: tuple[float, float, int], factor: float) -> int:
    mean, deviation, longest = shape
    return max(1, min(longest, round(factor * generator.lognormvariate(mean, deviation))))

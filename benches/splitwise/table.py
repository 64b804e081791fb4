"""splitwise-sim's measured table (`perf_model.csv`) as step times: as that simulator asks it, and as it was measured.

A row is one profile of a DGX: prompts of `prompt_size` tokens, `batch_size` of them at once, `token_size` tokens generated;
`prompt_time` and `token_time` in milliseconds. Batches above one were profiled at prompts of 512 tokens only.

Both readings interpolate linearly over medians, and prompts are looked up by the tokens of all prompts of the iteration.
They differ in decode steps:

    peer     x = prompt_size * batch_size of the profile, asked with x = number of sequences: a step takes about as long
             at 64 sequences as at one. An iteration with prompts beside them takes 1.1 times that of all tokens as prompts.
    honest   by the number of sequences, from the rows of 512-token prompts, and by context, from the rows of batch one
"""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median
from typing import Final

from inferencecluster.core.errors import SpecError
from inferencecluster.simulator.prefill_engine import Chunk

TENSOR_PARALLEL: Final = 8
"""Splitwise runs one replica on a whole DGX."""
PROFILED_PROMPT: Final = 512
PROFILED_OUTPUT: Final = 128
"""Prompt and output of the rows that vary the batch."""
PROFILED_BATCH: Final = 64
"""The largest one."""
MIXED_FACTOR: Final = 1.1
"""splitwise-sim's price of decoding beside prompts."""
_MILLISECONDS: Final = 1e-3
_COLUMNS: Final = (
    "model",
    "hardware",
    "prompt_size",
    "batch_size",
    "token_size",
    "prompt_time",
    "token_time",
    "tensor_parallel",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One profile; times in seconds."""

    prompt_tokens: int
    batch: int
    output_tokens: int
    prompt_seconds: float
    token_seconds: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A function through points, linear between them; the outermost pieces go on beyond."""

    xs: tuple[float, ...]
    """Ascending, at least two."""
    ys: tuple[float, ...]

    @classmethod
    def of_medians(cls, points: Iterable[tuple[float, float]]) -> Curve:
        """Through the median y of each x."""
        found: dict[float, list[float]] = defaultdict(list)
        for x, y in points:
            found[x].append(y)
        xs = tuple(sorted(found))
        return cls(xs, tuple(median(found[x]) for x in xs))

    def at(self, x: float) -> float:
        """Its value."""
        right = min(max(bisect_right(self.xs, x), 1), len(self.xs) - 1)
        x0, x1, y0, y1 = self.xs[right - 1], self.xs[right], self.ys[right - 1], self.ys[right]
        return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


@dataclass(frozen=True, slots=True)
class WholePrompts:
    """The part of `StepTimes` that both tables answer alike."""

    prompts: Curve

    def prompt_seconds(self, prompt_tokens: int) -> float:
        """See `StepTimes`."""
        return self.prompts.at(prompt_tokens)

    def prefill_seconds(self, chunks: Sequence[Chunk]) -> float:
        """See `StepTimes`. Prompts are whole."""
        return self.prompts.at(_tokens(chunks))


@dataclass(frozen=True, slots=True)
class PeerTimes(WholePrompts):
    """As splitwise-sim asks the table; `StepTimes`."""

    tokens: Curve
    context_token_seconds: float = 0.0

    @classmethod
    def of(cls, rows: Sequence[Row]) -> PeerTimes:
        """From the profiles of one model on one kind of machine."""
        return cls(
            prompts=_by_prompt_tokens(rows),
            tokens=Curve.of_medians((row.prompt_tokens * row.batch, row.token_seconds) for row in rows),
        )

    def flat_step_seconds(self, sequences: int) -> float:
        """See `StepTimes`."""
        return self.tokens.at(sequences)

    def mixed_seconds(
        self, chunks: Sequence[Chunk], sequences: int, context_tokens: int
    ) -> tuple[float, float]:
        """See `StepTimes`. A decoding sequence counts as one more prompt token."""
        tokens = _tokens(chunks)
        del context_tokens
        return MIXED_FACTOR * self.prompts.at(tokens + sequences), tokens / (tokens + sequences)


@dataclass(frozen=True, slots=True)
class HonestTimes(WholePrompts):
    """As it was measured; `StepTimes`. What is beyond 64 sequences continues the slope from 32 to 64."""

    batches: Curve
    """Seconds of a step by sequences, their contexts taken out."""
    context_token_seconds: float

    @classmethod
    def of(cls, rows: Sequence[Row]) -> HonestTimes:
        """From the profiles of one model on one kind of machine.

        Medians over context are not monotone (they differ by 0.4 ms where a token of context adds 0.0002), so that their
        least-squares slope stands for them. A step of the profile sees the prompt and, on average, half of the output.
        """
        alone = [row for row in rows if row.batch == 1]
        slope = linear_regression(
            [row.prompt_tokens + row.output_tokens / 2 for row in alone],
            [row.token_seconds for row in alone],
        ).slope
        per_token = max(0.0, slope)
        context = PROFILED_PROMPT + PROFILED_OUTPUT / 2
        return cls(
            prompts=_by_prompt_tokens(rows),
            batches=Curve.of_medians(
                (row.batch, row.token_seconds - per_token * context * row.batch)
                for row in rows
                if row.prompt_tokens == PROFILED_PROMPT and row.output_tokens == PROFILED_OUTPUT
            ),
            context_token_seconds=per_token,
        )

    def flat_step_seconds(self, sequences: int) -> float:
        """See `StepTimes`."""
        return self.batches.at(sequences)

    def mixed_seconds(
        self, chunks: Sequence[Chunk], sequences: int, context_tokens: int
    ) -> tuple[float, float]:
        """See `StepTimes`. The larger base of both phases, once, and what each adds (as `LinearTimes`)."""
        prompt_base, step_base = self.prompts.at(0), self.batches.at(0)
        prompts = self.prompts.at(_tokens(chunks)) - prompt_base
        tokens = self.batches.at(sequences) - step_base + self.context_token_seconds * context_tokens
        return max(prompt_base, step_base) + prompts + tokens, prompts / (prompts + tokens)


Profiles = Mapping[tuple[str, str], tuple[Row, ...]]
"""By model and hardware, as the table names them."""


def read_table(path: Path) -> Profiles:
    """The profiles at tensor parallel 8. Raises `SpecError` that names line, field and rule, and `OSError`."""
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise SpecError(
                field=f"{path.name}, line 1",
                value=",".join(reader.fieldnames or ()) or "empty",
                rule=f"the header names the column {missing[0]}",
                advice="give splitwise-sim's data/perf_model.csv",
            )
        for record in reader:
            if record["tensor_parallel"] == str(TENSOR_PARALLEL):
                row = _row(record, f"{path.name}, line {reader.line_num}")
                found[record["model"], record["hardware"]].append(row)
    return {key: tuple(rows) for key, rows in found.items()}


def _row(record: Mapping[str, str], place: str) -> Row:
    try:
        return Row(
            prompt_tokens=int(record["prompt_size"]),
            batch=int(record["batch_size"]),
            output_tokens=int(record["token_size"]),
            prompt_seconds=float(record["prompt_time"]) * _MILLISECONDS,
            token_seconds=float(record["token_time"]) * _MILLISECONDS,
        )
    except (TypeError, ValueError) as error:
        raise SpecError(
            field=place, value=str(error), rule="sizes and times are numbers", advice="correct the line"
        ) from error


def _by_prompt_tokens(rows: Sequence[Row]) -> Curve:
    return Curve.of_medians((row.prompt_tokens * row.batch, row.prompt_seconds) for row in rows)


def _tokens(chunks: Sequence[Chunk]) -> int:
    return sum(tokens for _, tokens in chunks)

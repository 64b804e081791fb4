"""The live table in the terminal; without a terminal, a line every few seconds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from e2e.demo.load import Answer
from e2e.demo.monitor import Sample
from e2e.demo.summary import percentile
from inferencecluster.cli.sizes_table import sizes_table

RECENT_ANSWERS = 200
"""Answers that the live latencies look back on: about 15 s of traffic."""
PLAIN_INTERVAL_SECONDS = 10.0
"""Time between two lines where there is no terminal (CI logs)."""


class Screen:
    """Shows the newest sample and the recent answers. Use as a context manager."""

    def __init__(self, *, seconds: float, requests: int) -> None:
        self._seconds, self._requests = seconds, requests
        self._console = Console()
        self._live = Live(console=self._console, refresh_per_second=2) if sys.stdout.isatty() else None
        self._printed_at = float("-inf")

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, sample: Sample, answers: Sequence[Answer]) -> None:
        """Draw the table, or print a line when the last one is old enough."""
        if self._live:
            self._live.update(self._table(sample, answers))
        elif sample.at - self._printed_at >= PLAIN_INTERVAL_SECONDS:
            self._printed_at = sample.at
            print(self._line(sample, answers), flush=True)

    def _table(self, sample: Sample, answers: Sequence[Answer]) -> Group:
        clock = Text(f"{sample.at:.0f} of {self._seconds:.0f} s")
        lines = [Text(self._traffic(sample, answers)), Text(f"last decision  {sample.decision or '-'}")]
        lines += [Text(condition, style="yellow") for condition in sample.conditions]
        return Group(clock, sizes_table(sample.pools), *lines)

    def _line(self, sample: Sample, answers: Sequence[Answer]) -> str:
        sizes = "  ".join(
            f"{name} {pool.ready}/{pool.desired}" + (f" (-{pool.draining})" if pool.draining else "")
            for name, pool in sample.pools.items()
        )
        return f"{sample.at:4.0f} s  {sizes}  {self._traffic(sample, answers)}  {sample.decision}"

    def _traffic(self, sample: Sample, answers: Sequence[Answer]) -> str:
        recent = answers[-RECENT_ANSWERS:]
        ttft = percentile([answer.ttft for answer in recent if answer.ttft is not None], 90)
        tpot = percentile([answer.tpot for answer in recent if answer.tpot is not None], 90)
        failed = sum(bool(answer.error) for answer in answers)
        return (
            f"GPUs {sample.gpus}/{sample.budget}  queue {sample.queue_tokens:,} tokens  "
            f"in flight {sample.in_flight}  answered {len(answers):,}/{self._requests:,} (failed {failed})  "
            f"TTFT p90 {_milliseconds(ttft)}  ITL p90 {_milliseconds(tpot)}"
        )


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"

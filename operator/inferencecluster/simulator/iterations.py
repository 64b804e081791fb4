"""Iterations with prompts: which prompts are computed, whether the batch makes a step beside them, and how long it takes.

With chunked prefill the batch always steps, and prompts get the tokens that it leaves. Without it (Splitwise's
machine-level scheduler, ISCA'24, section IV-B) prompts are computed whole and come first: a batch that does not fit beside
them waits, `MAX_PAUSES` iterations in a row at most.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from inferencecluster.simulator.decode_engine import DecodeBatch
from inferencecluster.simulator.prefill_engine import Chunk, PromptBatches
from inferencecluster.simulator.step_times import StepTimes

MAX_PAUSES: Final = 4
"""Splitwise bounds how often prompts may preempt a token phase; the number is splitwise-sim's `max_preemptions`."""


class Iteration(NamedTuple):
    """What an engine does next."""

    chunks: list[Chunk]
    """Empty when the batch had waited for too long and no prompt fits beside it."""
    seconds: float
    prefill_share: float
    """Of its seconds."""
    steps_batch: bool
    """Every decoding sequence makes a token."""


class Iterations:
    """Composes the iterations of one engine."""

    __slots__ = ("_batch", "_chunked", "_max_num_tokens", "_pauses", "_prompts", "_times")

    def __init__(
        self,
        prompts: PromptBatches,
        batch: DecodeBatch,
        times: StepTimes,
        *,
        max_num_tokens: int,
        chunked: bool,
    ) -> None:
        self._prompts = prompts
        self._batch = batch
        self._times = times
        self._max_num_tokens = max_num_tokens
        self._chunked = chunked
        self._pauses = 0

    def compose(self) -> Iteration:
        """The next one; there is a prompt to compute."""
        batch = self._batch
        if self._chunked:
            chunks, steps_batch = self._prompts.take(self._max_num_tokens - batch.size), True
        else:
            chunks, steps_batch = self._whole()
        if not (steps_batch and batch.size):
            return Iteration(chunks, self._times.prefill_seconds(chunks), 1.0, steps_batch)
        if not chunks and not self._chunked:
            return Iteration(chunks, batch.plan()[0], 0.0, steps_batch)
        return Iteration(
            chunks, *self._times.mixed_seconds(chunks, batch.size, batch.context_tokens), steps_batch
        )

    def _whole(self) -> tuple[list[Chunk], bool]:
        """Whole prompts, and whether the batch steps beside them."""
        size = self._batch.size
        if size and self._pauses >= MAX_PAUSES:
            self._pauses = 0
            return self._prompts.take_whole(self._max_num_tokens - size, first_always=False), True
        chunks = self._prompts.take_whole(self._max_num_tokens, first_always=True)
        has_room = sum(tokens for _, tokens in chunks) + size <= self._max_num_tokens
        self._pauses = 0 if has_room else self._pauses + 1
        return chunks, has_room

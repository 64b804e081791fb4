"""Continuous batching as a pure state machine: time comes in as an argument, events come out.

An iteration runs one decode step of every decoding sequence and fills the rest of `max_num_tokens` with prompts,
first come, first served. While no prompt waits, consecutive decode steps of one batch are one *run* whose end is
the next step at which somebody must hear of a token: the caller sleeps until `deadline` instead of once per step,
and the cost of a run does not depend on the size of the batch. Whatever arrives meanwhile shortens the run to the
step that is under way, so results are those of step-by-step execution.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from emulated_engine.sequences import (
    Event,
    IterationsDone,
    Load,
    Phase,
    Sequence,
    State,
    TokensReady,
    TransferWanted,
)
from emulated_engine.timing import DecodeModel, Pace, PrefillModel

LONGEST_RUN_SECONDS: Final = 1.0
"""A run ends by then even when nobody waits for a token, so that statistics are never older."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The engine's configuration that bounds a batch."""

    kv_capacity_tokens: int
    max_batch_size: int
    max_num_tokens: int
    splits_prompts: bool


@dataclass(slots=True)
class _Run:
    """Consecutive iterations of one batch. Chunks exist only in runs of a single iteration."""

    started_at: float
    pace: Pace
    steps: int
    batch: int
    chunks: tuple[tuple[Sequence, int], ...]
    prefill_share: float

    @property
    def end(self) -> float:
        return self.started_at + self.pace.elapsed(self.steps)


class Scheduler:
    """Queues, KV room and the running batch of one engine."""

    def __init__(
        self,
        limits: Limits,
        prefill: PrefillModel,
        decode: DecodeModel,
        *,
        stretch: Callable[[], float] = lambda: 1.0,
    ) -> None:
        """`stretch` is asked once per run for the factor on its duration (jitter, faults)."""
        self.limits = limits
        self._prefill = prefill
        self._decode = decode
        self._stretch = stretch
        self._contexts: deque[Sequence] = deque()
        self._generations: deque[Sequence] = deque()
        self._transferring: set[Sequence] = set()
        self._transferred: list[Sequence] = []
        self._prefilling: list[Sequence] = []
        self._held: set[Sequence] = set()
        self._cancelled: list[Sequence] = []
        self._reports: list[tuple[int, int, Sequence]] = []
        """Heap of (decode step, tie-break, sequence): when each decoding sequence next reports."""
        self._order = itertools.count()
        self._step = 0
        self._batch = 0
        self._context_tokens = 0
        """Sum of prompt and output tokens over the decoding sequences."""
        self._reserved = 0
        self._completed = 0
        """Sequences that ended since the last IterationsDone."""
        self._run: _Run | None = None
        self._events: list[Event] = []

    @property
    def deadline(self) -> float | None:
        """When `advance` has something to do next; None: nothing runs."""
        return None if self._run is None else self._run.end

    @property
    def reserved_tokens(self) -> int:
        """KV tokens that admitted and held sequences have set aside."""
        return self._reserved

    def fits(self, sequence: Sequence) -> bool:
        """Whether the engine could ever hold `sequence`."""
        return sequence.reservation <= self.limits.kv_capacity_tokens

    def submit(self, sequence: Sequence, now: float) -> None:
        """Queue `sequence`, which must fit. `advance` must follow."""
        self._settle(now)
        is_generation = sequence.phase is Phase.GENERATION_ONLY
        (self._generations if is_generation else self._contexts).append(sequence)
        self._shorten(now)

    def transfer_done(self, sequence: Sequence, now: float) -> None:
        """The KV cache of a TRANSFERRING sequence is here: it decodes from the next iteration on."""
        self._settle(now)
        if sequence in self._transferring:
            self._transferred.append(sequence)
            self._shorten(now)

    def release(self, sequence: Sequence, now: float) -> None:
        """End `sequence` wherever it stands and free its KV room: it was cancelled, or its held cache was fetched.

        What is being computed for it is not interrupted: the room is free after the iteration under way.
        """
        self._settle(now)
        if sequence.state is State.ENDED or sequence.cancelled:
            return
        if sequence.state is State.QUEUED:
            (self._generations if sequence.phase is Phase.GENERATION_ONLY else self._contexts).remove(
                sequence
            )
            sequence.state = State.ENDED
        elif sequence.state is State.HELD:
            self._held.discard(sequence)
            self._end(sequence, now)
        else:
            sequence.cancelled = True
            self._cancelled.append(sequence)
        self._shorten(now)

    def advance(self, now: float) -> list[Event]:
        """Run all iterations that end by `now`, start the next one, and return what happened, in order."""
        self._settle(now)
        if self._run is None:
            self._plan(now)
        events, self._events = self._events, []
        return events

    def load(self) -> Load:
        """What the engine holds now."""
        queued_context_tokens = sum(sequence.prompt_tokens for sequence in self._contexts)
        waiting = (*self._generations, *self._transferring)
        prefilled = sum(sequence.prefilled for sequence in self._prefilling)
        held = sum(sequence.prompt_tokens for sequence in self._held)
        arriving = sum(sequence.prompt_tokens for sequence in self._transferring)
        return Load(
            active=self._active,
            queued_contexts=len(self._contexts),
            queued_context_tokens=queued_context_tokens,
            waiting_generations=len(waiting),
            waiting_generation_tokens=sum(sequence.prompt_tokens for sequence in waiting),
            queued=len(self._contexts) + len(self._generations),
            decoding=self._batch,
            decoding_tokens=self._context_tokens,
            prefilling=len(self._prefilling),
            prefilled_tokens=prefilled,
            held=len(self._held),
            held_tokens=held,
            resident_tokens=self._context_tokens + prefilled + held + arriving,
        )

    @property
    def _active(self) -> int:
        return len(self._transferring) + len(self._prefilling) + self._batch

    def _shorten(self, now: float) -> None:
        """End the run with the step that is under way: the next one starts with what has changed."""
        run = self._run
        if run is not None and run.steps > 1:
            run.steps = min(run.steps, run.pace.completed(now - run.started_at) + 1)

    def _settle(self, now: float) -> None:
        """Finish all runs that end by `now`. Each follows the one before it without a gap, however late we are."""
        while (run := self._run) is not None and run.end <= now:
            self._run = None
            self._finish(run)
            self._plan(run.end)

    def _finish(self, run: _Run) -> None:
        end = run.end
        if run.batch:
            self._step += run.steps
            self._context_tokens += run.batch * run.steps
            self._report(end)
        for sequence, tokens in run.chunks:
            sequence.prefilled += tokens
            if sequence.prefilled == sequence.prompt_tokens and not sequence.cancelled:
                self._prefilling.remove(sequence)
                self._complete_prefill(sequence, end)
        seconds = run.pace.elapsed(run.steps)
        self._events.append(
            IterationsDone(
                at=end,
                iterations=run.steps,
                seconds=seconds,
                prefill_seconds=seconds * run.prefill_share,
                context_requests=len(run.chunks),
                context_tokens=sum(tokens for _, tokens in run.chunks),
                generation_requests=run.batch,
                completed=self._completed,
                load=self.load(),
            )
        )
        self._completed = 0

    def _report(self, now: float) -> None:
        """Tell of the tokens of every sequence whose report is due at the present step."""
        while self._reports and self._reports[0][0] <= self._step:
            _, _, sequence = heapq.heappop(self._reports)
            if sequence.cancelled:
                continue
            generated = self._generated(sequence)
            finished = generated == sequence.output_tokens
            self._events.append(TokensReady(sequence, generated - sequence.delivered, finished, now))
            sequence.delivered = generated
            if finished:
                self._leave_batch(sequence)
                self._end(sequence, now)
                self._completed += 1
            else:
                self._schedule_report(sequence)

    def _complete_prefill(self, sequence: Sequence, now: float) -> None:
        """The iteration with a prompt's last chunk makes the first output token."""
        if sequence.phase is Phase.CONTEXT_ONLY:
            sequence.first_token_at = sequence.ended_at = now
            sequence.delivered = 1
            sequence.state = State.HELD
            self._held.add(sequence)
            self._completed += 1
            self._events.append(TokensReady(sequence, 1, finished=True, at=now))
        else:
            self._start_decoding(sequence, now)

    def _start_decoding(self, sequence: Sequence, now: float) -> None:
        """Report the first token (whole requests just made it, generation requests brought it along)."""
        finished = sequence.output_tokens == 1
        sequence.first_token_at = now
        if finished or sequence.chunk_tokens is not None:
            sequence.delivered = 1
            self._events.append(TokensReady(sequence, 1, finished, now))
        if finished:
            self._end(sequence, now)
            self._completed += 1
            return
        sequence.state = State.DECODING
        sequence.joined_at_step = self._step
        self._batch += 1
        self._context_tokens += sequence.prompt_tokens + 1
        self._schedule_report(sequence)

    def _schedule_report(self, sequence: Sequence) -> None:
        step = sequence.joined_at_step + sequence.next_report() - 1
        heapq.heappush(self._reports, (step, next(self._order), sequence))

    def _generated(self, sequence: Sequence) -> int:
        return 1 + self._step - sequence.joined_at_step

    def _leave_batch(self, sequence: Sequence) -> None:
        self._batch -= 1
        self._context_tokens -= sequence.prompt_tokens + self._generated(sequence)

    def _end(self, sequence: Sequence, now: float) -> None:
        if sequence.ended_at is None:
            sequence.ended_at = now
        sequence.state = State.ENDED
        self._reserved -= sequence.reservation

    def _plan(self, now: float) -> None:
        """Start the next run at `now`, if there is anything to compute."""
        self._drop_cancelled(now)
        for sequence in self._transferred:
            self._transferring.discard(sequence)
            self._start_decoding(sequence, now)
        self._transferred.clear()
        self._admit(now)
        chunks = self._pick_chunks()
        if not chunks and not self._batch:
            return
        prefill_seconds = sum(
            self._prefill.chunk_seconds(sequence.prefilled, tokens) for sequence, tokens in chunks
        )
        decode_seconds = self._decode.batch_seconds(self._batch, self._context_tokens) if self._batch else 0.0
        # One pass over the weights serves prompts and decode steps alike, so the larger base is paid once.
        base = max(
            self._prefill.base_seconds if chunks else 0.0, self._decode.base_seconds if self._batch else 0.0
        )
        stretch = self._stretch()
        growth = self._decode.per_context_token_seconds * self._batch
        pace = Pace(
            first=stretch * (base + prefill_seconds + decode_seconds),
            growth=stretch * growth,
        )
        steps = 1
        if not chunks:
            steps = max(1, min(self._reports[0][0] - self._step, pace.completed(LONGEST_RUN_SECONDS)))
        self._run = _Run(
            started_at=now,
            pace=pace,
            steps=steps,
            batch=self._batch,
            chunks=chunks,
            prefill_share=_share(prefill_seconds, decode_seconds, has_prompts=bool(chunks)),
        )

    def _drop_cancelled(self, now: float) -> None:
        for sequence in self._cancelled:
            if sequence.state is State.DECODING:
                self._leave_batch(sequence)
            elif sequence.state is State.PREFILLING:
                self._prefilling.remove(sequence)
            else:
                self._transferring.discard(sequence)
                if sequence in self._transferred:
                    self._transferred.remove(sequence)
            self._end(sequence, now)
        self._cancelled.clear()
        while self._reports and self._reports[0][2].cancelled:
            heapq.heappop(self._reports)

    def _admit(self, now: float) -> None:
        """Give KV room and a batch slot, first come, first served, transfers before prompts.

        TensorRT-LLM's order too: a waiting transfer keeps memory on the context engine. The head of a queue that
        does not fit blocks everything behind it; smaller requests must not starve it.
        """
        for queue in (self._generations, self._contexts):
            while queue:
                sequence = queue[0]
                if self._active >= self.limits.max_batch_size:
                    return
                if self._reserved + sequence.reservation > self.limits.kv_capacity_tokens:
                    return
                queue.popleft()
                self._reserved += sequence.reservation
                sequence.scheduled_at = now
                if queue is self._generations:
                    sequence.state = State.TRANSFERRING
                    self._transferring.add(sequence)
                    self._events.append(TransferWanted(sequence))
                else:
                    sequence.state = State.PREFILLING
                    self._prefilling.append(sequence)

    def _pick_chunks(self) -> tuple[tuple[Sequence, int], ...]:
        room = self.limits.max_num_tokens - self._batch
        chunks: list[tuple[Sequence, int]] = []
        for sequence in self._prefilling:
            left = sequence.prompt_tokens - sequence.prefilled
            if room <= 0 or (left > room and chunks and not self.limits.splits_prompts):
                break
            tokens = min(left, room)
            chunks.append((sequence, tokens))
            room -= tokens
        return tuple(chunks)


def _share(prefill_seconds: float, decode_seconds: float, *, has_prompts: bool) -> float:
    """Part of an iteration that counts as prefill."""
    if not has_prompts:
        return 0.0
    work = prefill_seconds + decode_seconds
    return prefill_seconds / work if work > 0 and decode_seconds > 0 else 1.0

"""One engine: continuous batching of both phases, whatever its replica's pool is.

An iteration makes one decode step of every decoding sequence and fills the rest of `max_num_tokens` with prompts
(`iterations`). While no prompt is there, steps up to the next change of the batch are one *run* (`decode_engine`), and
whatever arrives meanwhile ends the run with the step under way. A prefill replica never decodes and a decode replica never sees a prompt, unless they are
borrowed: then they work as a mixed one does, and nothing has to be switched.

Memory: room for prompt and output is set aside at admission (TensorRT-LLM's GUARANTEED_NO_EVICT, its default), or only
for what is there (`optimistic`). Then contexts may outgrow the memory, and the newest sequence is preempted: it waits
for room, its whole context is computed again, and after `MAX_PREEMPTIONS` of these it comes back with a guarantee.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from inferencecluster.simulator.decode_engine import DecodeBatch, run_seconds, steps_ended
from inferencecluster.simulator.events import EventQueue
from inferencecluster.simulator.iterations import Iterations
from inferencecluster.simulator.prefill_engine import Chunk, PromptBatches
from inferencecluster.simulator.sequences import EngineHost, Phase, Sequence, Usage
from inferencecluster.simulator.step_times import StepTimes

MAX_PREEMPTIONS: Final = 4
"""Of one request on one engine; splitwise-sim's limit."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """The configuration that bounds a batch."""

    kv_capacity_tokens: int
    max_batch_size: int
    max_num_tokens: int
    optimistic: bool = False
    """Set memory aside for what is there only, and preempt when it runs out."""
    fetch_at_boundary: bool = False
    """Make room for a cache that is to be fetched only when an iteration begins; otherwise as soon as there is some."""
    chunked_prefill: bool = True
    """Prompts share iterations with the whole batch, in pieces where they must; otherwise they come first, each whole."""


class Engine:
    """Queues, memory and running batch of one replica. Hears of time from its own events."""

    def __init__(self, limits: EngineLimits, times: StepTimes, events: EventQueue, host: EngineHost) -> None:
        self.limits = limits
        self.usage = Usage()
        self.batch = DecodeBatch(times)
        self.batches = PromptBatches()
        self.reserved_tokens = 0
        """KV tokens that are set aside; `batch.growing_tokens` come on top."""
        self._capacity = limits.kv_capacity_tokens
        # What free contexts will have taken is only known where steps end.
        self._fetches_at_boundary = limits.fetch_at_boundary or limits.optimistic
        self._iterations = Iterations(
            self.batches,
            self.batch,
            times,
            max_num_tokens=limits.max_num_tokens,
            chunked=limits.chunked_prefill,
        )
        self._events = events
        self._host = host
        self._prompts: deque[Sequence] = deque()
        self._generations: deque[Sequence] = deque()
        self._preempted: deque[Sequence] = deque()
        self._arriving: dict[Sequence, None] = {}
        self._arrived: list[Sequence] = []
        self._held: dict[Sequence, None] = {}
        self._event = 0
        self._is_running = False
        self._is_settling = False
        self._is_dead = False
        self._started_at = self._ends_at = 0.0
        self._first = self._growth = 0.0
        self._steps = 0
        self._chunks: list[Chunk] = []
        self._steps_batch = True
        self._prefill_share = 0.0
        self._counted_until = 0.0
        self._counted_steps = 0

    def fits(self, prompt_tokens: int, output_tokens: int) -> bool:
        """Whether the engine could ever hold such a request."""
        return prompt_tokens + output_tokens <= self._capacity

    def submit(self, sequence: Sequence, now: float) -> None:
        """Queue a sequence that fits."""
        if sequence.phase is not Phase.DECODE:
            self._prompts.append(sequence)
            self._interrupt(now)
            return
        self._generations.append(sequence)
        if self._fetches_at_boundary:
            self._interrupt(now)
        elif not self._is_settling:
            self._admit_fetches(now)

    def fetched(self, sequence: Sequence, now: float) -> None:
        """The KV cache of an admitted sequence is here: it decodes from the next iteration on."""
        if not sequence.cancelled:
            del self._arriving[sequence]
            self._arrived.append(sequence)
            self._interrupt(now)

    def release(self, sequence: Sequence, now: float) -> None:
        """The held KV cache of a PREFILL sequence is not needed any more."""
        if sequence in self._held:
            del self._held[sequence]
            self._free(sequence)
            if self._prompts or self._generations or self._preempted:
                self._room_came(now)

    def cancel(self, sequence: Sequence, now: float) -> None:
        """Forget a sequence whose token phase has not begun here."""
        if sequence.cancelled:
            return
        sequence.cancelled = True
        if self._is_dead:
            return
        if sequence in self._held:
            self.release(sequence, now)
        elif sequence in self._arriving:
            del self._arriving[sequence]
            self._free(sequence)
            self._room_came(now)
        elif sequence in self._arrived:
            self._arrived.remove(sequence)
            self._free(sequence)
        elif sequence not in self.batches.active:
            (self._generations if sequence.phase is Phase.DECODE else self._prompts).remove(sequence)

    def die(self, now: float) -> None:
        """The engine is gone with all that it held; it calls nobody any more."""
        self.account(now)
        self._is_dead = True
        self._is_running = False
        self._event = 0

    @property
    def held_tokens(self) -> int:
        """KV tokens that are set aside or grow in the batch; the capacity at most."""
        return self.reserved_tokens + self.batch.growing_tokens

    @property
    def running_requests(self) -> int:
        """Sequences that are prefilled, fetched or decoded, held caches not included."""
        return self.batch.size + len(self.batches.active) + len(self._arriving) + len(self._arrived)

    @property
    def waiting_requests(self) -> int:
        """Sequences that wait for memory or a place in the batch."""
        return len(self._prompts) + len(self._generations) + len(self._preempted)

    def output_tokens_now(self, now: float) -> int:
        """Tokens that each member of the batch has got in the current run: steps that ended by `now`."""
        if not self._is_running or self._chunks:
            return 0
        return min(self._steps, steps_ended(self._first, self._growth, now - self._started_at))

    def context_tokens(self, now: float) -> int:
        """Of the sequences in the batch, at `now`."""
        return self.batch.context_tokens + self.batch.size * self.output_tokens_now(now)

    def generated_tokens(self, now: float) -> int:
        """Output so far of everyone whose token phase has begun and not ended, at `now`."""
        paused = sum(sequence.generated for sequence in (*self._preempted, *self.batches.active))
        return self.context_tokens(now) - self.batch.prompt_tokens + paused

    def resident_tokens(self, now: float) -> int:
        """Tokens in KV memory at `now`: decoding, being prefilled, and held for others."""
        held = sum(sequence.prompt_tokens for sequence in self._held)
        return self.context_tokens(now) + self.batches.tokens + held

    def account(self, now: float) -> None:
        """Bring `usage` up to `now`."""
        if not self._is_running:
            return
        until = min(now, self._ends_at)
        seconds = until - self._counted_until
        if seconds <= 0.0:
            return
        usage, size = self.usage, self.batch.size
        prompts = seconds * self._prefill_share
        usage.prefill_seconds += prompts
        usage.decode_seconds += seconds - prompts
        resident = self.batch.context_tokens + self.batches.tokens
        if size:
            before = steps = self._counted_steps
            if self._steps_batch:
                steps = self._steps if until >= self._ends_at else self.output_tokens_now(until)
            usage.sequence_seconds += size * seconds
            resident += size * (before + steps) // 2
            if steps > before:
                self._counted_steps = steps
                usage.decoded_tokens += (steps - before) * size
                # The mean of the run's steps; they differ by the growth of contexts, some per cent at most.
                self._host.steps((self._ends_at - self._started_at) / self._steps, (steps - before) * size)
        usage.kv_token_seconds += resident * seconds
        self._counted_until = until

    def _interrupt(self, now: float) -> None:
        """Something new is there: begin, or end the run with the step that is under way."""
        if self._is_settling or self._is_dead:
            return
        if not self._is_running:
            self._begin(now)
        elif self._steps > 1:
            steps = steps_ended(self._first, self._growth, now - self._started_at) + 1
            if steps < self._steps:
                self._schedule(steps)

    def _room_came(self, now: float) -> None:
        if self._is_settling or self._is_dead:
            return
        if not self._fetches_at_boundary:
            self._admit_fetches(now)
        self._interrupt(now)

    def _schedule(self, steps: int) -> None:
        self._steps = steps
        self._ends_at = ends_at = self._started_at + run_seconds(self._first, self._growth, steps)
        self._event = self._events.at_numbered(ends_at, self._end)

    def _end(self, number: int) -> None:
        """A run is over, unless it was shortened meanwhile."""
        if number != self._event:
            return
        now = self._ends_at
        self._is_settling = True
        self.account(now)
        self._is_running = False
        chunks, steps, batch = self._chunks, self._steps, self.batch
        if batch.size and self._steps_batch:
            batch.advance(steps)
            while (due := batch.pop_due()) is not None:
                self._look_at(due, now)
        for sequence, tokens in chunks:
            self._computed(sequence, tokens, now)
        self._is_settling = False
        self._begin(now)

    def _look_at(self, sequence: Sequence, now: float) -> None:
        batch = self.batch
        if batch.made_by(sequence) >= sequence.output_tokens:
            batch.leave(sequence)
            self._free(sequence)
            self._host.finished(sequence, now)
        else:
            self._host.reported(sequence)
            batch.schedule(sequence)

    def _computed(self, sequence: Sequence, tokens: int, now: float) -> None:
        if sequence.cancelled:
            self.batches.drop(sequence)
            self._free(sequence)
        elif not self.batches.complete(sequence, tokens):
            return
        elif sequence.phase is Phase.PREFILL:
            self._held[sequence] = None
            self._host.prefilled(sequence, now)
        else:
            # The iteration with the last chunk makes the next token.
            self._begin_tokens(sequence, sequence.generated + 1, now)

    def _begin_tokens(self, sequence: Sequence, generated: int, now: float) -> None:
        """It joins the batch with so many tokens, or ends with them."""
        is_first = sequence.generated == 0
        sequence.generated = generated
        if is_first:
            self._host.first_token(sequence, now)
        if generated >= sequence.output_tokens:
            self._free(sequence)
            self._host.finished(sequence, now)
            return
        if not sequence.guaranteed:
            self._free(sequence)
        self.batch.join(sequence)

    def _begin(self, now: float) -> None:
        """Start the next run at `now`, if there is anything to compute."""
        if self._arrived:
            self._join_arrived(now)
        batch = self.batch
        if batch.growing:
            self._preempt()
        if self._prompts or self._generations or self._preempted:
            self._admit(now)
        if self.batches.active:
            self._begin_iteration(now)
        elif batch.size:
            self._first, self._growth, steps = batch.plan()
            if batch.growing:
                steps = min(steps, (self._capacity - self.held_tokens) // batch.growing)
            self._prefill_share = 0.0
            self._start(now, [], max(1, steps))

    def _begin_iteration(self, now: float) -> None:
        """One iteration with prompts, beside whatever decodes."""
        chunks, self._first, self._prefill_share, steps_batch = self._iterations.compose()
        for sequence, _ in chunks:
            if sequence.prefilled <= sequence.cached_tokens:
                sequence.prefill_began = now
        self._growth = 0.0
        self._start(now, chunks, 1)
        self._steps_batch = steps_batch

    def _start(self, now: float, chunks: list[Chunk], steps: int) -> None:
        self._is_running = True
        self._chunks = chunks
        self._steps_batch = True
        self._started_at = self._counted_until = now
        self._counted_steps = 0
        self._schedule(steps)

    def _join_arrived(self, now: float) -> None:
        self._is_settling = True
        arrived, self._arrived = self._arrived, []
        for sequence in arrived:
            self._begin_tokens(sequence, 1, now)
        self._is_settling = False

    def _preempt(self) -> None:
        """Make room for one more token of each sequence that grows."""
        batch = self.batch
        while batch.growing and self.held_tokens + batch.growing > self._capacity:
            victim = batch.newest_growing()
            batch.leave(victim)
            victim.preemptions += 1
            victim.to_prefill = victim.prompt_tokens + victim.generated
            victim.prefilled = 0
            self.usage.preemptions += 1
            self._preempted.append(victim)

    def _admit(self, now: float) -> None:
        """Give memory and a place, in order: who was preempted, caches to fetch, prompts.

        A cache that waits keeps memory on another engine. The head of a queue that does not fit blocks all behind it:
        smaller requests must not starve it.
        """
        while self._preempted:
            if not self._has_room(self._preempted[0]):
                return
            sequence = self._preempted.popleft()
            self._reserve(sequence)
            self.batches.begin(sequence)
        if self._generations and not self._admit_fetches(now):
            return
        prompts = self._prompts
        while prompts:
            if not self._has_room(prompts[0]):
                return
            sequence = prompts.popleft()
            self._reserve(sequence)
            self.batches.begin(sequence)

    def _admit_fetches(self, now: float) -> bool:
        """Whether nobody waits for a fetch any more."""
        generations = self._generations
        while generations:
            if self._preempted or not self._has_room(generations[0]):
                return False
            sequence = generations.popleft()
            self._reserve(sequence)
            self._arriving[sequence] = None
            self._host.admitted(sequence, now)
        return True

    def _need(self, sequence: Sequence) -> int:
        """KV tokens to set aside at admission."""
        if sequence.phase is Phase.PREFILL:
            return sequence.prompt_tokens
        if self.limits.optimistic and sequence.preemptions < MAX_PREEMPTIONS:
            return sequence.to_prefill + 1
        return sequence.prompt_tokens + sequence.output_tokens

    def _has_room(self, sequence: Sequence) -> bool:
        return (
            self.running_requests < self.limits.max_batch_size
            and self.held_tokens + self.batch.growing + self._need(sequence) <= self._capacity
        )

    def _reserve(self, sequence: Sequence) -> None:
        sequence.reserved = self._need(sequence)
        sequence.guaranteed = (
            not self.limits.optimistic
            or sequence.phase is Phase.PREFILL
            or sequence.preemptions >= MAX_PREEMPTIONS
        )
        self.reserved_tokens += sequence.reserved

    def _free(self, sequence: Sequence) -> None:
        self.reserved_tokens -= sequence.reserved
        sequence.reserved = 0

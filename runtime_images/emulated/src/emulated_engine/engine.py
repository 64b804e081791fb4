"""Drives the scheduler in real time: one timer for the whole engine, and one stream of tokens per request."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

from emulated_engine.clock import EngineClock
from emulated_engine.errors import RequestError
from emulated_engine.scheduler import Scheduler
from emulated_engine.sequences import IterationsDone, Load, Sequence, State, TokensReady, TransferWanted

TIMER_SECONDS = 0.001
"""uvloop's timers count whole milliseconds. Deadlines are rounded up to one, so that no wake-up comes early and has
to be repeated; the next deadline is absolute, so the delay does not add up."""


class Delta(NamedTuple):
    """Output tokens since the last delta, and whether they are the last."""

    tokens: int
    finished: bool


class TokenStream:
    """What one request's handler waits on. Tokens that come before the handler looks are one delta."""

    __slots__ = ("_error", "_finished", "_tokens", "_waiter")

    def __init__(self) -> None:
        self._tokens = 0
        self._finished = False
        self._error: RequestError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def deliver(self, tokens: int, *, finished: bool) -> None:
        """Add tokens."""
        self._tokens += tokens
        self._finished = finished
        self._wake()

    def fail(self, error: RequestError) -> None:
        """End the stream with an error."""
        self._error = error
        self._wake()

    async def next(self) -> Delta:
        """The next tokens; one waiter only. Raises the `RequestError` that the stream failed with."""
        while not self._tokens and self._error is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._error is not None:
            raise self._error
        delta = Delta(self._tokens, self._finished)
        self._tokens = 0
        return delta

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Observer(Protocol):
    """Learns what the engine does: the statistics."""

    def iterations_done(self, done: IterationsDone) -> None:
        """Iterations ended."""

    def sequence_ended(self, sequence: Sequence) -> None:
        """A sequence made its last token here."""

    def batch_of_events_ended(self) -> None:
        """All that happened at one moment has been told."""


class Engine:
    """The scheduler with a clock, a timer and the streams of its sequences."""

    def __init__(
        self,
        scheduler: Scheduler,
        clock: EngineClock,
        observer: Observer,
        *,
        start_transfer: Callable[[Sequence], None],
    ) -> None:
        """`start_transfer` begins to fetch the KV cache of a sequence; `transfer_done` or `fail` must follow."""
        self._scheduler = scheduler
        self._clock = clock
        self._observer = observer
        self._start_transfer = start_transfer
        self._streams: dict[Sequence, TokenStream] = {}
        self._timer: asyncio.TimerHandle | None = None

    def submit(self, sequence: Sequence) -> TokenStream:
        """Queue a sequence. Raises `RequestError` when the engine can never hold it."""
        if not self._scheduler.fits(sequence):
            raise RequestError(
                f"prompt and output are {sequence.reservation} tokens, but the KV cache holds "
                f"{self._scheduler.limits.kv_capacity_tokens}: shorten the prompt or lower max_tokens"
            )
        stream = self._streams[sequence] = TokenStream()
        self._scheduler.submit(sequence, self._clock.now())
        self.pump()
        return stream

    def transfer_done(self, sequence: Sequence) -> None:
        """The KV cache of `sequence` has arrived."""
        self._scheduler.transfer_done(sequence, self._clock.now())
        self.pump()

    def fail(self, sequence: Sequence, error: RequestError) -> None:
        """End `sequence` with an error."""
        stream = self._streams.get(sequence)
        if stream is not None:
            stream.fail(error)
        self.release(sequence)

    def close(self, sequence: Sequence, *, keep_cache: bool = False) -> None:
        """The request of `sequence` is over: finished, left by its client or refused by `submit`.

        `keep_cache`: its held KV cache stays.
        """
        if self._streams.pop(sequence, None) is not None and not keep_cache:
            self.release(sequence)

    def release(self, sequence: Sequence) -> None:
        """Free everything that `sequence` uses."""
        if sequence.state is not State.ENDED:
            self._scheduler.release(sequence, self._clock.now())
            self.pump()

    @property
    def open_requests(self) -> int:
        """Requests whose answer has not ended."""
        return len(self._streams)

    def load(self) -> Load:
        """What the engine holds."""
        return self._scheduler.load()

    @property
    def reserved_tokens(self) -> int:
        """KV tokens that are set aside."""
        return self._scheduler.reserved_tokens

    def pump(self) -> None:
        """Do what is due and set the timer for what is next."""
        if self._clock.is_stopped:
            return
        events = self._scheduler.advance(self._clock.now())
        for event in events:
            match event:
                case TokensReady():
                    self._tokens_ready(event)
                case TransferWanted():
                    self._start_transfer(event.sequence)
                case IterationsDone():
                    self._observer.iterations_done(event)
        if events:
            self._observer.batch_of_events_ended()
        self._set_timer()

    def _tokens_ready(self, event: TokensReady) -> None:
        stream = self._streams.get(event.sequence)
        if stream is not None:
            stream.deliver(event.tokens, finished=event.finished)
        if event.finished:
            self._observer.sequence_ended(event.sequence)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._scheduler.deadline
        if deadline is not None:
            delay = max(0.0, deadline - self._clock.now())
            rounded = math.ceil(delay / TIMER_SECONDS) * TIMER_SECONDS
            self._timer = asyncio.get_running_loop().call_later(rounded, self.pump)

"""What the scheduler works on, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    """What a request asks of this engine."""

    WHOLE = "context_and_generation"
    CONTEXT_ONLY = "context_only"
    GENERATION_ONLY = "generation_only"


class State(Enum):
    """Where a sequence stands."""

    QUEUED = "queued"
    TRANSFERRING = "transferring"
    """Admitted, its KV cache is on the way from a context engine."""
    PREFILLING = "prefilling"
    DECODING = "decoding"
    HELD = "held"
    """Prefilled; its KV cache waits here to be fetched by a generation engine."""
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class Sequence:
    """One request inside the engine. Times are seconds on the scheduler's clock."""

    phase: Phase
    prompt_tokens: int
    output_tokens: int
    """Tokens after which it ends, the first one included; at least 1."""
    arrived_at: float
    finish_reason: str = "length"
    """How its end is counted."""
    chunk_tokens: int | None = None
    """Tokens per report (TensorRT-LLM's `stream_interval`); None: one report, at the end."""
    state: State = State.QUEUED
    cancelled: bool = False
    cached_tokens: int = 0
    """Prompt tokens that are in the prefix cache; fewer than all, because the last one makes the first output token."""
    prefilled: int = 0
    delivered: int = 0
    """Output tokens reported so far."""
    joined_at_step: int = 0
    """The engine's decode step count at which it had one output token."""
    scheduled_at: float | None = None
    first_token_at: float | None = None
    ended_at: float | None = None

    @property
    def reservation(self) -> int:
        """KV tokens that are set aside at admission: the longest it can become, so that none is ever evicted
        (TensorRT-LLM's GUARANTEED_NO_EVICT, its default).
        """
        if self.phase is Phase.CONTEXT_ONLY:
            return self.prompt_tokens
        return self.prompt_tokens + self.output_tokens

    def next_report(self) -> int:
        """Output tokens at the next report: a multiple of the chunk, and the end."""
        if self.chunk_tokens is None:
            return self.output_tokens
        following = (self.delivered // self.chunk_tokens + 1) * self.chunk_tokens
        return min(following, self.output_tokens)


@dataclass(frozen=True, slots=True)
class TokensReady:
    """`tokens` new output tokens exist since `at`; `finished`: they are the last that this engine makes."""

    sequence: Sequence
    tokens: int
    finished: bool
    at: float


@dataclass(frozen=True, slots=True)
class TransferWanted:
    """Room is set aside for a GENERATION_ONLY sequence: fetch its KV cache now."""

    sequence: Sequence


@dataclass(frozen=True, slots=True)
class Load:
    """What the engine holds at one moment."""

    active: int
    """Admitted: transferring, prefilling, decoding."""
    queued_contexts: int
    queued_context_tokens: int
    waiting_generations: int
    """GENERATION_ONLY requests that wait for KV room or for their transfer."""
    waiting_generation_tokens: int
    queued: int
    decoding: int
    decoding_tokens: int
    prefilling: int
    prefilled_tokens: int
    held: int
    held_tokens: int
    resident_tokens: int
    """All tokens whose KV cache is in memory, held ones and arriving ones included."""


@dataclass(frozen=True, slots=True)
class IterationsDone:
    """One iteration with prompt chunks, or consecutive decode steps of one batch, ended at `at`."""

    at: float
    iterations: int
    seconds: float
    prefill_seconds: float
    """Part of `seconds` that prompts took, their share of the base included."""
    context_requests: int
    context_tokens: int
    generation_requests: int
    completed: int
    load: Load


Event = TokensReady | TransferWanted | IterationsDone

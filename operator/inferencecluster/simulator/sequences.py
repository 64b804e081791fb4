"""One request inside one engine, and what an engine tells of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol


class Phase(Enum):
    """What an engine does for a request."""

    PREFILL = "prefill"
    """Compute the prompt's KV cache and hold it until it has been fetched."""
    DECODE = "decode"
    """Fetch the KV cache and make all tokens but the first."""
    WHOLE = "whole"


class Sequence:
    """One phase of one request on one engine."""

    __slots__ = (
        "cached_tokens",
        "cancelled",
        "generated",
        "guaranteed",
        "joined_at_step",
        "mark",
        "next_report",
        "output_tokens",
        "owner",
        "phase",
        "preemptions",
        "prefill_began",
        "prefilled",
        "prompt_tokens",
        "reserved",
        "to_prefill",
    )

    def __init__(self, owner: Any, phase: Phase, prompt_tokens: int, output_tokens: int) -> None:
        self.owner = owner
        """Whoever submitted it; the engine does not look at it."""
        self.phase = phase
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        """After so many, the first one included, it ends."""
        self.next_report = output_tokens
        """Output tokens at which the host wants to hear of it."""
        self.cancelled = False
        self.to_prefill = prompt_tokens
        """Tokens whose KV cache has to be computed here: after a preemption also those that it had made."""
        self.cached_tokens = 0
        """Prompt tokens that are there before its prefill begins."""
        self.prefilled = 0
        self.prefill_began = 0.0
        self.generated = 0
        """Output tokens when it last joined the batch."""
        self.joined_at_step = 0
        self.mark = -1
        """Step of the engine at which it is next looked at; -1 outside of the batch."""
        self.preemptions = 0
        self.guaranteed = False
        """Memory for its longest length is set aside."""
        self.reserved = 0
        """KV tokens that are set aside for it; 0 while it grows freely in the batch."""


@dataclass(slots=True)
class Usage:
    """What an engine did since it started; sums over time."""

    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    decoded_tokens: int = 0
    sequence_seconds: float = 0.0
    """Decoding sequences times seconds."""
    kv_token_seconds: float = 0.0
    """Tokens in KV memory times seconds, while it computes."""
    preemptions: int = 0


class EngineHost(Protocol):
    """Who submits sequences to engines and hears of them. Times are seconds of the event queue."""

    def prefilled(self, sequence: Sequence, now: float) -> None:
        """Its prompt is done, and the engine holds the KV cache: `Engine.release` frees it."""

    def admitted(self, sequence: Sequence, now: float) -> None:
        """There is room for its KV cache: fetch it, then call `Engine.fetched`."""

    def first_token(self, sequence: Sequence, now: float) -> None:
        """Its token phase began here with the first token."""

    def reported(self, sequence: Sequence) -> None:
        """It has `next_report` tokens and goes on; the host sets the next one."""

    def finished(self, sequence: Sequence, now: float) -> None:
        """It has all its tokens and has left the engine."""

    def steps(self, seconds: float, tokens: int) -> None:
        """`tokens` output tokens came, each `seconds` after the one before it of its sequence."""

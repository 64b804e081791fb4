"""What the router learns from answers: token counts of text, lengths of answers, speed of prompts, drain of the queue."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

CHARACTERS_PER_TOKEN: Final = 4.0
"""Rule of thumb for English text, until answers tell better."""
OUTPUT_TOKENS: Final = 211.0
"""Mean output of the Azure LLM inference trace 2023, conversation; believed until answers were seen."""
PREFILL_SECONDS_PER_TOKEN: Final = 1e-4
"""10,000 tokens/s: a model of 70 billion parameters on two accelerators of 2023. Believed until prompts were seen; what is
too slow is corrected by the first answers, and what is too fast only lets a few more prompts wait on the engine."""
PRIOR_ANSWERS: Final = 10.0
"""Weight of both priors, in answers."""
REMEMBERED_ANSWERS: Final = 1000.0
"""What the means rest on at most: some minutes of traffic, so that they follow a change of clients."""
DRAIN_WINDOW_SECONDS: Final = 10.0
"""What the drain rate is counted over: several iterations of every engine, and shorter than clients wait."""
LONGEST_RETRY_SECONDS: Final = 60
"""Clients that come back later than a minute find another situation anyway."""


class FadingMean:
    """Sum over sum, of the last `REMEMBERED_ANSWERS` or so."""

    __slots__ = ("_count", "_denominator", "_numerator")

    def __init__(self, prior: float, *, weight: float = PRIOR_ANSWERS) -> None:
        self._numerator = prior * weight
        self._denominator = weight
        self._count = PRIOR_ANSWERS

    @property
    def value(self) -> float:
        """The mean."""
        return self._numerator / self._denominator

    def learn(self, numerator: float, denominator: float = 1.0) -> None:
        """One more answer."""
        if self._count >= REMEMBERED_ANSWERS:
            kept = (REMEMBERED_ANSWERS - 1) / REMEMBERED_ANSWERS
            self._numerator *= kept
            self._denominator *= kept
        else:
            self._count += 1
        self._numerator += numerator
        self._denominator += denominator


class Estimates:
    """All that is learned."""

    def __init__(self) -> None:
        prior_tokens = 1000.0
        # Weighted by tokens, so that long prompts count as much as they weigh in queues.
        self._characters_per_token = FadingMean(CHARACTERS_PER_TOKEN, weight=PRIOR_ANSWERS * prior_tokens)
        self._output = FadingMean(OUTPUT_TOKENS)
        self._tokens_per_event = FadingMean(1.0)
        self._prior_tokens = prior_tokens
        self._believed = PREFILL_SECONDS_PER_TOKEN
        self._prefill = FadingMean(self._believed, weight=prior_tokens)

    def text_tokens(self, characters: int) -> int:
        """Tokens of a text; at least one."""
        return max(1, math.ceil(characters / self._characters_per_token.value))

    def learn_text(self, *, characters: int, tokens: int) -> None:
        """A text of `characters` had `tokens`."""
        if characters > 0 and tokens > 0:
            self._characters_per_token.learn(characters, tokens)

    def output_tokens(self, longest: int | None) -> int:
        """Expected length of an answer whose client allows `longest` tokens."""
        expected = max(1, round(self._output.value))
        return expected if longest is None else max(1, min(longest, expected))

    def learn_output(self, *, tokens: int, events: int) -> None:
        """An answer had `tokens`, in `events` (0 when it was not streamed)."""
        self._output.learn(tokens)
        if events > 0 and tokens > 0:
            self._tokens_per_event.learn(tokens, events)

    @property
    def tokens_per_event(self) -> float:
        """Output tokens per streamed event (TensorRT-LLM's `stream_interval`, speculative decoding)."""
        return max(1.0, self._tokens_per_event.value)

    def prefill_seconds(self, pending_tokens: int) -> float:
        """Time until a replica has worked off so many pending prompt tokens."""
        return self._prefill.value * pending_tokens

    def believe_prefill(self, seconds_per_token: float | None) -> None:
        """Begin anew from another speed of prompts; None for the default. The same one again changes nothing."""
        believed = seconds_per_token or PREFILL_SECONDS_PER_TOKEN
        if believed != self._believed:
            self._believed = believed
            self._prefill = FadingMean(believed, weight=self._prior_tokens)

    def learn_prefill(self, *, seconds: float, pending_tokens: int) -> None:
        """A replica took `seconds` to answer a prompt that made its queue `pending_tokens` long."""
        self._prefill.learn(seconds, pending_tokens)


class DrainRate:
    """How fast the queue gives requests to replicas."""

    def __init__(self) -> None:
        self._left: deque[float] = deque()

    def record(self, now: float) -> None:
        """One request left the queue for a replica."""
        self._left.append(now)
        self._forget(now)

    def retry_after_seconds(self, waiting: int, now: float) -> int:
        """When a request that comes behind `waiting` others may be served: 1 to `LONGEST_RETRY_SECONDS`."""
        self._forget(now)
        if not self._left:
            return LONGEST_RETRY_SECONDS if waiting else 1
        seconds = waiting * DRAIN_WINDOW_SECONDS / len(self._left)
        return max(1, min(LONGEST_RETRY_SECONDS, math.ceil(seconds)))

    def _forget(self, now: float) -> None:
        while self._left and self._left[0] < now - DRAIN_WINDOW_SECONDS:
            self._left.popleft()

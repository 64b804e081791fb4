"""How long an iteration takes.

The formulas are those of the operator's performance model (`core/perfmodel.py`), written out again because this
image must not carry the operator: an engine that shares code with its controller cannot disagree with it.

    prefill of L tokens alone      t = a + b*L + c*L**2
    decode step of B sequences     t = a + b*B + c*S          S = sum of their context tokens
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PrefillModel:
    """Coefficients of a prefill, in seconds."""

    base_seconds: float
    per_token_seconds: float
    per_token_squared_seconds: float

    def chunk_seconds(self, done: int, tokens: int) -> float:
        """Seconds for `tokens` after the first `done` of a prompt, without the base.

        The chunks of a prompt sum to the cost of the whole: attention of a chunk spans all that came before.
        """
        squares = (done + tokens) ** 2 - done**2
        return self.per_token_seconds * tokens + self.per_token_squared_seconds * squares


@dataclass(frozen=True, slots=True)
class DecodeModel:
    """Coefficients of a decode step, in seconds."""

    base_seconds: float
    per_sequence_seconds: float
    per_context_token_seconds: float

    def batch_seconds(self, sequences: int, context_tokens: int) -> float:
        """Seconds that `sequences` with `context_tokens` in sum add to a step, without the base."""
        return self.per_sequence_seconds * sequences + self.per_context_token_seconds * context_tokens


@dataclass(frozen=True, slots=True)
class Pace:
    """Durations of consecutive equal decode steps: each is `growth` longer than the one before (contexts grow)."""

    first: float
    growth: float

    def elapsed(self, steps: int) -> float:
        """Seconds from the start of the first step to the end of step number `steps` (1 is the first)."""
        return steps * self.first + self.growth * steps * (steps - 1) / 2

    def completed(self, seconds: float) -> int:
        """Steps that have ended `seconds` after the start: the inverse of `elapsed`, rounded down."""
        if seconds < self.first:
            return 0
        if self.growth <= 0:
            steps = int(seconds / self.first)
        else:
            half = self.first - self.growth / 2
            steps = int((math.sqrt(half * half + 2 * self.growth * seconds) - half) / self.growth)
        # Rounding of the root may land one step beside the boundary.
        while self.elapsed(steps + 1) <= seconds:
            steps += 1
        while steps and self.elapsed(steps) > seconds:
            steps -= 1
        return steps

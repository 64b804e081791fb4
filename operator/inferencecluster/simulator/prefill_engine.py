"""The prompt phase of one engine: prompts in their order, as many to an iteration as its tokens allow.

A prompt of L tokens takes b*L + c*L**2, in one piece or in chunks, and every iteration takes `a` on top (`PrefillModel`).
A prompt that does not fit what is left of an iteration begins in it and goes on in the next (chunked prefill).
"""

from __future__ import annotations

from inferencecluster.core.perfmodel import PrefillModel
from inferencecluster.simulator.sequences import Sequence

Chunk = tuple[Sequence, int]


class PromptBatches:
    """The prompts that an engine has memory for, first come, first served."""

    __slots__ = ("_b", "_c", "active", "tokens")

    def __init__(self, model: PrefillModel) -> None:
        self._b = model.per_token_seconds
        self._c = model.per_token_squared_seconds
        self.active: dict[Sequence, None] = {}
        self.tokens = 0
        """Prompt tokens that are there of those that are not done."""

    def begin(self, sequence: Sequence) -> None:
        """It has memory; what is cached is there already."""
        self.active[sequence] = None
        self.tokens += sequence.prefilled

    def take(self, room: int) -> list[Chunk]:
        """The chunks of the next iteration, of `room` tokens together at most."""
        chunks: list[Chunk] = []
        for sequence in self.active:
            if room <= 0:
                break
            tokens = min(sequence.to_prefill - sequence.prefilled, room)
            chunks.append((sequence, tokens))
            room -= tokens
        return chunks

    def seconds(self, chunks: list[Chunk]) -> float:
        """Seconds that the chunks add to their iteration, without its base: attention spans all that came before."""
        total = 0.0
        for sequence, tokens in chunks:
            done = sequence.prefilled
            total += tokens * (self._b + self._c * (2 * done + tokens))
        return total

    def complete(self, sequence: Sequence, tokens: int) -> bool:
        """A chunk was computed; whether that was the prompt's last one."""
        sequence.prefilled += tokens
        if sequence.prefilled < sequence.to_prefill:
            self.tokens += tokens
            return False
        self.tokens -= sequence.prefilled - tokens
        del self.active[sequence]
        return True

    def drop(self, sequence: Sequence) -> None:
        """Forget a prompt that is not done."""
        del self.active[sequence]
        self.tokens -= sequence.prefilled

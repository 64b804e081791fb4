"""The prompt phase of one engine: prompts in their order, as many to an iteration as its tokens allow.

A prompt that does not fit what is left of an iteration begins in it and goes on in the next (chunked prefill, `take`), or
waits for an iteration that holds it in one piece (`take_whole`).
"""

from __future__ import annotations

from inferencecluster.simulator.sequences import Sequence

Chunk = tuple[Sequence, int]


class PromptBatches:
    """The prompts that an engine has memory for, first come, first served."""

    __slots__ = ("active", "tokens")

    def __init__(self) -> None:
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

    def take_whole(self, room: int, *, first_always: bool) -> list[Chunk]:
        """Prompts in one piece, of `room` tokens together at most; the first one goes whatever its length if it always does."""
        chunks: list[Chunk] = []
        for sequence in self.active:
            tokens = sequence.to_prefill
            if tokens > room and (chunks or not first_always):
                break
            chunks.append((sequence, tokens))
            room -= tokens
        return chunks

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

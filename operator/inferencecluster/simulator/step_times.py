"""How long an engine's iterations take: what an `Engine` asks of whoever knows.

`LinearTimes` answers from a `PerformanceModel` in closed form. Anything else that was measured or invented may answer in
its place (`Hardware.step_times`), as long as a decode step is a function of the batch's size plus a constant for each
token of context: then steps in which the batch stays as it is remain one event, however many they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from inferencecluster.core.perfmodel import PerformanceModel
from inferencecluster.simulator.prefill_engine import Chunk


class StepTimes(Protocol):
    """Seconds of one engine's iterations, at the power that it is allowed."""

    @property
    def context_token_seconds(self) -> float:
        """What each token of context adds to a decode step."""
        ...

    def flat_step_seconds(self, sequences: int) -> float:
        """A decode step over so many sequences, at least one, without what their contexts add."""
        ...

    def prompt_seconds(self, prompt_tokens: int) -> float:
        """One prompt, alone on an idle engine."""
        ...

    def prefill_seconds(self, chunks: Sequence[Chunk]) -> float:
        """An iteration of prompts only. `prefilled` of their sequences counts what was computed before."""
        ...

    def mixed_seconds(
        self, chunks: Sequence[Chunk], sequences: int, context_tokens: int
    ) -> tuple[float, float]:
        """An iteration that also makes a decode step of `sequences` with so much context together.

        Its seconds, and the share of these that counts as prefill.
        """
        ...


@dataclass(frozen=True, slots=True)
class LinearTimes:
    """The closed forms of a `PerformanceModel`.

    A prompt of L tokens adds b*L + c*L**2, in one piece or in chunks, and an iteration has the larger base of its two
    phases, once: one pass over the weights serves both.
    """

    performance: PerformanceModel

    @property
    def context_token_seconds(self) -> float:
        """See `StepTimes`."""
        return self.performance.decode.per_context_token_seconds

    def flat_step_seconds(self, sequences: int) -> float:
        """See `StepTimes`."""
        model = self.performance.decode
        return model.base_seconds + model.per_sequence_seconds * sequences

    def prompt_seconds(self, prompt_tokens: int) -> float:
        """See `StepTimes`."""
        return self.performance.prefill.seconds(prompt_tokens)

    def prefill_seconds(self, chunks: Sequence[Chunk]) -> float:
        """See `StepTimes`."""
        return self.performance.prefill.base_seconds + self._added(chunks)

    def mixed_seconds(
        self, chunks: Sequence[Chunk], sequences: int, context_tokens: int
    ) -> tuple[float, float]:
        """See `StepTimes`."""
        prefill, decode = self.performance.prefill, self.performance.decode
        prompts = self._added(chunks)
        tokens = decode.per_sequence_seconds * sequences + decode.per_context_token_seconds * context_tokens
        seconds = max(prefill.base_seconds, decode.base_seconds) + prompts + tokens
        return seconds, prompts / (prompts + tokens) if tokens else 1.0

    def _added(self, chunks: Sequence[Chunk]) -> float:
        """Seconds of chunks beside the base: attention spans all that came before."""
        model = self.performance.prefill
        b, c = model.per_token_seconds, model.per_token_squared_seconds
        total = 0.0
        for sequence, tokens in chunks:
            total += tokens * (b + c * (2 * sequence.prefilled + tokens))
        return total

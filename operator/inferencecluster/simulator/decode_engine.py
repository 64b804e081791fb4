"""The token phase of one engine in closed form: any number of equal decode steps costs the same.

While the batch stays as it is, each of its B sequences grows by one token per step, so that each step takes c*B longer
than the one before it (`StepTimes`: a step takes f(B) + c*S), and n steps from a context of S tokens take

    n * (f(B) + c*S) + c*B * n*(n - 1)/2

The batch changes when somebody joins, ends or is preempted, never between. A heap of step counts tells who is next, so
that a sequence costs O(log batch), however long its output is.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush

from inferencecluster.simulator.sequences import Sequence
from inferencecluster.simulator.step_times import StepTimes


def run_seconds(first: float, growth: float, steps: int) -> float:
    """Seconds of `steps` consecutive steps: the first takes `first`, each later one `growth` more."""
    return steps * first + growth * (steps * (steps - 1) // 2)


def steps_ended(first: float, growth: float, seconds: float) -> int:
    """Steps that have ended `seconds` after the start of the first: the inverse of `run_seconds`, rounded down."""
    if seconds < first:
        return 0
    if growth <= 0.0:
        steps = int(seconds / first)
    else:
        half = first - growth / 2
        steps = int((math.sqrt(half * half + 2 * growth * seconds) - half) / growth)
    # Rounding of the root may land one step beside the boundary.
    while run_seconds(first, growth, steps + 1) <= seconds:
        steps += 1
    while steps and run_seconds(first, growth, steps) > seconds:
        steps -= 1
    return steps


class DecodeBatch:
    """The sequences that decode together on one engine."""

    __slots__ = (
        "_c",
        "_flat",
        "_marks",
        "_number",
        "_times",
        "context_tokens",
        "growing",
        "growing_tokens",
        "members",
        "prompt_tokens",
        "size",
        "step",
    )

    def __init__(self, times: StepTimes) -> None:
        self._times = times
        # By size, up to the largest so far: whoever times steps is asked once for each, and not in every run.
        self._flat = [0.0]
        self._c = times.context_token_seconds
        self._marks: list[tuple[int, int, Sequence]] = []
        self._number = 0
        self.members: dict[Sequence, None] = {}
        """Oldest first."""
        self.size = 0
        """Their number."""
        self.step = 0
        """Steps since the engine started."""
        self.context_tokens = 0
        """Of all members: prompts and output so far."""
        self.prompt_tokens = 0
        """The prompts' part of it."""
        self.growing = 0
        """Members without a guarantee."""
        self.growing_tokens = 0
        """Their context."""

    def plan(self) -> tuple[float, float, int]:
        """Of steps without prompts: seconds of the first, growth, and how many until somebody is to be looked at.

        The batch is not empty.
        """
        marks, size = self._marks, self.size
        while marks[0][2].mark != marks[0][0]:
            heappop(marks)
        first = self._flat[size] + self._c * self.context_tokens
        return first, self._c * size, marks[0][0] - self.step

    def join(self, sequence: Sequence) -> None:
        """It decodes from the next step on; `generated` counts its tokens so far."""
        sequence.joined_at_step = self.step
        self.members[sequence] = None
        self.size += 1
        if self.size == len(self._flat):
            self._flat.append(self._times.flat_step_seconds(self.size))
        context = sequence.prompt_tokens + sequence.generated
        self.context_tokens += context
        self.prompt_tokens += sequence.prompt_tokens
        if not sequence.guaranteed:
            self.growing += 1
            self.growing_tokens += context
        self.schedule(sequence)

    def schedule(self, sequence: Sequence) -> None:
        """Look at it when it ends, or when its next report is due before that."""
        due = min(sequence.next_report, sequence.output_tokens)
        mark = sequence.joined_at_step + max(due - sequence.generated, 0)
        sequence.mark = mark
        self._number += 1
        heappush(self._marks, (mark, self._number, sequence))

    def advance(self, steps: int) -> None:
        """Make `steps` steps, at most those of `plan`."""
        self.step += steps
        self.context_tokens += steps * self.size
        self.growing_tokens += steps * self.growing

    def pop_due(self) -> Sequence | None:
        """A member that is to be looked at now, each once."""
        marks = self._marks
        while marks and marks[0][0] <= self.step:
            mark, _, sequence = heappop(marks)
            if sequence.mark == mark:
                sequence.mark = -1
                return sequence
        return None

    def made_by(self, sequence: Sequence) -> int:
        """Output tokens of a member so far."""
        return sequence.generated + self.step - sequence.joined_at_step

    def leave(self, sequence: Sequence) -> None:
        """Take a member out and settle its count of tokens."""
        sequence.generated = self.made_by(sequence)
        sequence.mark = -1
        del self.members[sequence]
        self.size -= 1
        context = sequence.prompt_tokens + sequence.generated
        self.context_tokens -= context
        self.prompt_tokens -= sequence.prompt_tokens
        if not sequence.guaranteed:
            self.growing -= 1
            self.growing_tokens -= context

    def newest_growing(self) -> Sequence:
        """Who is preempted first; `growing` is not 0."""
        return next(member for member in reversed(self.members) if not member.guaranteed)

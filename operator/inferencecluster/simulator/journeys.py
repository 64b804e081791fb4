"""One request on its way through the cluster, from its arrival at the router to its end."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferencecluster.simulator.ledger import Entry
    from inferencecluster.simulator.sequences import Sequence


class Path(StrEnum):
    """How a request was served."""

    DISAGGREGATED = "disaggregated"
    MIXED = "mixed"
    BORROWED = "borrowed"
    NONE = "none"
    """It never got a replica."""


class Outcome(StrEnum):
    """How a request ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    """Replicas failed it."""
    TOO_LARGE = "too large"
    """The KV memory of a replica that it was given could never hold it."""
    REFUSED = "refused"
    """No replica took it in time: 429."""


class Journey:
    """The router's record of one request. Times are seconds; those not reached yet are -1."""

    __slots__ = (
        "arrived_at",
        "attempts",
        "cached_tokens",
        "decode",
        "ended_at",
        "excluded",
        "expected_output",
        "first",
        "first_token_at",
        "held_seconds",
        "held_since",
        "last",
        "outcome",
        "output_tokens",
        "path",
        "patience_seconds",
        "pending",
        "prefill",
        "prefilled_at",
        "prompt_tokens",
        "transferring",
    )

    def __init__(self, arrived_at: float, prompt_tokens: int, output_tokens: int) -> None:
        self.arrived_at = arrived_at
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        """Its true length, which nobody knows before it ends."""
        self.cached_tokens = 0
        """Of the prompt, which no engine computes."""
        self.expected_output = 0
        """What is reserved for its answer; doubles when it is longer."""
        self.attempts = 0
        self.excluded: frozenset[str] = frozenset()
        self.held_seconds = 0.0
        """Spent waiting in the router in earlier attempts."""
        self.held_since = -1.0
        self.patience_seconds = 0.0
        self.path = Path.NONE
        self.first: Entry | None = None
        """Replica that prefills; both are None while it has none."""
        self.last: Entry | None = None
        """Replica that decodes: the same one for a whole request."""
        self.prefill: Sequence | None = None
        """Its sequence on `first`, of a disaggregated request, until its cache has been fetched."""
        self.decode: Sequence | None = None
        """Its sequence on `last`."""
        self.pending = False
        self.transferring = False
        self.prefilled_at = -1.0
        self.first_token_at = -1.0
        self.ended_at = -1.0
        self.outcome = Outcome.COMPLETED

    @property
    def ttft_seconds(self) -> float:
        """Time to first token; it has one."""
        return self.first_token_at - self.arrived_at

    @property
    def tpot_seconds(self) -> float:
        """Mean time per output token after the first; 0 for an answer of one token. It has ended."""
        if self.output_tokens == 1:
            return 0.0
        return (self.ended_at - self.first_token_at) / (self.output_tokens - 1)

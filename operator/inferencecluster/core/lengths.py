"""Mean lengths of prompts and answers, learnt from what arrives and ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PRIOR_PROMPT_TOKENS: Final = 1155.0
PRIOR_OUTPUT_TOKENS: Final = 211.0
"""Means of the Azure LLM inference trace 2023, conversation (19,366 requests): believed until requests were seen."""
PRIOR_SQUARED: Final = 2.0 * PRIOR_PROMPT_TOKENS**2
"""Mean square of prompt lengths: their spread is about their mean."""
PRIOR_REQUESTS: Final = 10.0
"""Weight of the prior. The first answers to end are the short ones; ten requests of doubt outweigh that bias, and
are gone after some hundred requests."""
EVIDENCE_REQUESTS: Final = 2000.0
"""Requests that a mean length remembers. Output lengths spread about as wide as their mean: 2 % standard error."""


@dataclass(frozen=True, slots=True)
class MeanLength:
    """Mean length of prompts or answers, from at most `EVIDENCE_REQUESTS` latest ones."""

    requests: float
    tokens: float

    @property
    def mean(self) -> float:
        """Tokens per request."""
        return self.tokens / self.requests

    def learn(self, requests: float, tokens: float) -> MeanLength:
        """With `requests` more, `tokens` long together; older ones fade out."""
        kept = min(1.0, max(0.0, EVIDENCE_REQUESTS - requests) / self.requests)
        total = self.requests * kept + requests
        return MeanLength(total, self.tokens * kept + tokens) if requests > 0 else self

"""How much of the prompts engines find in their prefix caches, learned from what they report of ended prompts.

Two means of the share run side by side, over many prompt tokens and over few, and the smaller one is believed: a cache
that is lost (a rollout, replicas that have just started, another kind of traffic) counts within some hundred requests, a
new one only when it has lasted. What an engine does not report is no hit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from inferencecluster.core.arrivals import Arrivals

LONG_TOKENS: Final = 2_000_000.0
SHORT_TOKENS: Final = 200_000.0
"""Prompt tokens that the two means remember: some 2,000 and 200 requests of usual length, as many as the mean lengths rest
on, and few enough to see a lost cache within a minute of a busy cluster."""
PRIOR_TOKENS: Final = 20_000.0
"""Weight of the prior, which is no hit: some twenty requests."""


@dataclass(frozen=True, slots=True)
class MeanShare:
    """Share of cached tokens among the latest prompt tokens, `memory` of them at most."""

    memory: float
    tokens: float
    cached: float

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.cached / self.tokens

    def learn(self, tokens: float, cached: float) -> MeanShare:
        """With `tokens` more, `cached` of them found; older ones fade out."""
        kept = min(1.0, max(0.0, self.memory - tokens) / self.tokens)
        found = min(max(cached, 0.0), tokens)
        return MeanShare(self.memory, self.tokens * kept + tokens, self.cached * kept + found)


@dataclass(frozen=True, slots=True)
class PrefixHits:
    """What is known of the share of cached prompt tokens."""

    long: MeanShare
    short: MeanShare

    @classmethod
    def unknown(cls) -> PrefixHits:
        """No hits are assumed."""
        return cls(
            MeanShare(LONG_TOKENS, PRIOR_TOKENS, 0.0),
            MeanShare(SHORT_TOKENS, PRIOR_TOKENS, 0.0),
        )

    @property
    def share(self) -> float:
        """Share of prompt tokens that prefill may expect to find; 0 to 1."""
        return min(self.long.share, self.short.share)

    def learn(self, tokens: float, cached: float) -> PrefixHits:
        """With the prompts of some ended prefills: all their tokens, and those that engines had cached."""
        if tokens <= 0:
            return self
        return PrefixHits(self.long.learn(tokens, cached), self.short.learn(tokens, cached))


def uncached(arrivals: Arrivals, share: float) -> Arrivals:
    """The work that is left of these prompts when a `share` of their tokens is cached.

    A prompt of L tokens with C cached takes b*(L - C) + c*(L^2 - C^2): what is left attends to the cached part, too. The
    sum of C^2 is at least (sum of C)^2 / requests, so the squares never come out too small.
    """
    if share <= 0 or arrivals.requests <= 0:
        return arrivals
    cached = arrivals.tokens * share
    return Arrivals(
        arrivals.requests,
        arrivals.tokens - cached,
        max(arrivals.tokens_squared - cached * cached / arrivals.requests, 0.0),
    )

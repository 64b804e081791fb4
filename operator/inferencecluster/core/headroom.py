"""How much more than planned to be ready for: what earlier plans lacked.

Every plan is kept until the time it was for, and then compared with what arrives (`Track.judged`). The reserve is the least
one with which all plans of the last hour together would have carried everything but the share that the SLO lets miss
(`reserve_of`): a sample average of the shortfall, so no shape of the errors is assumed and one accident does not set the size.

Two rules plan side by side, each with a reserve of its own (`Rule`), and the one that would have been cheaper is followed
(`cheaper_of`): their reserves let equally much miss, so only the cost is left to compare.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import accumulate
from typing import Final

from inferencecluster.core.arrivals import NOTHING, Arrivals

OUTCOME_SECONDS: Final = 3600.0
"""How long a plan that went wrong is remembered: a peak that comes back within the hour meets a reserve."""
OUTCOMES: Final = 240
"""Plans that are remembered; with `OUTCOME_SECONDS` one every 15 s. Bounds memory and time per decision."""
FIRST_HEADROOM: Final = 0.2
"""Reserve while too few plans have come due, as a share of the plan."""
FIRST_OUTCOMES: Final = 8
"""Plans that must have come due before they say how much reserve is needed: as long as a boot, two minutes at most."""
PROVEN_SECONDS: Final = 600.0
"""How long the average must have been judged: twice the window of the mean (`demand.AVERAGE_SECONDS`). After a single rise it is
cheap for once, because it lags."""
CHEAPER: Final = 0.9
"""The average is followed where it costs at least a tenth less: the tolerance of sizes. Costs that are nearly equal are told
apart by noise, and the peak answers a change of load sooner."""


class Rule(StrEnum):
    """How to plan for one boot from now."""

    PEAK = "peak"
    """The largest level within the last boot: right where load moves slower than replicas boot."""
    AVERAGE = "average"
    """The mean of some minutes: right where load jumps around it faster than replicas boot, because then a peak says
    nothing about the next one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The rates that were planned for the time `due`, without headroom."""

    due: float
    requests: float
    tokens: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a plan was worth: rates per second by which arrivals exceeded it (negative: fell short), and the arrivals."""

    time: float
    excess_requests: float
    excess_tokens: float
    requests: float
    tokens: float


@dataclass(frozen=True, slots=True)
class Track:
    """One rule's plans that are not due yet, and the outcomes of those that were; both oldest first and bounded."""

    plans: tuple[Plan, ...] = ()
    outcomes: tuple[Outcome, ...] = ()

    def earlier(self, seconds: float) -> Track:
        """With all times so many seconds earlier."""
        return Track(
            tuple(replace(plan, due=plan.due - seconds) for plan in self.plans),
            tuple(replace(outcome, time=outcome.time - seconds) for outcome in self.outcomes),
        )

    def judged(self, level: Arrivals, *, now: float, apart: float) -> Track:
        """With the plans that are due compared with the level; `apart` are the seconds between two plans.

        One that is longer overdue (the operator slept) is not about these arrivals. Outcomes of the last hour are
        remembered, at most `OUTCOMES`; plans that lie far apart are remembered longer, so that they suffice.
        """
        new = [
            Outcome(
                now, level.requests - plan.requests, level.tokens - plan.tokens, level.requests, level.tokens
            )
            for plan in self.plans
            if now - 2 * apart < plan.due <= now
        ]
        oldest = now - max(OUTCOME_SECONDS, 2 * FIRST_OUTCOMES * apart)
        kept = tuple(outcome for outcome in (*self.outcomes, *new) if outcome.time > oldest)
        return Track(tuple(plan for plan in self.plans if plan.due > now), kept[-OUTCOMES:])

    def planning(self, rates: Arrivals, *, due: float, apart: float) -> Track:
        """With one more plan; one per `apart` seconds is enough to be judged by."""
        if self.plans and due < self.plans[-1].due + 0.9 * apart:
            return self
        return replace(self, plans=(*self.plans, Plan(due, rates.requests, rates.tokens)))


def plan_seconds(interval: float, horizon: float) -> float:
    """Time between two plans that are remembered; at most about `OUTCOMES` of them wait for their time or were judged.

    Where replicas boot in seconds plans follow each other sooner, and are forgotten sooner: a reserve is for what comes faster
    than a boot, and a minute of it is long there.
    """
    return max(interval, min(OUTCOME_SECONDS / OUTCOMES, horizon / FIRST_OUTCOMES), horizon / OUTCOMES)


def reserve_of(
    outcomes: Sequence[Outcome], planned: Arrivals, *, allowed: float, squared_per_token: float
) -> Arrivals:
    """The reserve on top of `planned`, where misses may be a share `allowed` of all that arrived.

    Plans may use up that whole share although queues miss some, too (`needs.miss_share`): what exceeds a plan is mostly
    served in time all the same, by borrowed replicas and newest first. Tokens squared are reserved in the proportion that
    they have to tokens. While nothing is planned nothing is reserved, or a cluster could not come to rest.
    """
    if planned.requests <= 0:
        return NOTHING
    if len(outcomes) < FIRST_OUTCOMES:
        requests, tokens = planned.requests * FIRST_HEADROOM, planned.tokens * FIRST_HEADROOM
    else:
        requests = least_reserve(
            [item.excess_requests for item in outcomes],
            allowed=allowed * math.fsum(item.requests for item in outcomes),
        )
        tokens = _least_tokens(outcomes, allowed)
    return Arrivals(requests, tokens, tokens * squared_per_token)


def cheaper_of(peaks: Track, averages: Track, *, allowed: float) -> Rule:
    """The rule whose plans and reserve would have cost less over the outcomes that are known, in prompt tokens."""
    peak, average = peaks.outcomes, averages.outcomes
    if min(len(peak), len(average)) < FIRST_OUTCOMES or average[-1].time - average[0].time < PROVEN_SECONDS:
        return Rule.PEAK
    return Rule.AVERAGE if _cost(average, allowed) < CHEAPER * _cost(peak, allowed) else Rule.PEAK


def _cost(outcomes: Sequence[Outcome], allowed: float) -> float:
    """Prompt tokens per second that were planned on average, and the reserve that they needed."""
    planned = math.fsum(item.tokens - item.excess_tokens for item in outcomes) / len(outcomes)
    return planned + _least_tokens(outcomes, allowed)


def _least_tokens(outcomes: Sequence[Outcome], allowed: float) -> float:
    return least_reserve(
        [item.excess_tokens for item in outcomes],
        allowed=allowed * math.fsum(item.tokens for item in outcomes),
    )


def least_reserve(excesses: Iterable[float], *, allowed: float) -> float:
    """The least x >= 0 with `sum(max(0, excess - x)) <= allowed`, for `allowed` >= 0.

    That sum is the largest, over k, of what the k largest exceed x by together; each of these gives a bound.
    """
    sums = accumulate(sorted(excesses, reverse=True))
    return max([0.0, *((total - allowed) / count for count, total in enumerate(sums, start=1))])

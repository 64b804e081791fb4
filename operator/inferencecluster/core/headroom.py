"""How much more than planned to be ready for: what earlier plans lacked.

Every plan is kept until the time it was for, and then compared with what arrives (`outcomes_of`). The reserve is the least
one with which all plans of the last hour together would have carried everything but the share that the SLO lets miss
(`reserve_of`): a sample average of the shortfall, so no shape of the errors is assumed and one accident does not set the size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from inferencecluster.core.arrivals import NOTHING, Arrivals

OUTCOME_SECONDS: Final = 3600.0
"""How long a plan that went wrong is remembered: a peak that comes back within the hour meets a reserve."""
OUTCOMES: Final = 240
"""Plans that are remembered; with `OUTCOME_SECONDS` one every 15 s. Bounds memory and time per decision."""
FIRST_HEADROOM: Final = 0.2
"""Reserve while too few plans have come due, as a share of the plan."""
LARGEST_RESERVE: Final = 1.0
"""As a share of the plan. What more than doubles within a boot is a jump, for queue age, mixed and borrowed replicas; and
when demand has fallen, the reserve for its peak falls with it."""
FIRST_OUTCOMES: Final = 8
"""Plans that must have come due before they say how much reserve is needed: two minutes at 15 s each."""


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


def plan_seconds(interval: float, horizon: float) -> float:
    """Time between two plans that are remembered; at most about `OUTCOMES` of them wait for their time or were judged."""
    return max(interval, OUTCOME_SECONDS / OUTCOMES, horizon / OUTCOMES)


def outcomes_of(plans: Sequence[Plan], level: Arrivals, *, now: float, apart: float) -> tuple[Outcome, ...]:
    """The plans that are due now, compared with the level; `apart` are the seconds between two plans.

    One that is longer overdue (the operator slept) is not about these arrivals.
    """
    return tuple(
        Outcome(now, level.requests - plan.requests, level.tokens - plan.tokens, level.requests, level.tokens)
        for plan in plans
        if now - 2 * apart < plan.due <= now
    )


def remembered(outcomes: Iterable[Outcome], *, now: float, apart: float) -> tuple[Outcome, ...]:
    """Those of the last hour, at most `OUTCOMES`; plans that lie far apart are remembered longer, so that they suffice."""
    seconds = max(OUTCOME_SECONDS, 2 * FIRST_OUTCOMES * apart)
    return tuple(outcome for outcome in outcomes if outcome.time > now - seconds)[-OUTCOMES:]


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
        tokens = least_reserve(
            [item.excess_tokens for item in outcomes],
            allowed=allowed * math.fsum(item.tokens for item in outcomes),
        )
    requests = min(requests, planned.requests * LARGEST_RESERVE)
    tokens = min(tokens, planned.tokens * LARGEST_RESERVE)
    return Arrivals(requests, tokens, tokens * squared_per_token)


def least_reserve(excesses: Iterable[float], *, allowed: float) -> float:
    """The least x >= 0 with `sum(max(0, excess - x)) <= allowed`, for `allowed` >= 0.

    That sum is the largest, over k, of what the k largest exceed x by together; each of these gives a bound.
    """
    sums = accumulate(sorted(excesses, reverse=True))
    return max([0.0, *((total - allowed) / count for count, total in enumerate(sums, start=1))])

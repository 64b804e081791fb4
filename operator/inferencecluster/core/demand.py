"""From observations to demand: what arrives, what will have arrived one boot from now, what waits.

    level       rate over the shortest recent window with enough arrivals to be a rate and not an accident
    forecast    level + significant upward trend * (one boot + one interval), at most MAX_GROWTH * level
    peak        largest level of the last `hold_seconds`, longer than a boot: what was needed then may be needed
                again before a replica that was given up could be back
    surprise    how far arrivals exceeded what had been planned one boot earlier, smoothed
    burstiness  standard deviation of the arrival rate around its own line, over the mean

Work is described by its moments (requests, tokens, tokens^2 per second), so that any mix of prompt lengths is sized
exactly (`PrefillModel.work`). Rates come from the routers' own counters; Prometheus' window takes over when those are
missing, seeds the history after a start, and vetoes shrinking when it saw much more than the routers told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from inferencecluster.core.fleet import PoolName, Replica
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Flow, MetricsSample, Observation, PoolUtilization, QueueState
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.core.trend import Point, fit_line, growth_per_second

PRIOR_PROMPT_TOKENS: Final = 1155.0
PRIOR_OUTPUT_TOKENS: Final = 211.0
"""Means of the Azure LLM inference trace 2023, conversation (19,366 requests): believed until requests were seen."""
PRIOR_REQUESTS: Final = 10.0
"""Weight of the prior. The first answers to end are the short ones; ten requests of doubt outweigh that bias, and
are gone after some hundred requests."""
EVIDENCE_REQUESTS: Final = 2000.0
"""Requests that a mean length remembers. Output lengths spread about as wide as their mean: 2 % standard error."""

LEVEL_REQUESTS: Final = 200.0
"""Arrivals that make a rate: 7 % standard error for Poisson arrivals, below the 10 % that sizes tolerate."""
LEVEL_SECONDS: Final = 120.0
"""Longest window for a rate, however few requests arrive; a usual boot, so that a lull is not mistaken for an end."""

HOLD_BOOTS: Final = 1.5
"""The peak is held longer than a boot takes: giving a replica up and wanting it back sooner costs a boot of misses
and saves nothing. Of all constants the one with the largest effect on the Azure traces."""
MAX_GROWTH: Final = 2.0
"""A trend is extrapolated to a doubling at most. Whatever grows faster is a jump, which queue age and the mixed pool
answer; a straight line through a jump overshoots."""
MAX_SURPRISE: Final = 0.5
"""Headroom for forecast errors stays below half: a forecast that is worse than that calls for people."""
SURPRISE_SECONDS: Final = 900.0
"""Time constant of the forecast error: some ups and downs of the minute-scale waves in the Azure traces."""

BOOTS_KEPT: Final = 16
"""Latest boots that the estimate rests on."""
BOOT_QUANTILE: Final = 0.75
"""Three of four replicas are up within the estimate; the slowest boot is an accident, the median comes late for half."""

MAX_BINS: Final = 64
"""Upper bound of the history's length: memory and time per decision stay constant for any boot time."""
MIN_SPAN_BINS: Final = 8
"""Intervals that the history spans at least, so that long intervals show a trend, too."""

CROSS_CHECK_RATIO: Final = 2.0
CROSS_CHECK_REQUESTS: Final = 30.0
"""Prometheus vetoes shrinking when it counted over twice and over 30 requests more than the routers told in the same
window: scrape delays explain less, a router that was not asked explains it."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Moments of arriving prompts, per second."""

    requests: float
    tokens: float
    """Sum of uncached prompt tokens L."""
    tokens_squared: float
    """Sum of L**2."""

    def scaled(self, requests: float, tokens: float) -> Arrivals:
        """The request rate times `requests`; both token moments times `tokens`."""
        return Arrivals(self.requests * requests, self.tokens * tokens, self.tokens_squared * tokens)

    def at_least(self, other: Arrivals) -> Arrivals:
        """The larger of each moment."""
        return Arrivals(
            max(self.requests, other.requests),
            max(self.tokens, other.tokens),
            max(self.tokens_squared, other.tokens_squared),
        )


NOTHING: Final = Arrivals(0.0, 0.0, 0.0)


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


@dataclass(frozen=True, slots=True)
class Bin:
    """Arrivals counted within `seconds` up to `end`."""

    end: float
    seconds: float
    requests: float
    tokens: float
    tokens_squared: float

    def joined(self, later: Bin) -> Bin:
        """Both as one."""
        return Bin(
            later.end,
            self.seconds + later.seconds,
            self.requests + later.requests,
            self.tokens + later.tokens,
            self.tokens_squared + later.tokens_squared,
        )


@dataclass(frozen=True, slots=True)
class Boot:
    """One replica's way to its first readiness."""

    uid: str
    ready_at: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The token rate that was planned for the time `due`."""

    due: float
    tokens: float


@dataclass(frozen=True, slots=True)
class DemandMemory:
    """What `observe_demand` remembers between two observations; bounded."""

    history: tuple[Bin, ...]
    """Oldest first; at most about twice `MAX_BINS`."""
    prompt: MeanLength
    output: MeanLength
    boots: tuple[Boot, ...]
    """The latest `BOOTS_KEPT`, oldest first."""
    plans: tuple[Plan, ...]
    """Not due yet, oldest first."""
    surprise: float
    """Smoothed shortfall of past plans, as a fraction of what was planned."""

    @classmethod
    def empty(cls) -> DemandMemory:
        """Nothing seen yet: prior lengths, no history."""
        return cls(
            (),
            MeanLength(PRIOR_REQUESTS, PRIOR_REQUESTS * PRIOR_PROMPT_TOKENS),
            MeanLength(PRIOR_REQUESTS, PRIOR_REQUESTS * PRIOR_OUTPUT_TOKENS),
            (),
            (),
            0.0,
        )


@dataclass(frozen=True, slots=True)
class Demand:
    """What the cluster is asked for. Where sources are missing (`gaps`), rates are lower bounds."""

    time: float
    arrivals: Arrivals
    """Now."""
    forecast: Arrivals
    """One boot and one interval from now; never below `arrivals`."""
    peak: Arrivals
    """Largest level of the last `hold_seconds`, moment by moment; never below `arrivals`."""
    surprise: float
    """Headroom, 0 to `MAX_SURPRISE`: how much more than planned arrived, on average."""
    burstiness: float
    """Standard deviation of the token rate around its line, over its mean; 0 until `trend.MIN_POINTS` bins are known."""
    bin_seconds: float
    """Time scale of `burstiness`."""
    prompt_tokens: float
    """Mean uncached prompt length."""
    output_tokens: float
    """Mean output length."""
    boot_seconds: float
    hold_seconds: float
    queue: QueueState | Missing
    ttft_seconds: float | Missing
    """At the SLO's percentile, over `metrics_seconds`."""
    itl_seconds: float | Missing
    metrics_seconds: float
    """Window of the latencies and the utilisation; 0 when metrics are missing."""
    utilization: Mapping[PoolName, PoolUtilization] = field(default_factory=lambda: MappingProxyType({}))
    gaps: tuple[Missing, ...] = ()
    """Why a source is missing or not believed."""

    @property
    def complete(self) -> bool:
        """Every source spoke: pools may shrink."""
        return not self.gaps


def observe_demand(
    memory: DemandMemory, observation: Observation
) -> tuple[DemandMemory, Demand | Missing]:
    """Take one observation in; the demand it shows, or Missing when neither routers nor metrics say anything.

    Call it for every observation, also between sizing ticks: flows of short intervals add up in bins. An observation
    without any source leaves the history as it is.
    """
    boots = _boots(memory.boots, observation.replicas, observation.spec)
    memory = replace(memory, boots=boots)
    routers, metrics = observation.routers, observation.metrics
    if isinstance(routers, Missing) and isinstance(metrics, Missing):
        return memory, Missing(
            "NoSource", f"routers: {_why(routers)}; metrics: {_why(metrics)}: sizes hold until one answers"
        )
    spec = observation.spec
    boot = _boot_seconds(boots, spec)
    hold = max(HOLD_BOOTS * boot, 2 * spec.interval_seconds)
    span = max(hold, LEVEL_SECONDS, MIN_SPAN_BINS * spec.interval_seconds)
    width = max(spec.interval_seconds, span / MAX_BINS)
    memory = _take_in(memory, observation, keep=span + LEVEL_SECONDS, width=width)
    history = memory.history
    level = _level(history, spec.interval_seconds)
    recent = tuple(item for item in history if item.end > observation.now - span)
    forecast = _forecast(recent, level, horizon=boot + spec.interval_seconds)
    peak = _peak(history, since=observation.now - hold, interval=spec.interval_seconds)
    memory = _check_plans(memory, observation.now, level, spec)
    due = observation.now + boot + spec.interval_seconds
    memory = _promise(memory, Plan(due, max(forecast.tokens, peak.tokens)), width)
    seen = None if isinstance(metrics, Missing) else metrics
    return memory, Demand(
        time=observation.now,
        arrivals=level,
        forecast=forecast,
        peak=peak,
        surprise=min(memory.surprise, MAX_SURPRISE),
        burstiness=_burstiness(recent),
        bin_seconds=width,
        prompt_tokens=memory.prompt.mean,
        output_tokens=memory.output.mean,
        boot_seconds=boot,
        hold_seconds=hold,
        queue=routers if isinstance(routers, Missing) else routers.queue,
        ttft_seconds=seen.ttft_seconds if seen else _absent(metrics),
        itl_seconds=seen.itl_seconds if seen else _absent(metrics),
        metrics_seconds=seen.flow.seconds if seen else 0.0,
        utilization=seen.utilization if seen else MappingProxyType({}),
        gaps=_gaps(observation, history),
    )

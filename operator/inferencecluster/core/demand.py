"""From observations to demand: what arrives, what will have arrived one boot from now, what waits.

    level       rate over the shortest recent window with enough arrivals to be a rate and not an accident
    planned     what to be ready for one boot and one interval from now, by one of two rules (`headroom.Rule`); at least
                what that time of day brings, where days are alike (`seasonality`):
                peak     largest level within the last boot (`HOLD_BOOTS`): what was needed then may be
                         needed again before a replica that was given up could be back
                average  mean of `AVERAGE_SECONDS`
    headroom    the least reserve with which the last hour's plans would have carried all that arrived at their time,
                but for the share that the SLO lets miss
    burstiness  standard deviation of the token rate around its own line, over the mean

`arrivals` computes these from a short history, `headroom` from earlier plans. Rates come from the routers' own counters;
Prometheus' window takes over when those are missing, seeds the history after a start, and vetoes shrinking when it saw
much more than the routers told. An operator that was given no Prometheus takes the routers at their word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from inferencecluster.core.arrivals import (
    LEVEL_SECONDS,
    NOTHING,
    Arrivals,
    Bin,
    burstiness_of,
    level_of,
    level_seconds,
    mean_of,
    peak_of,
)
from inferencecluster.core.boots import Boot, latest_boots, planned_boot_seconds
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.headroom import FIRST_OUTCOMES, Rule, Track, cheaper_of, plan_seconds, reserve_of
from inferencecluster.core.lengths import (
    PRIOR_OUTPUT_TOKENS,
    PRIOR_PROMPT_TOKENS,
    PRIOR_REQUESTS,
    PRIOR_SQUARED,
    MeanLength,
)
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Flow, Observation, PoolUtilization, QueueState
from inferencecluster.core.prefixes import PrefixHits
from inferencecluster.core.seasonality import DayProfile
from inferencecluster.core.spec import ClusterSpec

HOLD_BOOTS: Final = 1.0
"""The peak is held as long as a boot takes: what was needed within it may be needed again before a replica that was given up
could be back. Half a boot more costs 1 to 2 % of the GPU-hours on the Azure conversation trace and 3 to 9 % on the code trace, and
serves no more requests in time."""

WATCHED_SHARE: Final = 0.9
"""Of the hold that must have been watched: the first look after a start, of operator or router, shows no arrivals."""

AVERAGE_SECONDS: Final = 300.0
"""Window of the mean. On the Azure code trace, which jumps tenfold within seconds, one, two, five and ten minutes need about
the same reserve; a longer mean would follow a real change later."""

MAX_BINS: Final = 64
"""Upper bound of the history's length: memory and time per decision stay constant for any boot time."""
MIN_SPAN_BINS: Final = 8
"""Intervals that the history spans at least, so that long intervals show how bursty arrivals are, too."""

CROSS_CHECK_RATIO: Final = 2.0
CROSS_CHECK_REQUESTS: Final = 30.0
"""Prometheus vetoes shrinking when it counted over twice and over 30 requests more than the routers told in the same
window: scrape delays explain less, a router that was not asked explains it."""

SOURCES_DISAGREE: Final = "SourcesDisagree"
"""Reason of that veto."""


@dataclass(frozen=True, slots=True)
class DemandMemory:
    """What `observe_demand` remembers between two observations; bounded."""

    history: tuple[Bin, ...]
    """Oldest first; at most about twice `MAX_BINS`."""
    prompt: MeanLength
    output: MeanLength
    boots: tuple[Boot, ...]
    """The latest `BOOTS_KEPT`, oldest first."""
    peaks: Track
    """Plans by the peak."""
    averages: Track
    """Plans by the average."""
    prompt_squared: MeanLength
    """Mean square of prompt lengths, in tokens squared."""
    hits: PrefixHits = field(default_factory=PrefixHits.unknown)
    """How much of the prompts is cached."""
    day: DayProfile = field(default_factory=DayProfile.empty)
    """What the times of day brought."""

    def track(self, rule: Rule) -> Track:
        """The plans by `rule`."""
        return self.peaks if rule is Rule.PEAK else self.averages

    @classmethod
    def empty(cls) -> DemandMemory:
        """Nothing seen yet: prior lengths, no history."""
        return cls(
            (),
            MeanLength(PRIOR_REQUESTS, PRIOR_REQUESTS * PRIOR_PROMPT_TOKENS),
            MeanLength(PRIOR_REQUESTS, PRIOR_REQUESTS * PRIOR_OUTPUT_TOKENS),
            (),
            Track(),
            Track(),
            MeanLength(PRIOR_REQUESTS, PRIOR_REQUESTS * PRIOR_SQUARED),
        )


@dataclass(frozen=True, slots=True)
class Demand:
    """What the cluster is asked for. Where sources are missing (`gaps`), rates are lower bounds."""

    time: float
    arrivals: Arrivals
    """Now."""
    planned: Arrivals
    """To be ready for one boot and one interval from now, by `rule`."""
    rule: Rule
    headroom: Arrivals
    """Reserve on top of `planned`, from what earlier plans lacked; nothing while nothing is planned."""
    burstiness: float
    """Standard deviation of the token rate around its line, over its mean; 0 until `trend.MIN_POINTS` bins are known."""
    bin_seconds: float
    """Time scale of `burstiness`."""
    prompt_tokens: float
    """Mean prompt length."""
    output_tokens: float
    """Mean output length."""
    boot_seconds: float
    has_history: bool
    """Arrivals were watched for as long as peaks are held, and plans have come due; not for some minutes after a start."""
    queue: QueueState | Missing
    ttft_seconds: float | Missing
    """At the SLO's percentile, over `metrics_seconds`."""
    itl_seconds: float | Missing
    metrics_seconds: float
    """Window of the latencies and the utilisation; 0 when metrics are missing."""
    utilization: Mapping[PoolName, PoolUtilization] = field(default_factory=lambda: MappingProxyType({}))
    gaps: tuple[Missing, ...] = ()
    """Why a source is missing or not believed."""
    cached_share: float = 0.0
    """Share of prompt tokens that prefill finds cached, 0 to 1; arrivals and lengths count all tokens."""

    @property
    def uncached_prompt_tokens(self) -> float:
        """Mean length of what is left to prefill of a prompt."""
        return self.prompt_tokens * (1.0 - self.cached_share)

    @property
    def ready_for(self) -> Arrivals:
        """What is planned and its reserve."""
        return self.planned.plus(self.headroom)

    @property
    def present(self) -> Demand:
        """The same without foresight: ready for what arrives now, and for nothing else."""
        return replace(self, planned=self.arrivals, headroom=NOTHING)

    @property
    def complete(self) -> bool:
        """Every source that there is spoke: pools may shrink."""
        return not self.gaps


@dataclass(frozen=True, slots=True)
class _Windows:
    """The lengths of time that one observation is judged over, in seconds."""

    interval: float
    boot: float
    hold: float
    span: float
    """What burstiness looks at."""
    bin: float
    plan: float
    """Between two plans that are remembered."""
    level: float
    """What a rate looks back at most."""

    @classmethod
    def of(cls, boots: tuple[Boot, ...], spec: ClusterSpec) -> _Windows:
        boot = planned_boot_seconds(boots, spec)
        interval = spec.interval_seconds
        hold = max(HOLD_BOOTS * boot, 2 * interval)
        span = max(hold, LEVEL_SECONDS, AVERAGE_SECONDS, MIN_SPAN_BINS * interval)
        plan = plan_seconds(interval, boot + interval)
        level = level_seconds(interval, boot)
        return cls(interval, boot, hold, span, max(interval, span / MAX_BINS), plan, level)

    @property
    def horizon(self) -> float:
        """A replica that is decided on now serves within this time: the decision after next comes too late."""
        return self.boot + self.interval


def observe_demand(memory: DemandMemory, observation: Observation) -> tuple[DemandMemory, Demand | Missing]:
    """Take one observation in; the demand it shows, or Missing when neither routers nor metrics say anything.

    Call it for every observation, also between sizing ticks: flows of short intervals add up in bins. An observation
    without any source leaves the history as it is.
    """
    routers, metrics, now = observation.routers, observation.metrics, observation.now
    memory = replace(_by_clock(memory, now), boots=latest_boots(memory.boots, observation))
    if isinstance(routers, Missing) and isinstance(metrics, Missing):
        message = f"routers: {_why(routers)}; metrics: {_why(metrics)}"
        return memory, Missing("NoSource", message)
    windows = _Windows.of(memory.boots, observation.spec)
    memory = _take_in(memory, observation, windows)
    level = level_of(memory.history, windows.interval, longest=windows.level)
    recent = tuple(item for item in memory.history if item.end > now - windows.span)
    usual = memory.day.expected(now + windows.horizon)
    highest = peak_of(
        memory.history, since=now - windows.hold, interval=windows.interval, longest=windows.level
    )
    peak = level.at_least(highest)
    average = mean_of(memory.history, since=now - AVERAGE_SECONDS)
    plans = {Rule.PEAK: peak.at_least(usual), Rule.AVERAGE: average.at_least(usual)}
    memory = _learn(memory, level, plans, now, windows)
    allowed = 1.0 - observation.spec.slo.percentile / 100
    rule = cheaper_of(memory.peaks, memory.averages, allowed=allowed)
    held = rule is Rule.PEAK and _is_held(observation.spec, windows)
    return memory, Demand(
        time=now,
        arrivals=level,
        planned=level.at_least(usual) if held else plans[rule],
        rule=rule,
        headroom=_headroom(memory, rule, plans[rule], allowed),
        burstiness=burstiness_of(recent),
        bin_seconds=windows.bin,
        prompt_tokens=memory.prompt.mean,
        output_tokens=memory.output.mean,
        boot_seconds=windows.boot,
        has_history=_has_history(memory, rule, now, windows),
        queue=routers if isinstance(routers, Missing) else routers.queue,
        ttft_seconds=metrics if isinstance(metrics, Missing) else metrics.ttft_seconds,
        itl_seconds=metrics if isinstance(metrics, Missing) else metrics.itl_seconds,
        metrics_seconds=0.0 if isinstance(metrics, Missing) else metrics.flow.seconds,
        utilization=MappingProxyType({}) if isinstance(metrics, Missing) else metrics.utilization,
        gaps=_gaps(memory.history, observation),
        cached_share=memory.hits.share,
    )


def _by_clock(memory: DemandMemory, now: float) -> DemandMemory:
    """As much earlier as the clock was set back: what is still to come would be believed until then."""
    ahead = memory.history[-1].end - now if memory.history else 0.0
    if ahead <= 0:
        return memory
    return replace(
        memory,
        history=tuple(replace(item, end=item.end - ahead) for item in memory.history),
        peaks=memory.peaks.earlier(ahead),
        averages=memory.averages.earlier(ahead),
    )


def _why(missing: Missing) -> str:
    return f"{missing.reason} ({missing.message})" if missing.message else missing.reason


def _take_in(memory: DemandMemory, observation: Observation, windows: _Windows) -> DemandMemory:
    """The memory with the flows that this observation adds."""
    history, prompt, output = list(memory.history), memory.prompt, memory.output
    squared, hits, day = memory.prompt_squared, memory.hits, memory.day
    for end, flow in _new_flows(memory.history, observation):
        counted = Bin(end, flow.seconds, flow.requests, flow.prompt_tokens, flow.prompt_tokens_squared)
        # A tenth of slack: ticks are never exactly one interval apart.
        if history and history[-1].seconds + counted.seconds <= 1.1 * windows.bin:
            history[-1] = history[-1].joined(counted)
        else:
            history.append(counted)
        prompt = prompt.learn(flow.requests, flow.prompt_tokens)
        squared = squared.learn(flow.requests, flow.prompt_tokens_squared)
        output = output.learn(flow.completed, flow.completed_output_tokens)
        sums = Arrivals(flow.requests, flow.prompt_tokens, flow.prompt_tokens_squared)
        day = day.count(end=end, seconds=flow.seconds, arrived=sums)
        hits = hits.learn(flow.prefilled_prompt_tokens, flow.cached_prompt_tokens)
    oldest = observation.now - windows.span - LEVEL_SECONDS
    kept = tuple(item for item in history if item.end > oldest)
    return replace(
        memory, history=kept, prompt=prompt, prompt_squared=squared, output=output, hits=hits, day=day
    )


def _new_flows(history: tuple[Bin, ...], observation: Observation) -> tuple[tuple[float, Flow], ...]:
    """Flows that the history does not hold yet, each with the time it ends, oldest first."""
    now = observation.now
    fresh = observation.routers if isinstance(observation.routers, Missing) else observation.routers.flow
    window = observation.metrics if isinstance(observation.metrics, Missing) else observation.metrics.flow
    if isinstance(fresh, Flow):
        if fresh.seconds <= 0:
            return ()
        if not history and isinstance(window, Flow):
            return (now - fresh.seconds, window), (now, fresh)
        return ((now, fresh),)
    if isinstance(window, Flow):
        # Windows overlap from tick to tick: only the part since the last count is new.
        share = min(1.0, (now - history[-1].end) / window.seconds) if history else 1.0
        if share > 0:
            return ((now, _part(window, share)),)
    return ()


def _part(flow: Flow, share: float) -> Flow:
    return Flow(
        flow.seconds * share,
        flow.requests * share,
        flow.prompt_tokens * share,
        flow.prompt_tokens_squared * share,
        flow.completed * share,
        flow.completed_output_tokens * share,
        flow.prefilled_prompt_tokens * share,
        flow.cached_prompt_tokens * share,
    )


def _learn(
    memory: DemandMemory, level: Arrivals, plans: Mapping[Rule, Arrivals], now: float, windows: _Windows
) -> DemandMemory:
    """The memory with the outcomes of the plans that came due, and with new ones."""

    def follow(track: Track, planned: Arrivals) -> Track:
        judged = track.judged(level, now=now, apart=windows.plan)
        if not memory.history:
            return judged
        return judged.planning(planned, due=now + windows.horizon, apart=windows.plan)

    return replace(
        memory,
        peaks=follow(memory.peaks, plans[Rule.PEAK]),
        averages=follow(memory.averages, plans[Rule.AVERAGE]),
    )


def _covered(history: Sequence[Bin], *, since: float) -> float:
    """Seconds of the bins that ended after `since`."""
    return math.fsum(item.seconds for item in history if item.end > since)


def _has_history(memory: DemandMemory, rule: Rule, now: float, windows: _Windows) -> bool:
    watched = _covered(memory.history, since=now - windows.hold)
    judged = len(memory.track(rule).outcomes)
    return watched >= WATCHED_SHARE * windows.hold and judged >= FIRST_OUTCOMES


def _is_held(spec: ClusterSpec, windows: _Windows) -> bool:
    """The user's stabilisation window holds peaks as long as the plan would: two holds would add up."""
    return spec.behavior.scale_down.stabilization_window_seconds >= windows.hold


def _headroom(memory: DemandMemory, rule: Rule, planned: Arrivals, allowed: float) -> Arrivals:
    tokens = memory.prompt.mean
    return reserve_of(
        memory.track(rule).outcomes,
        planned,
        allowed=allowed,
        squared_per_token=memory.prompt_squared.mean / tokens if tokens > 0 else 0.0,
    )


def _gaps(history: Sequence[Bin], observation: Observation) -> tuple[Missing, ...]:
    """What forbids shrinking: a missing source, or metrics that saw much more than the routers told."""
    routers, metrics = observation.routers, observation.metrics
    if not observation.has_prometheus and not isinstance(routers, Missing):
        # The routers' word is enough, but for looks that cannot tell a flow: then nobody fills in for them.
        return (routers.flow,) if isinstance(routers.flow, Missing) else ()
    gaps = tuple(source for source in (routers, metrics) if isinstance(source, Missing))
    if isinstance(routers, Missing) or isinstance(metrics, Missing):
        return gaps
    seen = metrics.flow
    since = observation.now - seen.seconds
    covered = _covered(history, since=since)
    # A history that is younger than the window cannot be compared with it.
    if covered < 0.9 * seen.seconds:
        return gaps
    told = math.fsum(item.requests for item in history if item.end > since) / covered * seen.seconds
    if seen.requests > CROSS_CHECK_RATIO * told and seen.requests - told > CROSS_CHECK_REQUESTS:
        message = (
            f"metrics count {seen.requests:.0f} requests in {seen.seconds:.0f} s, routers only {told:.0f}; "
            "pools do not shrink until both agree: check that every router answers /state"
        )
        return (Missing(SOURCES_DISAGREE, message),)
    return gaps

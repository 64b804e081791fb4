"""From what was seen and decided to conditions: chains of small policies, the first that objects has the word.

A policy is a function from a `Situation` to a `Verdict` (reason and message, which go unchanged into condition and
Event) or None. The order inside a chain is the priority. Messages hold no number that moves by itself: a cluster at rest
writes no status.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from inferencecluster.core.allocation import Target
from inferencecluster.core.demand import SOURCES_DISAGREE, Demand
from inferencecluster.core.fleet import PoolName, gpus_held
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Observation
from inferencecluster.core.replacement import BackOff
from inferencecluster.core.sleep import SCALED_TO_ZERO, WAKING, is_waking
from inferencecluster.core.status import Condition, ConditionStatus, ConditionType, Verdict
from inferencecluster.core.victims import is_current

NO_ROUTER = "NoRouter"
"""Reason of a `Missing` router sample when no router process runs at all."""


@dataclass(frozen=True, slots=True)
class Situation:
    """One tick, seen and decided."""

    observation: Observation
    demand: Demand | Missing
    targets: tuple[Target, Target, Target]
    back_offs: Mapping[PoolName, BackOff]
    """Pools whose replicas failed, or could not be created, not long ago."""
    spec_settled: bool
    """The present generation has once been rolled out completely."""

    def serving(self, name: PoolName) -> int:
        """Replicas of the pool that take work."""
        return sum(replica.home is name and replica.is_serving for replica in self.observation.replicas)

    @property
    def is_waking(self) -> bool:
        """Out of sleep, and nothing has gone wrong so far."""
        has_trouble = any(map(self.trouble, PoolName))
        return not has_trouble and is_waking(self.observation.spec, self.observation.replicas)

    def trouble(self, name: PoolName) -> BackOff | None:
        """What keeps the pool from growing. It lasts through the next try, until one of its replicas serves."""
        back_off = self.back_offs.get(name)
        if back_off is None or self.observation.now < back_off.until:
            return back_off
        has_worked = any(
            replica.home is name and replica.is_serving and replica.created_at >= back_off.began
            for replica in self.observation.replicas
        )
        return None if has_worked else back_off


Policy = Callable[[Situation], Verdict | None]


def evaluate(chain: tuple[Policy, ...], situation: Situation) -> Verdict | None:
    """The first verdict of the chain, or None when nobody objects."""
    for policy in chain:
        verdict = policy(situation)
        if verdict is not None:
            return verdict
    return None


def below_minimum(situation: Situation) -> Verdict | None:
    """A pool serves with fewer replicas than its minimum."""
    observation = situation.observation
    for pool in observation.spec.pools:
        serving = situation.serving(pool.name)
        if serving < pool.min_replicas:
            starting = sum(r.home is pool.name and r.is_starting for r in observation.replicas)
            message = (
                f"{pool.name} has {serving} serving and {starting} starting replicas, minReplicas is "
                f"{pool.min_replicas}"
            )
            return Verdict("BelowMinimum", message)
    return None


def nothing_serves(situation: Situation) -> Verdict | None:
    """A cluster that should serve and does not. One that sleeps or wakes holds what arrives: it is as it should be."""
    wanted = sum(target.replicas for target in situation.targets)
    if wanted and not any(map(situation.serving, PoolName)) and not situation.is_waking:
        return Verdict("NoServingReplica", f"none of {wanted} wanted replicas is ready")
    return None


def no_router(situation: Situation) -> Verdict | None:
    """Nobody can reach the replicas. A router that merely does not answer the operator may well serve clients."""
    missing = situation.observation.routers
    if isinstance(missing, Missing) and missing.reason == NO_ROUTER:
        return Verdict(NO_ROUTER, _why(missing))
    return None


def rolling_out(situation: Situation) -> Verdict | None:
    """Replicas of an older revision, shape or placement are still there."""
    replicas, spec = situation.observation.replicas, situation.observation.spec
    old = sum(not is_current(replica, spec) for replica in replicas)
    if not old:
        return None
    return Verdict(
        "RollingOut", f"{old} of {len(replicas)} replicas are of an older revision, shape or placement"
    )


def over_limits(situation: Situation) -> Verdict | None:
    """More GPUs or replicas exist than the present spec allows."""
    observation = situation.observation
    held, budget = gpus_held(observation.replicas), observation.spec.budget_gpus
    if held > budget:
        return Verdict("OverBudget", f"{held} GPUs are held, budget.gpus is {budget}: the surplus drains")
    for pool in observation.spec.pools:
        count = sum(replica.counts for replica in observation.replicas if replica.home is pool.name)
        if count > pool.max_replicas:
            message = (
                f"{pool.name} has {count} replicas, maxReplicas is {pool.max_replicas}: the surplus drains"
            )
            return Verdict("OverMaximum", message)
    return None


def cannot_start(situation: Situation) -> Verdict | None:
    """A pool lacks what it must have, its minimum or replicas of the newest revision, because they do not start."""
    observation = situation.observation
    for pool in observation.spec.pools:
        back_off = situation.trouble(pool.name)
        if back_off is None:
            continue
        has_old = any(
            replica.home is pool.name and not is_current(replica, observation.spec)
            for replica in observation.replicas
        )
        if has_old or situation.serving(pool.name) < pool.min_replicas:
            return Verdict(back_off.reason, f"{pool.name} cannot start: {back_off.message}")
    return None


def routers_missing(situation: Situation) -> Verdict | None:
    """The fresh signals are missing."""
    missing = situation.observation.routers
    if not isinstance(missing, Missing):
        return None
    return Verdict(
        "RouterUnavailable",
        f"the routers cannot be read ({_why(missing)}): sizes hold or grow, no pool shrinks, and drains wait",
    )


def metrics_missing(situation: Situation) -> Verdict | None:
    """Prometheus' signals are missing. One that was never configured is not waited for."""
    missing = situation.observation.metrics
    if not isinstance(missing, Missing) or not situation.observation.has_prometheus:
        return None
    return Verdict(
        "PrometheusUnavailable",
        f"Prometheus cannot be read ({_why(missing)}): no pool shrinks, and growth follows the routers alone",
    )


def sources_doubted(situation: Situation) -> Verdict | None:
    """All sources answer, and one of them is not believed."""
    demand = situation.demand
    if isinstance(demand, Missing) or all(gap.reason != SOURCES_DISAGREE for gap in demand.gaps):
        return None
    return Verdict(SOURCES_DISAGREE, "routers and Prometheus count different loads: no pool shrinks")


def held_up(situation: Situation) -> Verdict | None:
    """Replicas that a pool should have could not be started or created."""
    for target in situation.targets:
        back_off = situation.trouble(target.pool)
        serving, needed = situation.serving(target.pool), max(target.wanted, target.replicas)
        if back_off is not None and serving < needed:
            message = f"{target.pool} serves with {serving} of {needed} replicas: {back_off.message}"
            return Verdict(back_off.reason, message)
    return None


def limited(situation: Situation) -> Verdict | None:
    """Demand wants more than a limit allows. Bounds that only slow a change down are the user's wish."""
    spec = situation.observation.spec
    for target in situation.targets:
        if target.replicas >= target.wanted:
            continue
        wish = f"{target.pool} needs {target.wanted} replicas and gets {target.replicas}"
        match target.limited_by:
            case "budget":
                advice = "raise it, or lower minReplicas of other pools"
                return Verdict("BudgetExhausted", f"{wish} within budget.gpus {spec.budget_gpus}; {advice}")
            case "maxReplicas":
                return Verdict("AtMaxReplicas", f"{wish}, its maxReplicas; raise it to allow more")
    return None


def mixed_only(situation: Situation) -> Verdict | None:
    """The user has switched disaggregation off."""
    spec = situation.observation.spec
    off = [name for name in (PoolName.PREFILL, PoolName.DECODE) if spec.pool(name).max_replicas == 0]
    if not off:
        return None
    return Verdict(
        "MixedOnly", f"maxReplicas of {' and '.join(off)} is 0: each request is served by one replica"
    )


def not_paired(situation: Situation) -> Verdict | None:
    """Prefill or decode has nobody of the same revision to hand over to."""
    replicas = [replica for replica in situation.observation.replicas if replica.is_serving]
    prefill = {replica.revision for replica in replicas if replica.home is PoolName.PREFILL}
    decode = {replica.revision for replica in replicas if replica.home is PoolName.DECODE}
    if prefill & decode:
        return None
    if not replicas:
        return Verdict("NoServingReplica", "no replica serves")
    if prefill and decode:
        return Verdict("NoPair", "prefill and decode serve different revisions: each serves whole requests")
    lacking = "decode" if prefill else "prefill" if decode else "neither prefill nor decode"
    has = "has a" if lacking.startswith("neither") else "has no"
    return Verdict("ServedWhole", f"{lacking} {has} serving replica: each request is served by one replica")


READINESS = (nothing_serves, below_minimum, no_router)
RECONCILING = (rolling_out, over_limits, below_minimum, nothing_serves, routers_missing)
STALLED = (cannot_start,)
METRICS = (routers_missing, metrics_missing, sources_doubted)
LIMITS = (held_up, limited)
DISAGGREGATION = (mixed_only, not_paired)


def is_settled(situation: Situation) -> bool:
    """The present spec is rolled out: what `Reconciling` waits for."""
    return evaluate(RECONCILING, situation) is None


def conditions(situation: Situation) -> tuple[Condition, ...]:
    """All conditions, in a fixed order. Ready implies the newest spec; autoscaling never touches Reconciling.

    A stalled cluster is not reconciling: kstatus reads the first of both that is True.
    """
    changing = None if situation.spec_settled else evaluate(RECONCILING, situation)
    stalled = evaluate(STALLED, situation)
    unready = evaluate(READINESS, situation) or changing
    settled = "the newest spec is rolled out" if changing is None else "the rollout is stalled"
    return (
        _good(ConditionType.READY, unready, *_readiness(situation)),
        _bad(
            ConditionType.RECONCILING,
            None if stalled else changing,
            "Settled" if changing is None else "Stalled",
            settled,
        ),
        _bad(ConditionType.STALLED, stalled, "Progressing", "nothing needs attention"),
        _good(
            ConditionType.METRICS_AVAILABLE,
            evaluate(METRICS, situation),
            *_sources(situation),
        ),
        _bad(
            ConditionType.SCALING_LIMITED,
            evaluate(LIMITS, situation),
            "WithinLimits",
            "demand fits the limits",
        ),
        _good(
            ConditionType.DISAGGREGATED,
            evaluate(DISAGGREGATION, situation),
            "PrefillAndDecode",
            "prefill and decode serve their own phases",
        ),
    )


def _readiness(situation: Situation) -> tuple[str, str]:
    """Why a cluster is ready. Sleep and wake are no unreadiness: `helm --wait` and Flux would never settle."""
    if any(map(situation.serving, PoolName)):
        return "Serving", "every pool serves with at least its minimum"
    if any(target.replicas for target in situation.targets):
        return WAKING, "the first replicas start; the routers hold requests until they serve"
    return SCALED_TO_ZERO, "no pool wants a replica"


def _sources(situation: Situation) -> tuple[str, str]:
    """Where the signals come from while nothing is wrong with them."""
    if situation.observation.has_prometheus:
        return "Available", "routers and Prometheus answer"
    return (
        "RoutersOnly",
        "the routers answer; no Prometheus is configured, so that latencies and utilisation are not seen",
    )


def _good(kind: ConditionType, verdict: Verdict | None, reason: str, message: str) -> Condition:
    """A condition that is True unless somebody objects."""
    if verdict is None:
        return Condition(kind, ConditionStatus.TRUE, reason, message)
    return Condition(kind, ConditionStatus.FALSE, verdict.reason, verdict.message)


def _bad(kind: ConditionType, verdict: Verdict | None, reason: str, message: str) -> Condition:
    """A condition that is False unless somebody objects."""
    if verdict is None:
        return Condition(kind, ConditionStatus.FALSE, reason, message)
    return Condition(kind, ConditionStatus.TRUE, verdict.reason, verdict.message)


def _why(missing: Missing) -> str:
    return missing.message or missing.reason

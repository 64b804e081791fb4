"""From what was seen and decided to conditions: chains of small policies, the first that objects has the word.

A policy is a function from a `Situation` to a `Verdict` (reason and message, which go unchanged into condition and
Event) or None. The order inside a chain is the priority.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from inferencecluster.core.allocation import Target
from inferencecluster.core.demand import Demand
from inferencecluster.core.fleet import PoolName, gpus_held
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Observation
from inferencecluster.core.startup import BackOff
from inferencecluster.core.status import Condition, ConditionStatus, ConditionType, Verdict
from inferencecluster.core.transition import is_current

LIMITS = {"budget": "BudgetExhausted", "maxReplicas": "AtMaxReplicas", "nodes": "NodesExhausted"}
"""`Target.limited_by` -> reason, for limits that keep a pool smaller than demand wants; others are the user's wish."""


@dataclass(frozen=True, slots=True)
class Situation:
    """One tick, seen and decided."""

    observation: Observation
    demand: Demand | Missing
    targets: tuple[Target, Target, Target]
    back_offs: Mapping[PoolName, BackOff]
    """Pools that wait before they try to start replicas again."""
    spec_settled: bool
    """The present generation has once been rolled out completely."""

    def serving(self, name: PoolName) -> int:
        """Replicas of the pool that take work."""
        return sum(replica.home is name and replica.is_serving for replica in self.observation.replicas)


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
    spec = situation.observation.spec
    for pool in spec.pools:
        serving = situation.serving(pool.name)
        if serving < pool.min_replicas:
            message = f"{pool.name} has {serving} serving replicas, minReplicas is {pool.min_replicas}"
            return Verdict("BelowMinimum", message)
    return None


def nothing_serves(situation: Situation) -> Verdict | None:
    """With minimums of zero a cluster may be asleep; only one that should serve and does not is unready."""
    if any(target.replicas for target in situation.targets) and not any(map(situation.serving, PoolName)):
        return Verdict("NoServingReplica", "no replica is ready yet")
    return None


def rolling_out(situation: Situation) -> Verdict | None:
    """Replicas of an older revision or shape are still there."""
    spec = situation.observation.spec
    old = sum(not is_current(replica, spec) for replica in situation.observation.replicas)
    return Verdict("RollingOut", f"{old} replicas of an older revision or shape remain") if old else None


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


def minimum_cannot_start(situation: Situation) -> Verdict | None:
    """A pool is below its minimum because its replicas do not start."""
    for pool in situation.observation.spec.pools:
        back_off = situation.back_offs.get(pool.name)
        if back_off is not None and situation.serving(pool.name) < pool.min_replicas:
            return Verdict(back_off.reason, back_off.message)
    return None


def routers_missing(situation: Situation) -> Verdict | None:
    """The fresh signals are missing."""
    missing = situation.observation.routers
    if not isinstance(missing, Missing):
        return None
    return Verdict("RouterUnavailable", f"{_why(missing)}; no pool shrinks")


def metrics_missing(situation: Situation) -> Verdict | None:
    """Prometheus' signals are missing."""
    missing = situation.observation.metrics
    if not isinstance(missing, Missing):
        return None
    return Verdict("PrometheusUnavailable", f"{_why(missing)}; no pool shrinks, growth follows the routers")


def limited(situation: Situation) -> Verdict | None:
    """Demand wants more than a limit allows."""
    for target in situation.targets:
        if target.limited_by in LIMITS and target.replicas < target.wanted:
            return Verdict(LIMITS[target.limited_by], f"{target.pool}: {target.message}")
    return None


def not_disaggregated(situation: Situation) -> Verdict | None:
    """Prefill or decode has nobody of the same revision to hand over to."""
    replicas = [replica for replica in situation.observation.replicas if replica.is_serving]
    prefill = {replica.revision for replica in replicas if replica.home is PoolName.PREFILL}
    decode = {replica.revision for replica in replicas if replica.home is PoolName.DECODE}
    if prefill & decode:
        return None
    if not replicas:
        return Verdict("NoServingReplica", "no replica serves")
    lacking = "prefill" if not prefill else "decode" if not decode else "a pair of one revision"
    return Verdict("ServedWhole", f"{lacking} has no serving replica: each request is served by one replica")


READINESS = (nothing_serves, below_minimum)
RECONCILING = (rolling_out, over_limits, below_minimum, nothing_serves)
STALLED = (minimum_cannot_start,)
METRICS = (routers_missing, metrics_missing)


def is_settled(situation: Situation) -> bool:
    """The present spec is rolled out: what `Reconciling` waits for."""
    return evaluate(RECONCILING, situation) is None


def conditions(situation: Situation) -> tuple[Condition, ...]:
    """All conditions, in a fixed order. Ready implies the newest spec; autoscaling never touches Reconciling."""
    changing = None if situation.spec_settled else evaluate(RECONCILING, situation)
    unready = evaluate(READINESS, situation) or changing
    return (
        _good(ConditionType.READY, unready, "Serving", "every pool serves with at least its minimum"),
        _bad(ConditionType.RECONCILING, changing, "Settled", "the newest spec is rolled out"),
        _bad(ConditionType.STALLED, evaluate(STALLED, situation), "Progressing", "nothing needs attention"),
        _good(
            ConditionType.METRICS_AVAILABLE,
            evaluate(METRICS, situation),
            "Available",
            "routers and Prometheus answer",
        ),
        _bad(ConditionType.SCALING_LIMITED, limited(situation), "WithinLimits", "demand fits the limits"),
        _good(
            ConditionType.DISAGGREGATED,
            not_disaggregated(situation),
            "PrefillAndDecode",
            "prefill and decode serve their own phases",
        ),
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

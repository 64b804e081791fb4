"""An InferenceCluster as the API server has it, read so that no absent field, and no other release, stops who looks at it.

What is absent is None or empty, and is shown as not told: never as 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from inferencecluster.adapters.timestamps import unix_seconds
from inferencecluster.core.decision import RECOMMENDED
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.spec import ScalingMode, SelectPolicy
from inferencecluster.core.status import NORMAL, ConditionType

BUSY_SHARE: Final = "busyShare"
"""Input of a decision: utilisation of the pool's GPUs at that moment, from 0 to 1."""
_NORMAL: Final = {kind.value: status.value for kind, status in NORMAL.items()}
_MANY: Final = 2**31
"""Counts of Kubernetes are 32 bits wide: what is larger is none."""
_LATEST: Final = 1e11
"""The year 5138: no calendar has the moments some years after the last date that can be written."""
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\s]+")
"""Messages may be anybody's: none of them moves the cursor of a terminal."""


@dataclass(frozen=True, slots=True)
class ConditionReading:
    """One condition."""

    type: str
    status: str
    reason: str
    message: str
    since: float | None
    """Unix seconds."""

    @property
    def is_normal(self) -> bool:
        """Nobody has to look. One of somebody else's type is theirs to judge."""
        return self.status == _NORMAL.get(self.type, self.status)


@dataclass(frozen=True, slots=True)
class DecisionReading:
    """One change of size, or in mode Recommend of a recommendation, as status records it."""

    time: float | None
    pool: str
    before: int | None
    after: int | None
    reason: str
    message: str
    inputs: tuple[tuple[str, str], ...]
    limited_by: str

    @property
    def is_recommendation(self) -> bool:
        """Nobody acted on it."""
        return self.message.startswith(RECOMMENDED)

    @property
    def change(self) -> str:
        """`2 -> 3`."""
        return f"{told(self.before)} -> {told(self.after)}"


@dataclass(frozen=True, slots=True)
class PoolReading:
    """One pool: sizes from status, bounds from the spec."""

    name: str
    desired: int | None = None
    recommended: int | None = None
    ready: int | None = None
    starting: int | None = None
    draining: int | None = None
    borrowed: int | None = None
    gpus: int | None = None
    nodes: int | None = None
    free_gpus: int | None = None
    minimum: int | None = None
    maximum: int | None = None
    gpus_per_replica: int | None = None


@dataclass(frozen=True, slots=True)
class DrainReading:
    """A replica on its way out."""

    replica: str
    pool: str
    since: float | None
    deadline: float | None
    waiting_for: str


@dataclass(frozen=True, slots=True)
class RulesReading:
    """One direction of `scaling.behavior`."""

    window_seconds: int
    is_disabled: bool
    has_policies: bool


@dataclass(frozen=True, slots=True)
class ClusterReading:
    """One InferenceCluster."""

    namespace: str
    name: str
    uid: str
    created: float | None
    deleted: float | None
    """When its deletion was asked for; None while nobody did."""
    generation: int | None
    observed_generation: int | None
    """None before the operator's first look."""
    revision: str
    mode: str
    interval_seconds: int | None
    boot_seconds: int | None
    budget_gpus: int | None
    kept_gpus: int
    up: RulesReading
    down: RulesReading
    pools: tuple[PoolReading, ...]
    conditions: tuple[ConditionReading, ...]
    decisions: tuple[DecisionReading, ...]
    """Newest first."""
    draining: tuple[DrainReading, ...]

    @property
    def is_observed(self) -> bool:
        """The operator has looked at it."""
        return bool(self.conditions or any(pool.desired is not None for pool in self.pools))

    @property
    def is_asleep(self) -> bool:
        """Scaled to zero: no pool is to have a replica."""
        return bool(self.pools) and all(pool.desired == 0 for pool in self.pools)

    @property
    def gpus(self) -> int | None:
        """GPUs of all existing replicas; None when a pool does not tell."""
        held = [pool.gpus for pool in self.pools if pool.desired is not None]
        return None if None in held or not held else sum(gpus or 0 for gpus in held)

    @property
    def not_normal(self) -> tuple[ConditionReading, ...]:
        """Conditions that somebody should look at."""
        return tuple(condition for condition in self.conditions if not condition.is_normal)

    def condition(self, kind: ConditionType) -> ConditionReading | None:
        """None when status does not have it."""
        return next((condition for condition in self.conditions if condition.type == kind), None)

    def last_decision(self, pool: str, *, recommendation: bool = False) -> DecisionReading | None:
        """The newest of one pool; None when none of those that status keeps is its."""
        for decision in self.decisions:
            if decision.pool == pool and decision.is_recommendation is recommendation:
                return decision
        return None


def reading_of(manifest: Mapping[str, Any]) -> ClusterReading:
    """Whatever the object tells."""
    metadata, spec, status = (_mapping(manifest.get(part)) for part in ("metadata", "spec", "status"))
    scaling, budget = _mapping(spec.get("scaling")), _mapping(spec.get("budget"))
    behavior = _mapping(scaling.get("behavior"))
    return ClusterReading(
        namespace=text(metadata.get("namespace")),
        name=text(metadata.get("name")),
        uid=text(metadata.get("uid")),
        created=moment(metadata.get("creationTimestamp")),
        deleted=moment(metadata.get("deletionTimestamp")),
        generation=_count(metadata.get("generation")),
        observed_generation=_count(status.get("observedGeneration")),
        revision=text(status.get("revision")),
        mode=text(scaling.get("mode")) or ScalingMode.AUTOMATIC.value,
        interval_seconds=_count(scaling.get("intervalSeconds")),
        boot_seconds=_count(scaling.get("expectedBootSeconds")),
        budget_gpus=_count(budget.get("gpus")),
        kept_gpus=_count(budget.get("minGpus")) or 0,
        up=_rules(behavior.get("scaleUp")),
        down=_rules(behavior.get("scaleDown")),
        pools=_pools(_mapping(spec.get("pools")), status.get("pools")),
        conditions=tuple(
            ConditionReading(
                type=text(item.get("type")),
                status=text(item.get("status")),
                reason=text(item.get("reason")),
                message=text(item.get("message")),
                since=moment(item.get("lastTransitionTime")),
            )
            for item in _items(status.get("conditions"))
        ),
        decisions=tuple(map(_decision, _items(status.get("decisions")))),
        draining=tuple(
            DrainReading(
                replica=text(item.get("replica")),
                pool=text(item.get("pool")),
                since=moment(item.get("since")),
                deadline=moment(item.get("deadline")),
                waiting_for=text(item.get("waitingFor")),
            )
            for item in _items(status.get("draining"))
        ),
    )


def _pools(specs: Mapping[str, Any], statuses: Any) -> tuple[PoolReading, ...]:
    """In the order of `PoolName`; those that neither the spec nor status knows are left out."""
    sizes = {text(item.get("name")): item for item in _items(statuses)}
    found = []
    for name in dict.fromkeys([*(pool.value for pool in PoolName), *sizes]):
        if name not in sizes and name not in specs:
            continue
        size, spec = sizes.get(name, {}), _mapping(specs.get(name))
        counts = ("desired", "recommended", "ready", "starting", "draining", "borrowed", "gpus", "nodes")
        found.append(
            PoolReading(
                name=name,
                **{count: _count(size.get(count)) for count in counts},
                free_gpus=_count(size.get("freeGpus")),
                minimum=_count(spec.get("minReplicas")),
                maximum=_count(spec.get("maxReplicas")),
                gpus_per_replica=_count(spec.get("gpusPerReplica")),
            )
        )
    return tuple(found)


def _decision(item: Mapping[str, Any]) -> DecisionReading:
    return DecisionReading(
        time=moment(item.get("time")),
        pool=text(item.get("pool")),
        before=_count(item.get("from")),
        after=_count(item.get("to")),
        reason=text(item.get("reason")),
        message=text(item.get("message")),
        inputs=tuple(
            (text(entry.get("name")), text(entry.get("value"))) for entry in _items(item.get("inputs"))
        ),
        limited_by=text(item.get("limitedBy")),
    )


def _rules(value: Any) -> RulesReading:
    rules = _mapping(value)
    return RulesReading(
        window_seconds=_count(rules.get("stabilizationWindowSeconds")) or 0,
        is_disabled=rules.get("selectPolicy") == SelectPolicy.DISABLED,
        has_policies=bool(_items(rules.get("policies"))),
    )


def told(count: int | None) -> str:
    """A number, or `?` where nobody tells it."""
    return "?" if count is None else f"{count:,}"


def text(value: Any) -> str:
    """In one line, without what a terminal would obey; empty when absent."""
    return "" if value is None else _UNPRINTABLE.sub(" ", str(value)).strip()


def moment(value: Any) -> float | None:
    """Unix seconds; None when absent, or no time."""
    try:
        seconds = unix_seconds(value)
    except (TypeError, ValueError):
        return None
    return seconds if 0.0 <= seconds <= _LATEST else None


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MANY
    return value if is_count else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _items(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []

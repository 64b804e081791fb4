"""The one way through: `decide(observation, memory) -> Decision`. The operator, Recommend mode, the simulator and replay
all call it.

    review_replicas -> observe_demand -> size_pools -> allocate -> plan_transition -> conditions

Who decides the sizes depends on the mode: demand (Automatic), nobody (Recommend: they stay, and what demand would choose is
told beside), the EnginePools (External), or the minimums (Fixed). Bounds and the budget hold in each of them. Between two
sizing ticks the sizes of the last one stay; failed replicas are replaced and drains go on in every look and every mode.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from inferencecluster.core.actions import Action
from inferencecluster.core.allocation import AllocationMemory, AllocationRequest, Target, allocate
from inferencecluster.core.demand import Demand, DemandMemory, observe_demand
from inferencecluster.core.fleet import PoolName, gpus_held
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Observation
from inferencecluster.core.replacement import GivenUp, ReplacementMemory, review_replicas
from inferencecluster.core.sizing import Wanted, size_pools
from inferencecluster.core.sleep import explained, is_wake_due
from inferencecluster.core.spec import ClusterSpec, ScalingMode
from inferencecluster.core.status import (
    ClusterStatus,
    Condition,
    DecisionRecord,
    DrainStatus,
    PoolStatus,
)
from inferencecluster.core.transition import (
    Outcome,
    Progress,
    TransitionRequest,
    drain_deadline,
    plan_transition,
    waiting_for,
)
from inferencecluster.core.verdicts import Situation, conditions, is_settled

Targets = tuple[Target, Target, Target]

_ASKED_BY: Final = MappingProxyType(
    {
        ScalingMode.RECOMMEND: "mode Recommend",
        ScalingMode.EXTERNAL: "/scale",
        ScalingMode.FIXED: "mode Fixed",
    }
)
"""Who wants a size where demand does not."""

MAX_RECORDS: Final = 10
"""What status keeps; the Events hold the rest."""
RECOMMENDED: Final = "recommended only: "
"""How the message of a record begins whose size nobody acts on."""
BOUND_REASONS: Final = MappingProxyType(
    {
        "minReplicas": "MinReplicas",
        "pair": "Paired",
        "maxReplicas": "MaxReplicas",
        "budget": "Budget",
    }
)
"""Where one of these set the size, it is the reason, and what demand wanted is in the message. A back-off is named by
its own reason."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a cluster's next decision needs to know of the earlier ones. All of it may be lost."""

    demand: DemandMemory
    allocation: AllocationMemory
    replacement: ReplacementMemory
    targets: Targets | None
    """As last decided; None before the first decision of this process."""
    recommended: Targets | None
    """What demand alone chose last; None before the first decision of this process."""
    published: Mapping[PoolName, int]
    """Sizes that status showed when this process started; empty for a new cluster."""
    records: tuple[DecisionRecord, ...]
    """The last `MAX_RECORDS`, newest first."""
    generation: int
    """Generation that the targets were decided for; a newer one is decided at once."""
    settled_generation: int
    """Newest generation that was rolled out completely."""

    @classmethod
    def empty(cls) -> Memory:
        """A cluster that nobody has decided about yet: what exists is its size."""
        return cls(
            demand=DemandMemory.empty(),
            allocation=AllocationMemory.empty(),
            replacement=ReplacementMemory.empty(),
            targets=None,
            recommended=None,
            published=MappingProxyType({}),
            records=(),
            generation=-1,
            settled_generation=-1,
        )

    @classmethod
    def restored(
        cls,
        targets: Mapping[PoolName, int],
        records: tuple[DecisionRecord, ...],
        now: float,
        *,
        settled_generation: int = -1,
    ) -> Memory:
        """After a restart, from the published status: a half-done change of size goes on, and nothing shrinks early.

        `records` are newest first. `settled_generation` is the observed one if status said `Reconciling=False`: without
        it, a replica that is just being replaced would look like a rollout.
        """
        return replace(
            cls.empty(),
            allocation=AllocationMemory.restored(targets, now),
            published=MappingProxyType(dict(targets)),
            records=records[:MAX_RECORDS],
            settled_generation=settled_generation,
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, what to say, and what to remember."""

    actions: tuple[Action, ...]
    targets: Mapping[PoolName, int]
    status: ClusterStatus
    records: tuple[DecisionRecord, ...]
    """New ones only, at most one per pool whose size or recommendation changed."""
    memory: Memory
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The outcome of sizing: what holds from now on, and what demand alone would choose."""

    allocation: AllocationMemory
    targets: Targets
    recommended: Targets


def decide(observation: Observation, memory: Memory) -> Decision:
    """Everything that one look at one cluster leads to. Pure: equal arguments give equal decisions."""
    spec = observation.spec
    replacement, given_up = review_replicas(memory.replacement, observation)
    demand_memory, demand = observe_demand(memory.demand, observation)
    request = replace(
        _allocation_request(observation, demand, replacement, given_up),
        is_wake=is_wake_due(observation, memory.targets or ()),
    )
    sizes = _decide_sizes(memory, observation, request)
    records = _records(memory, observation, sizes)
    targets = {target.pool: target.replicas for target in sizes.targets}
    outcome = plan_transition(
        TransitionRequest(
            now=observation.now,
            spec=spec,
            replicas=observation.replicas,
            targets=targets,
            given_up={item.replica.uid: item.reason for item in given_up},
            held_back=frozenset(replacement.waiting(observation.now)),
        )
    )
    was_settled = memory.settled_generation == spec.generation
    situation = Situation(observation, demand, sizes.targets, replacement.troubles, spec_settled=was_settled)
    settled = was_settled or is_settled(situation)
    situation = replace(situation, spec_settled=settled)
    return Decision(
        actions=outcome.actions if isinstance(outcome, Progress) else (),
        targets=MappingProxyType(targets),
        status=_status(observation, sizes, conditions(situation)),
        records=records,
        memory=replace(
            memory,
            demand=demand_memory,
            allocation=sizes.allocation,
            replacement=replacement,
            targets=sizes.targets,
            recommended=sizes.recommended,
            records=(*records, *memory.records)[:MAX_RECORDS],
            generation=spec.generation,
            settled_generation=spec.generation if settled else memory.settled_generation,
        ),
        outcome=outcome,
    )


def _allocation_request(
    observation: Observation,
    demand: Demand | Missing,
    replacement: ReplacementMemory,
    given_up: tuple[GivenUp, ...],
) -> AllocationRequest:
    """What demand asks for. A replica that is given up is not there any more, whatever its Pod says."""
    lost = {item.replica.uid for item in given_up}
    remaining = tuple(replica for replica in observation.replicas if replica.uid not in lost)
    return AllocationRequest(
        now=observation.now,
        spec=_with_hold(observation.spec, demand),
        replicas=remaining,
        wanted=demand if isinstance(demand, Missing) else size_pools(observation.spec, demand, remaining),
        shrink_allowed=not isinstance(demand, Missing) and demand.complete,
        capacity=observation.capacity,
        back_offs=replacement.waiting(observation.now),
    )


def _with_hold(spec: ClusterSpec, demand: Demand | Missing) -> ClusterSpec:
    """With a stabilisation window that does not end before the operator knows what it forgot with its last restart."""
    if isinstance(demand, Missing) or demand.has_history:
        return spec
    down = replace(spec.behavior.scale_down, stabilization_window_seconds=math.inf)
    return replace(spec, behavior=replace(spec.behavior, scale_down=down))


def _decide_sizes(memory: Memory, observation: Observation, request: AllocationRequest) -> _Sizes:
    """Sizes by whoever decides in this mode; between two sizing ticks those of the last one stay."""
    spec, now = request.spec, request.now
    if memory.targets is not None and memory.recommended is not None and not _is_due(memory, observation):
        return _Sizes(memory.allocation, memory.targets, memory.recommended)
    if spec.mode is ScalingMode.AUTOMATIC:
        allocation, targets = allocate(memory.allocation, request)
        return _Sizes(allocation, targets, targets)
    # Somebody else chose: what they ask for may shrink a pool whatever the metrics say, and needs no history.
    present = _present_sizes(memory, observation)
    asked = replace(
        request,
        wanted=_asked(present, observation),
        asked_by=_ASKED_BY[spec.mode],
        shrink_allowed=True,
    )
    if spec.mode is ScalingMode.RECOMMEND:
        # Sizes stay: a pool that shrank to what its nodes hold would never grow back.
        asked = replace(asked, back_offs=MappingProxyType({}))
    _, targets = allocate(AllocationMemory.restored(present, now), asked)
    allocation, recommended = allocate(memory.allocation, request)
    if spec.mode is not ScalingMode.RECOMMEND:
        # When demand takes over, it starts from the sizes that were set.
        allocation = AllocationMemory.restored({item.pool: item.replicas for item in targets}, now)
    return _Sizes(allocation, targets, recommended)


def _is_due(memory: Memory, observation: Observation) -> bool:
    """Wishes from outside, another spec and the wake of a sleeping cluster do not wait for a sizing tick."""
    spec = observation.spec
    return (
        observation.sizing_due
        or is_wake_due(observation, memory.targets or ())
        or memory.generation != spec.generation
        or spec.mode not in (ScalingMode.AUTOMATIC, ScalingMode.RECOMMEND)
    )


def _asked(
    present: Mapping[PoolName, int], observation: Observation
) -> tuple[Wanted, Wanted, Wanted] | Missing:
    """The sizes that somebody other than demand asks for."""
    spec, external = observation.spec, observation.external
    if spec.mode is ScalingMode.FIXED:
        return _wanted({pool.name: pool.min_replicas for pool in spec.pools}, "Fixed", "mode is Fixed")
    if spec.mode is ScalingMode.RECOMMEND:
        return _wanted(present, "Recommend", "mode is Recommend: sizes stay as they are")
    if isinstance(external, Missing):
        return external
    return _wanted({**present, **external}, "External", "set through /scale")


def _wanted(sizes: Mapping[PoolName, int], reason: str, message: str) -> tuple[Wanted, Wanted, Wanted]:
    prefill, decode, mixed = (
        Wanted(name, sizes[name], reason, message, (), float(sizes[name])) for name in PoolName
    )
    return prefill, decode, mixed


def _present_sizes(memory: Memory, observation: Observation) -> Mapping[PoolName, int]:
    """What was decided last, else what status published, else what exists."""
    if memory.targets is not None:
        return {target.pool: target.replicas for target in memory.targets}
    counted = {
        name: sum(replica.counts for replica in observation.replicas if replica.home is name)
        for name in PoolName
    }
    return {**counted, **memory.published}


def _records(memory: Memory, observation: Observation, sizes: _Sizes) -> tuple[DecisionRecord, ...]:
    """One for each pool whose size (or, in Recommend mode, whose recommendation) changed."""
    present = _present_sizes(memory, observation)
    records = tuple(
        _record(observation, target, present[target.pool], prefix="")
        for target in sizes.targets
        if target.replicas != present[target.pool]
    )
    if observation.spec.mode is not ScalingMode.RECOMMEND:
        return explained(records, present, observation)
    told = {**present, **_recommendations(memory)}
    return records + tuple(
        _record(observation, target, told[target.pool], prefix=RECOMMENDED)
        for target in sizes.recommended
        if target.replicas != told[target.pool]
    )


def _recommendations(memory: Memory) -> Mapping[PoolName, int]:
    """The last recommendations; after a restart, those that the records still tell."""
    if memory.recommended is not None:
        return {target.pool: target.replicas for target in memory.recommended}
    return {
        record.pool: record.after
        for record in reversed(memory.records)
        if record.message.startswith(RECOMMENDED)
    }


def _record(observation: Observation, target: Target, before: int, *, prefix: str) -> DecisionRecord:
    return DecisionRecord(
        time=observation.now,
        pool=target.pool,
        before=before,
        after=target.replicas,
        reason=BOUND_REASONS.get(target.limited_by, target.reason),
        message=f"{prefix}{target.message}",
        inputs=target.inputs,
        limited_by=target.limited_by,
    )


def _status(
    observation: Observation, sizes: _Sizes, current_conditions: tuple[Condition, ...]
) -> ClusterStatus:
    prefill, decode, mixed = (
        _pool_status(observation, target, recommended.replicas)
        for target, recommended in zip(sizes.targets, sizes.recommended, strict=True)
    )
    return ClusterStatus(
        pools=(prefill, decode, mixed),
        conditions=current_conditions,
        gpus=gpus_held(observation.replicas),
        budget_gpus=observation.spec.budget_gpus,
        draining=tuple(
            DrainStatus(
                replica=replica.name,
                pool=replica.home,
                since=fenced_at,
                deadline=drain_deadline(fenced_at, observation.spec),
                waiting_for=waiting_for(replica),
            )
            for replica in observation.replicas
            if (fenced_at := replica.fenced_at) is not None
        ),
    )


def _pool_status(observation: Observation, target: Target, recommended: int) -> PoolStatus:
    mine = [replica for replica in observation.replicas if replica.home is target.pool]
    routers = observation.routers
    borrowed = () if isinstance(routers, Missing) else routers.queue.borrowed_replicas
    return PoolStatus(
        name=target.pool,
        desired=target.replicas,
        recommended=recommended,
        ready=sum(replica.is_serving for replica in mine),
        starting=sum(replica.is_starting for replica in mine),
        draining=sum(replica.is_leaving for replica in mine),
        borrowed=sum(replica.name in borrowed for replica in mine),
        gpus=sum(replica.gpus for replica in mine),
        capacity=observation.capacity_of(target.pool),
    )

"""The one way through: `decide(observation, memory) -> Decision`. The operator, Recommend mode, the simulator and replay
all call it.

    observe_demand -> size_pools -> allocate -> plan_transition -> conditions
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from inferencecluster.core.actions import Action
from inferencecluster.core.allocation import AllocationMemory, AllocationRequest, Target, allocate
from inferencecluster.core.demand import Demand, DemandMemory, observe_demand
from inferencecluster.core.fleet import PoolName, gpus_held
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Observation, PoolCapacity
from inferencecluster.core.sizing import Wanted, size_pools
from inferencecluster.core.spec import ScalingMode
from inferencecluster.core.startup import StartupMemory, review_starts
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
MAX_RECORDS = 10
"""What status keeps; the Events hold the rest."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a cluster's next decision needs to know of the earlier ones. All of it may be lost."""

    demand: DemandMemory
    allocation: AllocationMemory
    startup: StartupMemory
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
        """A cluster that nobody has decided about yet."""
        return cls(
            demand=DemandMemory.empty(),
            allocation=AllocationMemory.empty(),
            startup=StartupMemory.empty(),
            targets=None,
            recommended=None,
            published=MappingProxyType({}),
            records=(),
            generation=-1,
            settled_generation=-1,
        )

    @classmethod
    def restored(
        cls, targets: Mapping[PoolName, int], records: tuple[DecisionRecord, ...], now: float
    ) -> Memory:
        """After a restart, from the published status: a half-done change of size goes on, and nothing shrinks early."""
        return replace(
            cls.empty(),
            allocation=AllocationMemory.restored(targets, now),
            published=MappingProxyType(dict(targets)),
            records=records[:MAX_RECORDS],
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, what to say, and what to remember."""

    actions: tuple[Action, ...]
    targets: Mapping[PoolName, int]
    status: ClusterStatus
    records: tuple[DecisionRecord, ...]
    """New ones only, one per pool whose size changed."""
    memory: Memory
    outcome: Outcome


def decide(observation: Observation, memory: Memory) -> Decision:
    """Everything that one look at one cluster leads to. Pure: equal arguments give equal decisions."""
    now, spec = observation.now, observation.spec
    startup, given_up = review_starts(memory.startup, observation)
    demand_memory, demand = observe_demand(memory.demand, observation)
    sizes = _decide_sizes(memory, observation, demand, startup.waiting(now))
    records = _records(memory, observation, sizes)
    targets = {target.pool: target.replicas for target in sizes.targets}
    outcome = plan_transition(
        TransitionRequest(
            now=now,
            spec=spec,
            replicas=observation.replicas,
            targets=targets,
            given_up={item.replica.uid: item.reason for item in given_up},
        )
    )
    was_settled = memory.settled_generation == spec.generation
    situation = Situation(observation, demand, sizes.targets, startup.pools, spec_settled=was_settled)
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
            startup=startup,
            targets=sizes.targets,
            recommended=sizes.recommended,
            records=(*records, *memory.records)[:MAX_RECORDS],
            generation=spec.generation,
            settled_generation=spec.generation if settled else memory.settled_generation,
        ),
        outcome=outcome,
    )


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The outcome of sizing: what holds from now on, and what demand alone would choose."""

    allocation: AllocationMemory
    targets: Targets
    recommended: Targets


def _decide_sizes(
    memory: Memory, observation: Observation, demand: Demand | Missing, given_up: Mapping[PoolName, int]
) -> _Sizes:
    """Sizes by whoever decides in this mode; between two sizing ticks those of the last one stay."""
    spec, now = observation.spec, observation.now
    fresh = memory.targets is None or memory.generation != spec.generation
    by_demand = spec.mode in (ScalingMode.AUTOMATIC, ScalingMode.RECOMMEND)
    if memory.targets and memory.recommended and by_demand and not (fresh or observation.sizing_due):
        return _Sizes(memory.allocation, memory.targets, memory.recommended)
    request = AllocationRequest(
        now=now,
        spec=spec,
        replicas=observation.replicas,
        wanted=demand if isinstance(demand, Missing) else size_pools(spec, demand, observation.replicas),
        shrink_allowed=not isinstance(demand, Missing) and demand.complete,
        capacity=observation.capacity,
        given_up=given_up,
    )
    if spec.mode is ScalingMode.AUTOMATIC:
        allocation, targets = allocate(memory.allocation, request)
        return _Sizes(allocation, targets, targets)
    # Somebody else chose: what they ask for may shrink a pool whatever the metrics say, and needs no history.
    held = AllocationMemory.restored(_present_sizes(memory, observation), now)
    _, targets = allocate(held, replace(request, wanted=_asked(memory, observation), shrink_allowed=True))
    if spec.mode is ScalingMode.RECOMMEND:
        allocation, recommended = allocate(memory.allocation, request)
    else:
        # Demand's own choice is shown beside, without a memory of its own: nobody acts on it.
        allocation = AllocationMemory.restored({target.pool: target.replicas for target in targets}, now)
        _, recommended = allocate(
            AllocationMemory.empty(), replace(request, spec=replace(spec, mode=ScalingMode.FIXED))
        )
    return _Sizes(allocation, targets, recommended)


def _asked(memory: Memory, observation: Observation) -> tuple[Wanted, Wanted, Wanted] | Missing:
    """The sizes that somebody other than demand asks for."""
    present = _present_sizes(memory, observation)
    match observation.spec.mode:
        case ScalingMode.FIXED:
            return _wanted(
                {pool.name: pool.min_replicas for pool in observation.spec.pools}, "Fixed", "mode is Fixed"
            )
        case ScalingMode.EXTERNAL:
            if isinstance(observation.external, Missing):
                return observation.external
            return _wanted({**present, **observation.external}, "External", "set through /scale")
        case _:
            return _wanted(present, "Recommend", "mode is Recommend: sizes stay as they are")


def _wanted(sizes: Mapping[PoolName, int], reason: str, message: str) -> tuple[Wanted, Wanted, Wanted]:
    prefill, decode, mixed = (
        Wanted(name, sizes[name], reason, message, ())
        for name in (PoolName.PREFILL, PoolName.DECODE, PoolName.MIXED)
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
    shadow = observation.spec.mode is ScalingMode.RECOMMEND
    chosen = sizes.recommended if shadow else sizes.targets
    before = _present_sizes(memory, observation)
    if shadow and memory.recommended is not None:
        before = {target.pool: target.replicas for target in memory.recommended}
    return tuple(
        DecisionRecord(
            time=observation.now,
            pool=target.pool,
            before=before[target.pool],
            after=target.replicas,
            reason=_reason(target),
            message=f"recommended only: {target.message}" if shadow else target.message,
            inputs=target.inputs,
            limited_by=target.limited_by,
        )
        for target in chosen
        if target.replicas != before[target.pool]
    )


BOUND_REASONS = {
    "minReplicas": "MinReplicas",
    "maxReplicas": "MaxReplicas",
    "budget": "Budget",
    "nodes": "NodesExhausted",
}
"""Where a hard limit set the size, it is the reason, and what demand wanted is in the message."""


def _reason(target: Target) -> str:
    return BOUND_REASONS.get(target.limited_by, target.reason)


def _status(
    observation: Observation, sizes: _Sizes, current_conditions: tuple[Condition, ...]
) -> ClusterStatus:
    prefill, decode, mixed = (
        _pool_status(observation, target, recommended)
        for target, recommended in zip(sizes.targets, sizes.recommended, strict=True)
    )
    spec = observation.spec
    return ClusterStatus(
        pools=(prefill, decode, mixed),
        conditions=current_conditions,
        gpus=gpus_held(observation.replicas),
        budget_gpus=spec.budget_gpus,
        draining=tuple(
            DrainStatus(
                replica=replica.name,
                pool=replica.home,
                since=replica.fenced_at,
                deadline=drain_deadline(replica, spec),
                waiting_for=waiting_for(replica),
            )
            for replica in observation.replicas
            if replica.fenced_at is not None
        ),
    )


def _pool_status(observation: Observation, target: Target, recommended: Target) -> PoolStatus:
    mine = [replica for replica in observation.replicas if replica.home is target.pool]
    routers = observation.routers
    borrowed = () if isinstance(routers, Missing) else routers.queue.borrowed_replicas
    return PoolStatus(
        name=target.pool,
        desired=target.replicas,
        recommended=recommended.replicas,
        ready=sum(replica.is_serving for replica in mine),
        starting=sum(replica.is_starting for replica in mine),
        draining=sum(replica.is_leaving for replica in mine),
        borrowed=sum(replica.name in borrowed for replica in mine),
        gpus=sum(replica.gpus for replica in mine),
        capacity=_capacity(observation, target.pool),
    )


def _capacity(observation: Observation, name: PoolName) -> PoolCapacity | Missing:
    if isinstance(observation.capacity, Missing):
        return observation.capacity
    for capacity in observation.capacity:
        if capacity.pool is name:
            return capacity
    return Missing("PoolOff", f"{name} has no replicas to place")

"""From fleet and targets to ordered actions, one step at a time; the next observation shows what happened.

Each call plans what may happen *now*:

    gone       delete replicas that failed or never started; fence those that stopped answering
    drains     delete what is drained (fence confirmed by every router, nothing in flight, no KV transfer) or overdue
               (forced); take back a fence whose reason has gone, also for an interchangeable pool
    surplus    pools above target: the cheapest replicas                                          (`victims`)
               move to an interchangeable pool that lacks some                                    (`conversion`);
               else delete those that never served and fence the others
    rollout    retire replicas of an older revision or shape as new ones serve                    (`rollout`)
    deficit    pools below target: create, as long as the GPUs of *all* existing replicas and the new one fit

Shrinking before growing is no rule of its own: a create counts every replica that still exists, so the receiver of a
trade waits until the giver's GPUs are free. Example: budget 8, two GPUs each, prefill 3 + decode 1, targets 2 + 2.

    call 1     Fence the least loaded prefill replica
    call 2..n  Blocked("Draining"): its load is not known, not confirmed or not zero
    call n+1   Delete it; until its Pod is gone, Blocked("Draining")
    call n+2   Create for decode; then Blocked("Starting"), then Complete

No instant saw more than 8 GPUs. A load that is Missing is never taken for idle: then the drain deadline decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from inferencecluster.core.actions import Action, Convert, Create, Delete, Fence, Unfence
from inferencecluster.core.conversion import Lack, conversions
from inferencecluster.core.fleet import Lifecycle, PoolName, Replica, ReplicaLoad, gpus_held
from inferencecluster.core.rollout import first_to_make_room, replaced
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.core.victims import cheapest_first, is_current, never_served, ordinal_of

SCALE_DOWN: Final = "ScaleDown"
ROLLOUT: Final = "Rollout"
CLUSTER_DELETED: Final = "ClusterDeleted"
FAILED: Final = "ReplicaFailed"
BELOW_TARGET: Final = "BelowTarget"
WANTED_AGAIN: Final = "WantedAgain"
WANTED_ELSEWHERE: Final = "WantedElsewhere"
DRAIN_DEADLINE: Final = "DrainDeadline"

FENCE_SEEN_SECONDS: Final = 60.0
"""A new leader asks the routers for so long before it cuts a drain: its clock may be ahead of the one that wrote the
fence, and a minute is enough for a drained replica to be told so. Every later restart costs a minute more at most."""


@dataclass(frozen=True, slots=True)
class TransitionRequest:
    """Everything that a plan looks at."""

    now: float
    spec: ClusterSpec
    replicas: tuple[Replica, ...]
    targets: Mapping[PoolName, int]
    given_up: Mapping[str, str]
    """uid -> reason of replicas that do not start or do not answer any more."""
    held_back: frozenset[PoolName] = frozenset()
    """Pools whose back-off has not ended: nothing is created in them."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Something is to be done; in this order."""

    actions: tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class Complete:
    """The fleet is what it should be."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """Nothing can be done now; the world has to change first."""

    reason: str
    """`Draining`, `BackOff`, `BudgetExhausted` or `Starting`."""
    waiting_for: str


Outcome = Progress | Complete | Blocked


def plan_transition(request: TransitionRequest) -> Outcome:
    """What to do now. Deterministic: equal requests give equal plans, and applying a plan twice changes nothing."""
    lack = Lack({name: _deficit(request, name) for name in PoolName}, request.targets)
    gone = _gone(request)
    lost = {action.uid for action in gone}
    drains = _drains(request, lack)
    staying = tuple(replica for replica in request.replicas if replica.uid not in lost)
    surplus = _surplus(request, lost)
    found = conversions(request.spec, staying, surplus, lack)
    moved = tuple(Convert(replica.name, replica.uid, pool, WANTED_ELSEWHERE) for replica, pool in found.moves)
    movers = {replica.uid for replica in (*found.later, *(replica for replica, _ in found.moves))}
    surplus = [replica for replica in surplus if replica.uid not in movers]
    retired = _retired(request, staying, lack)
    kept = _kept_serving(request, staying, (*retired, *surplus), lack)
    removed = (
        *(_remove(replica, ROLLOUT) for replica in retired if replica not in kept),
        *(_remove(replica, SCALE_DOWN) for replica in surplus if replica not in kept),
    )
    actions = (*gone, *drains, *moved, *removed, *_created(request, lack))
    return Progress(actions) if actions else _at_rest(request)


def plan_deletion(*, now: float, spec: ClusterSpec, replicas: tuple[Replica, ...]) -> Outcome:
    """Drain and delete everything; `Complete` when no replica exists any more."""
    request = TransitionRequest(now, spec, replicas, dict.fromkeys(PoolName, 0), {})
    removed = (_remove(replica, CLUSTER_DELETED) for replica in cheapest_first(replicas) if replica.counts)
    nothing = Lack(dict.fromkeys(PoolName, 0), request.targets)
    actions = (*_gone(request), *_drains(request, nothing), *removed)
    return Progress(actions) if actions else _at_rest(request)


def drain_deadline(fenced_at: float, spec: ClusterSpec) -> float:
    """When a replica fenced at `fenced_at` is deleted whatever it holds; seconds on the observation's clock."""
    return fenced_at + spec.drain_deadline_seconds


def waiting_for(replica: Replica) -> str:
    """What the deletion of a leaving replica waits for, in words."""
    if replica.lifecycle is Lifecycle.TERMINATING:
        return "its Pod to end"
    load = replica.load
    if not isinstance(load, ReplicaLoad):
        return f"the routers to answer ({load.message or load.reason})"
    if not load.is_idle:
        return (
            f"{_counted(load.in_flight, 'request')} and {_counted(load.kv_transfers, 'KV transfer')} to end"
        )
    return "its deletion" if load.fence_confirmed else "every router to confirm the fence"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _gone(request: TransitionRequest) -> tuple[Delete | Fence, ...]:
    """Nothing can be in flight on a replica that failed or never served; one that stopped answering drains."""
    actions: list[Delete | Fence] = []
    for replica in request.replicas:
        if replica.lifecycle is Lifecycle.FAILED:
            reason = request.given_up.get(replica.uid, FAILED)
            actions.append(Delete(replica.name, replica.uid, reason))
        elif replica.uid in request.given_up:
            actions.append(_remove(replica, request.given_up[replica.uid]))
    return tuple(actions)


def _remove(replica: Replica, reason: str) -> Delete | Fence:
    """The first step of a removal."""
    kind = Delete if never_served(replica) else Fence
    return kind(replica.name, replica.uid, reason)


def _drains(request: TransitionRequest, lack: Lack) -> tuple[Delete | Unfence | Convert, ...]:
    """Fenced replicas: wanted again, drained, or overdue; `lack` is lowered by those that come back.

    Newest fence first: it has lost the least.
    """
    fenced = [
        (fenced_at, replica)
        for replica in request.replicas
        if (fenced_at := replica.fenced_at) is not None
        and replica.lifecycle not in (Lifecycle.TERMINATING, Lifecycle.FAILED)
    ]
    fenced.sort(key=lambda item: (-item[0], ordinal_of(item[1])))
    overdue = {replica.uid for fenced_at, replica in fenced if _is_overdue(replica, fenced_at, request)}
    back = _taken_back([replica for _, replica in fenced if replica.uid not in overdue], request, lack)
    actions: list[Delete | Unfence | Convert] = []
    for _, replica in fenced:
        if replica.uid in back:
            actions.append(back[replica.uid])
        elif _is_drained(replica):
            actions.append(Delete(replica.name, replica.uid, replica.fence_reason or SCALE_DOWN))
        elif replica.uid in overdue:
            actions.append(Delete(replica.name, replica.uid, DRAIN_DEADLINE, forced=True))
    return tuple(actions)


def _taken_back(
    fenced: list[Replica], request: TransitionRequest, lack: Lack
) -> Mapping[str, Unfence | Convert]:
    """By uid, those that their own pool wants again, then those that another pool can take."""
    back: dict[str, Unfence | Convert] = {}
    able = [replica for replica in fenced if _may_return(replica, request)]
    for replica in able:
        if lack.missing[replica.home] > 0:
            lack.missing[replica.home] -= 1
            back[replica.uid] = Unfence(replica.name, replica.uid, WANTED_AGAIN)
    for replica in able:
        pool = None if replica.uid in back else lack.new_home(replica, request.spec)
        if pool is not None:
            lack.missing[pool] -= 1
            back[replica.uid] = Convert(replica.name, replica.uid, pool, WANTED_ELSEWHERE)
    return back


def _is_overdue(replica: Replica, fenced_at: float, request: TransitionRequest) -> bool:
    """Its deadline has passed, and not only by the clock of a process that has just met the fence."""
    if request.now < drain_deadline(fenced_at, request.spec):
        return False
    least = min(FENCE_SEEN_SECONDS, request.spec.drain_deadline_seconds)
    return replica.fence_seen_at is None or request.now - replica.fence_seen_at >= least


def _may_return(replica: Replica, request: TransitionRequest) -> bool:
    return (
        replica.lifecycle is Lifecycle.READY
        and replica.fence_reason == SCALE_DOWN
        and is_current(replica, request.spec)
    )


def _is_drained(replica: Replica) -> bool:
    """Nothing can be lost any more: it never served, or every router says so."""
    load = replica.load
    return never_served(replica) or (isinstance(load, ReplicaLoad) and load.fence_confirmed and load.is_idle)


def _retired(request: TransitionRequest, staying: tuple[Replica, ...], lack: Lack) -> list[Replica]:
    """Old replicas that never served, those that new ones have replaced, or one that must make room."""
    spec, targets = request.spec, request.targets
    old = [replica for replica in staying if replica.counts and not is_current(replica, spec)]
    if not old:
        return []
    retired = [replica for replica in old if never_served(replica)]
    retired += replaced(spec, staying, targets)
    stuck = any(lack.missing[name] > 0 for name in request.held_back)
    if not retired and not stuck and _lacks_room(request, lack):
        retired = first_to_make_room(spec, staying, targets)
    return retired


def _lacks_room(request: TransitionRequest, lack: Lack) -> bool:
    """New replicas are missing, none fits the budget, and nothing is on its way in or out."""
    if any(
        replica.is_leaving or replica.is_starting or replica.lifecycle is Lifecycle.FAILED
        for replica in request.replicas
    ):
        return False
    free = request.spec.budget_gpus - gpus_held(request.replicas)
    missing = [name for name in _creatable(request) if lack.missing[name] > 0]
    return bool(missing) and all(request.spec.pool(name).gpus_per_replica > free for name in missing)


def _surplus(request: TransitionRequest, lost: set[str]) -> list[Replica]:
    """Pools above target lose their cheapest replicas. Old ones are no surplus: they leave as new ones serve."""
    victims: list[Replica] = []
    for name in PoolName:
        mine = [
            replica
            for replica in request.replicas
            if replica.home is name
            and replica.counts
            and replica.uid not in lost
            and is_current(replica, request.spec)
        ]
        victims += cheapest_first(mine)[: max(0, len(mine) - request.targets[name])]
    return victims


def _kept_serving(
    request: TransitionRequest, staying: tuple[Replica, ...], leaving: tuple[Replica, ...], lack: Lack
) -> tuple[Replica, ...]:
    """When another pool is to take over from the last that serves, one replica stays until it does.

    None stays where the other could never fit beside it.
    """
    going = {replica.uid for replica in leaving}
    serves = any(replica.is_serving and replica.uid not in going for replica in staying)
    if serves or not any(request.targets.values()) or _lacks_room(request, lack):
        return ()
    return tuple(replica for replica in leaving if replica.is_serving)[-1:]


def _created(request: TransitionRequest, lack: Lack) -> tuple[Create, ...]:
    """New replicas, while everything that exists and they fit the budget."""
    free = request.spec.budget_gpus - gpus_held(request.replicas)
    missing = {name: lack.missing[name] for name in _creatable(request)}
    ordinals = _free_ordinals(request.replicas)
    created: list[Create] = []
    while True:
        fitting = [
            name
            for name, count in missing.items()
            if count > 0 and request.spec.pool(name).gpus_per_replica <= free
        ]
        if not fitting:
            return tuple(created)
        # The pool that lacks the most of its target goes first, prefill and decode before mixed among equals: a short
        # budget is shared by need, and pairs come up together.
        name = max(fitting, key=lambda item: missing[item] / request.targets[item])
        gpus = request.spec.pool(name).gpus_per_replica
        created.append(Create(next(ordinals), name, gpus, BELOW_TARGET))
        missing[name] -= 1
        free -= gpus


def _creatable(request: TransitionRequest) -> list[PoolName]:
    return [name for name in PoolName if name not in request.held_back]


def _deficit(request: TransitionRequest, name: PoolName) -> int:
    """New replicas that the pool lacks; old revisions do not count, they are to be replaced."""
    current = sum(
        replica.home is name
        and replica.counts
        and replica.uid not in request.given_up
        and is_current(replica, request.spec)
        for replica in request.replicas
    )
    return max(0, request.targets[name] - current)


def _free_ordinals(replicas: tuple[Replica, ...]) -> Iterator[int]:
    """Lowest first; a name that still exists, also terminating, is never given twice."""
    taken = {ordinal_of(replica) for replica in replicas}
    ordinal = 0
    while True:
        if ordinal not in taken:
            yield ordinal
        ordinal += 1


def _at_rest(request: TransitionRequest) -> Complete | Blocked:
    """Why nothing is to be done: because all is well, or what for."""
    for replica in request.replicas:
        if replica.is_leaving:
            return Blocked("Draining", f"{replica.name}: {waiting_for(replica)}")
    lacking = [name for name in PoolName if _deficit(request, name) > 0]
    for name in lacking:
        if name in request.held_back:
            return Blocked(
                "BackOff", f"{name}: replicas could not be created or started and are tried again later"
            )
    for replica in request.replicas:
        if not replica.is_serving:
            return Blocked("Starting", f"{replica.name} to become ready")
    if lacking:
        name, held = lacking[0], gpus_held(request.replicas)
        return Blocked(
            "BudgetExhausted",
            f"{name} lacks a replica of {request.spec.pool(name).gpus_per_replica} GPUs, "
            f"and {held} of {request.spec.budget_gpus} are held",
        )
    return Complete()

"""From fleet and targets to ordered actions, one step at a time; the next observation shows what happened.

Each call plans what may happen *now*:

    1  gone         delete replicas that failed or were given up
    2  drains       delete what is drained (fence confirmed by every router, nothing in flight, no KV transfer), or
                    overdue (forced); take back fences whose reason has gone
    3  rollout      retire replicas of an old revision or shape as new ones serve
    4  surplus      pools above target: delete replicas that never served, fence the cheapest of the others
    5  deficit      pools below target: create, as long as the GPUs of *all* existing replicas and the new one fit

Shrink before grow is no rule of its own: step 5 counts every replica that still exists, so the receiver of a trade
waits until the giver's GPUs are free. Example: budget 8, two GPUs each, prefill 3 + decode 1, targets 2 + 2. Call 1
fences the least loaded prefill replica. Calls until it is idle: Blocked (draining). Then Delete. When its Pod is gone,
Create for decode. No instant saw more than 8 GPUs.

Rounding of the rollout: an old replica goes only when serving replicas without it still reach the target, and the
last old prefill/decode pair only when a new pair serves. Where the budget has no room for one more replica, one old
replica is drained first; then requests are served by fewer replicas for one boot, never by none of several.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from inferencecluster.core.actions import Action, Create, Delete, Fence, Unfence
from inferencecluster.core.fleet import Lifecycle, PoolName, Replica, ReplicaLoad, gpus_held
from inferencecluster.core.spec import ClusterSpec

SCALE_DOWN: Final = "ScaleDown"
ROLLOUT: Final = "Rollout"
CLUSTER_DELETED: Final = "ClusterDeleted"
SERVED_FIRST: Final = (PoolName.PREFILL, PoolName.DECODE, PoolName.MIXED)
"""Order of creation among equals: nothing is served disaggregated before prefill and decode both exist."""


@dataclass(frozen=True, slots=True)
class TransitionRequest:
    """Everything that a plan looks at."""

    now: float
    spec: ClusterSpec
    replicas: tuple[Replica, ...]
    targets: Mapping[PoolName, int]
    given_up: Mapping[str, str]
    """uid -> reason of replicas to delete because they did not start."""
    deleting: bool = False
    """The cluster is being deleted: everything drains, nothing is taken back."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Something is to be done."""

    actions: tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class Complete:
    """The fleet is what it should be."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """Nothing can be done now; the world has to change first."""

    reason: str
    waiting_for: str


Outcome = Progress | Complete | Blocked


def plan_transition(request: TransitionRequest) -> Outcome:
    """What to do now. Deterministic: equal requests give equal plans."""
    gone = _gone(request)
    drains = _finish_drains(request)
    taken_back = {action.uid for action in drains if isinstance(action, Unfence)}
    retired = _retire_old(request) if not request.deleting else ()
    leaving = {action.uid for action in (*gone, *retired)}
    surplus = _shrink(request, leaving, taken_back)
    created = _grow(request, taken_back) if not request.deleting else ()
    actions = (*gone, *drains, *retired, *surplus, *created)
    if actions:
        return Progress(actions)
    return _waiting(request)


def plan_deletion(*, now: float, spec: ClusterSpec, replicas: tuple[Replica, ...]) -> Outcome:
    """Drain and delete everything; `Complete` when no replica exists any more."""
    targets = dict.fromkeys(PoolName, 0)
    outcome = plan_transition(TransitionRequest(now, spec, replicas, targets, {}, deleting=True))
    if isinstance(outcome, Complete) and replicas:
        return Blocked("Terminating", f"{len(replicas)} replicas to end")
    return outcome


def is_current(replica: Replica, spec: ClusterSpec) -> bool:
    """Of the newest revision and of its pool's present shape."""
    return replica.revision == spec.revision and replica.gpus == spec.pool(replica.home).gpus_per_replica


def drain_deadline(replica: Replica, spec: ClusterSpec) -> float:
    """When a fenced replica is deleted whatever it holds. Raises nothing; unfenced replicas count from creation."""
    since = replica.fenced_at if replica.fenced_at is not None else replica.created_at
    return since + spec.drain_deadline_seconds


def waiting_for(replica: Replica) -> str:
    """What the deletion of a leaving replica waits for, in words."""
    if replica.lifecycle is Lifecycle.TERMINATING:
        return "its Pod to end"
    load = replica.load
    if not isinstance(load, ReplicaLoad):
        return f"the routers to answer ({load.message or load.reason})"
    if not load.is_idle:
        return f"{load.in_flight} requests and {load.kv_transfers} KV transfers to end"
    return "every router to confirm the fence" if not load.fence_confirmed else "its deletion"


def _gone(request: TransitionRequest) -> tuple[Delete, ...]:
    """Nothing is in flight on a replica that failed; one that never started never had anything."""
    return tuple(
        Delete(replica.name, replica.uid, request.given_up.get(replica.uid, "Failed"))
        for replica in request.replicas
        if replica.uid in request.given_up or replica.lifecycle is Lifecycle.FAILED
    )


def _finish_drains(request: TransitionRequest) -> tuple[Delete | Unfence, ...]:
    """Fenced replicas: wanted again, drained, or overdue. Newest fence first: it has lost the least."""
    needed = {name: _deficit(request, name) for name in PoolName}
    actions: list[Delete | Unfence] = []
    fenced = [replica for replica in request.replicas if _is_draining(replica)]
    for replica in sorted(fenced, key=lambda item: (-(item.fenced_at or 0.0), ordinal_of(item))):
        overdue = request.now >= drain_deadline(replica, request.spec)
        if needed[replica.home] > 0 and not overdue and _may_return(replica, request):
            needed[replica.home] -= 1
            actions.append(Unfence(replica.name, replica.uid, "WantedAgain"))
        elif _is_drained(replica):
            actions.append(Delete(replica.name, replica.uid, replica.fence_reason or SCALE_DOWN))
        elif overdue:
            actions.append(Delete(replica.name, replica.uid, "DrainDeadline", forced=True))
    return tuple(actions)


def _is_draining(replica: Replica) -> bool:
    return replica.fenced_at is not None and replica.lifecycle not in (
        Lifecycle.TERMINATING,
        Lifecycle.FAILED,
    )


def _may_return(replica: Replica, request: TransitionRequest) -> bool:
    return (
        not request.deleting
        and replica.lifecycle is Lifecycle.READY
        and replica.fence_reason == SCALE_DOWN
        and is_current(replica, request.spec)
    )


def _is_drained(replica: Replica) -> bool:
    """Nothing can be lost any more: it never served, or every router says so."""
    if replica.ready_at is None and replica.lifecycle in (Lifecycle.PENDING, Lifecycle.STARTING):
        return True
    return isinstance(replica.load, ReplicaLoad) and replica.load.fence_confirmed and replica.load.is_idle


def _retire_old(request: TransitionRequest) -> tuple[Delete | Fence, ...]:
    """Old replicas that new ones have replaced, or one that must make room."""
    old = [
        replica for replica in request.replicas if replica.counts and not is_current(replica, request.spec)
    ]
    if not old:
        return ()
    unserved = [replica for replica in old if _never_served(replica)]
    retired = [Delete(replica.name, replica.uid, ROLLOUT) for replica in unserved]
    serving_old = [replica for replica in old if replica not in unserved]
    replaced = [replica for name in PoolName for replica in _replaced(request, serving_old, name)]
    if not replaced and not retired and _must_make_room(request):
        replaced = _first_to_go(serving_old)
    return (*retired, *(Fence(replica.name, replica.uid, ROLLOUT) for replica in replaced))


def _replaced(request: TransitionRequest, old: list[Replica], name: PoolName) -> list[Replica]:
    """Old replicas of a pool without which the serving ones still reach its target."""
    mine = _cheapest_first(replica for replica in old if replica.home is name)
    spare = _serving_new(request, name) + len(mine) - request.targets[name]
    if name is not PoolName.MIXED and not _new_pair_serves(request):
        spare = min(spare, len(mine) - 1)  # the last old one keeps its old partner useful
    return mine[: max(0, spare)]


def _must_make_room(request: TransitionRequest) -> bool:
    """A new replica is missing, does not fit the budget, and nothing is on its way in or out."""
    if any(replica.is_leaving or replica.is_starting for replica in request.replicas):
        return False
    missing = [name for name in PoolName if _deficit(request, name) > 0]
    free = request.spec.budget_gpus - gpus_held(request.replicas)
    return bool(missing) and all(request.spec.pool(name).gpus_per_replica > free for name in missing)


def _first_to_go(old: list[Replica]) -> list[Replica]:
    """One old replica out of the pool that has the most of them; mixed first among equals, it serves nobody alone."""
    by_pool = {name: _cheapest_first(r for r in old if r.home is name) for name in reversed(SERVED_FIRST)}
    largest = max(by_pool.values(), key=len)
    return largest[:1]


def _serving_new(request: TransitionRequest, name: PoolName) -> int:
    return sum(
        replica.home is name and replica.is_serving and is_current(replica, request.spec)
        for replica in request.replicas
    )


def _new_pair_serves(request: TransitionRequest) -> bool:
    """A prefill and a decode replica of the newest revision serve, as far as these pools should exist."""
    return all(
        _serving_new(request, name) > 0
        for name in (PoolName.PREFILL, PoolName.DECODE)
        if request.targets[name] > 0
    )


def _shrink(
    request: TransitionRequest, leaving: set[str], taken_back: set[str]
) -> tuple[Delete | Fence, ...]:
    """Pools above target lose the cheapest replicas: never served, then unready, then least loaded, newest first."""
    actions: list[Delete | Fence] = []
    for name in PoolName:
        staying = [
            replica
            for replica in request.replicas
            if replica.home is name
            and replica.uid not in leaving
            and (replica.counts or replica.uid in taken_back)
        ]
        surplus = len(staying) - request.targets[name]
        # During a rollout old replicas stand beside new ones on purpose; they leave by step 3.
        victims = [r for r in staying if r.counts and (request.deleting or is_current(r, request.spec))]
        over_new = len(victims) - request.targets[name]
        for replica in _cheapest_first(victims)[: max(0, min(surplus, over_new))]:
            reason = CLUSTER_DELETED if request.deleting else SCALE_DOWN
            kind = Delete if _never_served(replica) else Fence
            actions.append(kind(replica.name, replica.uid, reason))
    return tuple(actions)


def _grow(request: TransitionRequest, taken_back: set[str]) -> tuple[Create, ...]:
    """New replicas, one pool after the other in turn, while everything that exists and they fit the budget."""
    free = request.spec.budget_gpus - gpus_held(request.replicas)
    returned = [replica for replica in request.replicas if replica.uid in taken_back]
    missing = {
        name: _deficit(request, name) - sum(replica.home is name for replica in returned)
        for name in SERVED_FIRST
    }
    ordinals = _free_ordinals(request.replicas)
    created: list[Create] = []
    while True:
        fitting = [
            name
            for name in SERVED_FIRST
            if missing[name] > 0 and request.spec.pool(name).gpus_per_replica <= free
        ]
        if not fitting:
            return tuple(created)
        # The pool that lacks the most of its target goes first, so that a short budget is shared by need.
        name = max(fitting, key=lambda item: missing[item] / request.targets[item])
        gpus = request.spec.pool(name).gpus_per_replica
        created.append(Create(next(ordinals), name, gpus, "BelowTarget"))
        missing[name] -= 1
        free -= gpus


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


def _cheapest_first(replicas: Iterable[Replica]) -> list[Replica]:
    """In the order in which they are given away."""

    def cost(replica: Replica) -> tuple[int, int, float, int]:
        states = (Lifecycle.PENDING, Lifecycle.STARTING, Lifecycle.UNREADY, Lifecycle.READY)
        held = (
            replica.load.in_flight + replica.load.kv_transfers if isinstance(replica.load, ReplicaLoad) else 0
        )
        return states.index(replica.lifecycle), held, -replica.created_at, -ordinal_of(replica)

    return sorted(replicas, key=cost)


def _never_served(replica: Replica) -> bool:
    return replica.ready_at is None and replica.lifecycle in (Lifecycle.PENDING, Lifecycle.STARTING)


def ordinal_of(replica: Replica) -> int:
    """The number in `<cluster>-engine-<n>`; -1 for a name that is not ours."""
    suffix = replica.name.rpartition("-")[2]
    return int(suffix) if suffix.isdecimal() else -1


def _free_ordinals(replicas: tuple[Replica, ...]) -> Iterator[int]:
    """Lowest first; a name that still exists, also terminating, is never given twice."""
    taken = {ordinal_of(replica) for replica in replicas}
    ordinal = 0
    while True:
        if ordinal not in taken:
            yield ordinal
        ordinal += 1


def _waiting(request: TransitionRequest) -> Outcome:
    """Why nothing is to be done: because all is well, or what for."""
    leaving = [replica for replica in request.replicas if replica.is_leaving]
    if leaving:
        first = leaving[0]
        return Blocked("Draining", f"{first.name}: {waiting_for(first)}")
    lacking = [name for name in SERVED_FIRST if _deficit(request, name) > 0]
    if lacking and not request.deleting:
        held = gpus_held(request.replicas)
        return Blocked(
            "BudgetExhausted",
            f"{lacking[0]} lacks a replica of {request.spec.pool(lacking[0]).gpus_per_replica} GPUs, "
            f"and {held} of {request.spec.budget_gpus} are held",
        )
    unready = [replica for replica in request.replicas if not replica.is_serving]
    if unready:
        return Blocked("Starting", f"{unready[0].name} to become ready")
    return Complete()

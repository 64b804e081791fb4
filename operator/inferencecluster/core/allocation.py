"""From wanted to allowed sizes: tolerance, stabilisation, bounds, nodes, and one GPU budget over three pools.

Per pool, in this order; the last step that changed the size is what it is `limited_by`:

    tolerance       a need that is rounded up to the present size give or take 10 % of it changes nothing: 3 replicas
                    stay for needs of 1.7 to 3.3
    metrics         without every source no pool shrinks; without any, sizes hold
    stabilization   the HPA's windows                   (`stabilization`)
    behavior        the HPA's rate limits
    minReplicas, maxReplicas
    nodes, quota, backOff
                    replicas that could not start or be created are not asked for again until their back-off ends;
                    the minimum stays asked for, and the transition holds its creation back
    pair            prefill and decode go to 0 and leave it only together: while one has replicas, the other has one

Then the budget, which pools pass together (`budget`).

Hard limits (budget, bounds, nodes) hold at once, whatever windows and rates say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from inferencecluster.core.budget import ALL, SIZED_BY_DEMAND, TOLERANCE_PERCENT, Sizes, Wish, share
from inferencecluster.core.fleet import Lifecycle, PoolName, Replica
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import PoolCapacity
from inferencecluster.core.replacement import BackOff
from inferencecluster.core.sizing import Wanted
from inferencecluster.core.spec import ClusterSpec, PoolSpec
from inferencecluster.core.stabilization import PoolHistory, rate_limited, stabilized

DEMAND: Final = "demand"
"""Who asks for sizes that `sizing` wants."""


@dataclass(frozen=True, slots=True)
class AllocationMemory:
    """What `allocate` remembers between two decisions; pools that it never saw are absent."""

    pools: Mapping[PoolName, PoolHistory]

    @classmethod
    def empty(cls) -> AllocationMemory:
        """Nothing decided yet: the sizes that are found count as just recommended."""
        return cls(MappingProxyType({}))

    @classmethod
    def restored(cls, targets: Mapping[PoolName, int], now: float) -> AllocationMemory:
        """After a restart, from the published sizes, as if they had just been recommended.

        No pool shrinks before its window has passed again, and a half-done change of size goes on.
        """
        return cls(
            MappingProxyType({name: PoolHistory.starting(size, now) for name, size in targets.items()})
        )


@dataclass(frozen=True, slots=True)
class AllocationRequest:
    """Everything that one decision on sizes looks at."""

    now: float
    spec: ClusterSpec
    replicas: tuple[Replica, ...]
    wanted: tuple[Wanted, Wanted, Wanted] | Missing
    """Prefill, decode, mixed; Missing when demand is: sizes hold."""
    shrink_allowed: bool
    """False while a source is missing (`Demand.complete`)."""
    capacity: tuple[PoolCapacity, ...] | Missing
    back_offs: Mapping[PoolName, BackOff]
    """Pools that wait because replicas could not start or be created; absent means none."""
    is_wake: bool = False
    """A request is held for a cluster that sleeps: one replica of each pool that it needs, whatever windows and rates say."""
    asked_by: str = DEMAND
    """Who wants these sizes, for messages."""


@dataclass(frozen=True, slots=True)
class Target:
    """The size a pool should have now."""

    pool: PoolName
    replicas: int
    wanted: int
    """Before any limit; the present size when demand is missing."""
    limited_by: str
    """`tolerance`, `metrics`, `stabilization`, `behavior`, `minReplicas`, `maxReplicas`, `nodes`, `quota`, `backOff`,
    `pair`, `budget`, `minGpus`, or empty."""
    reason: str
    """What the size was wanted for; where a back-off limits it, what could not start or be created."""
    message: str
    inputs: tuple[tuple[str, float], ...]


def allocate(
    memory: AllocationMemory, request: AllocationRequest
) -> tuple[AllocationMemory, tuple[Target, Target, Target]]:
    """The sizes of prefill, decode and mixed, and the memory for the next decision.

    The GPUs of all targets never exceed the budget. Each target is within its pool's bounds, unless a budget below the
    minimums (`SpecError` elsewhere) forces it lower; `limited_by` tells.
    """
    prefill, decode, mixed = (_wish(memory, request, name) for name in ALL)
    if request.spec.mode in SIZED_BY_DEMAND and (request.is_wake or prefill.replicas or decode.replicas):
        prefill, decode = _paired(prefill), _paired(decode)
        if request.is_wake and prefill.pool.max_replicas == 0:
            mixed = _paired(mixed)
    wishes = (prefill, decode, mixed)
    sizes = share(wishes, request.spec)
    histories = {
        wish.pool.name: wish.history.resize(sizes[wish.pool.name], request.now, request.spec.behavior)
        for wish in wishes
    }
    targets = (
        _target(prefill, sizes, request),
        _target(decode, sizes, request),
        _target(mixed, sizes, request),
    )
    return AllocationMemory(MappingProxyType(histories)), targets


def _wish(memory: AllocationMemory, request: AllocationRequest, name: PoolName) -> Wish:
    """Every limit of one pool but the budget."""
    spec, now, pool = request.spec, request.now, request.spec.pool(name)
    history = memory.pools.get(name)
    is_first = history is None
    if history is None:
        history = PoolHistory.starting(_count(request.replicas, name), now)
    wanted = _wanted(request, name, history.size)
    recommended, limited_by = _recommendation(request, wanted, history.size)
    history = history.recommend(recommended, now, spec.behavior)
    size = needed = recommended
    kept = 0
    if spec.mode in SIZED_BY_DEMAND:
        kept = rate_limited(history, 0, now, spec.behavior)
        size, limited_by = _follow(
            stabilized(history, recommended, now, spec.behavior), "stabilization", size, limited_by
        )
        needed = min(size, history.highest(now - _trade_seconds(spec, pool), recommended))
        size, limited_by = _follow(
            rate_limited(history, size, now, spec.behavior), "behavior", size, limited_by
        )
        if wanted.at_once is not None:
            needed = min(needed, wanted.at_once)
        needed = rate_limited(history, needed, now, spec.behavior)
    size, limited_by = _follow(min(size, pool.max_replicas), "maxReplicas", size, limited_by)
    size, limited_by = _follow(max(size, pool.min_replicas), "minReplicas", size, limited_by)
    back_off, most = request.back_offs.get(name), pool.max_replicas
    if back_off is not None:
        most = max(_held(request.replicas, name, back_off), pool.min_replicas)
        size, limited_by = _follow(min(size, most), back_off.limit, size, limited_by)
    needed = min(max(needed, pool.min_replicas), size)
    kept = min(size, kept if request.shrink_allowed else history.size)
    least = min(pool.min_replicas, size)
    most = min(most, pool.max_replicas)
    return Wish(pool, history, wanted, size, needed, kept, most, least, limited_by, is_first)


def _paired(wish: Wish) -> Wish:
    """With one replica at least: the other base pool alone serves no request in phases.

    After all limits, because windows and rates of the two pools end at different times. A back-off goes on: as with
    a minimum, its replica stays asked for, and is not created before the next try.
    """
    if wish.pool.max_replicas == 0:
        return wish
    least = max(wish.least, 1)
    if wish.replicas:
        return replace(wish, least=least)
    return replace(wish, replicas=1, needed=1, least=least, limited_by=wish.limited_by or "pair")


def _follow(proposed: int, limit: str, size: int, limited_by: str) -> tuple[int, str]:
    """The proposed size, and the limit that it stands for when it differs from `size`."""
    return proposed, limit if proposed != size else limited_by


def _wanted(request: AllocationRequest, name: PoolName, size: int) -> Wanted:
    """What sizing wants, or the present size while demand is missing."""
    if isinstance(request.wanted, Missing):
        unknown = request.wanted.message or request.wanted.reason
        return Wanted(
            name, size, request.wanted.reason, f"{request.asked_by} is unknown ({unknown})", (), float(size)
        )
    return request.wanted[ALL.index(name)]


def _recommendation(request: AllocationRequest, wanted: Wanted, size: int) -> tuple[int, str]:
    """What this decision recommends, and why it is not what sizing wants (or empty)."""
    if wanted.replicas < size and not request.shrink_allowed:
        return size, "metrics"
    is_other = wanted.replicas != size
    if is_other and request.spec.mode in SIZED_BY_DEMAND and _is_tolerable(wanted.need, size):
        return size, "tolerance"
    return wanted.replicas, ""


def _is_tolerable(need: float, size: int) -> bool:
    """`size` is right for needs above `size - 1` and up to `size`; the tolerance, a part of `size`, widens that.

    Looking at whole replicas would leave a pool of less than ten without any tolerance: a need that wavers around a
    whole number would change its size again and again.
    """
    tolerance = size * TOLERANCE_PERCENT / 100
    return need > 0 and size - 1 - tolerance < need <= size + tolerance


def _trade_seconds(spec: ClusterSpec, pool: PoolSpec) -> float:
    """How long a pool must have wanted less before others may take its GPUs.

    A trade costs the receiver a boot, or next to nothing where replicas are converted: what is given away must have been
    idle as long, and in two decisions. Never longer than the user's own window.
    """
    window = spec.behavior.scale_down.stabilization_window_seconds
    cost = 0.0 if pool.interchangeable else spec.boot_seconds
    return min(window, max(cost, 2 * spec.interval_seconds))


def _count(replicas: tuple[Replica, ...], name: PoolName) -> int:
    return sum(replica.counts for replica in replicas if replica.home is name)


def _held(replicas: tuple[Replica, ...], name: PoolName, back_off: BackOff) -> int:
    """Replicas that can stay while the pool backs off: those with a node, or all if merely no more are created."""
    return sum(
        replica.counts and (back_off.is_refusal or replica.lifecycle is not Lifecycle.PENDING)
        for replica in replicas
        if replica.home is name
    )


def _target(wish: Wish, sizes: Sizes, request: AllocationRequest) -> Target:
    """One pool's outcome, explained."""
    size, wanted = sizes[wish.pool.name], wish.wanted.replicas
    limited_by = "" if size == max(wanted, wish.pool.min_replicas) == wanted else wish.limited_by
    if size < wish.replicas and size < max(wanted, wish.pool.min_replicas):
        limited_by = "budget"
    if size > wish.replicas:
        limited_by = "minGpus"
    back_off = request.back_offs.get(wish.pool.name)
    return Target(
        pool=wish.pool.name,
        replicas=size,
        wanted=wanted,
        limited_by=limited_by,
        reason=back_off.reason if back_off and limited_by == back_off.limit else wish.wanted.reason,
        message=_explained(limited_by, wish, size, request),
        inputs=wish.wanted.inputs,
    )


def _explained(limited_by: str, wish: Wish, size: int, request: AllocationRequest) -> str:
    """One sentence for people: what bound the size, and what was asked for."""
    asked = _asked(wish, request)
    if not limited_by:
        return wish.wanted.message
    back_off = request.back_offs.get(wish.pool.name)
    if back_off is None or limited_by != back_off.limit:
        return f"{_bound(limited_by, wish, size, request.spec)}: {asked}"
    if limited_by != "nodes":
        return f"{size} until the next try: {asked}; {back_off.message}"
    held, free = _held(request.replicas, wish.pool.name, back_off), _free(wish.pool.name, request.capacity)
    return f"the nodes hold {held}, {back_off.replicas} more could not be scheduled{free}: {asked}"


def _bound(limited_by: str, wish: Wish, size: int, spec: ClusterSpec) -> str:
    """The limit with its value."""
    direction = "scaleDown" if size > wish.wanted.replicas else "scaleUp"
    return {
        "tolerance": f"{size} is within {TOLERANCE_PERCENT} %",
        "metrics": "no pool shrinks while metrics are missing",
        "stabilization": _window(spec, direction, size),
        "behavior": f"the rate limits of behavior.{direction} allow {size} for now",
        "pair": "one replica, because prefill and decode serve together and the other pool has replicas",
        "minReplicas": f"minReplicas {wish.pool.min_replicas}",
        "maxReplicas": f"maxReplicas {wish.pool.max_replicas}",
        "minGpus": f"budget.minGpus {spec.kept_gpus} keeps {size}",
        "budget": f"the budget of {spec.budget_gpus} GPUs leaves room for {size}",
    }[limited_by]


def _window(spec: ClusterSpec, direction: str, size: int) -> str:
    if math.isinf(spec.behavior.scale_down.stabilization_window_seconds):
        return (
            f"{size} stay until the operator, which has just started, has watched the demand for some minutes"
        )
    return f"the stabilization window of behavior.{direction} holds {size}"


def _asked(wish: Wish, request: AllocationRequest) -> str:
    """Who asks for how many, and why."""
    wanted = wish.wanted
    if isinstance(request.wanted, Missing):
        return f"no {request.asked_by} seen yet" if wish.is_first else wanted.message
    asked = f"{request.asked_by} asks for {wanted.replicas}"
    return f"{asked} ({wanted.message})" if request.asked_by == DEMAND else asked


def _free(name: PoolName, capacity: tuple[PoolCapacity, ...] | Missing) -> str:
    if isinstance(capacity, Missing):
        return ""
    return "".join(
        f" ({item.free_gpus} GPUs are free, at most {item.largest_free_block} on one node)"
        for item in capacity
        if item.pool is name
    )

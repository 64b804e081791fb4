"""One GPU budget over three pools: who gets how many replicas when not all wishes can be met, and who keeps paid GPUs.

The budget is handed out in tiers. Each tier hands out one replica at a time, always to the pool that
lacks the largest share of what the tier wants for it (prefill, decode, mixed among equals), as long as it fits:

    1  minReplicas of all pools, and the pair of one prefill and one decode replica
    2  present sizes, as far as missing signals or the user's rate limits forbid shrinking
    3  what prefill and decode need (between interchangeable pools: for what arrives and waits at this moment); each
       keeps its proportion, so neither starves the other
    4  what mixed needs
    5  what prefill and decode only hold for their stabilisation window, and between interchangeable pools also what they
       only plan for or hold in reserve, present sizes first; the pool whose GPUs are dearer by `scaling.objective`
       (price, or watts) gives way first
    6  the same for mixed
    7  up to the GPUs that are kept anyway: present sizes (between interchangeable pools in proportion to what they need,
       unless that moves a tenth only), then whatever the bounds allow; a pair first, and where it does not fit, mixed only

Tier 5 is the trade: *need* looks back over a short window, so a pool whose demand has gone gives GPUs to a pool that
is short, long before it would shrink by itself. Example: budget 10, one GPU each; prefill needs 8, decode needs 2 and
holds 6. Tier 3 grants 8 and 2, nothing is left to hold: decode releases 4. With a budget of 12 it keeps 4.

Where replicas can be converted, a pool gives in the very decision in which its demand goes, whatever it plans for: plans look
ahead by one boot, and a replica of another pool joins in seconds (`Wanted.at_once`).

Two pools that are both short share by their needs at once, but not for an imbalance of a replica or a tenth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.sharing import burdens, fill_tier
from inferencecluster.core.sizing import Wanted
from inferencecluster.core.spec import ClusterSpec, PoolSpec, ScalingMode
from inferencecluster.core.stabilization import PoolHistory

TOLERANCE_PERCENT: Final = 10
"""The HPA's default tolerance, taken of the need before it is rounded: 10 replicas carry a need of 11, and 2 of 2.2."""

BASE: Final = (PoolName.PREFILL, PoolName.DECODE)
ALL: Final = (PoolName.PREFILL, PoolName.DECODE, PoolName.MIXED)

SIZED_BY_DEMAND: Final = (ScalingMode.AUTOMATIC, ScalingMode.RECOMMEND)
"""In the other modes somebody else has chosen the size: hard limits apply, tolerance and `behavior` do not."""

Sizes = Mapping[PoolName, int]


@dataclass(frozen=True, slots=True)
class Wish:
    """One pool before the budget."""

    pool: PoolSpec
    history: PoolHistory
    wanted: Wanted
    replicas: int
    needed: int
    """Without what is held only for the stabilisation window, or between interchangeable pools only planned; <= `replicas`."""
    kept: int
    """What the pool loses to hard limits only."""
    most: int
    """What hard limits allow."""
    least: int
    """What comes before all else: the minimum, and one while the other base pool has replicas."""
    limited_by: str
    is_first: bool
    """Nothing was decided about the pool before."""


def share(wishes: tuple[Wish, ...], spec: ClusterSpec) -> Sizes:
    """The sizes that the budget allows."""
    fair = _fill(wishes, spec, keep=False)
    robbed = [
        (wish.history.size - fair[wish.pool.name], wish.history.size)
        for wish in wishes
        if wish.pool.name in BASE and fair[wish.pool.name] < wish.history.size <= wish.needed
    ]
    # Both base pools are short: moving a replica or a tenth from one to the other costs a drain and a boot and gains
    # next to nothing. Only a larger imbalance is worth it.
    if robbed and all(loss <= max(1, size * TOLERANCE_PERCENT // 100) for loss, size in robbed):
        return _fill(wishes, spec, keep=True)
    return fair


@dataclass(frozen=True, slots=True)
class _Tier:
    """What some pools get before the next tier's turn."""

    names: tuple[PoolName, ...]
    goals: list[int]
    """Of prefill, decode and mixed."""
    gpus: int | None = None
    """Of all pools together; None for the whole budget."""
    is_held: bool = False
    """Only held for a window."""


def _fill(wishes: tuple[Wish, ...], spec: ClusterSpec, *, keep: bool) -> Sizes:
    """All tiers in turn; with `keep`, base pools first get what they have and need.

    What serves is shared in proportion. What is only held goes by the objective: the dearest GPUs are given up first.
    """
    sizes = dict.fromkeys(ALL, 0)
    paid = min(spec.budget_gpus, spec.kept_gpus) if spec.mode in SIZED_BY_DEMAND else 0
    needed = [
        _Tier(ALL, [min(wish.pool.min_replicas, wish.replicas) for wish in wishes]),
        _Tier(ALL, [wish.least for wish in wishes]),
        _Tier(ALL, [wish.kept for wish in wishes]),
        _Tier(BASE, [min(wish.history.size, wish.needed) if keep else 0 for wish in wishes]),
        _Tier(BASE, [wish.needed for wish in wishes]),
        _Tier(ALL, [wish.needed for wish in wishes]),
    ]
    held = [_Tier(names, [wish.replicas for wish in wishes], is_held=True) for names in (BASE, ALL)]
    present = [min(wish.history.size, wish.most) for wish in wishes]
    if any(wish.pool.interchangeable for wish in wishes):
        # Plans that cannot all be met move nobody to and fro.
        held.insert(0, _Tier(BASE, [min(wish.history.size, wish.replicas) for wish in wishes]))
        present = _in_proportion(wishes, paid, present)
    _raise(sizes, wishes, spec, (*needed, *held))
    # One phase alone would be paid for and serve nobody.
    pair = [min(1, wish.pool.max_replicas) if wish.pool.name in BASE else 0 for wish in wishes]
    paired = [max(sizes[wish.pool.name], one) for wish, one in zip(wishes, pair, strict=True)]
    names = ALL if _gpus(wishes, paired) <= paid else (PoolName.MIXED,)
    kept = [_Tier(names, goals, gpus=paid) for goals in (pair, present, [wish.most for wish in wishes])]
    _raise(sizes, wishes, spec, kept)
    return sizes


def _gpus(wishes: tuple[Wish, ...], sizes: Iterable[int]) -> int:
    return sum(size * wish.pool.gpus_per_replica for wish, size in zip(wishes, sizes, strict=True))


def _raise(
    sizes: dict[PoolName, int], wishes: tuple[Wish, ...], spec: ClusterSpec, tiers: Iterable[_Tier]
) -> None:
    """One tier after the other."""
    for tier in tiers:
        members = [
            (wish.pool, goal)
            for wish, goal in zip(wishes, tier.goals, strict=True)
            if wish.pool.name in tier.names
        ]
        taken = _gpus(wishes, (sizes[wish.pool.name] for wish in wishes))
        gpus = spec.budget_gpus if tier.gpus is None else tier.gpus
        fill_tier(sizes, members, free=gpus - taken, burden=burdens(spec) if tier.is_held else None)


def _in_proportion(wishes: tuple[Wish, ...], gpus: int, present: list[int]) -> list[int]:
    """Sizes that would fill `gpus` with every pool as far above what it needs as the others; `present` if that nearly does."""
    needs = [min(wish.wanted.need, wish.replicas) for wish in wishes]
    needed = sum(need * wish.pool.gpus_per_replica for need, wish in zip(needs, wishes, strict=True))
    if needed <= 0:
        return present
    fair = [min(math.ceil(need * gpus / needed), wish.most) for need, wish in zip(needs, wishes, strict=True)]
    is_near = all(
        abs(goal - size) <= size * TOLERANCE_PERCENT // 100 for goal, size in zip(fair, present, strict=True)
    )
    return present if is_near else fair

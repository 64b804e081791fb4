"""Which replicas of an older revision, shape or template may go now: prefill and decode leave in step, as new pairs serve.

Prefill and decode of one revision only talk to each other, so a new prefill replica relieves nobody before a new
decode replica serves. The share that the new revision serves is that of its weaker phase,

    share = min(new prefill / prefill target, new decode / decode target)

and each base pool keeps ceil(target * (1 - share)) old replicas: rounded up, so that the old revision has a pair as long
as it is needed at all. Mixed replicas need no partner: old and new ones together reach the target.

Example: targets 4 + 2, all old. One new prefill replica serves: share 0, nobody goes. A new decode replica joins: share
1/4, one old prefill replica goes and both old decode replicas stay (2 * 3/4 rounds up to 2). With 2 + 1 new ones: share
1/2, old 2 + 1 remain. With 4 + 2: none.

Where only a pool's shape or template changed, all replicas are of one revision and every pair stays one: like mixed
replicas, old ones of that pool go one for one as new ones serve, whatever the other pools do.

Where the budget has no room for one more replica, one old replica makes room: of the pool with the most to spare, and
only when every replica of the new revision serves, so that a revision that does not work takes nothing away.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

from inferencecluster.core.fleet import PoolName, Replica
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.core.victims import cheapest_first, is_current, never_served

_PARTNER = {PoolName.PREFILL: PoolName.DECODE, PoolName.DECODE: PoolName.PREFILL}
_GIVES_WAY = (PoolName.MIXED, PoolName.DECODE, PoolName.PREFILL)
"""Among pools that can spare as much: mixed goes first because others can serve whole requests too."""


def replaced(
    spec: ClusterSpec, replicas: tuple[Replica, ...], targets: Mapping[PoolName, int]
) -> list[Replica]:
    """Old replicas whose work the new revision already does. Those that never served are not among them."""
    share = _share_served(spec, replicas, targets)
    in_pairs = any(replica.counts and replica.revision != spec.revision for replica in replicas)
    gone: list[Replica] = []
    for name in PoolName:
        old = _old(spec, replicas, name)
        target = targets[name]
        kept = (
            math.ceil(target * (1 - share))
            if name in _PARTNER and in_pairs
            else max(0, target - _serving_new(spec, replicas, name))
        )
        gone += old[: max(0, len(old) - kept)]
    return gone


def first_to_make_room(
    spec: ClusterSpec, replicas: tuple[Replica, ...], targets: Mapping[PoolName, int]
) -> list[Replica]:
    """The old replica that drains so that a new one fits, or none while the new revision does not serve."""
    if any(replica.counts and is_current(replica, spec) and not replica.is_serving for replica in replicas):
        return []
    pools = {name: _old(spec, replicas, name) for name in _GIVES_WAY}

    def can_spare(name: PoolName) -> tuple[int, int]:
        old = len(pools[name])
        return old + _serving_new(spec, replicas, name) - targets[name], old

    with_old = [name for name in _GIVES_WAY if pools[name]]
    return pools[max(with_old, key=can_spare)][:1] if with_old else []


def _share_served(
    spec: ClusterSpec, replicas: tuple[Replica, ...], targets: Mapping[PoolName, int]
) -> Fraction:
    """What part of the disaggregated work replicas of the newest revision can do, 0 to 1."""
    needed = [name for name in _PARTNER if targets[name] > 0]
    shares = [Fraction(_serving_new(spec, replicas, name), targets[name]) for name in needed]
    return min([Fraction(1), *shares])


def _serving_new(spec: ClusterSpec, replicas: tuple[Replica, ...], name: PoolName) -> int:
    return sum(
        replica.home is name and replica.is_serving and is_current(replica, spec) for replica in replicas
    )


def _old(spec: ClusterSpec, replicas: tuple[Replica, ...], name: PoolName) -> list[Replica]:
    """A pool's old replicas in the order in which they go: unready ones, those without a partner, cheapest ones."""
    serving = [replica for replica in replicas if replica.is_serving]
    revisions = Counter(replica.revision for replica in serving)
    partners = {replica.revision for replica in serving if replica.home is _PARTNER.get(name)}
    mine = (
        replica
        for replica in replicas
        if replica.home is name
        and replica.counts
        and not is_current(replica, spec)
        and not never_served(replica)
    )
    return sorted(
        cheapest_first(mine),
        # Of several old revisions the smallest goes first, in both pools: no pair is broken for one that stays.
        key=lambda replica: (
            replica.is_serving,
            replica.revision in partners,
            revisions[replica.revision],
            replica.revision,
        ),
    )

"""Where the router's line would stand if requests queued at engines, as in the systems that policies were published for.

Those bind a request to its replicas when it comes, so that what waits stands in the engines' own queues and shows in
their metrics. The router here binds late (docs/decisions/0001): what waits stands in one line before all pools, which no
engine counts. Policies are shown it as queues of the pool that it waits for, in equal parts, once for all of them. The
product sees the line itself (`core.observation`).
"""

from __future__ import annotations

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.routing import HoldReason
from inferencecluster.core.spec import ClusterSpec


def sized_pools(spec: ClusterSpec) -> tuple[PoolName, ...]:
    """The pools that a policy sizes, and that requests wait for: base pools that are on, else mixed."""
    base = tuple(name for name in (PoolName.PREFILL, PoolName.DECODE) if spec.pool(name).max_replicas > 0)
    return base or (PoolName.MIXED,)


def stands_before(reason: HoldReason, spec: ClusterSpec) -> PoolName:
    """The pool whose engines would queue what is held for `reason`.

    Only where prompts have room is it decode's: their prompts would be done by now. Whoever waits for both phases waits
    for the first.
    """
    pools = sized_pools(spec)
    short = PoolName.DECODE if reason is HoldReason.DECODE_FULL else PoolName.PREFILL
    return short if short in pools else pools[0]


def in_equal_parts(total: int, count: int) -> list[int]:
    """`total` as `count` whole numbers, larger ones first, none more than 1 above another."""
    part, rest = divmod(total, count)
    return [part + (number < rest) for number in range(count)]

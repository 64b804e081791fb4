"""Which replicas may move to another pool without a restart, and which of them do.

A home is a label: where pools are interchangeable, the replica that one of them has too many is the one that another
lacks. It moves with one write, keeps what it holds, and gets work of its new pool as soon as the routers see the label.
Serving replicas move first, because they help at once; among equals the cheapest ones.

Example: prefill 3 + decode 1, targets 2 + 2. One prefill replica becomes a decode replica, and nothing drains or boots.
Mixed 1, targets 1 + 1: a decode replica boots, and the mixed one, which serves meanwhile, then becomes a prefill replica.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from inferencecluster.core.fleet import Lifecycle, PoolName, Replica
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.core.victims import never_served

_SERVED_BY: Final = (
    frozenset({PoolName.PREFILL, PoolName.MIXED}),
    frozenset({PoolName.DECODE, PoolName.MIXED}),
)
"""Homes whose replicas serve the prompt phase, and those for the token phase."""

Move = tuple[Replica, PoolName]
"""A replica and its new home."""


def may_convert(replica: Replica, spec: ClusterSpec, pool: PoolName) -> bool:
    """Its Pod is what the other pool's would be, and it serves or will serve.

    A replica that does not tell its template is of an operator that knew no conversion: its engine may refuse phases.
    """
    home, other = spec.pool(replica.home), spec.pool(pool)
    return (
        replica.home is not pool
        and home.interchangeable
        and other.interchangeable
        and replica.template == home.template == other.template
        and replica.revision == spec.revision
        and replica.gpus == other.gpus_per_replica
        and (replica.lifecycle is Lifecycle.READY or never_served(replica))
    )


@dataclass(frozen=True, slots=True)
class Lack:
    """What pools miss, counted down as replicas are found for them."""

    missing: dict[PoolName, int]
    targets: Mapping[PoolName, int]

    def new_home(self, replica: Replica, spec: ClusterSpec) -> PoolName | None:
        """The pool that the replica may move to and that lacks the largest share of its target, or None."""
        able = [
            name for name, count in self.missing.items() if count > 0 and may_convert(replica, spec, name)
        ]
        return max(able, key=lambda name: self.missing[name] / self.targets[name], default=None)


@dataclass(frozen=True, slots=True)
class Conversions:
    """Replicas of a surplus for which nobody drains and nobody boots."""

    moves: tuple[Move, ...]
    """Now."""
    later: tuple[Replica, ...]
    """As soon as another replica serves the phase that only these serve."""


def conversions(
    spec: ClusterSpec, replicas: Iterable[Replica], surplus: Sequence[Replica], lack: Lack
) -> Conversions:
    """Which of `surplus` (cheapest first) move, and where to; `lack` is lowered by them.

    `replicas` are all that stay or are surplus. No phase that is wanted loses the last replica that serves it.
    """
    homes = {replica.uid: replica.home for replica in replicas if replica.is_serving}
    wanted = _phases({name for name, target in lack.targets.items() if target > 0})
    moves: list[Move] = []
    later: list[Replica] = []
    for replica in sorted(surplus, key=lambda item: not item.is_serving):
        pool = lack.new_home(replica, spec)
        if pool is None:
            continue
        lack.missing[pool] -= 1
        moved = {**homes, replica.uid: pool} if replica.is_serving else homes
        if wanted & _phases({*homes.values()}) <= _phases({*moved.values()}):
            homes = moved
            moves.append((replica, pool))
        else:
            later.append(replica)
    return Conversions(tuple(moves), tuple(later))


def _phases(homes: set[PoolName]) -> set[frozenset[PoolName]]:
    """Those that replicas of these homes serve."""
    return {able for able in _SERVED_BY if able & homes}

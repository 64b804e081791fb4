"""Which replicas serve a request: Splitwise's cluster-level scheduler (ISCA'24, section IV-A), one call per request.

    1. own pools     the prefill replica with the fewest pending prompt tokens and the decode replica with the
                     least KV memory in use, chosen together and of one revision
    2. mixed pool    the whole request on one replica, when a phase of (1) has no replica with room
    3. borrow        the whole request on a replica of the opposite pool, which returns by itself when its last
                     whole request ends; replicas that are borrowed already come first, so that few are disturbed
    4. hold          nobody may take it now: it waits in the router (docs/decisions/0001)

A request that cannot be split starts at 2.

A prefill replica has room for a prompt while what waits there is within its pool's `queue_tokens`: a long prompt waits no
longer than a short one, and its own length is no reason to disturb others. On a mixed or borrowed replica, where streams wait
for it, the prompt counts, too, and no queue is longer than on a mixed one. There is room for the token phase while batch and
KV memory hold it. A replica without any work takes whatever comes: a request larger than every engine is the engine's to
refuse. An empty pool is a pool without room.

`replica_views.Fleet` keeps the replicas in the orders that decisions need, so that a decision does not look at all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.lending import lends
from inferencecluster.core.replica_views import Fleet, ReplicaView, decode_key, prefill_key
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.core.token_budget import queue_tokens


@dataclass(frozen=True, slots=True)
class RoutingRequest:
    """What a decision needs to know about a request."""

    prompt_tokens: int
    expected_output_tokens: int
    excluded: frozenset[str] = frozenset()
    """Names of replicas that failed this request already."""
    whole: bool = False
    """It cannot be split into phases: several prompts, or several answers to one."""
    model: str | None = None
    """Only revisions that answer to this name, or whose name is not known, may serve it; None: all may."""


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """Settings of the cluster that routing follows."""

    queue_tokens: Mapping[PoolName, int]
    """Pending prompt tokens above which a replica's queue is too long, by its home."""
    keeps_streams: bool = False
    """Decode replicas with streams are not borrowed: beside prompts every stream would miss its ITL (`lending.lends`)."""

    @classmethod
    def of(cls, spec: ClusterSpec) -> RoutingPolicy:
        """What the user chose for all pools, or else what each pool's replicas work off in time."""
        keeps_streams = not lends(spec.pool(PoolName.DECODE), itl_seconds=spec.slo.itl_seconds)
        if spec.overflow_tokens is not None:
            return replace(cls.alike(spec.overflow_tokens), keeps_streams=keeps_streams)
        limits = {
            pool.name: queue_tokens(
                pool.iterates_like,
                pool.performance,
                ttft_seconds=spec.slo.ttft_seconds,
                itl_seconds=spec.slo.itl_seconds,
            )
            for pool in spec.pools
        }
        return cls(MappingProxyType(limits), keeps_streams)

    @classmethod
    def alike(cls, tokens: int) -> RoutingPolicy:
        """The same for every pool."""
        return cls(MappingProxyType(dict.fromkeys(PoolName, tokens)))


class HoldReason(StrEnum):
    """Why a request waits."""

    NO_REPLICA = "NoReplica"
    """No replica serves that has not failed this request."""
    PREFILL_FULL = "PrefillFull"
    """Every prefill queue is too long, or there is none, and nobody else has room for the whole request."""
    DECODE_FULL = "DecodeFull"
    """No decode replica has memory and batch left, or there is none, and nobody else has room for the whole."""
    ALL_FULL = "AllFull"
    """Both."""


@dataclass(frozen=True, slots=True)
class Disaggregated:
    """Prompt phase on `prefill`, token phase on `decode`: names of replicas of one revision."""

    prefill: str
    decode: str


@dataclass(frozen=True, slots=True)
class Whole:
    """Both phases on `replica`."""

    replica: str
    borrowed: bool
    """Its home is not mixed."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Nobody may take the request now."""

    reason: HoldReason


Decision = Disaggregated | Whole | Hold


@dataclass(frozen=True, slots=True)
class _Rooms:
    """Whether replicas may take one request."""

    request: RoutingRequest
    policy: RoutingPolicy

    def for_prefill(self, view: ReplicaView) -> bool:
        if view.name in self.request.excluded:
            return False
        return view.pending_prefill_tokens <= self.policy.queue_tokens[view.home]

    def for_whole(self, view: ReplicaView) -> bool:
        """Both phases. Its own prompt counts: streams there wait for it, and another replica may be free before it starts.

        A prefill replica must have few prompts, as if it were a mixed one: each token of a stream waits for an iteration of them.
        """
        is_streaming = view.home is PoolName.DECODE and view.decoding_sequences > view.mixed_requests
        if is_streaming and self.policy.keeps_streams:
            return False
        pending, tokens = view.pending_prefill_tokens, self.policy.queue_tokens
        limit = min(tokens[view.home], tokens[PoolName.MIXED])
        is_short = pending == 0 or pending + self.request.prompt_tokens <= limit
        return is_short and self.for_decode(view)

    def for_decode(self, view: ReplicaView) -> bool:
        if view.name in self.request.excluded:
            return False
        if view.resident_kv_tokens == 0:
            return True
        needed = self.request.prompt_tokens + self.request.expected_output_tokens
        return (
            view.decoding_sequences < view.max_batch_size
            and view.resident_kv_tokens + needed <= view.kv_capacity_tokens
        )


def route(request: RoutingRequest, fleet: Fleet, policy: RoutingPolicy) -> Decision:
    """Where to send a request now. Equal fleets give equal decisions: ties go to the name that sorts first."""
    rooms = _Rooms(request, policy)
    own = [_own_pools(fleet, revision, rooms) for revision in fleet.revisions_for(request.model)]
    return (
        (None if request.whole else _best_pair(own))
        or _best_mixed(fleet, rooms)
        or _best_borrowed(fleet, rooms)
        or Hold(_why_held(fleet, own, request))
    )


@dataclass(frozen=True, slots=True)
class _OwnPools:
    """The best replica of each phase's own pool in one revision, where one has room."""

    prefill: ReplicaView | None
    decode: ReplicaView | None


def _own_pools(fleet: Fleet, revision: str, rooms: _Rooms) -> _OwnPools:
    prompts = fleet.shortest_queue(PoolName.PREFILL, revision)
    tokens = fleet.most_memory(PoolName.DECODE, revision)
    return _OwnPools(
        prefill=next((view for view in prompts if rooms.for_prefill(view)), None),
        decode=next((view for view in tokens if rooms.for_decode(view)), None),
    )


def _best_pair(own: Iterable[_OwnPools]) -> Disaggregated | None:
    """Across revisions: pairs without borrowed replicas, then the shortest prefill queue, then the emptiest decode."""
    pairs = [
        (
            pools.prefill.borrowed + pools.decode.borrowed,
            prefill_key(pools.prefill),
            decode_key(pools.decode),
        )
        for pools in own
        if pools.prefill and pools.decode
    ]
    if not pairs:
        return None
    _, prefill, decode = min(pairs)
    return Disaggregated(prefill[-1], decode[-1])


def _best_mixed(fleet: Fleet, rooms: _Rooms) -> Whole | None:
    found = [
        prefill_key(view)
        for revision in fleet.revisions_for(rooms.request.model)
        if (view := _with_room(fleet.shortest_queue(PoolName.MIXED, revision), rooms))
    ]
    return Whole(min(found)[-1], borrowed=False) if found else None


def _best_borrowed(fleet: Fleet, rooms: _Rooms) -> Whole | None:
    """A replica of the opposite pool. The phase that lacks room lacks it on its own replicas for whole requests, too,
    so that looking at both pools finds the lender. Across revisions: a borrowed one, then the emptiest.
    """
    found = [
        (not view.borrowed, view.kv_share, view.pending_prefill_tokens, view.name)
        for revision in fleet.revisions_for(rooms.request.model)
        for home in (PoolName.DECODE, PoolName.PREFILL)
        if (view := _with_room(fleet.to_borrow(home, revision), rooms))
    ]
    return Whole(min(found)[-1], borrowed=True) if found else None


def _with_room(views: Iterator[ReplicaView], rooms: _Rooms) -> ReplicaView | None:
    """The first with room for both phases."""
    return next((view for view in views if rooms.for_whole(view)), None)


def _why_held(fleet: Fleet, own: Iterable[_OwnPools], request: RoutingRequest) -> HoldReason:
    if not fleet.serves(request.excluded, request.model):
        return HoldReason.NO_REPLICA
    found = list(own)
    if any(pools.decode for pools in found):
        return HoldReason.PREFILL_FULL
    if any(pools.prefill for pools in found):
        return HoldReason.DECODE_FULL
    return HoldReason.ALL_FULL

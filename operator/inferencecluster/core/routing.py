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
for it, the prompt counts, too; a prefill replica is borrowed only without any prompts. There is room for the token phase while batch and KV memory hold it. A replica without any work
takes whatever comes: a request larger than every engine is the engine's to refuse. An empty pool is a pool without room.

`Fleet` keeps the replicas in the orders that decisions need, so that a decision does not look at all of them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from types import MappingProxyType
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.core.token_budget import queue_tokens


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One replica as its router sees it. Counts include what is assigned and not yet sent."""

    name: str
    home: PoolName
    revision: str
    serving: bool
    """Ready, not fenced, not ejected."""
    pending_prefill_tokens: int
    """Prompt tokens assigned whose prefill has not ended."""
    resident_kv_tokens: int
    """Context tokens in KV memory plus those reserved for what is on its way: prompt and expected output."""
    kv_capacity_tokens: int
    """At least 1."""
    max_batch_size: int
    decoding_sequences: int
    """Requests in their token phase, or on their way to it."""
    mixed_requests: int
    """Requests served whole here."""
    model: str = ""
    """The name that it answers to, one for all replicas of a revision; empty where it is not known."""

    @property
    def borrowed(self) -> bool:
        """It does mixed work although its home is prefill or decode; it returns when that work ends."""
        return self.home is not PoolName.MIXED and self.mixed_requests > 0

    @property
    def kv_share(self) -> float:
        """Share of its KV memory that is in use or reserved."""
        return self.resident_kv_tokens / self.kv_capacity_tokens


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

    @classmethod
    def of(cls, spec: ClusterSpec) -> RoutingPolicy:
        """What the user chose for all pools, or else what each pool's replicas work off in time."""
        if spec.overflow_tokens is not None:
            return cls.alike(spec.overflow_tokens)
        limits = {
            pool.name: queue_tokens(
                pool.iterates_like,
                pool.performance,
                ttft_seconds=spec.slo.ttft_seconds,
                itl_seconds=spec.slo.itl_seconds,
            )
            for pool in spec.pools
        }
        return cls(MappingProxyType(limits))

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

_PREFILL_KEY = tuple[bool, int, float, str]
_DECODE_KEY = tuple[bool, float, int, str]
_BORROWED: Final = (True,)
"""Sorts in front of every borrowed replica and behind all others."""


def _prefill_key(view: ReplicaView) -> _PREFILL_KEY:
    # Mixed replicas decode what they prefill: with equal queues the one with the most memory left goes first.
    decoding = view.kv_share if view.home is PoolName.MIXED else 0.0
    return (view.borrowed, view.pending_prefill_tokens, decoding, view.name)


def _decode_key(view: ReplicaView) -> _DECODE_KEY:
    return (view.borrowed, view.kv_share, view.decoding_sequences, view.name)


@dataclass(slots=True)
class _Bucket:
    """Serving replicas of one revision and home, shortest queue first; borrowed ones behind the others."""

    by_pending: list[_PREFILL_KEY] = field(default_factory=list)
    by_memory: list[_DECODE_KEY] = field(default_factory=list)
    keys: dict[str, tuple[_PREFILL_KEY, _DECODE_KEY]] = field(default_factory=dict)
    """Where each replica stands in the two orders."""

    def add(self, view: ReplicaView) -> None:
        pending, memory = self.keys[view.name] = _prefill_key(view), _decode_key(view)
        insort(self.by_pending, pending)
        insort(self.by_memory, memory)

    def discard(self, name: str) -> None:
        pending, memory = self.keys.pop(name)
        del self.by_pending[bisect_left(self.by_pending, pending)]
        del self.by_memory[bisect_left(self.by_memory, memory)]

    def replace(self, view: ReplicaView) -> None:
        """Most changes move a replica in one of the two orders only."""
        pending, memory = self.keys[view.name]
        moved_pending, moved_memory = _prefill_key(view), _decode_key(view)
        self.keys[view.name] = moved_pending, moved_memory
        if pending != moved_pending:
            del self.by_pending[bisect_left(self.by_pending, pending)]
            insort(self.by_pending, moved_pending)
        if memory != moved_memory:
            del self.by_memory[bisect_left(self.by_memory, memory)]
            insort(self.by_memory, moved_memory)


class Fleet:
    """The replicas of one cluster, kept in order as they change: O(log n) comparisons per change."""

    def __init__(self, views: Iterable[ReplicaView] = ()) -> None:
        self._views: dict[str, ReplicaView] = {}
        self._buckets: dict[tuple[str, PoolName], _Bucket] = {}
        self._revisions: list[str] = []
        self._models: dict[str, str] = {}  # by revision, where known
        self._revisions_for: dict[str, list[str]] = {}  # by model, until revisions come or go
        for view in views:
            self.put(view)

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[ReplicaView]:
        return iter(self._views.values())

    def get(self, name: str) -> ReplicaView | None:
        """The replica called `name`."""
        return self._views.get(name)

    def put(self, view: ReplicaView) -> None:
        """Add a replica, or replace what was known of the one of that name."""
        known = self._views.get(view.name)
        if (
            known
            and known.serving
            and view.serving
            and known.home is view.home
            and known.revision == view.revision
            and known.model == view.model
        ):
            self._views[view.name] = view
            self._buckets[view.revision, view.home].replace(view)
            return
        self.remove(view.name)
        self._views[view.name] = view
        if not view.serving:
            return
        key = (view.revision, view.home)
        if view.model and self._models.get(view.revision) != view.model:
            self._models[view.revision] = view.model
            self._revisions_for.clear()
        if key not in self._buckets:
            self._buckets[key] = _Bucket()
            self._see_revisions()
        self._buckets[key].add(view)

    def remove(self, name: str) -> None:
        """Forget a replica; nothing happens when it is not known."""
        view = self._views.pop(name, None)
        if view is None or not view.serving:
            return
        key = (view.revision, view.home)
        bucket = self._buckets[key]
        bucket.discard(name)
        if not bucket.by_pending:
            # Revisions come and go with rollouts: an emptied bucket must not stay for ever.
            del self._buckets[key]
            self._see_revisions()

    @property
    def revisions(self) -> list[str]:
        """Revisions of the serving replicas, in order."""
        return self._revisions

    @property
    def models(self) -> frozenset[str]:
        """The names to which serving replicas answer, as far as they are known."""
        return frozenset(self._models.values())

    def revisions_for(self, model: str | None) -> list[str]:
        """Those of `revisions` that may serve requests for `model`."""
        if model is None:
            return self._revisions
        found = self._revisions_for.get(model)
        if found is None:
            able = [name for name in self._revisions if self._models.get(name, model) == model]
            found = self._revisions_for[model] = able
        return found

    def serves(self, excluded: frozenset[str], model: str | None = None) -> bool:
        """Some replica serves `model` that is not excluded."""
        revisions = self.revisions_for(model)
        if not excluded:
            return bool(revisions)
        return any(v.serving and v.name not in excluded and v.revision in revisions for v in self)

    def _see_revisions(self) -> None:
        """Revisions have come or gone."""
        self._revisions = sorted({revision for revision, _ in self._buckets})
        self._models = {name: model for name, model in self._models.items() if name in self._revisions}
        self._revisions_for.clear()

    def shortest_queue(self, home: PoolName, revision: str) -> Iterator[ReplicaView]:
        """Serving replicas of one pool and revision by pending tokens; borrowed ones last."""
        bucket = self._buckets.get((revision, home))
        return (self._views[key[-1]] for key in bucket.by_pending) if bucket else iter(())

    def most_memory(self, home: PoolName, revision: str) -> Iterator[ReplicaView]:
        """Serving replicas of one pool and revision by the share of KV memory in use; borrowed ones last."""
        bucket = self._buckets.get((revision, home))
        return (self._views[key[-1]] for key in bucket.by_memory) if bucket else iter(())

    def to_borrow(self, home: PoolName, revision: str) -> Iterator[ReplicaView]:
        """Serving replicas in the order in which to borrow them: borrowed ones first.

        Decode replicas by pending tokens, prefill replicas by KV memory: by what the other phase adds to them.
        """
        bucket = self._buckets.get((revision, home))
        if bucket is None:
            return iter(())
        keys: list[_PREFILL_KEY] | list[_DECODE_KEY]
        keys = bucket.by_pending if home is PoolName.DECODE else bucket.by_memory
        start = bisect_left(keys, _BORROWED)
        positions = chain(range(start, len(keys)), range(start))
        return (self._views[keys[position][-1]] for position in positions)


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

        A prefill replica must have no prompts: its iterations are long, and every token of a stream would wait for one.
        """
        pending = view.pending_prefill_tokens
        limit = 0 if view.home is PoolName.PREFILL else self.policy.queue_tokens[view.home]
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
            _prefill_key(pools.prefill),
            _decode_key(pools.decode),
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
        _prefill_key(view)
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

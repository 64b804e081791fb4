"""Replicas as a router sees them, in the orders that its decisions need (`routing`).

A decision takes the first replica with room instead of looking at all of them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from inferencecluster.core.fleet import PoolName


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


PrefillKey = tuple[bool, int, float, str]
DecodeKey = tuple[bool, float, int, str]
_BORROWED: Final = (True,)
"""Sorts in front of every borrowed replica and behind all others."""


def prefill_key(view: ReplicaView) -> PrefillKey:
    """Shortest queue first; its last part is the replica's name."""
    # Mixed replicas decode what they prefill: with equal queues the one with the most memory left goes first.
    decoding = view.kv_share if view.home is PoolName.MIXED else 0.0
    return (view.borrowed, view.pending_prefill_tokens, decoding, view.name)


def decode_key(view: ReplicaView) -> DecodeKey:
    """Most memory left first; its last part is the replica's name."""
    return (view.borrowed, view.kv_share, view.decoding_sequences, view.name)


@dataclass(slots=True)
class _Bucket:
    """Serving replicas of one revision and home, shortest queue first; borrowed ones behind the others."""

    by_pending: list[PrefillKey] = field(default_factory=list)
    by_memory: list[DecodeKey] = field(default_factory=list)
    keys: dict[str, tuple[PrefillKey, DecodeKey]] = field(default_factory=dict)
    """Where each replica stands in the two orders."""

    def add(self, view: ReplicaView) -> None:
        pending, memory = self.keys[view.name] = prefill_key(view), decode_key(view)
        insort(self.by_pending, pending)
        insort(self.by_memory, memory)

    def discard(self, name: str) -> None:
        pending, memory = self.keys.pop(name)
        del self.by_pending[bisect_left(self.by_pending, pending)]
        del self.by_memory[bisect_left(self.by_memory, memory)]

    def replace(self, view: ReplicaView) -> None:
        """Most changes move a replica in one of the two orders only."""
        pending, memory = self.keys[view.name]
        moved_pending, moved_memory = prefill_key(view), decode_key(view)
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
    def models(self) -> frozenset[str]:
        """The names to which serving replicas answer, as far as they are known."""
        return frozenset(self._models.values())

    def revisions_for(self, model: str | None) -> list[str]:
        """Revisions of the serving replicas, in order, that may serve requests for `model`; of all models where it is None."""
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
        keys: list[PrefillKey] | list[DecodeKey]
        keys = bucket.by_pending if home is PoolName.DECODE else bucket.by_memory
        start = bisect_left(keys, _BORROWED)
        positions = chain(range(start, len(keys)), range(start))
        return (self._views[keys[position][-1]] for position in positions)

"""What this router holds on each replica, and the fleet that routing decides on.

Work is booked when it is assigned, before it is sent: a fenced replica is idle only when nothing is on its way to
it either.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.replica_views import Fleet, ReplicaView
from inferencecluster.core.routing import Disaggregated, Whole
from inferencecluster.router.sources import ReplicaRecord

FIRST_EJECTION_SECONDS: Final = 1.0
"""Long enough for its Pod to turn unready when the engine is gone, short enough to forgive a hiccup."""
LONGEST_EJECTION_SECONDS: Final = 30.0
"""Readiness and the operator take over by then; a replica that came back waits half a minute at most."""
ERRORS_TO_EJECT: Final = 2
"""Failures in a row that eject: answers with an error, or none in time. One may be the request's own fault; a replica that cannot
be reached goes at once."""

_logger: Final = logging.getLogger(__name__)


class PathKind(StrEnum):
    """How a request is served."""

    DISAGGREGATED = "disaggregated"
    MIXED = "mixed"
    BORROWED = "borrowed"


class Entry:
    """One replica and the work that this router holds on it."""

    __slots__ = (
        "decoding",
        "ejected",
        "ejections",
        "errors",
        "in_flight",
        "kv_transfers",
        "mixed_requests",
        "pending_prefill_tokens",
        "prefills",
        "record",
        "reserved_kv_tokens",
        "sequences",
    )

    def __init__(self, record: ReplicaRecord) -> None:
        self.record = record
        self.pending_prefill_tokens = 0
        self.reserved_kv_tokens = 0
        """Prompt and expected output of every sequence that decodes here or is on its way."""
        self.sequences = 0
        """Requests that decode here or are on their way."""
        self.decoding: set[Assignment] = set()
        """Those whose token phase has begun."""
        self.prefills = 0
        """Prompts of disaggregated requests."""
        self.mixed_requests = 0
        self.in_flight = 0
        self.kv_transfers = 0
        self.errors = 0
        """Failures since the last success."""
        self.ejections = 0
        """Ejections since the last success."""
        self.ejected = False

    @property
    def serving(self) -> bool:
        """It may get new work."""
        record = self.record
        return record.ready and not record.fenced and not self.ejected and bool(record.url)

    @property
    def resident_kv_tokens(self) -> int:
        """Context tokens of the sequences that decode here."""
        return sum(assignment.context_tokens for assignment in self.decoding)

    def view(self) -> ReplicaView:
        """The replica as routing sees it."""
        record = self.record
        return ReplicaView(
            record.name,
            record.home,
            record.revision,
            self.serving,
            self.pending_prefill_tokens,
            self.reserved_kv_tokens,
            record.kv_capacity_tokens,
            record.max_batch_size,
            self.sequences,
            self.mixed_requests,
            record.model,
        )


class Ledger:
    """All replicas. Use it on one event loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.fleet = Fleet()
        self.mixed_requests = 0
        self.on_room: Callable[[], None] = lambda: None
        """Called when a replica may have room that it had not before."""
        self._loop = loop
        self._entries: dict[str, Entry] = {}
        self._largest: dict[str, int] = {}
        """By model: answers of `largest_capacity`, until a replica changes."""

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def update(self, before: ReplicaRecord | None, after: ReplicaRecord | None) -> None:
        """Take in a change of the fleet (`ReplicaListener`)."""
        self._largest.clear()
        if after is None:
            if before is not None:
                self._entries.pop(before.name, None)
                self.fleet.remove(before.name)
                _logger.info("replica gone", extra={"replica": before.name})
            return
        entry = self._entries.get(after.name)
        if entry is None or entry.record.uid != after.uid:
            # What is booked on an engine that is gone ends with its own entry.
            entry = self._entries[after.name] = Entry(after)
        if before is None or _standing(before) != _standing(after):
            _logger.info(
                "replica changed",
                extra={
                    "replica": after.name,
                    "pool": after.home.value,
                    "ready": after.ready,
                    "fenced": after.fenced,
                },
            )
        entry.record = after
        self.publish(entry)
        self.on_room()

    def assign(
        self, decision: Disaggregated | Whole, *, prompt_tokens: int, output_tokens: int
    ) -> Assignment:
        """Book a request on the replicas that `route` has just chosen for it."""
        match decision:
            case Disaggregated(prefill, decode):
                path, first, last = PathKind.DISAGGREGATED, self._entries[prefill], self._entries[decode]
            case Whole(replica, borrowed):
                path = PathKind.BORROWED if borrowed else PathKind.MIXED
                first = last = self._entries[replica]
        return Assignment(self, path, (first, last), prompt_tokens=prompt_tokens, output_tokens=output_tokens)

    def largest_capacity(self, model: str | None) -> int:
        """KV tokens of the largest replica that serves `model`, or will again; 0 when none is known."""
        found = self._largest.get(model or "")
        if found is None:
            able = (entry.record for entry in self if not model or entry.record.model in ("", model))
            found = max((record.kv_capacity_tokens for record in able), default=0)
            self._largest[model or ""] = found
        return found

    def publish(self, entry: Entry) -> None:
        """Show routing the entry as it is now, unless its replica is gone."""
        if self._entries.get(entry.record.name) is entry:
            self.fleet.put(entry.view())

    def failed(self, name: str, *, unreachable: bool) -> None:
        """A replica failed a request: leave it out for a while if it does so again, or cannot be reached."""
        entry = self._entries.get(name)
        if entry is None or entry.ejected:
            return
        entry.errors += 1
        if not unreachable and entry.errors < ERRORS_TO_EJECT:
            return
        seconds = min(FIRST_EJECTION_SECONDS * 2**entry.ejections, LONGEST_EJECTION_SECONDS)
        entry.ejections += 1
        entry.ejected = True
        _logger.warning("replica ejected", extra={"replica": name, "seconds": seconds})
        self.publish(entry)
        self._loop.call_later(seconds, self._readmit, entry)

    def succeeded(self, entry: Entry) -> None:
        """A replica did its part: earlier failures are forgiven."""
        entry.errors = 0
        entry.ejections = 0

    def _readmit(self, entry: Entry) -> None:
        entry.ejected = False
        self.publish(entry)
        self.on_room()


def _standing(record: ReplicaRecord) -> tuple[PoolName, bool, bool]:
    """What is worth a line in the log when it changes."""
    return record.home, record.ready, record.fenced


class Assignment:
    """One request on its replicas: `first` prefills and `last` decodes; both are one for a whole request.

    Call `prefill_ended`, `token_phase_began` and `release` as the request goes on; each counts once.
    """

    __slots__ = (
        "_ledger",
        "_output_tokens",
        "_pending",
        "_prompt_tokens",
        "_released",
        "_transferring",
        "first",
        "last",
        "output_tokens",
        "path",
        "pending_at_start",
        "started_at",
    )

    def __init__(
        self,
        ledger: Ledger,
        path: PathKind,
        replicas: tuple[Entry, Entry],
        *,
        prompt_tokens: int,
        output_tokens: int,
    ) -> None:
        self.path = path
        self.first, self.last = first, last = replicas
        # Beyond its whole memory a replica has nothing to reserve; and no number of a client's may grow without bound.
        output_tokens = max(1, min(output_tokens, last.record.kv_capacity_tokens - prompt_tokens))
        self.output_tokens = 0.0
        """Tokens that came so far."""
        self._ledger = ledger
        self._prompt_tokens = prompt_tokens
        self._output_tokens = output_tokens
        self._pending = True
        self._transferring = False
        self._released = False
        first.in_flight += 1
        first.pending_prefill_tokens += prompt_tokens
        self.pending_at_start = first.pending_prefill_tokens
        """Prompt tokens on the prefill replica, this request's included."""
        self.started_at = 0.0
        last.reserved_kv_tokens += prompt_tokens + output_tokens
        last.sequences += 1
        if path is PathKind.DISAGGREGATED:
            first.prefills += 1
            last.in_flight += 1
        else:
            last.mixed_requests += 1
            ledger.mixed_requests += 1
        ledger.publish(first)
        if last is not first:
            ledger.publish(last)

    @property
    def began(self) -> bool:
        """The first token came, or is believed to have."""
        return not self._pending and not self._transferring

    @property
    def context_tokens(self) -> int:
        """Tokens in KV memory."""
        return self._prompt_tokens + int(self.output_tokens)

    def prefill_ended(self, prompt_tokens: int) -> None:
        """The context_only answer is there: `prompt_tokens` are exact now, and the KV cache waits to be pulled."""
        if not self._pending:
            return
        self._end_prefill()
        self.first.in_flight -= 1
        self.first.prefills -= 1
        self.first.kv_transfers += 1
        self._transferring = True
        self.last.decoding.add(self)
        self._ledger.succeeded(self.first)
        self._ledger.publish(self.first)
        if prompt_tokens != self._prompt_tokens:
            self.last.reserved_kv_tokens += prompt_tokens - self._prompt_tokens
            self._prompt_tokens = prompt_tokens
            self._ledger.publish(self.last)
        self._ledger.on_room()

    def token_phase_began(self) -> None:
        """The first token came: of a disaggregated request the KV cache has been pulled, of a whole one the prompt is done."""
        if self._released:
            return
        if self._transferring:
            self._end_transfer()
        elif self._pending and self.path is not PathKind.DISAGGREGATED:
            self._end_prefill()
            self.last.decoding.add(self)
            self._ledger.publish(self.first)
            self._ledger.on_room()

    def count_output(self, tokens: float) -> None:
        """More of the answer came. One that outgrows what was reserved for it reserves as much again."""
        self.output_tokens += tokens
        if self.output_tokens > self._output_tokens and not self._released:
            self.last.reserved_kv_tokens += self._output_tokens
            self._output_tokens *= 2
            self._ledger.publish(self.last)

    def release(self) -> None:
        """The request has left its replicas, however it ended."""
        if self._released:
            return
        self._released = True
        if self._pending:
            self._end_prefill()
            if self.path is PathKind.DISAGGREGATED:
                self.first.in_flight -= 1
                self.first.prefills -= 1
                self._ledger.publish(self.first)
        if self._transferring:
            self._end_transfer()
        last = self.last
        last.decoding.discard(self)
        last.reserved_kv_tokens -= self._prompt_tokens + self._output_tokens
        last.sequences -= 1
        last.in_flight -= 1
        if self.path is not PathKind.DISAGGREGATED:
            last.mixed_requests -= 1
            self._ledger.mixed_requests -= 1
        self._ledger.publish(last)
        self._ledger.on_room()

    def _end_prefill(self) -> None:
        self._pending = False
        self.first.pending_prefill_tokens -= self._prompt_tokens

    def _end_transfer(self) -> None:
        self._transferring = False
        self.first.kv_transfers -= 1

"""What the router holds on each replica, and the fleet that routing decides on (the accounting of router/ledger.py).

Work is booked when it is assigned, before it is sent.
"""

from __future__ import annotations

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.replica_views import Fleet, ReplicaView
from inferencecluster.core.routing import Disaggregated, Whole
from inferencecluster.simulator.journeys import Journey, Path
from inferencecluster.simulator.links import Link
from inferencecluster.simulator.mixed_engine import Engine


class Entry:
    """One replica and the work that the router holds on it."""

    __slots__ = (
        "alive",
        "concurrency_seconds",
        "decoding",
        "decoding_prompt_tokens",
        "egress",
        "engine",
        "home",
        "in_flight",
        "ingress",
        "journeys",
        "kv_bytes_per_token",
        "kv_capacity_tokens",
        "kv_transfers",
        "max_batch_size",
        "mixed_requests",
        "name",
        "noted_at",
        "pending_prefill_tokens",
        "requests",
        "reserved_kv_tokens",
        "revision",
        "sequences",
        "serving",
    )

    def __init__(self, name: str, home: PoolName, revision: str, engine: Engine) -> None:
        self.name = name
        self.home = home
        self.revision = revision
        self.engine = engine
        self.egress = Link(1.0)
        self.ingress = Link(1.0)
        self.kv_bytes_per_token = 0.0
        self.kv_capacity_tokens = 1
        """As the operator tells the router, from the spec's performance model."""
        self.max_batch_size = 1
        self.alive = True
        """The engine answers; a replica that failed has none."""
        self.serving = False
        """Ready and not fenced: it may get new work."""
        self.pending_prefill_tokens = 0
        self.reserved_kv_tokens = 0
        self.sequences = 0
        """Requests that decode here or are on their way."""
        self.decoding = 0
        """Those of them whose prompt is done."""
        self.decoding_prompt_tokens = 0
        self.mixed_requests = 0
        self.in_flight = 0
        self.kv_transfers = 0
        self.journeys: dict[Journey, None] = {}
        """Everyone that this replica prefills, holds a cache for, or decodes."""
        self.requests = 0
        self.noted_at = 0.0
        self.concurrency_seconds = 0.0
        """Requests here, times seconds."""

    @property
    def is_idle(self) -> bool:
        """Nothing in flight and no KV transfer under way."""
        return self.in_flight == 0 and self.kv_transfers == 0

    @property
    def borrowed(self) -> bool:
        """As `ReplicaView.borrowed`."""
        return self.home is not PoolName.MIXED and self.mixed_requests > 0

    def note(self, now: float, change: int) -> None:
        """`change` requests came or went."""
        self.concurrency_seconds += self.requests * (now - self.noted_at)
        self.noted_at = now
        self.requests += change

    def resident_kv_tokens(self, now: float) -> int:
        """Context of the sequences whose prompt is done, as the router counts it: from the tokens that it saw."""
        return self.decoding_prompt_tokens + self.engine.generated_tokens(now)

    def view(self) -> ReplicaView:
        """The replica as routing sees it."""
        return ReplicaView(
            self.name,
            self.home,
            self.revision,
            self.serving,
            self.pending_prefill_tokens,
            self.reserved_kv_tokens,
            self.kv_capacity_tokens,
            self.max_batch_size,
            self.sequences,
            self.mixed_requests,
        )


class Ledger:
    """All replicas that the router knows, and the changes that requests make."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        """Who serves, always; what they hold, as of the last `up_to_date`."""
        self.entries: dict[str, Entry] = {}
        self.mixed_requests = 0
        # Several bookings between two decisions are shown once.
        self._booked: dict[Entry, None] = {}

    def add(self, entry: Entry) -> None:
        """A replica became ready."""
        self.entries[entry.name] = entry
        self.publish(entry)

    def remove(self, entry: Entry) -> None:
        """A replica is gone."""
        if self.entries.get(entry.name) is entry:
            del self.entries[entry.name]
            self.fleet.remove(entry.name)

    def up_to_date(self) -> Fleet:
        """The fleet with all that is booked: what a decision looks at."""
        for entry in self._booked:
            self.publish(entry)
        self._booked.clear()
        return self.fleet

    def publish(self, entry: Entry) -> None:
        """Show routing the entry as it is now, unless its replica is gone."""
        if self.entries.get(entry.name) is entry:
            self.fleet.put(entry.view())

    def assign(self, journey: Journey, decision: Disaggregated | Whole, now: float) -> None:
        """Book the request on the replicas that `route` has just chosen for it."""
        if isinstance(decision, Disaggregated):
            journey.path = Path.DISAGGREGATED
            first, last = self.entries[decision.prefill], self.entries[decision.decode]
            last.in_flight += 1
            last.journeys[journey] = None
        else:
            journey.path = Path.BORROWED if decision.borrowed else Path.MIXED
            first = last = self.entries[decision.replica]
            last.mixed_requests += 1
            self.mixed_requests += 1
        journey.first, journey.last = first, last
        journey.pending = True
        first.in_flight += 1
        first.journeys[journey] = None
        first.note(now, 1)
        first.pending_prefill_tokens += journey.prompt_tokens
        last.reserved_kv_tokens += journey.prompt_tokens + journey.expected_output
        last.sequences += 1
        self._booked[first] = None
        if last is not first:
            self._booked[last] = None

    def prefill_ended(self, journey: Journey, now: float) -> None:
        """The prompt of a disaggregated request is done; its KV cache waits to be fetched."""
        first, last = replicas_of(journey)
        self._end_prefill(journey, first)
        first.in_flight -= 1
        first.kv_transfers += 1
        journey.transferring = True
        last.decoding += 1
        last.decoding_prompt_tokens += journey.prompt_tokens
        last.note(now, 1)
        self._booked[first] = None

    def token_phase_began(self, journey: Journey, now: float) -> None:
        """The first token came."""
        first, last = replicas_of(journey)
        if journey.transferring:
            self._end_transfer(journey, first, now)
        elif journey.pending and first is last:
            self._end_prefill(journey, first)
            last.decoding += 1
            last.decoding_prompt_tokens += journey.prompt_tokens
            self._booked[last] = None

    def outgrew(self, journey: Journey) -> None:
        """The answer is longer than what is reserved for it: reserve as much again."""
        _, last = replicas_of(journey)
        last.reserved_kv_tokens += journey.expected_output
        journey.expected_output *= 2
        self._booked[last] = None

    def release(self, journey: Journey, now: float) -> None:
        """The request has left its replicas, however it ended."""
        first, last = replicas_of(journey)
        is_whole = first is last
        if journey.pending:
            self._end_prefill(journey, first)
            if not is_whole:
                first.in_flight -= 1
                del first.journeys[journey]
                first.note(now, -1)
                self._booked[first] = None
        else:
            last.decoding -= 1
            last.decoding_prompt_tokens -= journey.prompt_tokens
            if not is_whole:
                last.note(now, -1)
        if journey.transferring:
            self._end_transfer(journey, first, now)
        last.reserved_kv_tokens -= journey.prompt_tokens + journey.expected_output
        last.sequences -= 1
        last.in_flight -= 1
        del last.journeys[journey]
        if is_whole:
            last.note(now, -1)
            last.mixed_requests -= 1
            self.mixed_requests -= 1
        self._booked[last] = None
        journey.first = journey.last = None

    def _end_prefill(self, journey: Journey, first: Entry) -> None:
        journey.pending = False
        first.pending_prefill_tokens -= journey.prompt_tokens

    def _end_transfer(self, journey: Journey, first: Entry, now: float) -> None:
        journey.transferring = False
        first.kv_transfers -= 1
        del first.journeys[journey]
        first.note(now, -1)


def replicas_of(journey: Journey) -> tuple[Entry, Entry]:
    """Where it prefills and decodes. Raises `RuntimeError` while it has no replicas."""
    if journey.first is None or journey.last is None:
        raise RuntimeError("a request without replicas has no work to book")
    return journey.first, journey.last

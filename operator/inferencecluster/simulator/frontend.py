"""The router's part: who gets replicas now, who waits, what becomes of requests whose replica fails.

Requests wait centrally and both replicas are chosen when they leave the line (docs/decisions/0001), in the order of
`core.waiting`; `core.routing` decides where to. Work is booked as the router books it (`ledger`), expected output
lengths are learned as the router learns them, and nobody here knows the true ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from inferencecluster.core.routing import Hold, HoldReason, RoutingPolicy, RoutingRequest, route
from inferencecluster.core.waiting import WaitingLine
from inferencecluster.simulator.counters import Counters
from inferencecluster.simulator.events import EventQueue
from inferencecluster.simulator.journeys import Journey, Outcome
from inferencecluster.simulator.ledger import Entry, Ledger, replicas_of
from inferencecluster.simulator.links import Network, transfer_ends_at
from inferencecluster.simulator.sequences import Phase, Sequence

PRIOR_OUTPUT_TOKENS: Final = 211.0
PRIOR_ANSWERS: Final = 10.0
REMEMBERED_ANSWERS: Final = 1000.0
"""The router's own: the mean of the Azure conversation trace with the weight of ten answers, then the latest thousand."""
ATTEMPTS: Final = 3
"""The router's own: two failures on different replicas are an accident, more are an outage."""


@dataclass(frozen=True, slots=True)
class FrontendSettings:
    """What the router is told."""

    routing: RoutingPolicy
    max_queue_seconds: float
    wake_queue_seconds: float
    """The same for a request that comes while no replica serves, because the cluster sleeps or wakes."""
    late_seconds: float
    """A request that has waited so long lets newer ones pass (`core.waiting`); infinite: first come, first served."""
    network: Network
    prefill_answers: bool
    """The prefill replica sends the first token when the prompt is done (Splitwise). Otherwise the decode replica sends it when
    it has the cache (TensorRT-LLM's context-first protocol)."""
    knows_outputs: bool = False
    """Reserve for each answer what it will be, as simulators can. Otherwise the mean of past ones, doubled where that is short."""


class OutputEstimate:
    """Expected length of an answer: the mean of the latest ones."""

    __slots__ = ("_count", "_tokens", "_weight")

    def __init__(self) -> None:
        self._tokens = PRIOR_OUTPUT_TOKENS * PRIOR_ANSWERS
        self._weight = self._count = PRIOR_ANSWERS

    @property
    def tokens(self) -> int:
        """At least one."""
        return max(1, round(self._tokens / self._weight))

    def learn(self, tokens: int) -> None:
        """One more answer."""
        if self._count >= REMEMBERED_ANSWERS:
            kept = (REMEMBERED_ANSWERS - 1) / REMEMBERED_ANSWERS
            self._tokens *= kept
            self._weight *= kept
        else:
            self._count += 1
        self._tokens += tokens
        self._weight += 1.0


class Frontend:
    """One router; an `EngineHost`."""

    def __init__(
        self,
        settings: FrontendSettings,
        events: EventQueue,
        counters: Counters,
        on_end: Callable[[Journey], None],
    ) -> None:
        """`on_end` is told of each request once, when it has ended."""
        self.ledger = Ledger()
        self.on_unserved: Callable[[float], None] = lambda _now: None
        """Told when a request is held while no replica serves."""
        self.held_tokens = 0
        """Prompt tokens of the requests that wait here."""
        self.hold_reason = HoldReason.NO_REPLICA
        """Why the one that was looked at last waits; of no meaning while nobody does."""
        self._settings = settings
        self._policy = settings.routing
        self._events = events
        self._counters = counters
        self._on_end = on_end
        self._estimate = OutputEstimate()
        self._line: WaitingLine[Journey] = WaitingLine(settings.late_seconds, settings.max_queue_seconds)
        self._retries: dict[Journey, None] = {}
        self._watch_at = -1.0
        self._before_first_token: dict[Journey, None] = {}
        self.steps = counters.stepped

    @property
    def held_requests(self) -> int:
        """Requests that wait here."""
        return len(self._line) + len(self._retries)

    def head_age_seconds(self, now: float) -> float:
        """Age of the oldest request without a first token; 0 when there is none."""
        oldest = next(iter(self._before_first_token), None)
        return 0.0 if oldest is None else now - oldest.arrived_at

    def arrive(self, journey: Journey, now: float) -> None:
        """A request came."""
        self._counters.arrived(journey.prompt_tokens)
        self._before_first_token[journey] = None
        journey.attempts = 1
        journey.expected_output = self._expected_output(journey)
        journey.patience_seconds = self._settings.max_queue_seconds
        line = self._line
        # Whatever holds the one that is next holds this one, too, unless this one is next.
        if not line and self._offer(journey, now):
            return
        is_first = not line
        journey.held_since = now
        line.add(journey, now)
        self.held_tokens += journey.prompt_tokens
        if not self.ledger.fleet.serves(frozenset()):
            journey.patience_seconds = self._settings.wake_queue_seconds
            self.on_unserved(now)
        self._watch(now)
        if not is_first and line.first(now) is journey:
            self.serve_line(now)

    def serve_line(self, now: float) -> None:
        """Hand out replicas to those who wait, as far as there is room: failed requests first."""
        for again in tuple(self._retries):
            if self._offer(again, now):
                self._leave_retries(again, now)
        line = self._line
        while (journey := line.first(now)) is not None:
            if not self._offer(journey, now):
                return
            line.granted(journey)
            self.held_tokens -= journey.prompt_tokens

    def room_came(self, now: float) -> None:
        """A replica may have room that it had not before."""
        if self._line or self._retries:
            self.serve_line(now)

    def lose(self, entry: Entry, now: float) -> None:
        """A replica is gone with all that it held."""
        entry.alive = entry.serving = False
        self.ledger.remove(entry)
        for journey in tuple(entry.journeys):
            if journey.pending and entry is journey.last and journey.first is not entry:
                # Nobody has talked to it yet: the router finds out when the prompt is done.
                continue
            self._fail(journey, entry, now)
        self.room_came(now)

    def prefilled(self, sequence: Sequence, now: float) -> None:
        """`EngineHost`: a prompt is done, its cache is held."""
        journey: Journey = sequence.owner
        _, last = replicas_of(journey)
        journey.prefilled_at = now
        self.ledger.prefill_ended(journey, now)
        if self._settings.prefill_answers or journey.output_tokens == 1:
            self._note_first_token(journey, now)
        if journey.output_tokens == 1:
            self._complete(journey, now)
        elif last.alive:
            decode = self._sequence(journey, Phase.DECODE)
            last.engine.submit(decode, now)
            self.room_came(now)
        else:
            self._fail(journey, last, now)
            self.room_came(now)

    def admitted(self, sequence: Sequence, now: float) -> None:
        """`EngineHost`: the decode replica has room for a cache, which travels now."""
        journey: Journey = sequence.owner
        first, last = replicas_of(journey)
        network = self._settings.network
        ready = now
        if network.layer_wise and journey.prefill is not None and now == journey.prefilled_at:
            # Room was there from the beginning: only what had to wait for it is sent in one piece.
            ready = journey.prefill.prefill_began
        size = journey.prompt_tokens * first.kv_bytes_per_token
        if network.dedicated:
            ends_at = max(now, ready + max(first.egress.seconds(size), last.ingress.seconds(size)))
        else:
            ends_at = transfer_ends_at(first.egress, last.ingress, size, ready=ready, last_layer=now)
        self._events.at(ends_at + network.constant_seconds, self._fetched, sequence)

    def first_token(self, sequence: Sequence, now: float) -> None:
        """`EngineHost`: a token phase began."""
        journey: Journey = sequence.owner
        if journey.first_token_at < 0.0:
            self._note_first_token(journey, now)
        has_room = journey.pending
        self.ledger.token_phase_began(journey, now)
        if has_room:
            self.room_came(now)

    def reported(self, sequence: Sequence) -> None:
        """`EngineHost`: an answer is longer than what was reserved for it."""
        journey: Journey = sequence.owner
        self.ledger.outgrew(journey)
        sequence.next_report = journey.expected_output + 1

    def finished(self, sequence: Sequence, now: float) -> None:
        """`EngineHost`: an answer is complete."""
        self._complete(sequence.owner, now)

    def _offer(self, journey: Journey, now: float) -> bool:
        """Whether replicas took the request, or it has ended because none ever could."""
        request = RoutingRequest(journey.prompt_tokens, journey.expected_output, journey.excluded)
        decision = route(request, self.ledger.up_to_date(), self._policy)
        if isinstance(decision, Hold):
            self.hold_reason = decision.reason
            return False
        self.ledger.assign(journey, decision, now)
        first, last = replicas_of(journey)
        if not last.engine.fits(journey.prompt_tokens, journey.output_tokens) or not first.engine.fits(
            journey.prompt_tokens, 0
        ):
            # The engine refuses it, and so would every other one.
            self._end(journey, Outcome.TOO_LARGE, now)
            return True
        phase = Phase.WHOLE if first is last else Phase.PREFILL
        first.engine.submit(self._sequence(journey, phase), now)
        return True

    def _expected_output(self, journey: Journey) -> int:
        return journey.output_tokens if self._settings.knows_outputs else self._estimate.tokens

    def _sequence(self, journey: Journey, phase: Phase) -> Sequence:
        sequence = Sequence(journey, phase, journey.prompt_tokens, journey.output_tokens)
        sequence.next_report = journey.expected_output + 1
        if phase is not Phase.DECODE:
            sequence.cached_tokens = sequence.prefilled = journey.cached_tokens
        if phase is Phase.PREFILL:
            journey.prefill = sequence
        else:
            journey.decode = sequence
        return sequence

    def _fetched(self, sequence: Sequence) -> None:
        """A KV cache has arrived."""
        if sequence.cancelled:
            return
        journey: Journey = sequence.owner
        first, last = replicas_of(journey)
        now = self._events.now
        if journey.prefill is not None:
            first.engine.release(journey.prefill, now)
            journey.prefill = None
        last.engine.fetched(sequence, now)

    def _note_first_token(self, journey: Journey, now: float) -> None:
        journey.first_token_at = now
        self._counters.prefilled(journey.prompt_tokens, journey.cached_tokens)
        del self._before_first_token[journey]
        self._counters.began(now - journey.arrived_at)

    def _complete(self, journey: Journey, now: float) -> None:
        self._counters.ended(journey.prompt_tokens, journey.output_tokens)
        self._estimate.learn(journey.output_tokens)
        journey.decode = None
        self._end(journey, Outcome.COMPLETED, now)
        self.room_came(now)

    def _end(self, journey: Journey, outcome: Outcome, now: float) -> None:
        self._leave_replicas(journey, now)
        self._before_first_token.pop(journey, None)
        journey.outcome = outcome
        journey.ended_at = now
        self._on_end(journey)

    def _leave_replicas(self, journey: Journey, now: float) -> None:
        """Free what engines hold for it, and the books."""
        first, last = journey.first, journey.last
        if first is None or last is None:
            return
        self.ledger.release(journey, now)
        if journey.prefill is not None:
            first.engine.cancel(journey.prefill, now)
        if journey.decode is not None:
            last.engine.cancel(journey.decode, now)
        journey.prefill = journey.decode = None

    def _fail(self, journey: Journey, entry: Entry, now: float) -> None:
        """A replica failed the request: try others, unless its client has seen the beginning of an answer."""
        if journey.first_token_at >= 0.0:
            self._end(journey, Outcome.FAILED, now)
            return
        self._leave_replicas(journey, now)
        journey.excluded |= {entry.name}
        if journey.attempts >= ATTEMPTS or not self.ledger.fleet.serves(journey.excluded):
            self._end(journey, Outcome.FAILED, now)
            return
        journey.attempts += 1
        journey.expected_output = self._expected_output(journey)
        if self._offer(journey, now):
            return
        journey.held_since = now
        self._retries[journey] = None
        self.held_tokens += journey.prompt_tokens
        left = max(0.0, journey.patience_seconds - journey.held_seconds)
        self._events.at(now + left, self._expire_retry, (journey, journey.attempts))

    def _leave_retries(self, journey: Journey, now: float) -> None:
        del self._retries[journey]
        self.held_tokens -= journey.prompt_tokens
        journey.held_seconds += now - journey.held_since

    def _expire_retry(self, waiting: tuple[Journey, int]) -> None:
        journey, attempt = waiting
        if journey in self._retries and journey.attempts == attempt:
            self._leave_retries(journey, self._events.now)
            self._end(journey, Outcome.REFUSED, self._events.now)

    def _watch(self, now: float) -> None:
        """One event for the whole line: when the first request will have waited for too long."""
        if self._line and self._watch_at < now:
            self._watch_at = min(map(_patience_ends_at, self._impatient()))
            self._events.at(self._watch_at, self._expire)

    def _impatient(self) -> Iterator[Journey]:
        """Those of the line that may be the next to give up: patient ones, and the oldest of the others."""
        for journey in self._line:
            yield journey
            if journey.patience_seconds <= self._settings.max_queue_seconds:
                return

    def _expire(self, _: object) -> None:
        now, line = self._events.now, self._line
        while due := [item for item in self._impatient() if _patience_ends_at(item) <= now]:
            for journey in due:
                line.discard(journey)
                self.held_tokens -= journey.prompt_tokens
                self._end(journey, Outcome.REFUSED, now)
        self._watch_at = -1.0
        self._watch(now)


def _patience_ends_at(journey: Journey) -> float:
    return journey.held_since + journey.patience_seconds

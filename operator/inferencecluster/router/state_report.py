"""`GET /state`: what the operator reads every few seconds (wire type: api/router_state.py)."""

from __future__ import annotations

from inferencecluster.api.router_state import ReplicaState, RouterState, Totals
from inferencecluster.router.dispatcher import Dispatcher
from inferencecluster.router.ledger import Entry, Ledger
from inferencecluster.router.traffic import Outcome, Traffic


def replica_state(entry: Entry) -> ReplicaState:
    """What this router holds on one replica; work that is on its way counts as in flight."""
    record = entry.record
    return ReplicaState(
        name=record.name,
        uid=record.uid,
        fenced=record.fenced,
        fenced_at=record.fenced_at,
        ready=record.ready,
        in_flight=entry.in_flight,
        kv_transfers=entry.kv_transfers,
        pending_prefill_tokens=entry.pending_prefill_tokens,
        decoding_sequences=len(entry.decoding),
        resident_kv_tokens=entry.resident_kv_tokens,
        borrowed=entry.view().borrowed,
    )


def totals(traffic: Traffic) -> Totals:
    """Counters since the start."""
    return Totals(
        requests=traffic.requests,
        prompt_tokens=traffic.prompt_tokens,
        prompt_tokens_squared=traffic.prompt_tokens_squared,
        completed=traffic.completed,
        completed_output_tokens=traffic.completed_output_tokens,
        failed=traffic.count(Outcome.FAILED),
        refused=traffic.count(Outcome.REFUSED),
        prefilled_prompt_tokens=traffic.prefilled_prompt_tokens,
        cached_prompt_tokens=traffic.cached_prompt_tokens,
    )


class StateReport:
    """Builds the state of one router process."""

    def __init__(self, ledger: Ledger, dispatcher: Dispatcher, traffic: Traffic, *, instance: str) -> None:
        """`instance` is another one after every start."""
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._traffic = traffic
        self._instance = instance

    def build(self, *, now: float, started_at: float, loop_time: float, synced: bool) -> RouterState:
        """The state at `now` (Unix seconds), which is `loop_time` on the stopwatch."""
        return RouterState(
            instance=self._instance,
            started_at=started_at,
            now=now,
            held_requests=self._dispatcher.held_requests,
            held_tokens=self._dispatcher.held_tokens,
            head_age_seconds=self._traffic.head_age_seconds(loop_time),
            mixed_requests=self._ledger.mixed_requests,
            synced=synced,
            totals=totals(self._traffic),
            replicas=tuple(replica_state(entry) for entry in self._ledger),
        )

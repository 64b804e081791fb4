"""What the router books on replicas, and how it leaves replicas out that fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.routing import Disaggregated, RoutingPolicy, RoutingRequest, Whole, route
from inferencecluster.router.ledger import (
    FIRST_EJECTION_SECONDS,
    LONGEST_EJECTION_SECONDS,
    Ledger,
    PathKind,
)
from inferencecluster.router.sources import ReplicaRecord

RECORD = ReplicaRecord(
    name="p0",
    uid="u",
    home=PoolName.PREFILL,
    revision="r",
    url="http://127.0.0.1:1",
    ready=True,
    fenced=False,
    kv_capacity_tokens=1000,
    max_batch_size=4,
)


class Calls:
    """An event loop as far as the ledger needs one: collects timers."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Any, Any]] = []

    def call_later(self, delay: float, callback: Any, argument: Any) -> None:
        self.timers.append((delay, callback, argument))


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def ledger(calls: Calls) -> Ledger:
    found = Ledger(calls)  # type: ignore[arg-type] # the part of a loop that it uses
    found.update(None, RECORD)
    found.update(None, replace(RECORD, name="d0", uid="v", home=PoolName.DECODE))
    return found


class TestConversion:
    """A replica's home changes while it holds work: the label does, not the Pod."""

    def test_nothing_that_it_holds_is_lost(self, ledger: Ledger) -> None:
        prefill, decode = ledger
        whole = ledger.assign(Whole("p0", borrowed=True), prompt_tokens=50, output_tokens=10)
        split = ledger.assign(Disaggregated("p0", "d0"), prompt_tokens=100, output_tokens=20)
        moved = replace(RECORD, home=PoolName.DECODE)
        ledger.update(RECORD, moved)
        assert [entry.record.home for entry in ledger] == [PoolName.DECODE, PoolName.DECODE]
        assert (prefill.in_flight, prefill.pending_prefill_tokens, prefill.sequences) == (2, 150, 1)

        split.prefill_ended(100)
        assert (prefill.in_flight, prefill.kv_transfers) == (1, 1)
        split.token_phase_began()
        split.release()
        whole.token_phase_began()
        whole.release()
        assert (prefill.in_flight, prefill.kv_transfers, prefill.pending_prefill_tokens) == (0, 0, 0)
        assert (prefill.reserved_kv_tokens, prefill.sequences, prefill.mixed_requests) == (0, 0, 0)
        assert (decode.in_flight, decode.sequences, ledger.mixed_requests) == (0, 0, 0)

    def test_new_work_follows_its_new_home(self, ledger: Ledger) -> None:
        ledger.update(None, replace(RECORD, name="p1", uid="w"))
        policy, request = RoutingPolicy.alike(8192), RoutingRequest(10, 10)
        # The busier decode replica is left for the one that has just come.
        ledger.assign(Disaggregated("p1", "d0"), prompt_tokens=500, output_tokens=100)
        ledger.update(RECORD, replace(RECORD, home=PoolName.DECODE))
        assert route(request, ledger.fleet, policy) == Disaggregated("p1", "p0")

    def test_a_mixed_replica_that_moves_is_borrowed_until_its_whole_requests_end(
        self, ledger: Ledger
    ) -> None:
        mixed = replace(RECORD, name="m0", uid="m", home=PoolName.MIXED)
        ledger.update(None, mixed)
        assignment = ledger.assign(Whole("m0", borrowed=False), prompt_tokens=50, output_tokens=10)
        ledger.update(mixed, replace(mixed, home=PoolName.DECODE))
        view = ledger.fleet.get("m0")
        assert view is not None
        assert view.borrowed
        assignment.release()
        view = ledger.fleet.get("m0")
        assert view is not None
        assert not view.borrowed

    def test_a_draining_replica_that_moves_serves_again(self, ledger: Ledger) -> None:
        fenced = replace(RECORD, fenced=True, fenced_at="1.0")
        ledger.update(RECORD, fenced)
        ledger.update(fenced, replace(RECORD, home=PoolName.DECODE))
        assert [view.name for view in ledger.fleet.most_memory(PoolName.DECODE, "r")] == ["d0", "p0"]


class TestLedger:
    def test_a_disaggregated_request_moves_from_prefill_to_decode(self, ledger: Ledger) -> None:
        prefill, decode = ledger
        assignment = ledger.assign(Disaggregated("p0", "d0"), prompt_tokens=100, output_tokens=20)
        assert (prefill.pending_prefill_tokens, prefill.in_flight, prefill.kv_transfers) == (100, 1, 0)
        assert (decode.reserved_kv_tokens, decode.in_flight, len(decode.decoding)) == (120, 1, 0)

        assignment.prefill_ended(110)
        assert (prefill.pending_prefill_tokens, prefill.in_flight, prefill.kv_transfers) == (0, 0, 1)
        assert (decode.reserved_kv_tokens, decode.resident_kv_tokens, len(decode.decoding)) == (130, 110, 1)

        assignment.token_phase_began()
        assignment.count_output(5)
        assert prefill.kv_transfers == 0
        assert decode.resident_kv_tokens == 115

        assignment.release()
        assert (decode.reserved_kv_tokens, decode.in_flight, decode.sequences) == (0, 0, 0)

    def test_a_whole_request_stays_on_its_replica(self, ledger: Ledger) -> None:
        _, decode = ledger
        assignment = ledger.assign(Whole("d0", borrowed=True), prompt_tokens=100, output_tokens=20)
        assert assignment.path is PathKind.BORROWED
        assert decode.view().borrowed
        assert (ledger.mixed_requests, decode.in_flight, decode.pending_prefill_tokens) == (1, 1, 100)

        assignment.token_phase_began()
        assert (decode.pending_prefill_tokens, len(decode.decoding)) == (0, 1)

        assignment.release()
        assert not decode.view().borrowed
        assert (ledger.mixed_requests, decode.in_flight, decode.reserved_kv_tokens) == (0, 0, 0)

    def test_an_answer_that_outgrows_its_reservation_reserves_more(self, ledger: Ledger) -> None:
        _, decode = ledger
        assignment = ledger.assign(Disaggregated("p0", "d0"), prompt_tokens=100, output_tokens=20)
        assignment.prefill_ended(100)
        assignment.count_output(21)
        assert decode.reserved_kv_tokens == 140
        assignment.release()
        assert decode.reserved_kv_tokens == 0

    @pytest.mark.parametrize(
        ("prompt", "output", "reserved"), [(100, 10**320, 1000), (5000, 20, 5001)], ids=["output", "prompt"]
    )
    def test_nobody_reserves_output_beyond_the_memory_of_the_replica(
        self, ledger: Ledger, prompt: int, output: int, reserved: int
    ) -> None:
        _, decode = ledger
        assignment = ledger.assign(Disaggregated("p0", "d0"), prompt_tokens=prompt, output_tokens=output)
        assert decode.reserved_kv_tokens == reserved
        assert ledger.fleet.get("d0") == decode.view()
        assignment.release()
        assert decode.reserved_kv_tokens == 0

    @given(st.lists(st.sampled_from(["prefill", "token", "count", "release"]), max_size=12), st.booleans())
    def test_whatever_is_told_in_whatever_order_nothing_stays_behind(
        self, steps: list[str], whole: bool
    ) -> None:
        found = Ledger(Calls())  # type: ignore[arg-type] # the part of a loop that it uses
        found.update(None, RECORD)
        found.update(None, replace(RECORD, name="d0", uid="v", home=PoolName.DECODE))
        choice = Whole("d0", borrowed=True) if whole else Disaggregated("p0", "d0")
        assignment = found.assign(choice, prompt_tokens=10, output_tokens=2)
        actions = {
            "prefill": lambda: None if whole else assignment.prefill_ended(12),
            "token": assignment.token_phase_began,
            "count": lambda: assignment.count_output(3),
            "release": assignment.release,
        }
        for step in [*steps, "release"]:
            actions[step]()
            for entry in found:
                assert min(entry.in_flight, entry.kv_transfers, entry.pending_prefill_tokens) >= 0
                assert entry.view() == found.fleet.get(entry.record.name)

        for entry in found:
            view = entry.view()
            assert (entry.in_flight, entry.kv_transfers, entry.prefills, len(entry.decoding)) == (0, 0, 0, 0)
            assert (view.pending_prefill_tokens, view.resident_kv_tokens, view.decoding_sequences) == (
                0,
                0,
                0,
            )
        assert found.mixed_requests == 0

    def test_ejections_double_until_a_success(self, ledger: Ledger, calls: Calls) -> None:
        entry = next(iter(ledger))
        seconds = []
        for _ in range(8):
            ledger.failed("p0", unreachable=True)
            assert not entry.serving
            ledger.failed("p0", unreachable=True)
            delay, readmit, argument = calls.timers.pop()
            assert calls.timers == []
            seconds.append(delay)
            readmit(argument)
            assert entry.serving

        assert seconds[:3] == [FIRST_EJECTION_SECONDS, 2 * FIRST_EJECTION_SECONDS, 4 * FIRST_EJECTION_SECONDS]
        assert seconds[-1] == LONGEST_EJECTION_SECONDS
        ledger.succeeded(entry)
        ledger.failed("p0", unreachable=True)
        assert calls.timers[0][0] == FIRST_EJECTION_SECONDS

    def test_failures_of_replicas_that_are_gone_are_nobodys(self, ledger: Ledger, calls: Calls) -> None:
        ledger.update(RECORD, None)
        ledger.failed("p0", unreachable=True)
        assert calls.timers == []
        assert ledger.fleet.get("p0") is None

    def test_room_is_announced_when_work_ends_or_replicas_come(self, ledger: Ledger) -> None:
        announced = []
        ledger.on_room = lambda: announced.append(len(announced))
        assignment = ledger.assign(Disaggregated("p0", "d0"), prompt_tokens=1, output_tokens=1)
        assert announced == []
        assignment.prefill_ended(1)
        assignment.release()
        ledger.update(RECORD, replace(RECORD, max_batch_size=5))
        assert len(announced) == 3

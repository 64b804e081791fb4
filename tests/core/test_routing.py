"""Splitwise's cluster-level scheduler: where a request goes, and when it waits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.sizing_builders import cluster

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.profiles import profile
from inferencecluster.core.replica_views import Fleet, ReplicaView
from inferencecluster.core.routing import (
    Decision,
    Disaggregated,
    Hold,
    HoldReason,
    RoutingPolicy,
    RoutingRequest,
    Whole,
    route,
)
from inferencecluster.core.spec import PoolSpec, Slo

POLICY = RoutingPolicy.alike(8192)
REQUEST = RoutingRequest(prompt_tokens=1000, expected_output_tokens=200)


def replica(name: str, **fields: Any) -> ReplicaView:
    """An idle replica; its pool follows from the first letter."""
    home = {"p": PoolName.PREFILL, "d": PoolName.DECODE, "m": PoolName.MIXED}[name[0]]
    idle = ReplicaView(
        name=name,
        home=home,
        revision="r1",
        serving=True,
        pending_prefill_tokens=0,
        resident_kv_tokens=0,
        kv_capacity_tokens=100_000,
        max_batch_size=64,
        decoding_sequences=0,
        mixed_requests=0,
    )
    return replace(idle, **fields)


FULL_QUEUE = {"pending_prefill_tokens": 8193}
FULL_MEMORY = {"resident_kv_tokens": 99_000, "decoding_sequences": 10}
FULL_BATCH = {"resident_kv_tokens": 10_000, "decoding_sequences": 64}

CASES = [
    pytest.param([replica("p0"), replica("d0")], Disaggregated("p0", "d0"), id="one pair"),
    pytest.param(
        [replica("p0", pending_prefill_tokens=10), replica("p1"), replica("d0")],
        Disaggregated("p1", "d0"),
        id="the shortest prefill queue by tokens",
    ),
    pytest.param(
        [replica("p0"), replica("d0", resident_kv_tokens=10), replica("d1")],
        Disaggregated("p0", "d1"),
        id="the decode replica with most memory left",
    ),
    pytest.param(
        [
            replica("p0"),
            replica("d0", resident_kv_tokens=20_000),
            replica("d1", resident_kv_tokens=30_000, kv_capacity_tokens=200_000),
        ],
        Disaggregated("p0", "d1"),
        id="memory counts by its share where capacities differ",
    ),
    pytest.param(
        [replica("p0", pending_prefill_tokens=8192), replica("d0"), replica("m0")],
        Disaggregated("p0", "d0"),
        id="exactly at the overflow is no overflow",
    ),
    pytest.param(
        [replica("p0", pending_prefill_tokens=8193), replica("d0"), replica("m0")],
        Whole("m0", borrowed=False),
        id="above the overflow mixed helps",
    ),
    pytest.param(
        [replica("p0", **FULL_QUEUE), replica("d0"), replica("m0", **FULL_QUEUE), replica("m1")],
        Whole("m1", borrowed=False),
        id="of mixed the shortest queue",
    ),
    pytest.param(
        [replica("p0", **FULL_QUEUE), replica("d0"), replica("m0", **FULL_QUEUE)],
        Whole("d0", borrowed=True),
        id="mixed full, a decode replica is borrowed",
    ),
    pytest.param(
        [replica("p0", **FULL_QUEUE), replica("d0", pending_prefill_tokens=10), replica("d1")],
        Whole("d1", borrowed=True),
        id="borrowed is the decode replica with fewest pending tokens",
    ),
    pytest.param(
        [
            replica("p0", **FULL_QUEUE),
            replica("d0", mixed_requests=1, pending_prefill_tokens=10),
            replica("d1"),
        ],
        Whole("d0", borrowed=True),
        id="who is borrowed already comes first",
    ),
    pytest.param(
        [
            replica("p0", **FULL_QUEUE),
            replica("d0", mixed_requests=1, **FULL_QUEUE),
            replica("d1"),
        ],
        Whole("d1", borrowed=True),
        id="when the borrowed one is full, the next is borrowed",
    ),
    pytest.param(
        [replica("p0"), replica("d0", **FULL_MEMORY), replica("m0")],
        Whole("m0", borrowed=False),
        id="decode memory full, mixed helps",
    ),
    pytest.param(
        [replica("p0"), replica("d0", **FULL_BATCH)],
        Whole("p0", borrowed=True),
        id="decode batch full, a prefill replica is borrowed",
    ),
    pytest.param(
        [replica("p0", resident_kv_tokens=10), replica("p1"), replica("d0", **FULL_MEMORY)],
        Whole("p1", borrowed=True),
        id="borrowed is the prefill replica with most memory left",
    ),
    pytest.param(
        [replica("d0")], Whole("d0", borrowed=True), id="without prefill replicas decode ones serve"
    ),
    pytest.param(
        [replica("p0")], Whole("p0", borrowed=True), id="without decode replicas prefill ones serve"
    ),
    pytest.param([replica("d0"), replica("m0")], Whole("m0", borrowed=False), id="mixed before borrowing"),
    pytest.param([replica("m0")], Whole("m0", borrowed=False), id="mixed alone"),
    pytest.param(
        [replica("p0"), replica("d0", mixed_requests=1), replica("d1", resident_kv_tokens=50_000)],
        Disaggregated("p0", "d1"),
        id="a borrowed replica is spared its own phase",
    ),
    pytest.param(
        [replica("p0"), replica("d0", mixed_requests=1)],
        Disaggregated("p0", "d0"),
        id="a borrowed replica goes on with its own phase when nobody else can",
    ),
    pytest.param([], Hold(HoldReason.NO_REPLICA), id="nobody"),
    pytest.param([replica("m0", serving=False)], Hold(HoldReason.NO_REPLICA), id="nobody serves"),
    pytest.param(
        [replica("p0", **FULL_QUEUE), replica("d0", **FULL_QUEUE)],
        Hold(HoldReason.PREFILL_FULL),
        id="all queues are long",
    ),
    pytest.param(
        [replica("p0", **FULL_MEMORY), replica("d0", **FULL_MEMORY)],
        Hold(HoldReason.DECODE_FULL),
        id="all memory is full",
    ),
    pytest.param(
        [replica("p0", **FULL_QUEUE), replica("d0", **FULL_MEMORY), replica("m0", **FULL_QUEUE)],
        Hold(HoldReason.ALL_FULL),
        id="both phases are full",
    ),
    pytest.param(
        [replica("p0", revision="r1"), replica("d0", revision="r2")],
        Whole("d0", borrowed=True),
        id="replicas of two revisions are no pair",
    ),
    pytest.param(
        [
            replica("p0", pending_prefill_tokens=10, revision="r1"),
            replica("d0", revision="r1"),
            replica("p1", revision="r2"),
            replica("d1", resident_kv_tokens=90_000, revision="r2"),
        ],
        Disaggregated("p1", "d1"),
        id="between revisions the shorter prefill queue",
    ),
    pytest.param(
        [
            replica("p0", revision="r1"),
            replica("d0", revision="r1", **FULL_MEMORY),
            replica("p1", pending_prefill_tokens=5000, revision="r2"),
            replica("d1", revision="r2"),
        ],
        Disaggregated("p1", "d1"),
        id="a pair of another revision before anybody is borrowed",
    ),
]


@pytest.mark.parametrize(("fleet", "decision"), CASES)
def test_where_a_request_goes(fleet: list[ReplicaView], decision: Decision) -> None:
    assert route(REQUEST, Fleet(fleet), POLICY) == decision


@pytest.mark.parametrize(("fleet", "decision"), CASES)
def test_the_order_in_which_replicas_became_known_does_not_matter(
    fleet: list[ReplicaView], decision: Decision
) -> None:
    assert {route(REQUEST, Fleet(order), POLICY) for order in permutations(fleet)} == {decision}


@pytest.mark.parametrize("tokens", [1, 1000, 8192, 8193, 20_000])
@pytest.mark.parametrize(
    ("waiting", "decision"),
    [
        pytest.param(0, Disaggregated("p0", "d0"), id="nobody waits"),
        pytest.param(1, Disaggregated("p0", "d0"), id="a short queue"),
        pytest.param(8192, Disaggregated("p0", "d0"), id="just not too long"),
        pytest.param(8193, Whole("d0", borrowed=True), id="too long"),
    ],
)
def test_the_queue_decides_who_is_borrowed_and_not_the_prompt(
    waiting: int, decision: Decision, tokens: int
) -> None:
    """A long prompt among the streams of a decode replica would ruin their ITL, and gain nothing over a short queue."""
    fleet = Fleet([replica("p0", pending_prefill_tokens=waiting), replica("d0")])
    assert route(replace(REQUEST, prompt_tokens=tokens), fleet, POLICY) == decision


def test_a_slow_replica_takes_less_of_a_queue_than_a_fast_one() -> None:
    policy = RoutingPolicy({PoolName.PREFILL: 4000, PoolName.DECODE: 1500, PoolName.MIXED: 2000})
    full = replica("p0", pending_prefill_tokens=4001)
    few, many = (replica("d0", pending_prefill_tokens=tokens) for tokens in (500, 501))
    assert route(REQUEST, Fleet([full, few]), policy) == Whole("d0", True)
    assert route(REQUEST, Fleet([full, many]), policy) == Hold(HoldReason.PREFILL_FULL)
    few, many = (replica("m0", pending_prefill_tokens=tokens) for tokens in (1000, 1001))
    assert route(REQUEST, Fleet([few]), policy) == Whole("m0", False)
    assert isinstance(route(REQUEST, Fleet([many]), policy), Hold)


@pytest.mark.parametrize(
    ("overflow_tokens", "interchangeable", "expected"),
    [
        pytest.param(None, False, (4317, 2880, 2880), id="each pool at its own pace"),
        pytest.param(None, True, (4317, 4317, 4317), id="engines that convert iterate alike"),
        pytest.param(7000, False, (7000, 7000, 7000), id="the user's choice"),
        pytest.param(0, True, (0, 0, 0), id="nobody waits behind others"),
    ],
)
def test_how_long_queues_may_be(
    overflow_tokens: int | None, interchangeable: bool, expected: tuple[int, int, int]
) -> None:
    h200 = profile("llama-3.1-70b-fp8/h200-tp2").performance
    prefill, decode, mixed = (
        PoolSpec(name, 0, 8, 2, h200, interchangeable=interchangeable) for name in PoolName
    )
    spec = replace(
        cluster(),
        slo=Slo(99, ttft_seconds=1.0, itl_seconds=0.040),
        pools=(prefill, decode, mixed),
        overflow_tokens=overflow_tokens,
    )
    policy = RoutingPolicy.of(spec)
    assert tuple(policy.queue_tokens[name] for name in PoolName) == expected
    assert policy.keeps_streams is interchangeable


def test_a_prefill_replica_with_many_prompts_is_not_borrowed() -> None:
    policy = RoutingPolicy({PoolName.PREFILL: 4000, PoolName.DECODE: 2000, PoolName.MIXED: 1500})
    full = replica("d0", **FULL_BATCH)
    few, many = (replica("p0", pending_prefill_tokens=tokens) for tokens in (500, 501))
    assert route(REQUEST, Fleet([few, full]), policy) == Whole("p0", True)
    assert route(REQUEST, Fleet([many, full]), policy) == Hold(HoldReason.DECODE_FULL)


def test_where_iterations_are_long_streams_of_others_are_not_disturbed() -> None:
    policy = replace(POLICY, keeps_streams=True)
    full = replica("p0", **FULL_QUEUE)
    streaming = replica("d0", decoding_sequences=2, resident_kv_tokens=2000)
    assert route(REQUEST, Fleet([full, streaming]), POLICY) == Whole("d0", True)
    assert route(REQUEST, Fleet([full, streaming]), policy) == Hold(HoldReason.PREFILL_FULL)
    own = replace(streaming, mixed_requests=2)
    assert route(REQUEST, Fleet([full, own]), policy) == Whole("d0", True)
    mixed = replica("m0", decoding_sequences=2, resident_kv_tokens=2000, mixed_requests=2)
    assert route(REQUEST, Fleet([full, mixed]), policy) == Whole("m0", False)


def test_equal_replicas_are_chosen_by_name() -> None:
    fleet = Fleet([replica(name) for name in ("p2", "p1", "d2", "d1")])
    assert route(REQUEST, fleet, POLICY) == Disaggregated("p1", "d1")


@pytest.mark.parametrize("name", ["p0", "m0"])
def test_an_idle_replica_takes_a_request_that_is_larger_than_itself(name: str) -> None:
    huge = RoutingRequest(prompt_tokens=1_000_000, expected_output_tokens=1)
    assert isinstance(route(huge, Fleet([replica(name)]), POLICY), Whole)


def test_failed_replicas_are_left_out() -> None:
    fleet = Fleet([replica("p0"), replica("p1"), replica("d0")])
    again = replace(REQUEST, excluded=frozenset({"p0"}))
    assert route(again, fleet, POLICY) == Disaggregated("p1", "d0")
    nobody = replace(REQUEST, excluded=frozenset({"p0", "p1", "d0"}))
    assert route(nobody, fleet, POLICY) == Hold(HoldReason.NO_REPLICA)


def test_mixed_replicas_with_equal_queues_share_the_sequences_that_decode() -> None:
    fleet = Fleet([replica("m0", resident_kv_tokens=50_000, decoding_sequences=20), replica("m1")])
    assert route(REQUEST, fleet, POLICY) == Whole("m1", borrowed=False)


def test_a_request_that_cannot_be_split_goes_to_mixed_or_borrows() -> None:
    whole = replace(REQUEST, whole=True)
    assert route(whole, Fleet([replica("p0"), replica("d0"), replica("m0")]), POLICY) == Whole(
        "m0", borrowed=False
    )
    assert route(whole, Fleet([replica("p0"), replica("d0")]), POLICY) == Whole("d0", borrowed=True)


def test_a_replica_is_borrowed_while_it_has_mixed_work_away_from_home() -> None:
    assert replica("d0", mixed_requests=1).borrowed
    assert not replica("d0").borrowed
    assert not replica("m0", mixed_requests=1).borrowed


def views(
    names: Iterable[str] = ("p0", "p1", "p2", "d0", "d1", "d2", "m0", "m1"),
) -> st.SearchStrategy[ReplicaView]:
    """Replicas around every threshold of the policy below."""
    return st.builds(
        replica,
        st.sampled_from(list(names)),
        revision=st.sampled_from(["r1", "r2"]),
        serving=st.booleans(),
        pending_prefill_tokens=st.sampled_from([0, 1, 20, 100, 101, 200]),
        resident_kv_tokens=st.sampled_from([0, 1, 50, 89, 100]),
        kv_capacity_tokens=st.sampled_from([100, 150]),
        max_batch_size=st.sampled_from([1, 2, 4]),
        decoding_sequences=st.integers(0, 4),
        mixed_requests=st.sampled_from([0, 0, 2]),
    )


SMALL_TOKENS = 100
SMALL = RoutingPolicy.alike(SMALL_TOKENS)
requests = st.builds(
    RoutingRequest,
    prompt_tokens=st.sampled_from([1, 10, 30, 120]),
    expected_output_tokens=st.sampled_from([1, 10]),
    excluded=st.sets(st.sampled_from(["p0", "d0", "m0"])).map(frozenset),
    whole=st.booleans(),
)
fleets = st.lists(views(), max_size=8).map(lambda found: list({view.name: view for view in found}.values()))


def has_room(view: ReplicaView, request: RoutingRequest) -> tuple[bool, bool]:
    """Room for the prompt phase and for the token phase, by the rules as they are written down."""
    usable = view.serving and view.name not in request.excluded
    prompt = view.pending_prefill_tokens <= SMALL_TOKENS
    memory = view.resident_kv_tokens + request.prompt_tokens + request.expected_output_tokens
    token = view.resident_kv_tokens == 0 or (
        memory <= view.kv_capacity_tokens and view.decoding_sequences < view.max_batch_size
    )
    return usable and prompt, usable and token


def has_room_for_whole(view: ReplicaView, request: RoutingRequest) -> bool:
    """Room for both phases on one replica."""
    pending = view.pending_prefill_tokens
    return has_room(view, request)[1] and (pending == 0 or pending + request.prompt_tokens <= SMALL_TOKENS)


def plainly(request: RoutingRequest, fleet: list[ReplicaView]) -> Decision:
    """The same decision by looking at everything."""
    prompt = {view.name for view in fleet if has_room(view, request)[0]}
    token = {view.name for view in fleet if has_room(view, request)[1]}
    pairs = [
        (p.borrowed + d.borrowed, (p.borrowed, p.pending_prefill_tokens, p.name), _memory(d))
        for p in fleet
        for d in fleet
        if p.home is PoolName.PREFILL
        and d.home is PoolName.DECODE
        and p.revision == d.revision
        and p.name in prompt
        and d.name in token
    ]
    if pairs and not request.whole:
        return Disaggregated(_best_of_revisions(pairs, fleet)[0], _best_of_revisions(pairs, fleet)[1])
    both = [view for view in fleet if has_room_for_whole(view, request)]
    mixed = [view for view in both if view.home is PoolName.MIXED]
    if mixed:
        return Whole(min(mixed, key=lambda v: (v.pending_prefill_tokens, v.name)).name, borrowed=False)
    if both:
        return Whole(_lender(both), borrowed=True)
    return Hold(_reason(request, fleet))


def _reason(request: RoutingRequest, fleet: list[ReplicaView]) -> HoldReason:
    if not any(view.serving and view.name not in request.excluded for view in fleet):
        return HoldReason.NO_REPLICA
    if any(view.home is PoolName.DECODE and has_room(view, request)[1] for view in fleet):
        return HoldReason.PREFILL_FULL
    if any(view.home is PoolName.PREFILL and has_room(view, request)[0] for view in fleet):
        return HoldReason.DECODE_FULL
    return HoldReason.ALL_FULL


def _memory(view: ReplicaView) -> tuple[bool, float, int, str]:
    share = view.resident_kv_tokens / view.kv_capacity_tokens
    return (view.borrowed, share, view.decoding_sequences, view.name)


def _best_of_revisions(pairs: list[Any], fleet: list[ReplicaView]) -> tuple[str, str]:
    """In each revision the best prefill and the best decode replica; then the best of these pairs."""
    revision = {view.name: view.revision for view in fleet}
    best = {}
    for found in sorted({revision[pair[1][-1]] for pair in pairs}):
        own = [pair for pair in pairs if revision[pair[1][-1]] == found]
        prefill, decode = min(pair[1] for pair in own), min(pair[2] for pair in own)
        best[found] = (prefill[0] + decode[0], prefill, decode)
    _, prefill, decode = min(best.values())
    return prefill[-1], decode[-1]


def _lender(both: list[ReplicaView]) -> str:
    """In each pool and revision: borrowed ones first, decode by queue, prefill by memory; then the emptiest."""
    best = []
    for home in (PoolName.DECODE, PoolName.PREFILL):
        for revision in ("r1", "r2"):
            group = [view for view in both if view.home is home and view.revision == revision]
            if home is PoolName.DECODE:
                group.sort(key=lambda v: (not v.borrowed, v.pending_prefill_tokens, v.name))
            else:
                group.sort(key=lambda v: (not v.borrowed, *_memory(v)[1:]))
            best += group[:1]
    return min(best, key=lambda v: (not v.borrowed, v.kv_share, v.pending_prefill_tokens, v.name)).name


@given(requests, fleets)
def test_the_ordered_fleet_decides_as_one_that_looks_at_everything(
    request: RoutingRequest, fleet: list[ReplicaView]
) -> None:
    assert route(request, Fleet(fleet), SMALL) == plainly(request, fleet)


@given(requests, fleets, st.sampled_from(["", "b"]))
def test_a_request_for_a_model_is_routed_as_if_only_its_revisions_and_unnamed_ones_were_there(
    request: RoutingRequest, fleet: list[ReplicaView], other: str
) -> None:
    named = [replace(view, model="a" if view.revision == "r1" else other) for view in fleet]
    able = [view for view in named if view.model in ("a", "")]

    assert route(replace(request, model="a"), Fleet(named), SMALL) == route(request, Fleet(able), SMALL)


def test_the_models_of_a_fleet_are_those_of_its_serving_replicas() -> None:
    fleet = Fleet(
        [replica("p0", model="a"), replica("d0", model="a"), replica("m0", revision="r2", model="b")]
    )
    assert fleet.models == {"a", "b"}
    assert fleet.revisions_for("b") == ["r2"]

    fleet.put(replica("m0", revision="r2", model="b", serving=False))
    assert fleet.models == {"a"}
    assert fleet.revisions_for("b") == []

    fleet.put(replica("m0", revision="r3", model="b"))
    assert fleet.revisions_for("b") == ["r3"]
    assert fleet.revisions_for(None) == ["r1", "r3"]


@given(requests, fleets)
def test_only_replicas_with_room_get_work_and_a_pair_is_of_one_revision(
    request: RoutingRequest, fleet: list[ReplicaView]
) -> None:
    by_name = {view.name: view for view in fleet}
    match route(request, Fleet(fleet), SMALL):
        case Disaggregated(prefill, decode):
            assert not request.whole
            assert has_room(by_name[prefill], request)[0]
            assert has_room(by_name[decode], request)[1]
            assert by_name[prefill].revision == by_name[decode].revision
            assert (by_name[prefill].home, by_name[decode].home) == (PoolName.PREFILL, PoolName.DECODE)
        case Whole(name, borrowed):
            assert has_room_for_whole(by_name[name], request)
            assert borrowed == (by_name[name].home is not PoolName.MIXED)
        case Hold():
            assert not any(has_room_for_whole(view, request) for view in fleet)


@given(st.lists(st.one_of(views(), st.sampled_from(["p0", "d0", "m0", "x9"])), max_size=40), requests)
def test_a_fleet_that_changed_equals_one_that_was_built_anew(
    changes: list[ReplicaView | str], request: RoutingRequest
) -> None:
    fleet, known = Fleet(), dict[str, ReplicaView]()
    for change in changes:
        if isinstance(change, str):
            fleet.remove(change)
            known.pop(change, None)
        else:
            fleet.put(change)
            known[change.name] = change
    built = Fleet(known.values())

    assert {view.name: view for view in fleet} == known
    assert len(fleet) == len(known)
    assert fleet.revisions_for(None) == built.revisions_for(None)
    assert all(fleet.get(name) == view for name, view in known.items())
    assert route(request, fleet, SMALL) == route(request, built, SMALL)


@given(fleets, st.integers(1, 200))
def test_assigning_until_everything_holds_exceeds_no_memory_and_no_batch_and_joins_no_long_queue(
    fleet: list[ReplicaView], prompt_tokens: int
) -> None:
    request = RoutingRequest(prompt_tokens=prompt_tokens, expected_output_tokens=3)
    current = Fleet(fleet)
    for _ in range(200):
        decision = route(request, current, SMALL)
        if isinstance(decision, Hold):
            break
        for before, after in assigned(request, current, decision):
            if before.resident_kv_tokens and after.resident_kv_tokens != before.resident_kv_tokens:
                assert after.resident_kv_tokens <= after.kv_capacity_tokens
                assert after.decoding_sequences <= after.max_batch_size
            if after.pending_prefill_tokens != before.pending_prefill_tokens:
                assert before.pending_prefill_tokens <= SMALL_TOKENS
            current.put(after)
    assert isinstance(route(request, current, SMALL), Hold)


def assigned(
    request: RoutingRequest, fleet: Fleet, decision: Disaggregated | Whole
) -> list[tuple[ReplicaView, ReplicaView]]:
    """The chosen replicas before and after."""
    reserved = request.prompt_tokens + request.expected_output_tokens

    def view(name: str) -> ReplicaView:
        found = fleet.get(name)
        assert found is not None
        return found

    def prompt(before: ReplicaView) -> ReplicaView:
        return replace(before, pending_prefill_tokens=before.pending_prefill_tokens + request.prompt_tokens)

    def token(before: ReplicaView) -> ReplicaView:
        return replace(
            before,
            resident_kv_tokens=before.resident_kv_tokens + reserved,
            decoding_sequences=before.decoding_sequences + 1,
        )

    if isinstance(decision, Disaggregated):
        prefill, decode = view(decision.prefill), view(decision.decode)
        return [(prefill, prompt(prefill)), (decode, token(decode))]
    before = view(decision.replica)
    return [(before, replace(token(prompt(before)), mixed_requests=before.mixed_requests + 1))]

"""No request is lost or cut silently: whatever an engine does, the client gets the answer or a clear error."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from tests.router.harness import PAIR, eventually, request_document, running_router
from tests.router.scripted_engine import CONTEXT, GENERATION, WHOLE, Behaviour, Never

from inferencecluster.router.event_stream import LARGEST_EVENT_BYTES

TWO_PAIRS = {"p0": "prefill", "p1": "prefill", "d0": "decode", "d1": "decode"}
PATIENCE = {"IC_PREFILL_SECONDS": "1", "IC_FIRST_TOKEN_SECONDS": "1", "IC_ANSWER_SECONDS": "1"}

NEVER = Never()

FAILURES = [
    pytest.param(Behaviour(status=500), id="status 500"),
    pytest.param(Behaviour(status=503), id="status 503"),
    pytest.param(Behaviour(status=429), id="status 429"),
    pytest.param(Behaviour(status=404), id="status 404"),
    pytest.param(Behaviour(reset=True), id="connection cut"),
    pytest.param(Behaviour(gate=NEVER), id="silence"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("behaviour", FAILURES)
async def test_a_prefill_that_fails_is_done_elsewhere(behaviour: Behaviour, stream: bool) -> None:
    async with running_router(TWO_PAIRS, environment=PATIENCE) as router:
        router.engines["p0"].script(CONTEXT, behaviour)
        reply = await router.complete(stream=stream)
        kinds = [router.engines[name].kinds() for name in ("p0", "p1")]

    assert reply.status == 200
    assert kinds == [[CONTEXT], [CONTEXT]]
    if stream:
        assert reply.events[-1] == "[DONE]"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("behaviour", [*FAILURES, pytest.param(Behaviour(status=400), id="status 400")])
async def test_a_decode_that_fails_before_its_first_token_is_prefilled_again_elsewhere(
    behaviour: Behaviour, stream: bool
) -> None:
    async with running_router(TWO_PAIRS, environment=PATIENCE) as router:
        router.engines["d0"].script(GENERATION, behaviour)
        reply = await router.complete(stream=stream)
        prefills = [kind for name in ("p0", "p1") for kind in router.engines[name].kinds()]
        decodes = [router.engines[name].kinds() for name in ("d0", "d1")]

    assert reply.status == 200
    assert prefills == [CONTEXT, CONTEXT]
    assert decodes == [[GENERATION], [GENERATION]]


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(Behaviour(tokens=0, ends_short=True), id="empty stream"),
        pytest.param(Behaviour(body="{}"), id="JSON instead of events"),
        pytest.param(Behaviour(error_first=True), id="an error as its first event"),
    ],
)
async def test_a_stream_that_is_none_is_made_elsewhere(behaviour: Behaviour) -> None:
    async with running_router(TWO_PAIRS) as router:
        router.engines["d0"].script(GENERATION, behaviour)
        reply = await router.complete(stream=True)
        kinds = router.engines["d1"].kinds()

    assert reply.events[-1] == "[DONE]"
    assert kinds == [GENERATION]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("{", id="no JSON"),
        pytest.param('{"choices": []}', id="no choices"),
        pytest.param('{"choices": [{"finish_reason": null}]}', id="a choice that has not ended"),
    ],
)
async def test_an_answer_that_is_not_complete_is_made_elsewhere(body: str) -> None:
    async with running_router(TWO_PAIRS) as router:
        router.engines["d0"].script(GENERATION, Behaviour(body=body))
        reply = await router.complete()

    assert reply.document["choices"][0]["finish_reason"] == "length"


async def test_a_refused_connection_ejects_the_replica_for_a_while() -> None:
    async with running_router(TWO_PAIRS) as router:
        await router.engines["p0"].stop()
        replies = [await router.complete() for _ in range(3)]
        kinds = router.engines["p1"].kinds()
        entry = next(entry for entry in router.process.services.ledger if entry.record.name == "p0")

        assert entry.ejected
        assert not entry.serving
        metrics = (await router.get("/metrics")).body.decode()

    assert [reply.status for reply in replies] == [200, 200, 200]
    assert kinds == [CONTEXT] * 3
    assert 'inferencecluster_router_retries_total{cluster="c",namespace="n"} 1.0' in metrics


async def test_the_other_pool_steps_in_when_the_only_prefill_replica_is_gone() -> None:
    async with running_router(PAIR) as router:
        await router.engines["p0"].stop()
        reply = await router.complete()
        kinds = router.engines["d0"].kinds()

    assert reply.status == 200
    assert kinds == [WHOLE]


async def test_attempts_are_bounded_and_the_error_says_what_happened() -> None:
    pools = {f"m{number}": "mixed" for number in range(5)}
    async with running_router(pools) as router:
        for engine in router.engines.values():
            engine.always[WHOLE] = Behaviour(status=500, body='{"message": "out of memory"}')
        reply = await router.complete()
        asked = sum(len(engine.seen) for engine in router.engines.values())
        totals = (await router.state())["totals"]

    assert reply.status == 502
    assert asked == 3
    error = reply.document["error"]
    assert error["code"] == "engine_failed"
    assert "status 500" in error["message"]
    assert "out of memory" in error["message"]
    assert totals["failed"] == 1


async def test_when_nobody_else_is_left_the_client_is_told_at_once() -> None:
    async with running_router({"m0": "mixed"}) as router:
        router.engines["m0"].script(WHOLE, Behaviour(status=500))
        reply = await router.complete()

    assert reply.status == 502


async def test_one_error_answer_does_not_eject_a_replica_and_two_do() -> None:
    async with running_router({"m0": "mixed", "m1": "mixed"}) as router:
        entry = next(entry for entry in router.process.services.ledger if entry.record.name == "m0")
        router.engines["m0"].script(WHOLE, Behaviour(status=500), Behaviour(status=500))
        await router.complete()
        assert not entry.ejected
        await router.complete()
        assert entry.ejected


async def test_a_prompt_that_takes_too_long_does_not_eject_its_replica_and_two_do() -> None:
    configuration = {"IC_PREFILL_SECONDS": "0.05"}
    async with running_router({**TWO_PAIRS, "p1": "decode"}, environment=configuration) as router:
        entry = next(entry for entry in router.process.services.ledger if entry.record.name == "p0")
        router.engines["p0"].script(CONTEXT, Behaviour(gate=Never()), Behaviour(gate=Never()))
        await router.complete()
        assert not entry.ejected
        await router.complete()
        assert entry.ejected


async def test_a_whole_request_has_the_time_that_its_prompt_may_take() -> None:
    patience = {"IC_FIRST_TOKEN_SECONDS": "0.05", "IC_PREFILL_SECONDS": "30"}
    async with running_router({"m0": "mixed"}, environment=patience) as router:
        gate = asyncio.Event()
        router.engines["m0"].script(WHOLE, Behaviour(gate=gate))
        task = asyncio.create_task(router.complete(stream=True))
        await asyncio.sleep(0.2)
        gate.set()
        reply = await task

    assert reply.status == 200
    assert router.engines["m0"].kinds() == [WHOLE]


BROKEN = [
    pytest.param(Behaviour(tokens=5, reset_after=2), 2, "", id="connection cut"),
    pytest.param(Behaviour(tokens=3, ends_short=True), 3, "without [DONE]", id="ends without DONE"),
]


@pytest.mark.parametrize(("behaviour", "tokens", "words"), BROKEN)
@pytest.mark.parametrize("pools", [PAIR, {"m0": "mixed"}], ids=["disaggregated", "whole"])
async def test_a_stream_that_breaks_ends_with_an_error_event_and_never_silently(
    behaviour: Behaviour, tokens: int, words: str, pools: dict[str, str]
) -> None:
    async with running_router(pools) as router:
        for name in ("d0", "m0"):
            if name in router.engines:
                router.engines[name].always[GENERATION] = router.engines[name].always[WHOLE] = behaviour
        reply = await router.complete(stream=True)
        totals = (await router.state())["totals"]

    *events, last = reply.events
    assert len(events) == tokens
    assert last["error"]["code"] == "stream_broken"
    assert words in last["error"]["message"]
    assert "[DONE]" not in reply.events
    assert (totals["failed"], totals["completed"]) == (1, 0)


async def test_half_an_event_is_dropped_before_the_error_event() -> None:
    async with running_router({"m0": "mixed"}) as router:
        router.engines["m0"].script(WHOLE, Behaviour(tokens=2, ends_short=True, tail=b'data: {"id": "x'))
        reply = await router.complete(stream=True)

    assert len(reply.events) == 3
    assert reply.events[-1]["error"]["code"] == "stream_broken"


async def test_an_event_without_end_breaks_the_stream_off_and_says_so() -> None:
    async with running_router(PAIR) as router:
        tail = b"x" * (LARGEST_EVENT_BYTES + 1)
        router.engines["d0"].script(GENERATION, Behaviour(ends_short=True, tail=tail))
        reply = await router.complete(stream=True)

    assert len(reply.events) == 4
    assert "an event is larger than" in reply.events[-1]["error"]["message"]


async def test_an_engines_own_error_event_is_passed_on_and_not_repeated() -> None:
    async with running_router(PAIR) as router:
        router.engines["d0"].script(GENERATION, Behaviour(error_event=True))
        reply = await router.complete(stream=True)
        totals = (await router.state())["totals"]

    first, second = reply.events
    assert first["choices"]
    assert second["error"]["message"] == "scripted"
    assert totals["failed"] == 1


async def test_a_stream_that_goes_silent_ends_with_an_error_event() -> None:
    async with running_router(PAIR, environment={"IC_SILENCE_SECONDS": "2"}) as router:
        router.engines["d0"].script(GENERATION, Behaviour(pause=NEVER))
        reply = await router.complete(stream=True)

    assert len(reply.events) == 2
    assert "silent for too long" in reply.events[-1]["error"]["message"]


@pytest.mark.parametrize("kind", [CONTEXT, GENERATION])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_stops_the_work_for_it(kind: str, stream: bool) -> None:
    async with running_router(PAIR) as router:
        engine = router.engines["p0" if kind == CONTEXT else "d0"]
        engine.always[kind] = Behaviour(gate=NEVER)
        task = asyncio.create_task(router.complete(stream=stream))
        await eventually(lambda: engine.seen)

        task.cancel()
        await eventually(lambda: engine.cancelled == [kind])
        await eventually(lambda: router.process.standing.active == 0)
        states = (await router.state())["replicas"]
        metrics = (await router.get("/metrics")).body.decode()

    assert all(entry["in_flight"] == entry["kv_transfers"] == 0 for entry in states)
    assert 'outcome="cancelled",path="disaggregated"} 1.0' in metrics


async def test_a_client_that_goes_away_in_the_middle_of_a_stream_stops_the_engine() -> None:
    async with running_router(PAIR) as router:
        router.engines["d0"].always[GENERATION] = Behaviour(pause=NEVER)
        document = request_document(stream=True)
        async with router.client.post("/v1/completions", json=document) as response:
            assert await response.content.readany()
            response.close()
        await eventually(lambda: router.engines["d0"].cancelled == [GENERATION])
        await eventually(lambda: router.process.standing.active == 0)


async def test_a_client_that_does_not_read_loses_its_connection_and_the_engine_is_not_blamed() -> None:
    async with running_router({"m0": "mixed"}, environment={"IC_SILENCE_SECONDS": "2"}) as router:
        router.engines["m0"].always[WHOLE] = Behaviour(tokens=200_000)
        response = await router.client.post("/v1/completions", json=request_document(stream=True))
        await eventually(lambda: router.process.standing.active == 0, seconds=15)
        (entry,) = router.process.services.ledger
        with pytest.raises(aiohttp.ClientError):
            await response.read()

    assert not entry.ejected
    assert entry.in_flight == 0

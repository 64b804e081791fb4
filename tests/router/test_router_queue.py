"""The central queue: who waits, who is refused, and where overflow goes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.router.busy_router import FULL, SHORT, finish, held, slow_prompts
from tests.router.harness import (
    PAIR,
    SETTINGS,
    eventually,
    running_router,
)
from tests.router.scripted_engine import CONTEXT, WHOLE, Behaviour, Never

from inferencecluster.core.routing import RoutingPolicy


async def test_a_request_that_nobody_can_take_waits_and_goes_when_there_is_room() -> None:
    async with running_router({"m0": "mixed"}, **FULL) as router:
        gate = asyncio.Event()
        router.engines["m0"].script(WHOLE, Behaviour(gate=gate))
        tasks = [asyncio.create_task(router.complete()) for _ in range(3)]
        await held(router, 2)
        state = await router.state()
        asked = len(router.engines["m0"].seen)

        gate.set()
        statuses = await finish(tasks)

    assert (state["held_requests"], state["held_tokens"]) == (2, 10)
    assert state["totals"]["requests"] == 3
    assert state["totals"]["prompt_tokens"] == 15
    assert state["totals"]["prompt_tokens_squared"] == 75
    assert asked == 1
    assert statuses == [200, 200, 200]


async def test_requests_leave_the_queue_in_the_order_in_which_they_came() -> None:
    async with running_router({"m0": "mixed"}, **FULL) as router:
        gate = asyncio.Event()
        router.engines["m0"].script(WHOLE, Behaviour(gate=gate))
        tasks = []
        for number in range(5):
            tasks.append(asyncio.create_task(router.complete(seed=number)))
            await eventually(lambda: router.process.standing.active == len(tasks))
            await held(router, number)
        gate.set()
        await finish(tasks)
        order = [seen.document["seed"] for seen in router.engines["m0"].seen]

    assert order == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/completions", {"prompt": [1] * 10_001}, "prompt"),
        ("/v1/completions", {"prompt": ["short", "x" * 200_000]}, "prompt"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 200_000}]}, "messages"),
    ],
    ids=["tokens", "one text of two", "chat"],
)
async def test_a_prompt_that_no_engine_could_ever_hold_is_refused_at_once(
    path: str, fields: dict[str, Any], param: str
) -> None:
    async with running_router(PAIR, kv_capacity_tokens=10_000) as router:
        reply = await router.complete(path, **fields)
        state = await router.state()

    error = reply.document["error"]
    assert (reply.status, error["code"], error["param"]) == (400, "context_length_exceeded", param)
    assert "10000" in error["message"]
    assert state["totals"]["requests"] == 0


@pytest.mark.parametrize(
    "prompt",
    [[1] * 10_000, "x" * 100_000, [[1] * 6000, [2] * 6000]],
    ids=["just fits", "may fit", "two that fit"],
)
async def test_a_prompt_that_may_fit_is_the_engines_to_judge(prompt: Any) -> None:
    async with running_router(PAIR, kv_capacity_tokens=10_000) as router:
        assert (await router.complete(prompt=prompt)).status == 200


async def test_a_new_replica_takes_what_waits() -> None:
    async with running_router({"m0": "mixed"}, ready=False) as router:
        task = asyncio.create_task(router.complete())
        await held(router, 1)

        router.fleet.change("m0", ready=True)

        assert (await task).status == 200


async def test_a_change_of_settings_reaches_what_waits() -> None:
    pools = {"p0": "prefill", "d0": "decode"}
    async with running_router(pools, settings=replace(SETTINGS, routing=RoutingPolicy.alike(1))) as router:
        slow_prompts(router)
        router.engines["p0"].always[CONTEXT] = Behaviour(gate=Never())
        router.engines["d0"].always[WHOLE] = Behaviour(gate=Never())
        tasks = [asyncio.create_task(router.complete()) for _ in range(3)]
        await held(router, 1)

        router.settings.put(replace(SETTINGS, routing=RoutingPolicy.alike(100)))

        await held(router, 0)
        for task in tasks:
            task.cancel()


async def test_a_request_that_waits_too_long_is_refused_with_retry_after() -> None:
    async with running_router({"m0": "mixed"}, settings=SHORT, **FULL) as router:
        router.engines["m0"].script(WHOLE, Behaviour(gate=Never()))
        first = asyncio.create_task(router.complete())
        await eventually(lambda: router.engines["m0"].seen)

        reply = await router.complete()
        totals = (await router.state())["totals"]
        first.cancel()

    assert reply.status == 429
    assert 1 <= int(reply.headers["Retry-After"]) <= 60
    assert reply.document["error"]["type"] == "overloaded_error"
    assert reply.document["error"]["code"] == "engines_busy"
    assert "0.2 s" in reply.document["error"]["message"]
    assert (totals["refused"], totals["requests"]) == (1, 2)


async def test_without_any_engine_the_refusal_says_so() -> None:
    async with running_router({}, settings=SHORT) as router:
        reply = await router.complete()

    assert reply.status == 503
    assert reply.document["error"]["code"] == "no_engine_ready"
    assert int(reply.headers["Retry-After"]) >= 1


@pytest.mark.parametrize(
    "limits", [{"IC_MAX_QUEUE_REQUESTS": "1"}, {"IC_MAX_QUEUE_BYTES": "100"}], ids=["requests", "bytes"]
)
async def test_a_full_queue_refuses_at_once_and_those_are_no_arrivals(limits: Mapping[str, str]) -> None:
    async with running_router({}, environment=dict(limits)) as router:
        first = asyncio.create_task(router.complete())
        await held(router, 1)

        reply = await router.complete()
        totals = (await router.state())["totals"]
        first.cancel()

    assert reply.status == 503
    assert "queue is full" in reply.document["error"]["message"]
    assert (totals["requests"], totals["refused"]) == (1, 1)


async def test_a_client_that_goes_away_leaves_the_queue() -> None:
    async with running_router({}) as router:
        task = asyncio.create_task(router.complete())
        await held(router, 1)

        task.cancel()

        await held(router, 0)
        assert (await router.state())["held_tokens"] == 0


async def test_above_the_overflow_the_mixed_pool_helps_and_then_the_decode_pool() -> None:
    pools = {**PAIR, "m0": "mixed"}
    async with running_router(pools, settings=replace(SETTINGS, routing=RoutingPolicy.alike(1))) as router:
        slow_prompts(router)
        for engine in router.engines.values():
            engine.always[CONTEXT] = engine.always[WHOLE] = Behaviour(gate=Never())
        tasks = [asyncio.create_task(router.complete()) for _ in range(4)]
        await held(router, 1)
        await eventually(lambda: all(engine.seen for engine in router.engines.values()))
        kinds = {name: engine.kinds() for name, engine in router.engines.items()}
        states = {entry["name"]: entry for entry in (await router.state())["replicas"]}
        mixed = (await router.state())["mixed_requests"]
        for task in tasks:
            task.cancel()

    assert kinds == {"p0": [CONTEXT], "m0": [WHOLE], "d0": [WHOLE]}
    assert {name: entry["borrowed"] for name, entry in states.items()} == {
        "p0": False,
        "m0": False,
        "d0": True,
    }
    assert mixed == 2


async def test_a_borrowed_replica_returns_when_its_mixed_work_ends() -> None:
    async with running_router(PAIR, settings=replace(SETTINGS, routing=RoutingPolicy.alike(1))) as router:
        gates = [asyncio.Event(), asyncio.Event()]
        router.engines["p0"].script(CONTEXT, Behaviour(gate=gates[0]))
        router.engines["d0"].script(WHOLE, Behaviour(gate=gates[1]))
        tasks = [asyncio.create_task(router.complete()) for _ in range(2)]
        await eventually(lambda: router.engines["d0"].seen)
        assert (await router.replica("d0"))["borrowed"]

        gates[1].set()
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert not (await router.replica("d0"))["borrowed"]

        gates[0].set()
        assert await finish(tasks) == [200, 200]

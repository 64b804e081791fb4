"""The central queue, fences, KV transfers, and what the router tells about them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.router.harness import (
    PAIR,
    SETTINGS,
    Reply,
    RouterUnderTest,
    eventually,
    running_router,
)
from tests.router.scripted_engine import CONTEXT, GENERATION, WHOLE, Behaviour, Never

from inferencecluster.render.trtllm.versions import parse_version
from inferencecluster.router.sources import WakeSettings

FULL: dict[str, Any] = {"max_batch_size": 1}
"""A decode or mixed replica that holds one request is full."""
SHORT = replace(SETTINGS, max_queue_seconds=0.2)


async def held(router: RouterUnderTest, count: int) -> None:
    """Wait until so many requests are in the queue."""
    await eventually(lambda: router.process.services.dispatcher.held_requests == count)


def slow_prompts(router: RouterUnderTest) -> None:
    """Answers in one piece count as prompts for as long as a test takes."""
    router.process.services.estimates.learn_prefill(seconds=1e6, pending_tokens=1)


async def finish(tasks: list[asyncio.Task[Reply]]) -> list[int]:
    return [reply.status for reply in await asyncio.gather(*tasks)]


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
    async with running_router(pools, settings=replace(SETTINGS, overflow_tokens=5)) as router:
        slow_prompts(router)
        router.engines["p0"].always[CONTEXT] = Behaviour(gate=Never())
        router.engines["d0"].always[WHOLE] = Behaviour(gate=Never())
        tasks = [asyncio.create_task(router.complete()) for _ in range(3)]
        await held(router, 1)

        router.settings.put(replace(SETTINGS, overflow_tokens=100))

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


ASLEEP = replace(SHORT, wake=WakeSettings(boot_seconds=120.0, hold_seconds=30.0))


async def test_a_request_that_finds_the_cluster_asleep_is_held_for_a_boot_and_served() -> None:
    async with running_router({"m0": "mixed"}, settings=ASLEEP, ready=False) as router:
        task = asyncio.create_task(router.complete())
        await held(router, 1)
        await asyncio.sleep(2 * SHORT.max_queue_seconds)
        still_held = (await router.state())["held_requests"]

        router.fleet.change("m0", ready=True)

        assert (await task).status == 200
    assert still_held == 1


async def test_a_request_that_comes_while_replicas_serve_waits_no_longer_than_usual() -> None:
    async with running_router({"m0": "mixed"}, settings=ASLEEP, **FULL) as router:
        router.engines["m0"].always[WHOLE] = Behaviour(gate=Never())
        busy = asyncio.create_task(router.complete())
        await eventually(lambda: router.engines["m0"].seen)
        reply = await router.complete()
        busy.cancel()
    assert (reply.status, reply.document["error"]["code"]) == (429, "engines_busy")


async def test_a_boot_that_takes_too_long_is_refused_in_the_end() -> None:
    wake = WakeSettings(boot_seconds=0.1, hold_seconds=0.4)
    async with running_router({}, settings=replace(SHORT, wake=wake)) as router:
        reply = await router.complete()
    assert (reply.status, reply.document["error"]["code"]) == (503, "no_engine_ready")
    assert "0.4 s" in reply.document["error"]["message"]


async def test_with_the_queue_full_while_the_cluster_wakes_clients_are_told_to_come_after_the_boot() -> None:
    async with running_router({}, settings=ASLEEP, environment={"IC_MAX_QUEUE_REQUESTS": "1"}) as router:
        first = asyncio.create_task(router.complete())
        await held(router, 1)
        reply = await router.complete()
        first.cancel()
    assert (reply.status, reply.document["error"]["code"]) == (429, "engines_starting")
    assert 60 <= int(reply.headers["Retry-After"]) <= 120


async def test_whoever_waits_for_a_held_request_is_answered_as_soon_as_there_is_one() -> None:
    async with running_router({}, settings=ASLEEP) as router:
        quiet = (await router.get("/state?holding=0")).document["held_requests"]
        waiter = asyncio.create_task(router.get("/state?holding=60"))
        first = asyncio.create_task(router.complete())
        told = (await waiter).document["held_requests"]
        again = (await router.get("/state?holding=60")).document["held_requests"]
        first.cancel()
        await held(router, 0)
        after = (await router.get("/state?holding=0")).document["held_requests"]
    assert (quiet, told, again, after) == (0, 1, 1, 0)


@pytest.mark.parametrize("value", ["61", "-1", "soon", ""])
async def test_a_wait_for_a_held_request_is_bounded(value: str) -> None:
    async with running_router({}) as router:
        reply = await router.get(f"/state?holding={value}")
    assert (reply.status, reply.document["error"]["param"]) == (400, "holding")


async def test_a_client_that_goes_away_leaves_the_queue() -> None:
    async with running_router({}) as router:
        task = asyncio.create_task(router.complete())
        await held(router, 1)

        task.cancel()

        await held(router, 0)
        assert (await router.state())["held_tokens"] == 0


async def test_above_the_overflow_the_mixed_pool_helps_and_then_the_decode_pool() -> None:
    pools = {**PAIR, "m0": "mixed"}
    async with running_router(pools, settings=replace(SETTINGS, overflow_tokens=9)) as router:
        slow_prompts(router)
        for engine in router.engines.values():
            engine.always[CONTEXT] = engine.always[WHOLE] = Behaviour(gate=Never())
        tasks = [asyncio.create_task(router.complete()) for _ in range(4)]
        await held(router, 1)
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
    async with running_router(PAIR, settings=replace(SETTINGS, overflow_tokens=5)) as router:
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


async def test_a_fence_is_confirmed_and_nothing_new_goes_to_the_replica() -> None:
    async with running_router({**PAIR, "p1": "prefill"}) as router:
        assert not (await router.replica("p0"))["fenced"]

        router.fleet.change("p0", fenced=True)
        confirmed = await router.replica("p0")
        statuses = [(await router.complete()).status for _ in range(3)]

    assert confirmed["fenced"]
    assert confirmed["uid"] == "uid-p0"
    assert statuses == [200, 200, 200]
    assert router.engines["p0"].kinds() == []


async def test_the_confirmation_of_a_fence_says_which_fence_it_is() -> None:
    async with running_router(PAIR) as router:
        before = (await router.replica("p0"))["fenced_at"]
        router.fleet.change("p0", fenced=True, fenced_at="100.5")
        first = (await router.replica("p0"))["fenced_at"]
        router.fleet.change("p0", fenced_at="200.5")
        second = (await router.replica("p0"))["fenced_at"]

    assert (before, first, second) == ("", "100.5", "200.5")


async def test_an_unsynced_router_says_so() -> None:
    async with running_router(PAIR) as router:
        assert (await router.state())["synced"]
        router.fleet.synced = False
        assert not (await router.state())["synced"]


async def test_a_fenced_decode_replica_still_finishes_what_is_on_its_way_to_it() -> None:
    async with running_router({**PAIR, "d1": "decode"}) as router:
        gate = asyncio.Event()
        router.engines["p0"].script(CONTEXT, Behaviour(gate=gate))
        task = asyncio.create_task(router.complete())
        await eventually(lambda: router.engines["p0"].seen)
        router.fleet.change("d0", fenced=True)
        on_its_way = await router.replica("d0")

        gate.set()
        reply = await task
        after = await router.replica("d0")

    assert on_its_way["in_flight"] == 1
    assert reply.status == 200
    assert after["in_flight"] == 0
    assert router.engines["d0"].kinds() == [GENERATION]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_kv_transfer_counts_from_the_context_answer_to_the_first_token(stream: bool) -> None:
    async with running_router(PAIR) as router:
        gate, pause = asyncio.Event(), asyncio.Event()
        router.engines["d0"].script(GENERATION, Behaviour(gate=gate, pause=pause))
        task = asyncio.create_task(router.complete(stream=stream))
        await eventually(lambda: router.engines["d0"].seen)
        during = (await router.replica("p0"), await router.replica("d0"))
        metrics = (await router.get("/metrics")).body.decode()

        gate.set()
        if stream:

            async def is_pulled() -> bool:
                return bool((await router.replica("p0"))["kv_transfers"] == 0)

            await eventually(is_pulled)
        pause.set()
        await task
        after = await router.replica("p0")

    prefill, decode = during
    assert (prefill["in_flight"], prefill["kv_transfers"], prefill["pending_prefill_tokens"]) == (0, 1, 0)
    assert (decode["in_flight"], decode["decoding_sequences"], decode["resident_kv_tokens"]) == (1, 1, 5)
    assert 'kv_transfers{cluster="c",namespace="n",replica="p0"} 1.0' in metrics
    assert after["kv_transfers"] == 0


async def test_the_transfer_of_an_answer_in_one_piece_ends_with_the_engines_own_timeout() -> None:
    settings = replace(SETTINGS, kv_transfer_timeout_seconds=0.1)
    async with running_router(PAIR, settings=settings) as router:
        router.engines["d0"].always[GENERATION] = Behaviour(gate=Never())
        task = asyncio.create_task(router.complete())
        await eventually(lambda: router.engines["d0"].seen)

        async def is_over() -> bool:
            return bool((await router.replica("p0"))["kv_transfers"] == 0)

        await eventually(is_over)
        assert (await router.replica("d0"))["in_flight"] == 1
        task.cancel()


async def test_a_prompt_that_is_answered_in_one_piece_leaves_the_queue_at_the_speed_of_others() -> None:
    async with running_router({**PAIR, "m0": "mixed"}) as router:
        await router.complete()
        for name in ("p0", "d0"):
            router.fleet.remove(name)
        router.engines["m0"].always[WHOLE] = Behaviour(gate=Never())
        task = asyncio.create_task(router.complete())
        await eventually(lambda: router.engines["m0"].seen)

        async def is_prefilled() -> bool:
            entry = await router.replica("m0")
            return entry["pending_prefill_tokens"] == 0 and bool(entry["decoding_sequences"] == 1)

        await eventually(is_prefilled)
        task.cancel()


async def test_answers_in_one_piece_alone_do_not_fill_the_prompt_queue_of_a_mixed_replica() -> None:
    settings = replace(SETTINGS, overflow_tokens=2000)
    async with running_router(
        {"m0": "mixed"}, settings=settings, kv_capacity_tokens=1_000_000, max_batch_size=256
    ) as router:
        router.engines["m0"].always[WHOLE] = Behaviour(gate=Never())
        tasks = [asyncio.create_task(router.complete(prompt=[1] * 1000)) for _ in range(10)]

        await eventually(lambda: len(router.engines["m0"].seen) == 10)
        for task in tasks:
            task.cancel()


async def test_whole_streams_tell_how_fast_prompts_are() -> None:
    async with running_router({"m0": "mixed"}) as router:
        estimates = router.process.services.estimates
        believed = estimates.prefill_seconds(1000)
        gate = asyncio.Event()
        router.engines["m0"].script(WHOLE, Behaviour(gate=gate))
        task = asyncio.create_task(router.complete(stream=True, prompt=[1] * 1000))
        await eventually(lambda: router.engines["m0"].seen)
        await asyncio.sleep(0.3)
        gate.set()
        assert (await task).status == 200
        learned = estimates.prefill_seconds(1000)

    assert learned > believed


async def test_an_answer_that_comes_before_its_prompt_was_believed_done_tells_that_prompts_are_faster() -> (
    None
):
    async with running_router({"m0": "mixed"}, kv_capacity_tokens=1_000_000) as router:
        estimates = router.process.services.estimates
        estimates.learn_prefill(seconds=100.0, pending_tokens=10_000)
        believed = estimates.prefill_seconds(1000)
        await router.complete(prompt=[1] * 5000)
        learned = estimates.prefill_seconds(1000)

    assert learned < believed


async def test_prefill_and_decode_are_of_one_revision() -> None:
    async with running_router({**PAIR, "p1": "prefill", "d1": "decode"}) as router:
        for name in ("p1", "d1"):
            router.fleet.change(name, revision="r2")
        router.fleet.change("d0", ready=False)
        for _ in range(4):
            assert (await router.complete()).status == 200

    assert router.engines["p1"].kinds() == [CONTEXT] * 4
    assert router.engines["d1"].kinds() == [GENERATION] * 4


async def test_during_a_rollout_every_engine_is_spoken_to_in_its_own_protocol() -> None:
    old, new = parse_version("1.2.1"), parse_version("1.3.0rc29")
    async with running_router({**PAIR, "p1": "prefill", "d1": "decode"}, engine_version=old) as router:
        for name in ("p1", "d1"):
            router.fleet.change(name, revision="r2", engine_version=new, ready=False)
        router.settings.put(replace(SETTINGS, engine_version=new))
        before = await router.complete()
        for name in ("p1", "d1"):
            router.fleet.change(name, ready=True)
        for name in ("p0", "d0"):
            router.fleet.change(name, ready=False)
        after = await router.complete()

    def fields(name: str) -> set[str]:
        (seen,) = router.engines[name].seen
        return set(seen.document["disaggregated_params"])

    assert (before.status, after.status) == (200, 200)
    assert "disagg_request_id" not in fields("p0")
    assert "disagg_request_id" in fields("p1")


async def test_during_a_rollout_to_another_model_each_name_is_answered_by_its_own_engines() -> None:
    pools = {"m0": "mixed", "m1": "mixed"}
    async with running_router(pools, model="old") as router:
        router.fleet.change("m1", revision="r2", model="new", ready=False)
        router.settings.put(replace(SETTINGS, model="new"))
        waiting = asyncio.create_task(router.complete(model="new"))
        await held(router, 1)
        old = [await router.complete(model="old") for _ in range(3)]
        listed = (await router.get("/v1/models")).document["data"]

        router.fleet.change("m1", ready=True)
        new = await waiting
        router.fleet.change("m0", ready=False)
        gone = await router.complete(model="old")
        alone = (await router.get("/v1/models")).document["data"]

    assert [reply.status for reply in (*old, new)] == [200] * 4
    assert [seen.document["model"] for seen in router.engines["m0"].seen] == ["old"] * 3
    assert [seen.document["model"] for seen in router.engines["m1"].seen] == ["new"]
    assert [entry["id"] for entry in listed] == ["new", "old"]
    assert [entry["id"] for entry in alone] == ["new"]
    assert (gone.status, gone.document["error"]["code"]) == (404, "model_not_found")


async def test_a_pod_of_the_same_name_starts_with_a_clean_slate() -> None:
    async with running_router({"m0": "mixed"}, **FULL) as router:
        router.engines["m0"].script(WHOLE, Behaviour(gate=Never()))
        task = asyncio.create_task(router.complete())
        await eventually(lambda: router.engines["m0"].seen)

        router.fleet.change("m0", uid="another")
        reply = await router.complete()
        entry = await router.replica("m0")
        task.cancel()
        await eventually(lambda: router.process.standing.active == 0)
        after = await router.replica("m0")

    assert reply.status == 200
    assert (entry["uid"], entry["in_flight"]) == ("another", 0)
    assert after["in_flight"] == 0


async def test_the_oldest_request_without_a_first_token_ages() -> None:
    async with running_router(PAIR) as router:
        assert (await router.state())["head_age_seconds"] == 0
        router.engines["p0"].always[CONTEXT] = Behaviour(gate=Never())
        task = asyncio.create_task(router.complete())
        await eventually(lambda: router.engines["p0"].seen)

        async def ages() -> bool:
            return bool((await router.state())["head_age_seconds"] > 0)

        await eventually(ages)
        task.cancel()

        async def is_forgotten() -> bool:
            return bool((await router.state())["head_age_seconds"] == 0)

        await eventually(is_forgotten)


async def test_after_any_traffic_every_count_is_back_at_zero() -> None:
    pools: dict[str, Any] = {"p0": "prefill", "p1": "prefill", "d0": "decode", "d1": "decode", "m0": "mixed"}
    settings = replace(SETTINGS, overflow_tokens=20, max_queue_seconds=2.0)
    faults = [
        Behaviour(),
        Behaviour(status=500),
        Behaviour(reset=True),
        Behaviour(tokens=30, reset_after=3),
        Behaviour(ends_short=True),
        Behaviour(finish_reason="stop"),
        Behaviour(tokens=40),
    ]
    async with running_router(pools, settings=settings, max_batch_size=6) as router:
        for engine in router.engines.values():
            for kind in (CONTEXT, GENERATION, WHOLE):
                engine.script(kind, *faults)
        tasks = [
            asyncio.create_task(router.complete(stream=bool(number % 3), max_tokens=1 + number % 7))
            for number in range(120)
        ]
        await asyncio.sleep(0.05)
        for task in tasks[::10]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await eventually(lambda: router.process.standing.active == 0)
        state = await router.state()
        views = list(router.process.services.ledger.fleet)

    for entry in state["replicas"]:
        counts = {key: value for key, value in entry.items() if isinstance(value, int)}
        assert {key for key, value in counts.items() if value} <= {"ready"}, entry
    assert (state["held_requests"], state["held_tokens"], state["mixed_requests"]) == (0, 0, 0)
    assert all(
        view.pending_prefill_tokens
        == view.resident_kv_tokens
        == view.decoding_sequences
        == view.mixed_requests
        == 0
        for view in views
    )

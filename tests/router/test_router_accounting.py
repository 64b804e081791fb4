"""What the router counts: KV transfers, prompt speed, ages; all back at zero in the end."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.router.harness import (
    PAIR,
    SETTINGS,
    eventually,
    running_router,
)
from tests.router.scripted_engine import CONTEXT, GENERATION, WHOLE, Behaviour, Never

from inferencecluster.core.routing import RoutingPolicy


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
    settings = replace(SETTINGS, routing=RoutingPolicy.alike(2000))
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


async def test_an_answer_in_one_piece_does_not_wait_for_its_first_token_once_its_prompt_is_done() -> None:
    async with running_router(PAIR) as router:
        router.engines["d0"].always[GENERATION] = Behaviour(gate=Never())
        task = asyncio.create_task(router.complete())
        await eventually(lambda: router.engines["d0"].seen)
        assert (await router.state())["head_age_seconds"] == 0
        task.cancel()


async def test_after_any_traffic_every_count_is_back_at_zero() -> None:
    pools: dict[str, Any] = {"p0": "prefill", "p1": "prefill", "d0": "decode", "d1": "decode", "m0": "mixed"}
    settings = replace(SETTINGS, routing=RoutingPolicy.alike(20), max_queue_seconds=2.0)
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

"""Requests that find the cluster asleep (scaled to zero): held for a boot, and told to whoever waits for them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.router.busy_router import FULL, SHORT, held
from tests.router.harness import eventually, running_router
from tests.router.scripted_engine import WHOLE, Behaviour, Never

from inferencecluster.router.sources import WakeSettings

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

"""Fences, revisions and rollouts: which replica may still be used for what."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tests.router.busy_router import FULL, held
from tests.router.harness import (
    PAIR,
    SETTINGS,
    eventually,
    running_router,
)
from tests.router.scripted_engine import CONTEXT, GENERATION, WHOLE, Behaviour, Never

from inferencecluster.render.trtllm.versions import parse_version


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

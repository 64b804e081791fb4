"""What all routers together say of a replica; a fence counts as confirmed only when every one of them says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.adapters.pods import RouterPod
from inferencecluster.adapters.routers import (
    HOLDING_SECONDS,
    LOST_SECONDS,
    SETTLE_SECONDS,
    HttpRouterClient,
    Look,
    RouterView,
    look_at_routers,
)
from inferencecluster.api.router_state import ReplicaState, RouterState, Totals
from inferencecluster.core.errors import MetricsUnavailable
from inferencecluster.core.fleet import Lifecycle, PoolName, Replica, ReplicaLoad, Role
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Flow, RouterSample

NOW = 1_800_000_000.0


def replica(name: str = "demo-engine-0", fenced_at: float | None = NOW - 60) -> Replica:
    return Replica(
        name=name,
        uid=f"uid of {name}",
        home=PoolName.DECODE,
        role=Role.DECODE,
        revision="a",
        gpus=2,
        lifecycle=Lifecycle.READY,
        created_at=NOW - 600,
        fenced_at=fenced_at,
    )


def entry(name: str = "demo-engine-0", **changes: Any) -> ReplicaState:
    values: dict[str, Any] = {
        "name": name,
        "uid": f"uid of {name}",
        "fenced": True,
        "ready": True,
        "in_flight": 0,
        "kv_transfers": 0,
        "pending_prefill_tokens": 0,
        "decoding_sequences": 0,
        "resident_kv_tokens": 0,
        "borrowed": False,
    }
    return ReplicaState(**values | changes)


def state(instance: str = "a", *replicas: ReplicaState, requests: int = 0, **changes: Any) -> RouterState:
    totals = Totals(
        requests=requests,
        prompt_tokens=requests * 10,
        prompt_tokens_squared=requests * 100,
        completed=requests,
        completed_output_tokens=requests * 5,
        failed=0,
        refused=0,
        prefilled_prompt_tokens=requests * 8,
        cached_prompt_tokens=requests * 3,
    )
    values: dict[str, Any] = {
        "instance": instance,
        "started_at": 0.0,
        "now": 0.0,
        "held_requests": 0,
        "held_tokens": 0,
        "head_age_seconds": 0.0,
        "mixed_requests": 0,
        "synced": True,
        "totals": totals,
        "replicas": replicas,
    }
    return RouterState(**values | changes)


def _with(field: str, value: str) -> str:
    """The text of a state in which one field has another value."""
    kept = state().model_dump(mode="json", exclude={field})
    return f'{json.dumps(kept)[:-1]}, "{field}": {value}}}'


def pod(
    name: str, address: str | None = "10.0.0.1", *, running: bool = True, killed_at: float | None = None
) -> RouterPod:
    return RouterPod(ObjectKey("team", "demo"), "rs", name, name, address, running, killed_at)


class Routers:
    """`RouterClient` by address; absent ones do not answer."""

    def __init__(self, **states: RouterState) -> None:
        self.states = states

    async def state(self, address: str) -> RouterState:
        await asyncio.sleep(0)
        if address not in self.states:
            raise MetricsUnavailable(source=address, detail="connection refused")
        return self.states[address]

    async def state_when_holding(self, address: str) -> RouterState:
        return await self.state(address)


async def look(**states: RouterState | None) -> RouterView:
    """A first look at routers by address; None is one that does not answer."""
    return await look_again(None, 100.0, states)


async def look_again(
    previous: Look | None, at: float, states: Mapping[str, RouterState | None]
) -> RouterView:
    known = {address: found for address, found in states.items() if found is not None}
    pods = [pod(f"router-{address}", address) for address in states]
    return await look_at_routers(Routers(**known), pods, previous, at=at, now=NOW)


async def test_work_on_a_replica_is_the_sum_over_all_routers() -> None:
    view = await look(
        a=state("a", entry(in_flight=2, kv_transfers=1)), b=state("b", entry(in_flight=3, kv_transfers=0))
    )
    assert view.load(replica(), now=NOW) == ReplicaLoad(in_flight=5, kv_transfers=1, fence_confirmed=True)


@pytest.mark.parametrize(
    ("second", "confirmed"),
    [
        pytest.param(state("b", entry()), True, id="both fenced it"),
        pytest.param(state("b", entry(fenced=False)), False, id="one has not yet"),
        pytest.param(state("b", entry(), synced=False), False, id="one is out of touch with the API server"),
        pytest.param(state("b"), False, id="one does not know the replica"),
    ],
)
async def test_a_fence_needs_every_router(second: RouterState, confirmed: bool) -> None:
    load = (await look(a=state("a", entry()), b=second)).load(replica(), now=NOW)
    assert isinstance(load, ReplicaLoad)
    assert load.fence_confirmed is confirmed


@pytest.mark.parametrize(
    ("told", "confirmed"),
    [
        pytest.param(None, True, id="a router that does not tell which"),
        pytest.param("1799999940.000", True, id="this fence"),
        pytest.param("1799999000.000", False, id="an earlier fence"),
        pytest.param("", False, id="none, because it sees the Pod end"),
    ],
)
async def test_a_router_confirms_the_fence_that_it_acts_on_and_no_other(
    told: str | None, confirmed: bool
) -> None:
    view = await look(a=state("a", entry(fenced_at=told)))
    load = view.load(replica(), now=NOW, fence="1799999940.000")
    assert isinstance(load, ReplicaLoad)
    assert load.fence_confirmed is confirmed


async def test_one_silent_router_hides_the_work_on_every_replica() -> None:
    view = await look(a=state("a", entry()), b=None)
    assert isinstance(view.sample, Missing)
    load = view.load(replica(), now=NOW)
    assert isinstance(load, Missing)
    assert load.reason == "RouterUnreachable"
    assert "router-b: connection refused" in load.message
    assert view.look is None


@pytest.mark.parametrize(
    "gone",
    [
        pytest.param(pod("starting", running=False), id="its container does not run"),
        pytest.param(pod("pending", None), id="it has no address"),
    ],
)
async def test_a_router_that_cannot_hold_work_is_not_waited_for(gone: RouterPod) -> None:
    pods = [pod("a", "a"), gone]
    view = await look_at_routers(Routers(a=state("a", entry())), pods, None, at=0.0, now=NOW)
    assert isinstance(view.sample, RouterSample)
    assert isinstance(view.load(replica(), now=NOW), ReplicaLoad)


@pytest.mark.parametrize(
    ("killed_at", "waited_for"),
    [
        pytest.param(None, True, id="nobody deletes it"),
        pytest.param(NOW + 1800, True, id="it may finish its streams"),
        pytest.param(NOW, True, id="it ends now"),
        pytest.param(NOW - LOST_SECONDS, False, id="its node never told that it ended"),
    ],
)
async def test_a_silent_router_is_waited_for_until_it_cannot_be_there_any_more(
    killed_at: float | None, waited_for: bool
) -> None:
    pods = [pod("a", "a"), pod("lost", "b", killed_at=killed_at)]
    view = await look_at_routers(Routers(a=state("a", entry())), pods, None, at=0.0, now=NOW)
    assert isinstance(view.sample, Missing) is waited_for
    assert isinstance(view.load(replica(), now=NOW), Missing) is waited_for


async def test_a_router_that_answers_counts_however_long_it_should_have_been_gone() -> None:
    pods = [pod("a", "a"), pod("cut off", "b", killed_at=NOW - 3600)]
    states = {"a": state("a", entry()), "b": state("b", entry(fenced=False))}
    view = await look_at_routers(Routers(**states), pods, None, at=0.0, now=NOW)
    load = view.load(replica(), now=NOW)
    assert isinstance(load, ReplicaLoad)
    assert not load.fence_confirmed


async def test_where_every_router_is_lost_there_is_none() -> None:
    pods = [pod("lost", "b", killed_at=NOW - LOST_SECONDS)]
    view = await look_at_routers(Routers(), pods, None, at=0.0, now=NOW)
    assert isinstance(view.sample, Missing)
    assert view.sample.reason == "NoRouter"


@pytest.mark.parametrize(
    ("fenced_for", "confirmed"),
    [
        pytest.param(SETTLE_SECONDS, True, id="long enough"),
        pytest.param(SETTLE_SECONDS - 1, False, id="a router may just be starting with an older view"),
        pytest.param(None, False, id="not fenced"),
    ],
)
async def test_without_a_router_nothing_is_in_flight_and_an_old_fence_holds(
    fenced_for: float | None, confirmed: bool
) -> None:
    view = await look()
    fenced_at = None if fenced_for is None else NOW - fenced_for
    load = view.load(replica(fenced_at=fenced_at), now=NOW)
    assert load == ReplicaLoad(in_flight=0, kv_transfers=0, fence_confirmed=confirmed)
    assert isinstance(view.sample, Missing)
    assert view.sample.reason == "NoRouter"


async def test_the_queue_adds_up_and_its_age_is_the_oldest() -> None:
    first = state(
        "a", entry("x", borrowed=True, resident_kv_tokens=10), held_requests=1, head_age_seconds=2.0
    )
    second = state("b", entry("x", resident_kv_tokens=5), held_requests=2, head_age_seconds=1.0)
    view = await look(a=first, b=second)
    assert isinstance(view.sample, RouterSample)
    queue = view.sample.queue
    assert (queue.held_requests, queue.head_age_seconds, queue.resident_kv_tokens) == (3, 2.0, 15)
    assert queue.borrowed_replicas == ("x",)


async def flow_between(first: dict[str, RouterState], second: dict[str, RouterState]) -> Flow | Missing:
    before = await look(**first)
    after = await look_again(before.look, 110.0, second)
    assert isinstance(after.sample, RouterSample)
    return after.sample.flow


async def test_the_flow_is_what_was_counted_between_two_looks() -> None:
    flow = await flow_between(
        {"a": state("a", requests=10), "b": state("b", requests=5)},
        {"a": state("a", requests=16), "b": state("b", requests=9)},
    )
    assert flow == Flow(
        seconds=10.0,
        requests=10.0,
        prompt_tokens=100.0,
        prompt_tokens_squared=1000.0,
        completed=10.0,
        completed_output_tokens=50.0,
        prefilled_prompt_tokens=80.0,
        cached_prompt_tokens=30.0,
    )


@pytest.mark.parametrize(
    "second",
    [
        pytest.param({"a": state("restarted", requests=1)}, id="restarted"),
        pytest.param({"a": state("a", requests=12), "b": state("b")}, id="one more"),
    ],
)
async def test_other_routers_than_before_tell_no_flow(second: dict[str, RouterState]) -> None:
    flow = await flow_between({"a": state("a", requests=10)}, second)
    assert isinstance(flow, Missing)
    assert flow.reason == "RoutersChanged"


async def test_the_first_look_tells_no_flow() -> None:
    view = await look(a=state())
    assert isinstance(view.sample, RouterSample)
    assert isinstance(view.sample.flow, Missing)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param("{}", 200, id="fields missing"),
        pytest.param("no json", 200, id="no JSON"),
        pytest.param(state().model_dump_json(), 503, id="refused"),
        pytest.param(_with("head_age_seconds", "Infinity"), 200, id="an endless age"),
        pytest.param(_with("held_tokens", "1" + 400 * "0"), 200, id="more than a float holds"),
    ],
)
async def test_a_useless_answer_is_an_outage(body: str, status: int) -> None:
    server = await _router(body, status)
    async with HttpRouterClient(port=server.port or 0) as client:
        with pytest.raises(MetricsUnavailable):
            await client.state("127.0.0.1")
    await server.close()


async def test_an_answer_over_http_is_the_state_also_of_a_newer_version() -> None:
    server = await _router(state("a").model_dump_json()[:-1] + ', "invented": 1}', 200)
    async with HttpRouterClient(port=server.port or 0) as client:
        assert (await client.state("127.0.0.1")).instance == "a"
        with pytest.raises(MetricsUnavailable):
            await client.state("127.0.0.2.invalid")
    await server.close()


async def test_a_router_is_asked_to_answer_when_it_holds_a_request() -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.query_string)
        return web.Response(text=state("a").model_dump_json())

    app = web.Application()
    app.router.add_get("/state", answer)
    async with TestServer(app) as server, HttpRouterClient(port=server.port or 0) as client:
        await client.state_when_holding("127.0.0.1")
        await client.state("127.0.0.1")
    assert asked == [f"holding={HOLDING_SECONDS}", ""]


async def _router(body: str, status: int) -> TestServer:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body, status=status)

    app = web.Application()
    app.router.add_get("/state", answer)
    server = TestServer(app)
    await server.start_server()
    return server

"""Readiness, metrics, and the end of a router."""

from __future__ import annotations

import asyncio
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.router.harness import (
    ENVIRONMENT,
    PAIR,
    SETTINGS,
    MemoryFleet,
    MemorySettings,
    eventually,
    running_router,
)
from tests.router.scripted_engine import GENERATION, Behaviour

from inferencecluster.adapters.clock import SystemClock
from inferencecluster.adapters.promql import FLOWS, ROUTER_PREFIX
from inferencecluster.router.configuration import read_configuration
from inferencecluster.router.process import RouterProcess, Sources
from inferencecluster.router.sources import ReplicaListener


async def test_metrics_name_everything_that_the_operator_reads() -> None:
    async with running_router(PAIR) as router:
        await router.complete(stream=True)
        await router.complete()
        text = (await router.get("/metrics")).body.decode()

    values = {
        (sample.name.removeprefix("inferencecluster_router_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }

    def value(name: str, **labels: str) -> float:
        return values[name, frozenset({"cluster": "c", "namespace": "n", **labels}.items())]

    assert value("arrivals_total") == 2
    assert value("prompt_tokens_total") == 10
    assert value("prompt_tokens_squared_total") == 50
    assert value("output_tokens_total") == 6
    assert value("completed_requests_total") == 2
    assert value("completed_output_tokens_total") == 6
    assert value("requests_total", model="served", outcome="completed", path="disaggregated") == 2
    assert value("ttft_seconds_count") == 1
    assert value("itl_seconds_bucket", le="+Inf") == value("itl_seconds_count") <= 2
    assert value("added_latency_seconds_count") == 2
    assert value("queue_requests") == value("queue_tokens") == value("queue_head_age_seconds") == 0
    assert value("in_flight", replica="p0", pool="prefill", phase="prefill") == 0
    assert value("kv_transfers", replica="p0") == 0


async def test_prometheus_and_the_operator_are_told_of_the_same_arrivals() -> None:
    """Pools do not shrink while the two disagree: requests that are wrong must not look like load."""
    async with running_router(PAIR) as router:
        await router.complete()
        for _ in range(5):
            assert (await router.complete(prompt=None)).status == 400
        text = (await router.get("/metrics")).body.decode()
        told = (await router.state())["totals"]

    counted = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert counted[ROUTER_PREFIX + FLOWS["requests"]] == told["requests"] == 1


async def test_an_idle_router_has_its_series_already() -> None:
    async with running_router(PAIR) as router:
        text = (await router.get("/metrics")).body.decode()

    assert 'inferencecluster_router_requests_total{cluster="c",model="served"' in text


async def test_until_its_cluster_is_known_the_router_is_not_ready_and_refuses() -> None:
    async with running_router(PAIR, settings=None) as router:
        ready = await router.get("/readyz")
        alive = await router.get("/healthz")
        reply = await router.complete()
        models = await router.get("/v1/models")

        router.settings.put(SETTINGS)
        later = await router.get("/readyz")

    assert (ready.status, alive.status, reply.status, models.status, later.status) == (
        503,
        200,
        503,
        503,
        200,
    )
    assert reply.headers["Retry-After"] == "1"


async def test_before_the_first_list_the_router_is_not_ready() -> None:
    async with running_router(PAIR) as router:
        router.fleet.listed = False
        assert (await router.get("/readyz")).status == 503


async def test_a_leaving_router_is_not_ready_finishes_its_streams_and_still_tells_its_state() -> None:
    async with running_router(PAIR, environment={"IC_NOTICE_SECONDS": "0.3"}) as router:
        pause = asyncio.Event()
        router.engines["d0"].script(GENERATION, Behaviour(pause=pause))
        stream = asyncio.create_task(router.complete(stream=True))
        await eventually(lambda: router.engines["d0"].seen)

        leaving = asyncio.create_task(router.process.leave())
        await eventually(lambda: router.process.standing.leaving)
        assert (await router.get("/readyz")).status == 503
        during_notice = await router.complete()
        await eventually(lambda: router.process.standing.closed)
        after_notice = await router.complete()
        assert (await router.replica("d0"))["in_flight"] == 1
        assert not leaving.done()

        pause.set()
        reply = await stream
        await asyncio.wait_for(leaving, 5)

    assert during_notice.status == 200
    assert during_notice.headers["Connection"] == "close"
    assert after_notice.status == 503
    assert "shutting down" in after_notice.document["error"]["message"]
    assert reply.events[-1] == "[DONE]"


@pytest.mark.parametrize("failure", [RuntimeError("broken"), None], ids=["fails", "ends"])
async def test_a_source_that_stops_telling_ends_the_router(failure: RuntimeError | None) -> None:
    class Stopping(MemoryFleet):
        async def run(self, listener: ReplicaListener) -> None:
            if failure is not None:
                raise failure

    sources = Sources(Stopping(), MemorySettings(SETTINGS))
    process = RouterProcess(read_configuration(ENVIRONMENT), sources, SystemClock(), stopwatch=time.monotonic)
    async with process.serving(host="127.0.0.1"):
        await asyncio.wait_for(process.stopped(), 5)
    with pytest.raises(RuntimeError, match="broken" if failure else "ended by itself"):
        process.raise_failure()

"""One query for all clusters; what is absent, NaN, late or broken is Missing with a reason, never 0."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.fakes.virtualtime import EPOCH, VirtualClock, run_virtual

from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.adapters.prometheus import (
    MetricsBoard,
    PrometheusSource,
    Series,
    build_query,
    read_samples,
)
from inferencecluster.core.errors import MetricsUnavailable
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import NOT_CONFIGURED, MetricsSample, PoolUtilization

ONE, TWO = ObjectKey("team", "one"), ObjectKey("team", "two")
FLOWS = {
    "requests": 120.0,
    "prompt_tokens": 60_000.0,
    "prompt_tokens_squared": 4e7,
    "completed": 110.0,
    "completed_output_tokens": 9_000.0,
}


def series(key: ObjectKey, signal: str, value: float, **labels: str) -> Series:
    return Series({"namespace": key.namespace, "cluster": key.name, "signal": signal, **labels}, value)


def answer(key: ObjectKey = ONE, **changes: float) -> list[Series]:
    return [series(key, signal, value) for signal, value in (FLOWS | changes).items()]


def sample(found: Sequence[Series], key: ObjectKey = ONE, percentile: int = 90) -> MetricsSample | Missing:
    return read_samples(found, {key: percentile}, window_seconds=60)[key]


def test_a_full_answer_is_a_full_sample() -> None:
    found = sample(
        [
            *answer(),
            series(ONE, "ttft_90", 0.31),
            series(ONE, "itl_90", 0.02),
            series(ONE, "tensor_active", 0.7, pool="prefill"),
            series(ONE, "dram_active", 0.2, pool="prefill"),
            series(ONE, "tensor_active", 0.1, pool="decode"),
        ]
    )
    assert isinstance(found, MetricsSample)
    assert (found.flow.seconds, found.flow.requests, found.flow.completed_output_tokens) == (60, 120, 9000)
    assert (found.ttft_seconds, found.itl_seconds) == (0.31, 0.02)
    # A pool with one counter of two is absent: half a truth about a GPU is none.
    assert found.utilization == {PoolName.PREFILL: PoolUtilization(0.7, 0.2)}


def test_each_cluster_reads_its_own_series_and_percentile() -> None:
    found = read_samples(
        [
            *answer(ONE, requests=1.0),
            *answer(TWO, requests=2.0),
            series(ONE, "ttft_90", 0.1),
            series(ONE, "ttft_99", 0.9),
        ],
        {ONE: 99, TWO: 90},
        window_seconds=60,
    )
    one, two = found[ONE], found[TWO]
    assert isinstance(one, MetricsSample)
    assert isinstance(two, MetricsSample)
    assert (one.flow.requests, two.flow.requests) == (1.0, 2.0)
    assert one.ttft_seconds == 0.9
    assert two.ttft_seconds == Missing("NothingCompleted", "no request in 60 s")


@pytest.mark.parametrize("absent", FLOWS)
def test_a_cluster_without_one_of_its_counters_is_missing_not_idle(absent: str) -> None:
    found = sample([entry for entry in answer() if entry.labels["signal"] != absent])
    assert isinstance(found, Missing)
    assert found.reason == "NoSeries"


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
def test_what_is_no_number_is_no_latency(value: str) -> None:
    found = sample([*answer(), series(ONE, "ttft_90", float(value))])
    assert isinstance(found, MetricsSample)
    assert isinstance(found.ttft_seconds, Missing)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
def test_what_is_no_number_is_no_flow(value: str) -> None:
    found = sample(answer(prompt_tokens_squared=float(value)))
    assert isinstance(found, Missing)
    assert found.reason == "NoSeries"


def test_the_query_holds_each_percentile_once_and_every_window() -> None:
    query = build_query([90, 99, 90], window_seconds=45)
    assert query.count("histogram_quantile(0.9,") == 2
    assert query.count("histogram_quantile(0.99,") == 2
    assert "inferencecluster_router_prompt_tokens_squared_total[45s]" in query
    assert query.count("[45s]") == 5 + 4 + 2


class Source:
    """A `MetricSource` that counts, and is slow or fails on demand."""

    def __init__(self, found: list[Series]) -> None:
        self.found = found
        self.asked: list[float] = []
        self.error: MetricsUnavailable | None = None
        self.seconds = 0.0
        """From a question to its answer."""

    async def query(self, expression: str, *, at: float) -> Sequence[Series]:
        assert "increase" in expression
        self.asked.append(at)
        await asyncio.sleep(self.seconds)
        if self.error:
            raise self.error
        return self.found


def board(source: Source | Missing) -> MetricsBoard:
    made = MetricsBoard(source, VirtualClock(), window_seconds=60, fresh_seconds=5.0)
    made.follow(ONE, 90)
    made.follow(TWO, 90)
    return made


def test_clusters_that_ask_together_share_one_query() -> None:
    async def scenario() -> None:
        source = Source([*answer(ONE), *answer(TWO)])
        made = board(source)
        found = await asyncio.gather(*(made.sample(key) for key in (ONE, TWO) * 50))
        assert all(isinstance(entry, MetricsSample) for entry in found)
        assert source.asked == [EPOCH]

    run_virtual(scenario())


def test_an_answer_is_asked_for_again_when_it_is_old() -> None:
    async def scenario() -> None:
        source = Source(answer())
        made = board(source)
        for pause in (0.0, 4.9, 0.1):
            await asyncio.sleep(pause)
            await made.sample(ONE)
        assert source.asked == [EPOCH, EPOCH + 5.0]

    run_virtual(scenario())


def test_an_outage_is_missing_for_every_cluster_and_ends_by_itself() -> None:
    async def scenario() -> None:
        source = Source([*answer(ONE), *answer(TWO)])
        made = board(source)
        source.error = MetricsUnavailable(source="Prometheus", detail="connection refused")
        for key in (ONE, TWO):
            found = await made.sample(key)
            assert isinstance(found, Missing)
            assert (found.reason, "connection refused" in found.message) == ("PrometheusUnavailable", True)
        source.error = None
        await asyncio.sleep(5)
        assert isinstance(await made.sample(ONE), MetricsSample)

    run_virtual(scenario())


@pytest.mark.parametrize("fails", [True, False], ids=["no answer", "a late answer"])
def test_everybody_who_waited_for_a_prometheus_that_hangs_shares_what_came_of_it(fails: bool) -> None:
    async def scenario() -> None:
        source = Source([*answer(ONE), *answer(TWO)])
        source.seconds = 10.0
        if fails:
            source.error = MetricsUnavailable(source="Prometheus", detail="timed out")
        made = board(source)
        found = await asyncio.gather(*(made.sample(key) for key in (ONE, TWO) * 50))
        assert {isinstance(entry, Missing) for entry in found} == {fails}
        await asyncio.sleep(4.9)
        await made.sample(ONE)
        assert source.asked == [EPOCH]

    run_virtual(scenario())


def test_a_cluster_that_came_after_the_query_waits_for_the_next() -> None:
    async def scenario() -> None:
        made = board(Source(answer()))
        await made.sample(ONE)
        made.follow(ObjectKey("team", "new"), 90)
        found = await made.sample(ObjectKey("team", "new"))
        assert isinstance(found, Missing)
        assert found.reason == "NotAskedYet"

    run_virtual(scenario())


def test_a_forgotten_cluster_is_not_asked_for() -> None:
    async def scenario() -> None:
        made = board(Source(answer()))
        made.forget(ONE)
        assert isinstance(await made.sample(ONE), Missing)

    run_virtual(scenario())


async def test_without_prometheus_there_is_a_reason_instead_of_a_sample() -> None:
    reason = Missing(NOT_CONFIGURED, "installed without one")
    assert await board(reason).sample(ONE) is reason


@asynccontextmanager
async def prometheus(
    body: object, status: int = 200
) -> AsyncIterator[tuple[PrometheusSource, list[dict[str, str]]]]:
    asked: list[dict[str, str]] = []

    async def query(request: web.Request) -> web.Response:
        asked.append({**request.query, **{key: str(value) for key, value in (await request.post()).items()}})
        return web.Response(text=json.dumps(body), status=status, content_type="application/json")

    app = web.Application()
    app.router.add_post("/api/v1/query", query)
    server = TestServer(app)
    await server.start_server()
    source = PrometheusSource(str(server.make_url("")).rstrip("/"))
    try:
        yield source, asked
    finally:
        source.close()
        await server.close()


async def test_an_instant_vector_is_read_at_the_time_that_was_asked_for() -> None:
    body = {
        "status": "success",
        "data": {"result": [{"metric": {"cluster": "one"}, "value": [1.5, "42.5"]}]},
    }
    async with prometheus(body) as (source, asked):
        assert await source.query("up", at=1234.5) == [Series({"cluster": "one"}, 42.5)]
    assert asked == [{"query": "up", "time": "1234.5"}]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param({"error": "parse error"}, 400, id="refused"),
        pytest.param({}, 503, id="away"),
        pytest.param({"status": "success"}, 200, id="no data"),
        pytest.param({"data": {"result": [{"metric": {}}]}}, 200, id="no value"),
        pytest.param({"data": {"result": [{"metric": {}, "value": [1, "x"]}]}}, 200, id="no number"),
        pytest.param({"data": {"result": [{"metric": "up", "value": [1, "2"]}]}}, 200, id="no labels"),
    ],
)
async def test_an_answer_that_is_no_vector_is_an_outage(body: object, status: int) -> None:
    async with prometheus(body, status) as (source, _):
        with pytest.raises(MetricsUnavailable):
            await source.query("up", at=1.0)


async def test_a_server_that_is_not_there_is_an_outage() -> None:
    source = PrometheusSource("http://127.0.0.1:9")
    with pytest.raises(MetricsUnavailable):
        await source.query("up", at=1.0)
    source.close()

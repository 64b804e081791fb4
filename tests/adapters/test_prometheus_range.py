"""The past of a cluster, step by step: what is absent is Missing and never 0, and every failure says what it was."""

from __future__ import annotations

import base64
import math

import pytest
from tests.fakes.prometheus_server import FakePrometheus, serving

from inferencecluster.adapters.prometheus_range import (
    MOST_POINTS,
    RangeSeries,
    TimeRange,
    build_range_query,
    flows_of,
    read_flows,
    without_credentials,
)
from inferencecluster.core.errors import MetricsUnavailable
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Flow

START = 1_777_885_200
RANGE = TimeRange(START, 60, 3)
GROWTH = {
    "inferencecluster_router_arrivals_total": 120.0,
    "inferencecluster_router_prompt_tokens_total": 120_000.0,
    "inferencecluster_router_prompt_tokens_squared_total": 2.4e8,
    "inferencecluster_router_completed_requests_total": 110.0,
    "inferencecluster_router_completed_output_tokens_total": 22_000.0,
    "inferencecluster_router_prefilled_prompt_tokens_total": 100_000.0,
    "inferencecluster_router_cached_prompt_tokens_total": 25_000.0,
}
FLOW = Flow(60.0, 120.0, 120_000.0, 2.4e8, 110.0, 22_000.0, 100_000.0, 25_000.0)


def read(url: str, asked: TimeRange = RANGE) -> tuple[Flow | Missing, ...]:
    return read_flows(url, namespace="default", cluster="tiny", asked=asked)


def series(signal: str, *points: tuple[float, float]) -> RangeSeries:
    return RangeSeries({"signal": signal}, points)


def full(**changed: RangeSeries) -> list[RangeSeries]:
    times = [START + 60.0, START + 120.0, START + 180.0]
    names = ("requests", "prompt_tokens", "prompt_tokens_squared", "completed", "completed_output_tokens")
    return [changed.get(name, series(name, *((time, 7.0) for time in times))) for name in names]


def test_each_step_is_the_growth_of_the_routers_counters_that_prometheus_tells_at_its_end() -> None:
    fake = FakePrometheus(lambda counter, time: GROWTH[counter] * (time - START) / 60)
    with serving(fake) as url:
        first, second, third = read(url)
    assert first == FLOW
    assert isinstance(second, Flow)
    assert isinstance(third, Flow)
    assert (second.requests, third.requests) == (240.0, 360.0)
    (query,) = fake.queries
    assert (query["start"], query["end"], query["step"]) == (str(START + 60), str(START + 180), "60")


def test_only_series_of_the_cluster_are_asked_for() -> None:
    query = build_range_query(namespace="team", cluster="chat", step_seconds=30)
    assert query.count('{namespace="team",cluster="chat"}[30s]') == query.count("increase(") == len(GROWTH)
    assert all(counter in query for counter in GROWTH)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_what_is_no_count_is_missing(value: float) -> None:
    points = [(START + 60.0, 7.0), (START + 120.0, value), (START + 180.0, 7.0)]
    found = flows_of(full(requests=series("requests", *points)), RANGE)
    assert [isinstance(flow, Missing) for flow in found] == [False, True, False]
    assert found[1] == Missing("NoSeries", "inferencecluster_router_arrivals_total")


def test_a_step_without_one_of_its_counters_is_missing_not_idle() -> None:
    found = flows_of(full(completed=series("completed", (START + 60.0, 0.0))), RANGE)
    assert [isinstance(flow, Missing) for flow in found] == [False, True, True]


def test_routers_that_tell_no_cached_tokens_have_none_and_other_points_and_series_are_passed_over() -> None:
    strange = [series("requests", (START, 1.0), (START + 240.0, 1.0)), series("other", (START + 60.0, 1.0))]
    found = flows_of([*full(), *strange], RANGE)
    assert found == (Flow(60.0, 7.0, 7.0, 7.0, 7.0, 7.0),) * 3


def test_a_range_of_more_points_than_prometheus_answers_takes_several_queries() -> None:
    fake = FakePrometheus(lambda counter, time: GROWTH[counter])
    asked = TimeRange(START, 1, MOST_POINTS + 2)
    with serving(fake) as url:
        found = read(url, asked)
    assert len(found) == MOST_POINTS + 2
    assert not any(isinstance(flow, Missing) for flow in found)
    assert [(int(query["start"]) - START, int(query["end"]) - START) for query in fake.queries] == [
        (1, MOST_POINTS),
        (MOST_POINTS + 1, MOST_POINTS + 2),
    ]


@pytest.mark.parametrize(
    ("status", "body", "detail"),
    [
        pytest.param(401, "who are you?", "HTTP Status Code 401", id="signed out"),
        pytest.param(503, "x" * 10_000, "HTTP Status Code 503", id="away"),
        pytest.param(200, "<html>sign in</html>", "the answer is no matrix", id="no json"),
        pytest.param(200, '{"status": "success"}', "the answer is no matrix", id="no data"),
        pytest.param(200, "[]", "the answer is no matrix", id="no object"),
        pytest.param(
            200,
            '{"data": {"result": [{"metric": {}, "value": [1, "2"]}]}}',
            "the answer is no matrix",
            id="a vector",
        ),
        pytest.param(
            200,
            '{"data": {"result": [{"metric": {}, "values": [[1, "x"]]}]}}',
            "the answer is no matrix",
            id="no number",
        ),
        pytest.param(
            200,
            '{"data": {"result": [{"metric": {}, "values": [[NaN, "1"]]}]}}',
            "the answer is no matrix",
            id="no time",
        ),
        pytest.param(
            200,
            '{"data": {"result": [{"metric": "up", "values": [[1, "1"]]}]}}',
            "the answer is no matrix",
            id="no labels",
        ),
    ],
)
def test_an_answer_that_cannot_be_used_is_unavailable_in_few_words(
    status: int, body: str, detail: str
) -> None:
    with (
        serving(FakePrometheus(lambda *_: None, status=status, body=body)) as url,
        pytest.raises(MetricsUnavailable, match=detail) as caught,
    ):
        read(url)
    assert len(str(caught.value)) < 500


def test_a_server_that_is_not_there_is_told_by_its_cause() -> None:
    with pytest.raises(MetricsUnavailable) as caught:
        read("http://user:secret@127.0.0.1:9")
    assert "refused" in caught.value.detail
    assert "secret" not in str(caught.value)
    assert "increase" not in str(caught.value)


def test_credentials_of_the_url_sign_in_and_are_not_shown() -> None:
    fake = FakePrometheus(lambda counter, time: GROWTH[counter])
    with serving(fake) as url:
        assert read(url.replace("http://", "http://user:secret@")) == (FLOW,) * 3
    assert fake.headers[0]["Authorization"] == f"Basic {base64.b64encode(b'user:secret').decode()}"
    assert without_credentials("http://user:secret@host:9090/prom") == "http://host:9090/prom"

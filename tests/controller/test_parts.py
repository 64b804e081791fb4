"""The small parts: difference, settings, server, events, metrics, logs, the store of clusters."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from tests.fakes.apiserver import ApiError, FakeApiServer
from tests.fakes.client import FakeClient
from tests.fakes.virtualtime import VirtualClock, run_virtual
from tests.strategies import make_fleet, make_flow, make_observation, make_spec

from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.adapters.pods import PodIndex, project_pod
from inferencecluster.controller.clusters import ClusterStore, ClusterView, cluster_view
from inferencecluster.controller.difference import is_as_rendered
from inferencecluster.controller.events import Event, EventRecorder, EventType
from inferencecluster.controller.logs import KeyValueFormatter
from inferencecluster.controller.metrics import OperatorMetrics
from inferencecluster.controller.server import build_app, scrape_targets
from inferencecluster.controller.settings import read_settings
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import Lifecycle, PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import NOT_CONFIGURED, MetricsSample, PoolUtilization
from inferencecluster.core.status import (
    ClusterStatus,
    Condition,
    ConditionStatus,
    ConditionType,
    DecisionRecord,
    PoolStatus,
)

KEY = ObjectKey("team", "demo")


@pytest.mark.parametrize(
    ("rendered", "observed", "same"),
    [
        pytest.param({"a": 1}, {"a": 1, "b": 2}, True, id="others may add"),
        pytest.param({"a": 1}, {"a": 2}, False, id="changed"),
        pytest.param({"a": {"b": 1}}, {"a": None}, False, id="removed"),
        pytest.param({"a": 1}, None, False, id="nothing there"),
        pytest.param([{"a": 1}], [{"a": 1, "default": 2}], True, id="items get defaults"),
        pytest.param([1], [1, 2], False, id="an item was added to a list of ours"),
        pytest.param([1, 2], [2, 1], False, id="order counts"),
        pytest.param([1], "1", False, id="another type"),
        pytest.param("1000m", "1", True, id="canonical cores"),
        pytest.param("1024Mi", "1Gi", True, id="canonical bytes"),
        pytest.param("1Gi", "1G", False, id="binary and decimal"),
        pytest.param("1e3", "1k", True, id="an exponent"),
        pytest.param("100E6", "100M", True, id="an exponent in capitals"),
        pytest.param("5E", "5e18", True, id="exa"),
        pytest.param("1Ei", "1024Pi", True, id="exbi"),
        pytest.param(".5", "500m", True, id="no digit before the point"),
        pytest.param("1.", "1", True, id="no digit after the point"),
        pytest.param("1000000u", "1", True, id="micro"),
        pytest.param("+1", "1000000000n", True, id="nano and a sign"),
        pytest.param("1e-3", "1m", True, id="a negative exponent"),
        pytest.param("1e", "1", False, id="half an exponent"),
        pytest.param("0x10", "16", False, id="no quantity"),
        pytest.param("500m", "500", False, id="a thousand times more"),
        pytest.param("abc", "abd", False, id="other text"),
        pytest.param({"readOnly": False}, {}, True, id="false is left out"),
        pytest.param({"value": ""}, {}, True, id="empty is left out"),
        pytest.param({"replicas": 0}, {}, False, id="zero is not left out"),
        pytest.param({"on": True}, {}, False, id="true is not left out"),
    ],
)
def test_as_rendered(rendered: Any, observed: Any, same: bool) -> None:
    assert is_as_rendered(rendered, observed) is same


def test_settings_have_defaults_for_everything() -> None:
    settings = read_settings({})
    assert settings.watch_namespaces == ()
    assert settings.reads_nodes
    assert settings.log_level == logging.INFO


def test_settings_are_read_as_the_chart_writes_them() -> None:
    settings = read_settings(
        {
            "IC_WATCH_NAMESPACES": "team-a, team-b,",
            "IC_PROMETHEUS_URL": "http://prometheus:9090/",
            "IC_CLUSTER_WIDE_NODES": "false",
            "IC_LOG_LEVEL": "debug",
            "IC_WORKERS": "4",
        }
    )
    assert settings.watch_namespaces == ("team-a", "team-b")
    assert settings.prometheus_url == "http://prometheus:9090"
    assert (settings.reads_nodes, settings.log_level, settings.workers) == (False, logging.DEBUG, 4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IC_PROMETHEUS_URL", "prometheus:9090"),
        ("IC_CLUSTER_WIDE_NODES", "maybe"),
        ("IC_LOG_LEVEL", "loud"),
        ("IC_WORKERS", "many"),
        ("IC_WORKERS", "0"),
        ("IC_WORKERS", "nan"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(name: str, value: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_settings({name: value})
    assert name in str(caught.value)
    assert value in str(caught.value)


def engine(name: str, address: str, *, ready: bool = True) -> Any:
    moment = "2026-11-21T08:00:00Z"
    return {
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": name,
            "creationTimestamp": moment,
            "labels": {
                "gpupools.dev/cluster": "demo",
                "gpupools.dev/component": "engine",
                "gpupools.dev/pool": "decode",
                "gpupools.dev/role": "decode",
                "gpupools.dev/revision": "abc",
            },
        },
        "spec": {"nodeName": "n", "containers": []},
        "status": {
            "podIP": address,
            "conditions": [{"type": "Ready", "status": str(ready), "lastTransitionTime": moment}],
        },
    }


def router(name: str, address: str, *, running: bool = True) -> Any:
    return {
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": name,
            "labels": {"gpupools.dev/cluster": "demo", "gpupools.dev/component": "router"},
        },
        "spec": {},
        "status": {
            "podIP": address,
            "containerStatuses": [{"state": {"running": {}} if running else {"waiting": {}}}],
        },
    }


def test_everything_that_serves_is_a_scrape_target_with_the_labels_of_the_query() -> None:
    index = PodIndex()
    for pod in (
        engine("demo-engine-0", "10.0.0.1"),
        engine("demo-engine-1", "10.0.0.2", ready=False),
        router("demo-router-a", "fd00::1"),
        router("demo-router-b", "10.0.0.4", running=False),
    ):
        index.changed(None, project_pod(pod))
    found = scrape_targets(index, [("operator-1", "10.0.0.9")])
    assert [target["targets"] for target in found] == [
        ["[fd00::1]:8082"],
        ["10.0.0.1:8000"],
        ["10.0.0.9:8081"],
    ]
    assert found[1]["labels"] == {
        "__metrics_path__": "/prometheus/metrics",
        "namespace": "team",
        "cluster": "demo",
        "component": "engine",
        "pod": "demo-engine-0",
        "pool": "decode",
        "role": "decode",
        "revision": "abc",
    }


def test_the_counters_of_gpus_are_asked_of_engines_that_emulate_them_and_of_no_others() -> None:
    index = PodIndex()
    for number, command in enumerate((["emulated-engine"], ["trtllm-launcher"], None)):
        pod = engine(f"demo-engine-{number}", f"10.0.0.{number}")
        pod["spec"]["containers"] = [{"command": command} if command else {}]
        index.changed(None, project_pod(pod))
    asked = [target["targets"] for target in scrape_targets(index, ()) if "/dcgm" in str(target["labels"])]
    assert asked == [["10.0.0.0:8000"]]


async def test_the_server_answers_health_readiness_metrics_and_targets() -> None:
    ready = False
    metrics = OperatorMetrics()
    metrics.leader.set(1)
    app = build_app(lambda: ready, metrics, lambda: [{"targets": ["x:1"], "labels": {}}])
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/healthz")).status == 200
        assert (await client.get("/readyz")).status == 503
        ready = True
        assert (await client.get("/readyz")).status == 200
        assert "inferencecluster_operator_leader 1.0" in await (await client.get("/metrics")).text()
        assert await (await client.get("/targets")).json() == [{"targets": ["x:1"], "labels": {}}]


def test_an_event_is_written_once_in_two_minutes() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        recorder = EventRecorder(FakeClient(server), VirtualClock(), instance="operator-1")
        reference = {"name": "demo", "namespace": "team", "uid": "uid-1"}
        event = Event(EventType.NORMAL, "ScaleUp", "prefill 1 -> 2")
        for _ in range(5):
            await recorder.record(reference, event)
            await asyncio.sleep(30)
        assert len(server.of_kind("events", "team")) == 2
        (written, _) = server.of_kind("events", "team").values()
        assert written["involvedObject"]["uid"] == "uid-1"
        assert written["reason"] == "ScaleUp"

    run_virtual(scenario())


def test_an_event_that_cannot_be_written_ends_nothing() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        server.fault = lambda _: ApiError(403, "no")
        recorder = EventRecorder(FakeClient(server), VirtualClock(), instance="operator-1")
        await recorder.record(
            {"name": "demo", "namespace": "team", "uid": "uid-1"}, Event(EventType.NORMAL, "A", "b")
        )
        assert server.of_kind("events", "team") == {}

    run_virtual(scenario())


def status_of(gpus: int) -> ClusterStatus:
    prefill, decode, mixed = (PoolStatus(name, 1, 1, 1, 0, 0, 0, gpus, Missing("No")) for name in PoolName)
    return ClusterStatus((prefill, decode, mixed), (), gpus, 16, ())


def test_gpu_time_is_counted_between_looks_and_not_over_a_gap() -> None:
    metrics = OperatorMetrics()
    for at in (0.0, 10.0, 20.0, 10_000.0):
        metrics.reported(KEY, status_of(4), at=at)
    labels = {"namespace": "team", "cluster": "demo"}
    assert metrics.registry.get_sample_value("inferencecluster_gpu_seconds_total", labels) == 4 * (
        10 + 10 + 60
    )


def test_the_series_of_a_cluster_that_is_gone_go_with_it() -> None:
    metrics = OperatorMetrics()
    metrics.reported(KEY, status_of(4), at=0.0)
    metrics.decided(KEY, DecisionRecord(0.0, PoolName.DECODE, 1, 2, "Why", "", ()))
    use = {PoolName.DECODE: PoolUtilization(0.3, 0.9)}
    seen = MetricsSample(make_flow(1.0), ttft_seconds=0.3, itl_seconds=0.03, utilization=use)
    metrics.observed(KEY, make_observation(make_spec(), metrics=seen))
    metrics.conditions(KEY, (Condition(ConditionType.READY, ConditionStatus.TRUE, "Serving", ""),))
    metrics.forced_drains.labels(KEY.namespace, KEY.name).inc()
    assert b'cluster="demo"' in metrics.render()
    metrics.forget(KEY)
    assert b'cluster="demo"' not in metrics.render()


def sample(metrics: OperatorMetrics, name: str, **labels: str) -> float | None:
    about = {"namespace": KEY.namespace, "cluster": KEY.name, **labels}
    return metrics.registry.get_sample_value(name, about)


def test_a_condition_is_one_series_that_follows_its_reason() -> None:
    metrics = OperatorMetrics()

    def tell(status: ConditionStatus, reason: str) -> None:
        metrics.conditions(KEY, (Condition(ConditionType.STALLED, status, reason, "in words"),))

    def told(reason: str) -> float | None:
        return sample(metrics, "inferencecluster_condition", type="Stalled", reason=reason)

    tell(ConditionStatus.TRUE, "QuotaExceeded")
    assert told("QuotaExceeded") == 1
    tell(ConditionStatus.FALSE, "Progressing")
    assert (told("QuotaExceeded"), told("Progressing")) == (None, 0)
    metrics.conditions(KEY, ())
    assert told("Progressing") is None


def test_latencies_stand_beside_their_targets_and_are_absent_while_nobody_knows_them() -> None:
    metrics = OperatorMetrics()
    spec = make_spec()
    seen = MetricsSample(make_flow(1.0), ttft_seconds=0.3, itl_seconds=Missing("NothingCompleted"))
    metrics.observed(KEY, make_observation(spec, metrics=seen))
    assert sample(metrics, "inferencecluster_latency_seconds", latency="ttft") == 0.3
    assert sample(metrics, "inferencecluster_latency_seconds", latency="itl") is None
    assert sample(metrics, "inferencecluster_latency_target_seconds", latency="itl") == spec.slo.itl_seconds
    metrics.observed(KEY, make_observation(spec, metrics=Missing("Down")))
    assert sample(metrics, "inferencecluster_latency_seconds", latency="ttft") is None


@pytest.mark.parametrize(
    ("reason", "missing"),
    [pytest.param("Down", 1.0, id="down"), pytest.param(NOT_CONFIGURED, 0.0, id="none")],
)
def test_no_alert_waits_for_a_prometheus_that_was_never_configured(reason: str, missing: float) -> None:
    metrics = OperatorMetrics()
    metrics.observed(KEY, make_observation(make_spec(), metrics=Missing(reason)))
    assert sample(metrics, "inferencecluster_signal_missing", signal="metrics") == missing


def cluster_object(version: str, generation: int = 1, **metadata: Any) -> Any:
    base = {"name": "demo", "namespace": "team", "uid": "uid-1"}
    return {"metadata": base | {"resourceVersion": version, "generation": generation} | metadata}


def test_only_what_asks_for_a_look_wakes() -> None:
    store = ClusterStore()
    assert store.put(cluster_view(cluster_object("1")))
    assert not store.put(cluster_view(cluster_object("2")))  # a status write of our own
    assert store.put(cluster_view(cluster_object("3", generation=2)))
    assert store.put(cluster_view(cluster_object("4", generation=2, finalizers=["gpupools.dev/drain"])))
    assert store.put(
        cluster_view(cluster_object("5", generation=2, deletionTimestamp="2026-11-21T08:00:00Z"))
    )
    assert store.put(cluster_view(cluster_object("6", uid="uid-2")))


def test_the_answer_to_our_own_write_brings_nothing_back_and_replaces_no_successor() -> None:
    def view(uid: str, version: str) -> ClusterView:
        metadata = {"name": "demo", "namespace": "team", "uid": uid, "resourceVersion": version}
        return cluster_view({"metadata": metadata})

    store = ClusterStore()
    store.put(view("one", "10"))
    store.refresh(view("one", "11"))
    kept = store.get(KEY)
    assert kept is not None
    assert kept.resource_version == "11"
    store.remove(KEY)
    store.refresh(view("one", "12"))
    assert store.get(KEY) is None
    store.put(view("two", "20"))
    store.refresh(view("one", "13"))
    assert store.get(KEY) == view("two", "20")


def test_a_clock_that_is_set_back_silences_no_event() -> None:
    class SetBack(VirtualClock):
        def now(self) -> float:
            return super().now() - (3600.0 if self.monotonic() > 60 else 0.0)

    async def scenario() -> int:
        server = FakeApiServer()
        recorder = EventRecorder(FakeClient(server), SetBack(), instance="operator-1")
        about = {"name": "demo", "namespace": "default", "uid": "u"}
        for _ in range(2):
            await recorder.record(about, Event(EventType.NORMAL, "ScaleUp", "prefill 1 -> 2"))
            await asyncio.sleep(130)
        return len(server.of_kind("events"))

    assert run_virtual(scenario()) == 2


def test_an_event_that_comes_late_does_not_bring_back_an_older_object() -> None:
    store = ClusterStore()
    store.put(cluster_view(cluster_object("10", generation=2)))
    assert not store.put(cluster_view(cluster_object("9", generation=1)))
    found = store.get(KEY)
    assert found is not None
    assert found.generation == 2


def test_a_log_line_holds_its_values_as_pairs() -> None:
    record = logging.makeLogRecord(
        {"name": "x", "levelname": "INFO", "msg": "size decided", "pool": "decode", "error": 'a "b" c'}
    )
    assert KeyValueFormatter().format(record).endswith('INFO x size decided pool=decode error="a \\"b\\" c"')


def test_what_pools_cost_and_draw_is_told_where_the_spec_tells_prices() -> None:
    metrics = OperatorMetrics()
    spec = make_spec(gpus=2)
    prefill, decode, mixed = spec.pools
    priced = replace(prefill, price_per_gpu_hour=2.5, watts_per_gpu=700.0)
    fleet = [replace(replica, gpus=2) for replica in make_fleet(3, 1)]

    metrics.observed(KEY, make_observation(replace(spec, pools=(priced, decode, mixed)), fleet))
    told = [
        sample(metrics, f"inferencecluster_pool_{name}", pool=pool)
        for name in ("price_per_hour", "watts")
        for pool in ("prefill", "decode")
    ]
    metrics.observed(KEY, make_observation(spec, fleet))
    gone = sample(metrics, "inferencecluster_pool_watts", pool="prefill")

    assert told == [15.0, None, 4200.0, None]
    assert gone is None


def test_useful_gpus_are_told_of_pools_whose_activity_is_measured_and_of_no_other() -> None:
    metrics = OperatorMetrics()
    booting, *ready = [replace(replica, gpus=2) for replica in make_fleet(3, 2)]
    fleet = [replace(booting, lifecycle=Lifecycle.STARTING), *ready]
    seen = MetricsSample(
        make_flow(1.0),
        ttft_seconds=0.3,
        itl_seconds=0.03,
        utilization={
            PoolName.PREFILL: PoolUtilization(tensor_active=0.5, dram_active=0.9),
            PoolName.DECODE: PoolUtilization(tensor_active=0.1, dram_active=0.75),
        },
    )

    def told(pool: str) -> float | None:
        return sample(metrics, "inferencecluster_pool_useful_gpus", pool=pool)

    metrics.observed(KEY, make_observation(make_spec(), fleet, metrics=seen))
    assert [told(pool) for pool in PoolName] == [4 * 0.5, 4 * 0.75, None]
    unseen = replace(seen, utilization={PoolName.DECODE: PoolUtilization(0.0, 0.0)})
    metrics.observed(KEY, make_observation(make_spec(), fleet, metrics=unseen))
    assert [told(pool) for pool in PoolName] == [None, 0.0, None]
    metrics.observed(KEY, make_observation(make_spec(), fleet, metrics=Missing("Down")))
    assert [told(pool) for pool in PoolName] == [None, None, None]

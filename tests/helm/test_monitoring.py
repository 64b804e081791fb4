"""Alerts and dashboard of the chart: off by default, about metrics that exist, and with words that help."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.helm.test_chart import CHART, IMAGE, NAME, Manifest, render
from tests.strategies import make_flow, make_observation, make_spec

from inferencecluster.adapters import prometheus
from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.controller.metrics import OperatorMetrics
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import MetricsSample, PoolUtilization
from inferencecluster.core.replacement import (
    ENGINE_CRASHED,
    IMAGE_PULL_FAILED,
    NODES_EXHAUSTED,
    QUOTA_EXCEEDED,
    STARTUP_DEADLINE_EXCEEDED,
)
from inferencecluster.core.status import (
    ClusterStatus,
    Condition,
    ConditionStatus,
    ConditionType,
    DecisionRecord,
    PoolStatus,
)
from inferencecluster.router.dispatcher import Dispatcher
from inferencecluster.router.ledger import Ledger
from inferencecluster.router.metrics import RouterMetrics
from inferencecluster.router.sources import ReplicaRecord
from inferencecluster.router.traffic import Traffic

SWITCHED_ON = {
    **IMAGE,
    "prometheusRule": {"enabled": True, "labels": {"release": "stack"}},
    "grafanaDashboard": {"enabled": True, "annotations": {"grafana_folder": "Inference"}},
}
ALERTS = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text(encoding="utf-8"))
RULES: list[Manifest] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text(encoding="utf-8"))
METRIC = re.compile(r"\b(?:inferencecluster_[a-z_]+|DCGM_[A-Z_]+|trtllm_[a-z_]+)\b")
SELECTED = re.compile(rf"({METRIC.pattern})\{{([^}}]*)\}}")
OF_DCGM: dict[str, set[str]] = {"namespace": set(), "cluster": set(), "pool": set()}
"""Labels that `adapters.prometheus` expects on the GPUs' own metrics."""
REPLICA = ReplicaRecord(
    name="demo-engine-0",
    uid="u",
    home=PoolName.PREFILL,
    revision="r",
    url="http://127.0.0.1:1",
    ready=True,
    fenced=False,
    kv_capacity_tokens=1000,
    max_batch_size=4,
)


@cache
def exposed() -> dict[str, dict[str, set[str]]]:
    """Series name -> label -> values, of an operator that knows one cluster and a router that knows one replica."""
    key = ObjectKey("team", "demo")
    operator = OperatorMetrics()
    use = dict.fromkeys(PoolName, PoolUtilization(0.3, 0.9))
    seen = MetricsSample(make_flow(1.0), ttft_seconds=0.3, itl_seconds=0.03, utilization=use)
    operator.observed(key, make_observation(make_spec(), metrics=seen))
    told = tuple(Condition(kind, ConditionStatus.FALSE, "Reason", "") for kind in ConditionType)
    prefill, decode, mixed = (PoolStatus(name, 1, 1, 1, 0, 0, 0, 4, Missing("No")) for name in PoolName)
    operator.reported(key, ClusterStatus((prefill, decode, mixed), told, 12, 16, ()), at=0.0)
    operator.decided(key, DecisionRecord(0.0, PoolName.DECODE, 1, 2, "Why", "", ()))
    operator.forced_drains.labels(key.namespace, key.name)
    return _labels_by_series(operator.render(), asyncio.run(_router_text()))


async def _router_text() -> bytes:
    idle = cast("Dispatcher", SimpleNamespace(held_requests=0, held_tokens=0))
    ledger = Ledger(asyncio.get_running_loop())
    ledger.update(None, REPLICA)
    labels = {"cluster": "demo", "namespace": "team"}
    return RouterMetrics(Traffic(), ledger, idle, labels=labels, model=str).render(loop_time=0.0)


def _labels_by_series(*texts: bytes) -> dict[str, dict[str, set[str]]]:
    found: dict[str, dict[str, set[str]]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text.decode()):
            for sample in family.samples:
                labels = found.setdefault(sample.name, {})
                for name, value in sample.labels.items():
                    labels.setdefault(name, set()).add(value)
    return found


def of_the_gpus() -> set[str]:
    """Names that the operator itself reads from the DCGM exporter."""
    query = prometheus.build_query([90], window_seconds=60)
    return {name for name in METRIC.findall(query) if name.startswith("DCGM_")}


def expressions() -> Iterator[tuple[str, str]]:
    """Where it stands, and what it asks for."""
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]


def test_every_metric_that_is_asked_for_exists() -> None:
    known = exposed().keys() | of_the_gpus()
    asked = {(place, name) for place, expression in expressions() for name in METRIC.findall(expression)}
    assert {place for place, _ in asked} == {place for place, _ in expressions()}
    assert {(place, name) for place, name in asked if name not in known} == set()


def test_every_label_that_is_asked_for_is_on_its_metric() -> None:
    """A selector or a grouping by a label that a metric lacks gives an empty panel and an alert that never fires."""
    asked = [
        (place, metric, label)
        for place, expression in expressions()
        for metric, selectors in SELECTED.findall(expression)
        for label in re.findall(r"(\w+)(?:=|!)", selectors)
    ]
    grouped = [
        (place, metric, label)
        for place, expression in expressions()
        for labels in re.findall(r"by \(([a-z, ]+)\)", expression)
        for label in labels.split(", ")
        for metric in METRIC.findall(expression)
    ]
    assert asked
    assert grouped
    for place, metric, label in asked + grouped:
        known = exposed().get(metric, OF_DCGM)
        assert label in known, f"{place}: {metric} has no label {label}"


def test_every_label_value_that_is_asked_for_can_occur() -> None:
    """Of the labels whose values are ours; reasons are in the table of causes below."""
    for place, expression in expressions():
        for metric, selectors in SELECTED.findall(expression):
            for label, operation, wanted in re.findall(r'(\w+)(=~?|!=)"([^"$]+)"', selectors):
                if label == "reason":
                    continue
                occurring = exposed()[metric][label]
                assert set(wanted.split("|")) <= occurring, f"{place}: {metric}{{{label}{operation}{wanted}}}"


def test_every_condition_and_cause_that_an_alert_names_exists() -> None:
    expression = " ".join(rule["expr"] for rule in RULES)
    assert set(re.findall(r'type="(\w+)"', expression)) <= {kind.value for kind in ConditionType}
    [runbook] = [
        rule["annotations"]["runbook"] for rule in RULES if rule["alert"] == "InferenceClusterPoolCannotStart"
    ]
    causes = (
        NODES_EXHAUSTED,
        QUOTA_EXCEEDED,
        IMAGE_PULL_FAILED,
        ENGINE_CRASHED,
        STARTUP_DEADLINE_EXCEEDED,
    )
    assert all(cause in runbook for cause in causes)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: Manifest) -> None:
    assert rule["alert"].startswith("InferenceCluster")
    assert rule["labels"]["severity"] in ("critical", "warning")
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook"}
    assert all(text.strip() == text and len(text) > 20 for text in annotations.values())
    kept = re.search(r"by \(([a-z, ]+)\)", rule["expr"])
    labels = set(kept[1].split(", ")) if kept else set()
    assert set(re.findall(r"\$labels\.(\w+)", str(annotations))) <= labels, (
        "a label that was summed away is empty"
    )


def test_every_alert_is_in_the_handbook() -> None:
    handbook = (CHART.parents[1] / "docs" / "operations.md").read_text(encoding="utf-8")
    assert {rule["alert"] for rule in RULES} == set(
        re.findall(r"^\| `(InferenceCluster\w+)`", handbook, re.MULTILINE)
    )


def test_alerts_and_panels_have_names_of_their_own() -> None:
    for names in ([rule["alert"] for rule in RULES], [panel["title"] for panel in DASHBOARD["panels"]]):
        assert len(set(names)) == len(names)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_every_panel_is_about_the_chosen_cluster_and_data_source() -> None:
    for panel in DASHBOARD["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            selectors = re.findall(r"\{([^}]*)\}", target["expr"])
            assert selectors, target["expr"]
            for selector in selectors:
                assert 'namespace="$namespace", cluster="$cluster"' in selector, target["expr"]


def test_both_are_off_unless_asked_for() -> None:
    rendered = render()
    assert rendered.of_kind("PrometheusRule") == []
    assert rendered.of_kind("ConfigMap") == []


def test_the_rule_holds_the_alerts_as_they_are_written() -> None:
    rule = render(SWITCHED_ON).one("PrometheusRule")
    assert rule["spec"] == ALERTS
    assert rule["metadata"]["labels"]["release"] == "stack"


def test_the_dashboard_reaches_grafana_as_it_is_written() -> None:
    config = render(SWITCHED_ON).one("ConfigMap", f"{NAME}-dashboard")
    assert json.loads(config["data"]["inferencecluster.json"]) == DASHBOARD
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert config["metadata"]["annotations"] == {"grafana_folder": "Inference"}


def test_the_operators_metrics_keep_the_namespace_of_the_cluster_that_they_are_about() -> None:
    values: dict[str, Any] = {**IMAGE, "serviceMonitor": {"enabled": True}}
    [endpoint] = render(values).one("ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["honorLabels"] is True

"""Alerts and dashboard, as helm renders them, judged by Prometheus' own tool: they parse, and alerts fire when they should.

No Kubernetes is started here.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e import localkube
from e2e.localkube import builds
from e2e.localkube.paths import default_cache
from e2e.stack.install import CHART, RELEASE
from e2e.stack.prometheus_tool import check_rules, find_promtool, run_rule_tests

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),  # the first test may have to build helm and to download promtool
]

VALUES = ("image.repository=example/operator", "prometheusRule.enabled=true", "grafanaDashboard.enabled=true")
GRAFANA_VARIABLES = {"$namespace": "team", "$cluster": "demo", "$__rate_interval": "1m"}
DEMO = {"namespace": "team", "cluster": "demo"}
RULE_MINUTES = re.compile(r"(\d+)m")

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Chart:
    """What the chart brings for Prometheus and Grafana."""

    groups: list[Manifest]
    dashboard: Manifest

    @property
    def alerts(self) -> dict[str, Manifest]:
        """Rules by the name of their alert."""
        return {rule["alert"]: rule for group in self.groups for rule in group["rules"]}


@pytest.fixture(scope="module")
def promtool() -> Path:
    return find_promtool()


@pytest.fixture(scope="module")
def rules(promtool: Path, chart: Chart, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with the alerts, accepted by Prometheus."""
    return check_rules(promtool, chart.groups, tmp_path_factory.mktemp("alerts"))


@pytest.fixture(scope="module")
def chart() -> Chart:
    localkube.prepare()
    settings = [word for value in VALUES for word in ("--set", value)]
    helm = builds.HELM.folder(default_cache()) / "helm"
    rendered = subprocess.run(
        [str(helm), "template", RELEASE, str(CHART), *settings],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    objects = [item for item in yaml.safe_load_all(rendered.stdout) if item]
    [rule] = [item for item in objects if item["kind"] == "PrometheusRule"]
    [dashboard] = [item for item in objects if item["kind"] == "ConfigMap"]
    return Chart(rule["spec"]["groups"], json.loads(dashboard["data"]["inferencecluster.json"]))


def series(metric: str, **labels: str) -> str:
    return metric + "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def condition(kind: str, reason: str, **labels: str) -> str:
    return series("inferencecluster_condition", **DEMO, type=kind, reason=reason, **labels)


def leader(pod: str) -> str:
    return series("inferencecluster_operator_leader", pod=pod)


def latency(kind: str) -> str:
    return series("inferencecluster_latency_seconds", **DEMO, latency=kind)


def target(kind: str) -> str:
    return series("inferencecluster_latency_target_seconds", **DEMO, latency=kind)


def missing(signal: str) -> str:
    return series("inferencecluster_signal_missing", **DEMO, signal=signal)


FORCED = series("inferencecluster_forced_drains_total", **DEMO)


@dataclass(frozen=True, slots=True)
class Case:
    """Series from minute 0 on, in promtool's notation (`1x40`: 1, and 40 times again)."""

    alert: str
    observed: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of the alert that fires, without its severity."""
    value: str = ""
    """What the annotations say of the value."""
    since: int = 0
    """Minute from which the expression holds."""


FIRING = [
    pytest.param(Case("InferenceClusterOperatorAbsent", {}), id="no operator is scraped"),
    pytest.param(
        Case("InferenceClusterOperatorAbsent", {leader("a"): "0x40", leader("b"): "0x40"}),
        id="nobody leads",
    ),
    pytest.param(
        Case(
            "InferenceClusterDown",
            {condition("Ready", "NoServingReplica"): "0x40"},
            {**DEMO, "reason": "NoServingReplica"},
        ),
        id="no replica serves",
    ),
    pytest.param(
        Case(
            "InferenceClusterDown",
            {condition("Ready", "NoRouter"): "0x40"},
            {**DEMO, "reason": "NoRouter"},
        ),
        id="no router runs",
    ),
    pytest.param(
        Case(
            "InferenceClusterStalled",
            {condition("Stalled", "InvalidSpec"): "1x40"},
            {**DEMO, "reason": "InvalidSpec"},
        ),
        id="a spec that the operator refuses",
    ),
    pytest.param(
        Case(
            "InferenceClusterStalled",
            {
                condition("Stalled", "InvalidSpec", pod="a"): "1x2 stale",
                condition("Stalled", "InvalidSpec", pod="b"): "_x2 1x40",
            },
            {**DEMO, "reason": "InvalidSpec"},
        ),
        id="stalled over a change of leaders",
    ),
    pytest.param(
        Case(
            "InferenceClusterPoolCannotStart",
            {condition("ScalingLimited", "NodesExhausted"): "1x40"},
            {**DEMO, "reason": "NodesExhausted"},
        ),
        id="no node has room",
    ),
    pytest.param(
        Case(
            "InferenceClusterAtLimit",
            {condition("ScalingLimited", "BudgetExhausted"): "1x40"},
            {**DEMO, "reason": "BudgetExhausted"},
        ),
        id="the budget binds",
    ),
    pytest.param(
        Case(
            "InferenceClusterMetricsMissing",
            {missing("metrics"): "1x40", missing("routers"): "0x40"},
            {**DEMO, "signal": "metrics"},
        ),
        id="Prometheus cannot be read",
    ),
    pytest.param(
        Case("InferenceClusterDrainForced", {FORCED: "0x9 1x40"}, DEMO, since=10),
        id="the first forced drain of a cluster",
    ),
    pytest.param(
        Case(
            "InferenceClusterSloMissed",
            {latency("itl"): "0.05x40", target("itl"): "0.04x40", latency("ttft"): "0.3x40"},
            {**DEMO, "latency": "itl"},
            value="50ms",
        ),
        id="tokens come too slowly",
    ),
]

QUIET = [
    pytest.param(
        Case("InferenceClusterOperatorAbsent", {leader("a"): "1x40", leader("b"): "0x40"}),
        id="one of two leads",
    ),
    pytest.param(
        Case("InferenceClusterOperatorAbsent", {leader("a"): "1x9 0x30", leader("b"): "0x12 1x27"}),
        id="a fail-over of three minutes",
    ),
    pytest.param(
        Case("InferenceClusterDown", {condition("Ready", "BelowMinimum"): "0x40"}),
        id="fewer replicas than the minimum still serve",
    ),
    pytest.param(
        Case("InferenceClusterDown", {condition("Ready", "NoServingReplica"): "0x3 stale"}),
        id="the first replica boots for three minutes",
    ),
    pytest.param(
        Case("InferenceClusterStalled", {condition("Stalled", "Progressing"): "0x40"}),
        id="nothing is stalled",
    ),
    pytest.param(
        Case(
            "InferenceClusterPoolCannotStart",
            {
                condition("ScalingLimited", "WithinLimits"): "0x40",
                condition("ScalingLimited", "BudgetExhausted"): "1x40",
            },
        ),
        id="a limit that the user has set",
    ),
    pytest.param(
        Case("InferenceClusterAtLimit", {condition("ScalingLimited", "NodesExhausted"): "1x40"}),
        id="a limit that the nodes set",
    ),
    pytest.param(
        Case("InferenceClusterAtLimit", {condition("ScalingLimited", "AtMaxReplicas"): "1x20 0x20"}),
        id="a peak of twenty minutes",
    ),
    pytest.param(
        Case("InferenceClusterMetricsMissing", {missing("capacity"): "1x40", missing("metrics"): "0x40"}),
        id="an operator that may not read nodes",
    ),
    pytest.param(
        Case("InferenceClusterDrainForced", {FORCED: "5x20 0x20"}),
        id="an operator that starts again counts from 0",
    ),
    pytest.param(
        Case("InferenceClusterSloMissed", {latency("ttft"): "0.4x40", target("ttft"): "0.4x40"}),
        id="a latency at its target",
    ),
    pytest.param(
        Case("InferenceClusterSloMissed", {target("ttft"): "0.4x40"}),
        id="no request, so no latency",
    ),
]


def expected(rule: Manifest, case: Case) -> Manifest:
    """The alert as it reaches a person."""

    def filled(text: str) -> str:
        text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: case.labels[found[1]], text)
        return re.sub(r"\{\{ \$value[^}]*\}\}", case.value, text)

    return {
        "exp_labels": {**rule["labels"], **case.labels},
        "exp_annotations": {name: filled(text) for name, text in rule["annotations"].items()},
    }


def minutes(rule: Manifest) -> int:
    """How long the expression has to hold."""
    found = RULE_MINUTES.fullmatch(rule.get("for", "0m"))
    assert found is not None, rule["for"]
    return int(found[1])


def looks(case: Case, *checks: tuple[int, list[Manifest]]) -> list[Manifest]:
    return [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in case.observed.items()],
            "alert_rule_test": [
                {"eval_time": f"{minute}m", "alertname": case.alert, "exp_alerts": alerts}
                for minute, alerts in checks
            ],
        }
    ]


def test_prometheus_accepts_every_expression_of_the_dashboard(
    promtool: Path, chart: Chart, tmp_path: Path
) -> None:
    expressions = [target["expr"] for panel in chart.dashboard["panels"] for target in panel["targets"]]
    for variable, value in GRAFANA_VARIABLES.items():
        expressions = [expression.replace(variable, value) for expression in expressions]
    assert expressions
    assert not [expression for expression in expressions if "$" in expression]
    rules = [
        {"record": f"panel:expression_{index}", "expr": expression}
        for index, expression in enumerate(expressions)
    ]
    check_rules(promtool, [{"name": "dashboard", "rules": rules}], tmp_path)


@pytest.mark.parametrize("case", FIRING)
def test_an_alert_fires_once_it_has_held_long_enough(
    promtool: Path, chart: Chart, rules: Path, case: Case
) -> None:
    rule = chart.alerts[case.alert]
    fires = case.since + minutes(rule)
    run_rule_tests(promtool, rules, looks(case, (fires - 1, []), (fires, [expected(rule, case)])))


@pytest.mark.parametrize("case", QUIET)
def test_an_alert_stays_quiet(promtool: Path, rules: Path, case: Case) -> None:
    run_rule_tests(promtool, rules, looks(case, *((minute, []) for minute in range(41))))


def test_every_alert_is_seen_firing_and_staying_quiet(chart: Chart) -> None:
    for cases in (FIRING, QUIET):
        tried = {case.alert for param in cases for case in param.values if isinstance(case, Case)}
        assert tried == set(chart.alerts)

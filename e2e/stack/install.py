"""Prometheus and the operator's chart, installed as a user would."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2e.stack.target import Target

CHART = Path(__file__).resolve().parents[2] / "helm" / "inferencecluster-operator"
RELEASE = "inferencecluster-operator"
SYSTEM_NAMESPACE = "inferencecluster-system"
MONITORING_NAMESPACE = "monitoring"
PROMETHEUS_PORT = 9090
PROMETHEUS_URL = f"http://prometheus.{MONITORING_NAMESPACE}.svc:{PROMETHEUS_PORT}"
OPERATOR_METRICS_URL = f"http://{RELEASE}.{SYSTEM_NAMESPACE}.svc:8081"
SCRAPE_SECONDS = 5


def namespace(name: str) -> dict[str, Any]:
    """A Namespace manifest."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def prometheus_manifests(image: str) -> list[dict[str, Any]]:
    """A Prometheus whose targets come from the operator's http_sd (Debian's build has no kubernetes_sd)."""
    configuration = {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "scrape_timeout": f"{SCRAPE_SECONDS}s"},
        "scrape_configs": [
            {
                "job_name": "inferencecluster",
                "honor_labels": False,
                "http_sd_configs": [
                    {"url": f"{OPERATOR_METRICS_URL}/targets", "refresh_interval": f"{SCRAPE_SECONDS}s"}
                ],
            }
        ],
    }
    metadata = {"name": "prometheus", "namespace": MONITORING_NAMESPACE}
    labels = {"app": "prometheus"}
    container = {
        "name": "prometheus",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": [
            "--config.file=/etc/prometheus/prometheus.json",
            "--storage.tsdb.path=/data",
            f"--web.listen-address=:{PROMETHEUS_PORT}",
        ],
        "ports": [{"containerPort": PROMETHEUS_PORT}],
        "readinessProbe": {
            "httpGet": {"path": "/-/ready", "port": PROMETHEUS_PORT},
            "periodSeconds": 1,
            "failureThreshold": 60,
        },
        "volumeMounts": [
            {"name": "configuration", "mountPath": "/etc/prometheus"},
            {"name": "data", "mountPath": "/data"},
        ],
    }
    return [
        namespace(MONITORING_NAMESPACE),
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            # JSON is YAML: Prometheus reads it as its configuration.
            "data": {"prometheus.json": json.dumps(configuration)},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": labels, "ports": [{"port": PROMETHEUS_PORT}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "enableServiceLinks": False,
                        "terminationGracePeriodSeconds": 5,
                        "containers": [container],
                        "volumes": [
                            {"name": "configuration", "configMap": {"name": "prometheus"}},
                            {"name": "data", "emptyDir": {}},
                        ],
                    },
                },
            },
        },
    ]


def install_prometheus(target: Target) -> None:
    """Prometheus, applied but not waited for: it becomes ready beside the operator. Raises `StackError`."""
    target.apply(*prometheus_manifests(target.images["prometheus"]))


def install_operator(target: Target, values: Mapping[str, Any] | None = None) -> None:
    """`helm upgrade --install --wait` of the chart from this tree. Raises `StackError`."""
    repository, _, tag = target.images["inferencecluster-operator"].rpartition(":")
    settings: dict[str, Any] = {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"},
        "prometheus": {"url": PROMETHEUS_URL},
        **(values or {}),
    }
    target.run(
        target.helm,
        *("upgrade", "--install", RELEASE, str(CHART)),
        *("--namespace", SYSTEM_NAMESPACE, "--create-namespace", "--wait", "--timeout", "120s"),
        *("--values", "-"),
        stdin=json.dumps(settings),
        timeout=150,
    )

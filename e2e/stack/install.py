"""Prometheus and the operator's chart, installed as a user would."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e.stack.target import StackError, Target

CHART = Path(__file__).resolve().parents[2] / "helm" / "inferencecluster-operator"
RELEASE = "inferencecluster-operator"
SYSTEM_NAMESPACE = "inferencecluster-system"
MONITORING_NAMESPACE = "inferencecluster-monitoring"
OWNER_LABEL = "app.kubernetes.io/managed-by"
OWNER = "inferencecluster-demo"
"""Label and value of every namespace that is made here. On a Kubernetes with other users nothing else is touched."""
PROMETHEUS_PORT = 9090
PROMETHEUS_LABELS = {"app": "prometheus"}
PROMETHEUS_URL = f"http://prometheus.{MONITORING_NAMESPACE}.svc:{PROMETHEUS_PORT}"
OPERATOR_METRICS_URL = f"http://{RELEASE}.{SYSTEM_NAMESPACE}.svc:8081"
SCRAPE_SECONDS = 5


def namespace(name: str) -> dict[str, Any]:
    """A Namespace manifest with the mark of who made it."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {OWNER_LABEL: OWNER}},
    }


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
            "spec": {"selector": PROMETHEUS_LABELS, "ports": [{"port": PROMETHEUS_PORT}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": PROMETHEUS_LABELS},
                "template": {"metadata": {"labels": PROMETHEUS_LABELS}, "spec": _prometheus_pod(image)},
            },
        },
    ]


def _prometheus_pod(image: str) -> dict[str, Any]:
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
    return {
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        "containers": [container],
        "volumes": [
            {"name": "configuration", "configMap": {"name": "prometheus"}},
            {"name": "data", "emptyDir": {}},
        ],
    }


def install_prometheus(target: Target) -> None:
    """Prometheus, applied but not waited for: it becomes ready beside the operator. Raises `StackError`."""
    target.apply(*prometheus_manifests(target.images["prometheus"]))


def wait_for_prometheus(target: Target) -> None:
    """Return once it is ready. Raises `StackError` that says what its Pod waits for."""
    with explained(target, MONITORING_NAMESPACE):
        target.control(
            *("rollout", "status", "deployment/prometheus", "--namespace", MONITORING_NAMESPACE),
            "--timeout=120s",
            timeout=150,
        )


def install_operator(target: Target, values: Mapping[str, Any] | None = None) -> None:
    """`helm upgrade --install --wait` of the chart from this tree. Raises `StackError` that says what its Pods wait for.

    On a user's Kubernetes the CRDs go with the release; the embedded one is thrown away as a whole.
    """
    repository, _, tag = target.images[RELEASE].rpartition(":")
    settings: dict[str, Any] = {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"},
        "prometheus": {"url": PROMETHEUS_URL},
        "crds": {"keep": target.is_embedded},
        **(values or {}),
    }
    target.apply(namespace(SYSTEM_NAMESPACE))
    with explained(target, SYSTEM_NAMESPACE):
        target.run(
            target.helm,
            *("upgrade", "--install", RELEASE, str(CHART)),
            *("--namespace", SYSTEM_NAMESPACE, "--wait", "--timeout", "120s"),
            *("--values", "-"),
            stdin=json.dumps(settings),
            timeout=150,
        )


@contextmanager
def explained(target: Target, name: str) -> Iterator[None]:
    """Add to a `StackError` of the block what the Pods of namespace `name` wait for: tools only tell that time ran out."""
    try:
        yield
    except StackError as error:
        try:
            pods = target.get("pods", "--namespace", name)["items"]
        except StackError:
            pods = []
        if waiting := [reason for pod in pods for reason in waits(pod)]:
            raise StackError(f"{error}\nin namespace {name}:\n  - " + "\n  - ".join(waiting)) from error
        raise


def waits(pod: Mapping[str, Any]) -> Iterator[str]:
    """Why a Pod does not run, in the words of scheduler and kubelet."""
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield f"{name}: {condition.get('message', condition.get('reason', 'not scheduled'))}"
    for container in status.get("containerStatuses", ()):
        state = container.get("state", {})
        reason = state.get("waiting") or state.get("terminated")
        if reason and reason.get("reason") != "ContainerCreating":
            yield f"{name}: {reason.get('reason')}: {reason.get('message', 'see its log')}"

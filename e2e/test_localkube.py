"""The life of the embedded Kubernetes, for real: pods run, crashes at any point leave nothing.

These tests own the machine's localkube: a running one is ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e import localkube
from e2e.localkube import buildah, cgroups, containerd, images, launch, wheels
from e2e.localkube.api import ApiClient, ApiError
from e2e.localkube.paths import REPOSITORY, default_cache
from e2e.localkube.workspace import building

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),  # a cold cache builds Go programs; ten times what a warm one needs
]

PODS = 30
WAIT_SECONDS = 60.0


def kubectl(*arguments: str) -> str:
    running = localkube.require_running()
    argv = [str(running.kubectl), f"--kubeconfig={running.kubeconfig}", *arguments]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120).stdout


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_SECONDS:.0f} s: {what}"
        time.sleep(0.05)


def run_pods(count: int = PODS) -> None:
    """A Deployment of `count` idle Pods with two GPUs each, all ready."""
    kubectl("create", "deployment", "idle", "--image=localhost/pause:1", "--replicas=0")
    template = {"terminationGracePeriodSeconds": 1}
    container = {
        "name": "pause",
        "imagePullPolicy": "Never",
        "resources": {"limits": {"nvidia.com/gpu": "2"}},
    }
    patch = {"spec": {"replicas": count, "template": {"spec": {**template, "containers": [container]}}}}
    kubectl("patch", "deployment", "idle", "--patch", json.dumps(patch))
    kubectl("rollout", "status", "deployment/idle", "--timeout=100s")


def all_processes() -> set[int]:
    return cgroups.processes(cgroups.hierarchies())


def assert_down_leaves_nothing() -> None:
    localkube.down()
    assert localkube.leftovers() == []
    assert localkube.status() is None


@pytest.fixture(autouse=True)
def nothing_before_and_after() -> Iterator[None]:
    localkube.down()
    yield
    localkube.down()
    assert localkube.leftovers() == []


def test_pods_run_on_gpus_and_down_leaves_nothing() -> None:
    running = localkube.up(with_images=False)
    run_pods()
    names = kubectl("get", "pods", "--output=jsonpath={.items[*].status.phase}").split()
    assert names == ["Running"] * PODS
    # 64 GPUs, two per Pod: the scheduler counts them, so a thirty-third Pod has no place.
    kubectl("scale", "deployment/idle", "--replicas=33")
    reason = "--output=jsonpath={.items[?(@.status.phase=='Pending')].status.conditions[*].message}"
    wait_for(
        lambda: kubectl("get", "pods", reason).count("Insufficient nvidia.com/gpu") == 1, "one Pod waits"
    )
    assert running.audit_log.stat().st_size > 0
    assert_down_leaves_nothing()


def test_up_keeps_what_is_up_and_makes_a_new_one_when_asked() -> None:
    first = localkube.up(with_images=False)
    assert localkube.up(with_images=False) == first
    assert localkube.up(fresh=True, with_images=False).init_pid != first.init_pid


def kill_init(running: localkube.RunningKubernetes) -> None:
    os.kill(running.init_pid, signal.SIGKILL)


def kill_parent_of_init(running: localkube.RunningKubernetes) -> None:
    status = Path(f"/proc/{running.init_pid}/status").read_text(encoding="ascii")
    parent = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
    os.kill(parent, signal.SIGKILL)


def kill_everything(running: localkube.RunningKubernetes) -> None:
    del running
    for pid in all_processes():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.parametrize("kill", [kill_init, kill_parent_of_init, kill_everything])
def test_after_a_crash_with_pods_running_down_removes_what_is_left(
    kill: Callable[[localkube.RunningKubernetes], None],
) -> None:
    running = localkube.up(with_images=False)
    run_pods(count=12)
    kill(running)
    wait_for(lambda: not all_processes(), "the kernel ends every process of the namespaces")
    assert localkube.leftovers() != []
    assert_down_leaves_nothing()


def test_after_a_crash_with_pods_running_up_makes_a_working_one() -> None:
    crashed = localkube.up(with_images=False)
    run_pods(count=12)
    kill_init(crashed)
    running = localkube.up(with_images=False)
    assert running.init_pid != crashed.init_pid
    run_pods(count=2)


@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.4, 0.8, 1.5, 3.0, 4.5])
def test_up_that_is_killed_on_its_way_leaves_nothing_after_down(seconds: float) -> None:
    localkube.prepare()
    with subprocess.Popen(
        [sys.executable, "-m", "e2e.localkube", "up", "--fresh"], cwd=REPOSITORY, stderr=subprocess.DEVNULL
    ) as starting:
        time.sleep(seconds)
        starting.kill()
    assert_down_leaves_nothing()


def test_a_process_that_joins_while_its_cgroup_is_being_removed_is_ended_too() -> None:
    found = cgroups.hierarchies()
    joins = cgroups.create(found)
    with subprocess.Popen(["sleep", "60"]) as latecomer:
        for procs in joins:
            procs.write_text(str(latecomer.pid), encoding="ascii")
        cgroups.remove(found, timeout_seconds=10.0)
        assert latecomer.wait(timeout=10.0) == -signal.SIGKILL
    assert localkube.leftovers() == []


@pytest.mark.parametrize("component", ["etcd", "kube-apiserver", "containerd", "kubelet", "kube-scheduler"])
def test_a_daemon_that_dies_is_started_again_and_pods_keep_running(component: str) -> None:
    localkube.up(with_images=False)
    run_pods(count=3)
    before = localkube.component_pid(component)
    assert before is not None
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: localkube.component_pid(component) not in {None, before}, f"{component} runs again")
    wait_for(lambda: localkube.status() is not None, "the API and the node are ready")
    kubectl("scale", "deployment/idle", "--replicas=5")
    kubectl("rollout", "status", "deployment/idle", "--timeout=100s")
    restarts = kubectl(
        "get", "pods", "--output=jsonpath={.items[*].status.containerStatuses[*].restartCount}"
    )
    assert set(restarts.split()) == {"0"}


def test_nothing_inside_can_reach_an_address_outside() -> None:
    running = localkube.up(with_images=False)
    enter = ["nsenter", f"--target={running.init_pid}", "--net"]
    # A documentation address (RFC 5737): nobody would answer, but the kernel must refuse before sending.
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"
    done = subprocess.run([*enter, sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "Network is unreachable" in done.stderr


def test_the_audit_log_counts_every_write() -> None:
    running = localkube.up(with_images=False)
    client = ApiClient.from_state(running.state)
    path = "/api/v1/namespaces/default/configmaps"
    offset = running.audit_log.stat().st_size
    for number in range(20):
        client.request(
            "POST", path, {"metadata": {"name": f"counted-{number % 15}"}}
        ) if number < 15 else None
        if number >= 15:
            with pytest.raises(ApiError, match="409"):
                client.request("POST", path, {"metadata": {"name": f"counted-{number % 15}"}})
    with running.audit_log.open(encoding="utf-8") as log:
        log.seek(offset)
        events = [json.loads(line) for line in log]
    codes = [
        event["responseStatus"]["code"]
        for event in events
        if event["verb"] == "create" and event["objectRef"]["resource"] == "configmaps"
    ]
    assert sorted(codes) == [201] * 15 + [409] * 5


def test_an_image_is_built_offline_from_the_wheelhouse_and_runs_by_service_name(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(
        "import http.server, idna\n"
        "http.server.ThreadingHTTPServer(('', 8000), http.server.SimpleHTTPRequestHandler).serve_forever()\n",
        encoding="utf-8",
    )
    (tmp_path / "Dockerfile").write_text(
        "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nRUN python3 -m venv /venv && /venv/bin/pip install idna\n"
        'COPY server.py /server.py\nENTRYPOINT ["/venv/bin/python", "/server.py"]\n',
        encoding="utf-8",
    )
    spec = images.ImageSpec(
        "localkube-selftest",
        tmp_path / "Dockerfile",
        tmp_path,
        locks=(wheels.Lock(REPOSITORY / "requirements.lock", ("idna",)),),
    )
    cache = default_cache()
    with building(cache):
        archive = images.build_image(spec, cache)
    try:
        assert buildah.exists(cache, spec.reference)
        running = localkube.up(with_images=False)
        localkube.load_image(archive)
        assert spec.reference in containerd.image_names(running.state)
        kubectl(
            "run", "web", f"--image={spec.reference}", "--image-pull-policy=Never", "--expose", "--port=8000"
        )
        kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
        fetch = "import urllib.request; print(urllib.request.urlopen('http://web.default.svc:8000/').status)"
        wait_for(lambda: "200" in _exec_quietly("web", fetch), "the Service answers by its name")
    finally:
        archive.unlink()


def _exec_quietly(pod: str, code: str) -> str:
    try:
        return kubectl("exec", pod, "--", "python3", "-c", code)
    except subprocess.CalledProcessError:  # the endpoint is not routed yet
        return ""


def test_process_one_is_found_by_its_namespace_and_not_by_a_name() -> None:
    running = localkube.up(with_images=False)
    assert launch.init_pid(cgroups.hierarchies()) == running.init_pid

"""`kubectl-ic explain` and `top` against an API server over HTTP: what they read, and what they say when they cannot."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from tests.cli.live_api import LiveApi, live_api
from tests.cli.living_cluster import NOW, living_world, router_state
from tests.fakes.apiserver import ApiError, Call
from typer.testing import CliRunner, Result

from inferencecluster.adapters import kube
from inferencecluster.adapters.clock import SystemClock
from inferencecluster.cli import explain, top
from inferencecluster.cli.__main__ import application

PROXY = "/api/v1/namespaces/default/pods/demo-router-1:8082/proxy/state"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveApi]:
    monkeypatch.setattr(SystemClock, "now", lambda _: NOW)
    with live_api(living_world(), tmp_path) as served:
        monkeypatch.setenv("KUBECONFIG", str(served.kubeconfig))
        served.routers[PROXY] = router_state(served.server)
        yield served


def run(*arguments: str) -> Result:
    return CliRunner().invoke(application, list(arguments))


def refuse(api: LiveApi, *plurals: str, status: int = 403) -> None:
    def fault(call: Call) -> ApiError | None:
        words = f'{call.plural} is forbidden: User "jane" cannot {call.verb} resource'
        return ApiError(status, words) if call.plural in plurals else None

    api.server.fault = fault


def test_an_explanation_tells_sizes_decisions_conditions_and_events(api: LiveApi) -> None:
    result = run("explain", "demo")
    assert result.exit_code == 0, result.output
    for told in (
        "InferenceCluster default/demo",
        "MetricsAvailable is False since 2027-01-15T08:00:30Z (90s), PrometheusUnavailable",
        "Pool prefill: 3 of 3 replicas serve",
        "(45s ago) 2 -> 3, PrefillWork",
        "promptTokensPerSecond 35960",
        "changes: shrinks not before MetricsAvailable is True",
        "45s Normal PrefillWork: prefill 2 -> 3",
    ):
        assert told in result.stdout
    assert "are not shown" not in result.stdout


def test_only_reads_of_this_cluster_are_made(api: LiveApi) -> None:
    run("explain", "demo")
    assert {str(call) for call in api.server.calls} == {
        "get inferenceclusters default/demo",
        "list pods default/",
        "list enginepools default/",
        "list events default/",
    }
    selected = [path for path in api.asked if "labelSelector" in path]
    assert all("cluster%3Ddemo" in path for path in selected)
    assert len(selected) == 2


def test_events_of_an_earlier_cluster_of_the_same_name_are_left_out(api: LiveApi) -> None:
    for name in list(api.server.of_kind("events")):
        api.server.change(
            "events", "default", name, lambda item: item["involvedObject"].update(uid="earlier")
        )
    assert "Events" not in run("explain", "demo").stdout


def test_json_has_what_the_text_tells(api: LiveApi) -> None:
    document = json.loads(run("explain", "demo", "--format", "json").stdout)
    prefill = document["pools"][0]
    assert (prefill["sizes"]["desired"], prefill["decision"]["reason"]) == (3, "PrefillWork")
    assert ["busyReplicas", "2.5172"] in prefill["decision"]["inputs"]
    assert document["not_normal"][0]["type"] == "MetricsAvailable"


@pytest.mark.parametrize(
    ("plural", "told"),
    [
        pytest.param("pods", "note: Pods are not shown: ", id="pods"),
        pytest.param("enginepools", "note: EnginePools are not shown: ", id="engine pools"),
        pytest.param("events", "note: Events are not shown: ", id="events"),
    ],
)
def test_who_may_not_read_a_part_still_gets_the_rest(api: LiveApi, plural: str, told: str) -> None:
    refuse(api, plural)
    result = run("explain", "demo")
    assert result.exit_code == 0
    assert told in result.stdout
    assert 'User "jane" cannot list resource' in result.stdout
    assert "Pool decode: 2 of 2 replicas serve" in result.stdout


def test_a_cluster_that_goes_while_it_is_read_is_explained_as_it_was(api: LiveApi) -> None:
    def fault(call: Call) -> None:
        if call.plural == "inferenceclusters":
            for plural in ("pods", "enginepools", "events"):
                for name in list(api.server.of_kind(plural)):
                    api.server.remove(plural, "default", name)

    api.server.fault = fault
    result = run("explain", "demo")
    assert result.exit_code == 0, result.output
    assert "0 Pods are ready now, and status tells 5" in result.stdout


@pytest.mark.parametrize("command", ["explain", "top"])
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(
            ("demi",),
            "NAME is demi, but namespace default of URL has no InferenceCluster of that name (there are demo): "
            "correct the name, --namespace or --context",
            id="no such cluster",
        ),
        pytest.param(
            ("demo", "-n", "team"),
            "NAME is demo, but namespace team of URL has no InferenceCluster of that name (it holds none): "
            "correct the name, --namespace or --context",
            id="no such namespace",
        ),
        pytest.param(
            ("default/demo",),
            "NAME is 'default/demo', but it must be a DNS label: write it without the namespace, which is --namespace",
            id="with namespace",
        ),
        pytest.param(
            ("demo", "-n", "a?b"),
            "--namespace is 'a?b', but it must be a DNS label: name one namespace, or leave it out for the context's",
            id="odd namespace",
        ),
        pytest.param(
            ("demo", "--context", "nowhere"),
            "--context is nowhere, but it leads to no Kubernetes: ",
            id="no context",
        ),
        pytest.param(
            ("demo", "--context", "there"),
            "the API server is http://127.0.0.1:9, but it gave no usable answer: ",
            id="nobody answers",
        ),
    ],
)
def test_what_cannot_be_found_is_one_line(
    api: LiveApi, command: str, arguments: tuple[str, ...], told: str
) -> None:
    result = run(command, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {told.replace('URL', api.url)}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("explain", "demo"), ("top", "demo"), ("top",)])
@pytest.mark.parametrize(
    ("status", "told"),
    [
        pytest.param(
            403,
            r"the right to (get|list) inferenceclusters\.gpupools\.dev is missing in namespace default",
            id="forbidden",
        ),
        pytest.param(404, "it knows no InferenceCluster: its CRDs are not installed", id="no CRD"),
        pytest.param(401, "it gave no usable answer: it knows us not", id="bad token"),
        pytest.param(500, "it gave no usable answer: ", id="broken"),
    ],
)
def test_an_api_server_that_does_not_serve_clusters_is_one_line(
    api: LiveApi, arguments: tuple[str, ...], status: int, told: str
) -> None:
    refuse(api, "inferenceclusters", status=status)
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.search(told, result.stderr)
    assert result.stderr.count("\n") == 1


def test_a_cluster_that_may_be_read_but_not_listed_is_told_from_one_that_may_not(api: LiveApi) -> None:
    def fault(call: Call) -> ApiError | None:
        return ApiError(403, "no") if call.verb == "list" else None

    api.server.fault = fault
    assert "has no InferenceCluster of that name: correct" in run("explain", "demi").stderr


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="no file"),
        pytest.param("", id="empty"),
        pytest.param("- a\n", id="a list"),
        pytest.param("a: [b", id="no YAML"),
        pytest.param("current-context: x\n", id="nothing in it"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    file = tmp_path / "config"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(file))
    result = run("explain", "demo")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: KUBECONFIG is {file}, but it leads to no Kubernetes: ")
    assert result.stderr.count("\n") == 1


def test_without_any_kubeconfig_the_default_place_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubernetes.aio.config.KUBE_CONFIG_DEFAULT_LOCATION", "/nowhere/config")
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    assert run("top").stderr == (
        "error: KUBECONFIG is absent, but it leads to no Kubernetes: /nowhere/config does not exist: "
        "name another one; `kubectl config get-contexts` lists what there is\n"
    )


def test_top_tells_sizes_queue_and_the_last_change_of_each_pool(api: LiveApi) -> None:
    lines = run("top", "demo").stdout.splitlines()
    assert lines[0] == (
        "default/demo, mode Automatic, GPUs 10 of 16, queue 3,900 tokens, 3 requests held, the oldest for 0.4 s, "
        "in flight 10, age 2m"
    )
    assert lines[2].split() == ["prefill", "3", "3", "·", "·", "·", "6", "6", "1,800", "25%"]
    assert lines[5].startswith("prefill 2 -> 3, 45s ago, PrefillWork: arriving prompts keep")
    assert lines[6].startswith("decode 1 -> 2, 75s ago, DecodeConcurrency: ")
    assert lines[7].startswith("! MetricsAvailable is False since 2027-01-15T08:00:30Z (90s), ")


def test_top_of_all_namespaces_shows_each_cluster(api: LiveApi) -> None:
    demo = api.server.of_kind("inferenceclusters")["demo"]
    api.server.put({**demo, "metadata": {"name": "new", "namespace": "team"}, "status": {}})
    result = run("top", "-A")
    headlines = [line for line in result.stdout.splitlines() if ", mode " in line]
    assert [line.split(",")[0] for line in headlines] == ["default/demo", "team/new"]
    assert headlines[1].endswith("not looked at by the operator yet")
    assert "note: queue, requests in flight and KV use are not told: no router is running" in result.stdout


def test_everything_is_read_when_it_comes_in_pages(api: LiveApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "PAGE_LIMIT", 2)
    result = run("explain", "demo")
    assert result.exit_code == 0, result.output
    assert any("continue=" in path for path in api.asked)
    assert "Pods are ready now" not in result.stdout


def test_top_of_an_empty_namespace_says_so(api: LiveApi) -> None:
    result = run("top", "-n", "empty")
    assert (result.exit_code, result.stdout) == (0, f"no InferenceCluster in namespace empty of {api.url}\n")


@pytest.mark.parametrize("arguments", [("demo", "-A"), ("-A", "-n", "team")])
def test_all_namespaces_and_one_contradict(arguments: tuple[str, ...]) -> None:
    result = run("top", *arguments)
    assert result.exit_code == 2
    assert "--all-namespaces shows every InferenceCluster: leave one of the two out" in result.stderr


@pytest.mark.parametrize(
    ("error", "told"),
    [
        pytest.param(ApiError(403, "no"), "the right to get pods/proxy is missing: no (403)", id="forbidden"),
        pytest.param(ApiError(503, "i/o timeout"), "router demo-router-1: ", id="unreachable"),
        pytest.param(
            ApiError(404, "no"), "router demo-router-1 has gone, or is of another release", id="gone"
        ),
    ],
)
def test_without_routers_top_tells_the_rest_and_why(api: LiveApi, error: ApiError, told: str) -> None:
    api.proxy_error = error
    result = run("top", "demo")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[2].split() == ["prefill", "3", "3", "·", "·", "·", "6"]
    assert f"note: queue, requests in flight and KV use are not told: {told}" in result.stdout


def test_a_router_of_another_release_is_told(api: LiveApi) -> None:
    api.routers[PROXY] = {"queue": 1}
    assert re.search(
        r"router demo-router-1: \d+ fields are not as this release knows them", run("top").stdout
    )


def test_the_namespace_is_the_contexts_unless_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with live_api(living_world(), tmp_path, namespace="team") as api:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig))
        assert "no InferenceCluster in namespace team" in run("top").stdout
        assert run("top", "-n", "default").stdout.startswith("default/demo,")


def interrupted_after(looks: list[Callable[[], None]]) -> Callable[..., object]:
    """A `sleep` that lets something happen each time, and is interrupted in the end as by Ctrl-C."""
    happenings = iter(looks)

    async def sleep(_: SystemClock, seconds: float) -> None:
        assert seconds == 5.0
        happening = next(happenings, None)
        if happening is None:
            raise KeyboardInterrupt
        happening()

    return sleep


def test_a_watch_goes_on_when_the_cluster_goes_and_ends_quietly(
    api: LiveApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go() -> None:
        api.server.remove("inferenceclusters", "default", "demo")

    monkeypatch.setattr(SystemClock, "sleep", interrupted_after([go]))
    result = run("top", "demo", "--watch", "5")
    assert result.exit_code == 0
    assert result.stdout.startswith("default/demo, mode Automatic")
    assert result.stdout.splitlines()[-1].startswith("error: NAME is demo, but namespace default")


def test_at_a_terminal_a_watch_draws_over_the_last_look(
    api: LiveApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = StringIO()
    console = Console(file=screen, width=80, height=30, force_terminal=True, color_system=None)
    monkeypatch.setattr(top, "answer_console", lambda: console)
    monkeypatch.setattr(SystemClock, "sleep", interrupted_after([lambda: None]))
    assert run("top", "demo", "--watch", "5").exit_code == 0
    assert "\x1b[" in screen.getvalue()
    assert screen.getvalue().count("default/demo") >= 2


@pytest.mark.parametrize("command", ["explain", "top"])
def test_in_a_narrow_terminal_no_line_is_longer_and_no_cell_is_cut(
    api: LiveApi, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    screen = StringIO()
    console = Console(file=screen, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(top, "answer_console", lambda: console)
    monkeypatch.setattr(explain, "answer_console", lambda: console)
    shown = run(command, "demo").stdout + screen.getvalue()
    assert "prefill" in shown
    for line in shown.splitlines():
        assert len(line) <= 80, line
        assert "…" not in line, line


def test_commands_that_need_no_kubernetes_do_not_wait_for_its_client() -> None:
    loaded = "import sys, inferencecluster.cli.__main__; print('kubernetes' in sys.modules, 'aiohttp' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert result.stdout == "False False\n"

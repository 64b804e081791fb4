"""What `explain` makes of an InferenceCluster: everything that status tells, and nothing that it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cli.living_cluster import NOW, around, living_world, manifest, reading
from tests.fakes.apiserver import Manifest

from inferencecluster.api.names import ANNOTATION_KV_CAPACITY
from inferencecluster.cli.cluster_reading import reading_of
from inferencecluster.cli.explanation import explain
from inferencecluster.cli.explanation_text import document, render
from inferencecluster.cli.surroundings import ClusterPods, Surroundings
from inferencecluster.core.missing import Missing

NOTHING = Surroundings(ClusterPods(), [], [])
SEEN = [
    {"type": "MetricsAvailable", "status": "True", "reason": "Available", "message": "all answer"},
    {"type": "Ready", "status": "True", "reason": "Serving", "message": "it serves"},
]


def text(cluster: Manifest, surroundings: Surroundings | None = None, *, now: float = NOW) -> str:
    return render(explain(reading_of(cluster), surroundings or around(), now=now), now=now, width=None)


def pool(cluster: Manifest, name: str = "prefill", surroundings: Surroundings | None = None) -> str:
    """The part of one pool."""
    parts = text(cluster, surroundings).split("\n\n")
    return next(part for part in parts if part.startswith(f"Pool {name}:"))


def scaling(cluster: Manifest, **fields: Any) -> Manifest:
    cluster["spec"]["scaling"] |= fields
    return cluster


def sizes(cluster: Manifest, name: str = "prefill", **counts: int) -> Manifest:
    for item in cluster["status"]["pools"]:
        if item["name"] == name:
            item.update(counts)
    return cluster


def budget(cluster: Manifest, **fields: int) -> Manifest:
    cluster["spec"]["budget"] = fields
    return cluster


def limited(cluster: Manifest, *, by: str) -> Manifest:
    """Its newest decision."""
    cluster["status"]["decisions"][0]["limitedBy"] = by
    return cluster


def test_a_pool_tells_its_sizes_its_need_with_its_inputs_and_what_would_change_it() -> None:
    expected = """\
Pool decode: 2 of 2 replicas serve
  size: desired 2, ready 2, starting 0, draining 0, borrowed 0, bounds 1 to 3, GPUs 4 (2 each), nodes 1 with 54 GPUs free
  why: 60.0 sequences are in their token phase and 13.0 more at times; a replica takes 64.0 within the ITL
  decided: 2027-01-15T08:00:45Z (75s ago) 1 -> 2, DecodeConcurrency
  inputs: requestsPerSecond 36, promptTokensPerSecond 18000, outputTokens 101.455, sequences 60.0296, \
sequencesPerReplica 64, decodingSequences 0, residentKvTokens 0, replicas 1, itlSeconds 0.01
  changes: grows at the next sizing tick (every 15 s) that finds a larger need
  changes: shrinks when fewer have been enough for one boot (expectedBootSeconds 10, until boots are measured), \
and for behavior.scaleDown.stabilizationWindowSeconds 300 as well; not before 2027-01-15T08:05:45Z"""
    assert pool(manifest(conditions=SEEN), "decode") == expected


def test_a_pool_whose_change_status_does_not_hold_any_more_is_not_explained_by_another() -> None:
    assert "why: no decision is told: none of the 5 that status keeps changed this pool" in pool(
        manifest(), "mixed"
    )
    assert (
        "why: the decision that led to 5 is not told; the newest one of this pool was 2 -> 3: arriving prompts"
        in pool(sizes(manifest(), desired=5))
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(lambda it: it, "grows no further: maxReplicas is 3", id="at the maximum"),
        pytest.param(
            lambda it: sizes(it, desired=1), "shrinks no further: minReplicas is 1", id="at the minimum"
        ),
        pytest.param(
            lambda it: sizes(sizes(it, desired=0), "decode", desired=0),
            "wakes with the first request that a router holds",
            id="asleep",
        ),
        pytest.param(
            lambda it: scaling(sizes(it, desired=2), behavior={"scaleUp": {"selectPolicy": "Disabled"}}),
            "never grows by demand: behavior.scaleUp.selectPolicy is Disabled",
            id="growth switched off",
        ),
        pytest.param(
            lambda it: scaling(it, behavior={"scaleDown": {"selectPolicy": "Disabled"}}),
            "never shrinks by demand: behavior.scaleDown.selectPolicy is Disabled",
            id="shrinking switched off",
        ),
        pytest.param(
            lambda it: scaling(
                it, behavior={"scaleDown": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}}
            ),
            "until boots are measured), at the rate of behavior.scaleDown.policies",
            id="rate limit",
        ),
        pytest.param(
            lambda it: budget(sizes(it, desired=2), gpus=10),
            "grows when GPUs become free: budget.gpus 10 is held by 10 GPUs; raise it",
            id="budget is full",
        ),
        pytest.param(
            lambda it: budget(it, gpus=16, minGpus=10),
            "shrinks only in favour of another pool: budget.minGpus 10 are kept in use",
            id="GPUs that are kept",
        ),
        pytest.param(
            lambda it: scaling(it, mode="Fixed"), "mode Fixed: only minReplicas changes the size", id="Fixed"
        ),
        pytest.param(
            lambda it: scaling(sizes(it, recommended=7), mode="Recommend"),
            "mode Recommend: the size stays; sizing would choose 7: set scaling.mode to Automatic",
            id="Recommend",
        ),
        pytest.param(lambda it: scaling(it, mode="External"), "its EnginePool asks for 3", id="External"),
    ],
)
def test_what_would_change_a_size_is_told_by_the_rules_of_the_spec(change: Any, told: str) -> None:
    lines = [line for line in pool(change(manifest(conditions=SEEN))).splitlines() if "changes: " in line]
    assert any(told in line for line in lines), lines


@pytest.mark.parametrize(
    ("pools", "told"),
    [
        pytest.param([], "its EnginePool does not exist yet", id="not made yet"),
        pytest.param(
            Missing("Forbidden", "no"), "what its EnginePool asks for could not be read", id="refused"
        ),
    ],
)
def test_an_external_wish_that_is_not_seen_is_not_guessed(pools: Any, told: str) -> None:
    surroundings = replace(around(), pools=pools)
    assert told in pool(scaling(manifest(), mode="External"), surroundings=surroundings)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(
            lambda it: it,
            "no pool shrinks while metrics are missing (PrometheusUnavailable)",
            id="metrics are missing",
        ),
        pytest.param(
            lambda it: sizes(it, ready=1, starting=1),
            "1 of 3 replicas do not exist yet",
            id="replicas are lacking",
        ),
        pytest.param(
            lambda it: sizes(sizes(it, ready=1, gpus=12), "decode", draining=2),
            "2 of 3 replicas do not exist yet: budget.gpus 16 is held by 16 GPUs, and 2 replicas still drain",
            id="a drain holds the budget",
        ),
        pytest.param(
            lambda it: sizes(it, desired=2),
            "1 replicas more than desired exist: they are to drain",
            id="one too many",
        ),
        pytest.param(
            lambda it: limited(it, by="stabilization"),
            "stabilization set the size, not demand alone",
            id="stabilisation",
        ),
    ],
)
def test_what_holds_a_pool(change: Any, told: str) -> None:
    lines = [line for line in pool(change(manifest())).splitlines() if "holds: " in line]
    assert any(told in line for line in lines), lines


def test_a_cluster_that_was_never_looked_at_says_so_and_tells_no_size() -> None:
    cluster = manifest()
    del cluster["status"]
    told = text(cluster, NOTHING)
    assert "the operator has not looked at it yet: look whether it runs and watches this namespace" in told
    assert "Pool prefill: ? of ? replicas serve" in told
    assert "status tells no size of this pool yet" in told
    assert "GPUs: " not in told


def test_a_spec_that_was_not_acted_on_and_a_deletion_are_told() -> None:
    cluster = manifest()
    cluster["metadata"] |= {"generation": 4, "deletionTimestamp": "2027-01-15T08:01:30Z"}
    told = text(cluster)
    assert (
        "status speaks of generation 1, the spec is at 4: the operator has not acted on the newest spec"
        in told
    )
    assert "its deletion was asked for 30s ago: replicas drain, then the finalizer goes" in told


def test_a_recommendation_is_told_beside_the_size_and_does_not_explain_it() -> None:
    cluster = scaling(manifest(), mode="Recommend")
    cluster["status"]["decisions"][0] |= {"message": "recommended only: prompts", "to": 9}
    told = pool(cluster)
    assert (
        "  recommended: 2027-01-15T08:01:15Z (45s ago) 2 -> 9, PrefillWork: recommended only: prompts" in told
    )
    assert "why: the decision that led to 3 is not told; the newest one of this pool was 1 -> 2" in told


def test_replicas_that_do_not_serve_are_told_with_their_cause_and_drains_with_their_end() -> None:
    server = living_world()
    waiting = {"reason": "ImagePullBackOff", "message": "no such\nimage"}
    changes = {
        "demo-engine-0": lambda pod: pod["status"].update(
            containerStatuses=[{"state": {"waiting": waiting}}]
        ),
        "demo-engine-2": lambda pod: pod["metadata"]["annotations"].update(
            {"gpupools.dev/fenced-at": "1800000100"}
        ),
    }
    for name, change in changes.items():
        server.change("pods", "default", name, change)
    drain = {
        "replica": "demo-engine-2",
        "pool": "prefill",
        "since": "2027-01-15T08:01:40Z",
        "deadline": "2027-01-15T08:31:40Z",
        "waitingFor": "2 requests, 1 KV transfer",
    }
    told = text(manifest(draining=[drain]), around(server))
    assert (
        "  replica demo-engine-0: failed, created 2m ago on node-0: ImagePullBackOff: no such image" in told
    )
    assert "  replica demo-engine-2: draining, created 75s ago on node-0: fenced: " in told
    assert (
        "demo-engine-2 of prefill, for 20s, waits for 2 requests, 1 KV transfer; deleted at 2027-01-15T08:31:40Z "
        "in any case" in told
    )
    assert "note: 3 Pods are ready now, and status tells 5: it is older, or is not kept current" in told


def test_many_replicas_of_one_fate_are_counted() -> None:
    server = living_world()
    template = server.of_kind("pods")["demo-engine-0"]
    for ordinal in range(100, 114):
        metadata = template["metadata"] | {"name": f"demo-engine-{ordinal}", "uid": f"u{ordinal}"}
        server.put({**template, "metadata": metadata, "status": {}})
    assert pool(manifest(), surroundings=around(server)).splitlines()[-1] == (
        "  and 4 more replicas that do not serve or drain"
    )


def test_pods_of_another_owner_are_not_this_clusters() -> None:
    foreign = explain(replace(reading(), uid="another"), around(), now=NOW)
    assert foreign.pools[0].replicas == ()
    assert any(note.startswith("0 Pods are ready now") for note in foreign.notes)


def test_no_message_moves_the_cursor_or_begins_a_line() -> None:
    conditions = [
        {"type": "Stalled", "status": "True", "reason": "X", "message": "a\n\x1b[2Jb\r" + "c" * 2000}
    ]
    told = text(manifest(conditions=conditions))
    assert "\x1b" not in told
    assert "a [2Jb " in told


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_lines_fit_the_terminal(width: int) -> None:
    shown = render(explain(reading(), around(), now=NOW), now=NOW, width=width)
    assert max(map(len, shown.splitlines())) <= width


def odd_values() -> st.SearchStrategy[Any]:
    leaf = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("2027-01-15T08:00:00Z")
    return st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    )


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_stands_in_place_of_a_field_the_rest_is_explained(data: st.DataObject) -> None:
    cluster = manifest()
    spots: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        entries = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for key, inner in list(entries):
            spots.append((value, key))
            collect(inner)

    collect(cluster["status"])
    collect(cluster["spec"]["scaling"])
    holder, key = spots[data.draw(st.integers(0, len(spots) - 1))]
    holder[key] = data.draw(odd_values())
    explanation = explain(reading_of(cluster), NOTHING, now=NOW)
    assert "InferenceCluster default/demo" in render(explanation, now=NOW, width=80)
    assert document(explanation)["cluster"]["name"] == "demo"


@pytest.mark.parametrize(
    "written", ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"]
)
def test_a_moment_that_no_calendar_has_is_not_told(written: str) -> None:
    decisions = [{**item, "time": written} for item in manifest()["status"]["decisions"]]
    conditions = [
        {**item, "status": "Unknown", "lastTransitionTime": written}
        for item in manifest()["status"]["conditions"]
    ]
    text = render(
        explain(reading(decisions=decisions, conditions=conditions), around(), now=NOW), now=NOW, width=None
    )
    assert "(? ago)" in text
    assert "9999" not in text


def test_an_absurd_memory_of_a_pod_is_not_told() -> None:
    server = living_world()
    for pod in server.of_kind("pods").values():
        pod["metadata"].setdefault("annotations", {})[ANNOTATION_KV_CAPACITY] = "9" * 5000
    pods = around(server).pods
    assert not isinstance(pods, Missing)
    assert {home.kv_capacity_tokens for home in pods.homes.values()} == {None}

"""What `top` shows of one look."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from tests.cli.living_cluster import NOW, around, living_world, manifest, reading, router_state

from inferencecluster.api.router_state import RouterState
from inferencecluster.cli.cluster_reading import ClusterReading, reading_of
from inferencecluster.cli.live_traffic import Home, Traffic, traffic_of
from inferencecluster.cli.moments import age
from inferencecluster.cli.top_view import ClusterLook, view
from inferencecluster.core.missing import Missing
from inferencecluster.core.status import NORMAL


def traffic(*states: dict[str, Any]) -> Traffic:
    pods = around().pods
    assert not isinstance(pods, Missing)
    return traffic_of([RouterState.model_validate(state) for state in states], pods.homes)


def shown(
    cluster: ClusterReading, seen: Traffic | Missing, *, width: int = 120, detailed: bool = True
) -> list[str]:
    page = StringIO()
    console = Console(file=page, width=width, color_system=None)
    for part in view([ClusterLook(cluster, seen)], now=NOW, detailed=detailed):
        console.print(part, markup=False, soft_wrap=not isinstance(part, Table))
    return page.getvalue().splitlines()


def test_every_router_counts_once_and_each_capacity_once() -> None:
    state = router_state(living_world())
    both = traffic(state, state)
    assert (both.held_requests, both.held_tokens, both.total.in_flight) == (6, 1800, 20)
    assert both.queued_tokens == 1800 + 2 * 5 * 600
    assert both.pools["decode"].kv_share == pytest.approx(0.5)


def test_work_on_a_replica_of_an_unknown_pool_counts_in_the_sum_only() -> None:
    seen = traffic_of(
        [RouterState.model_validate(router_state(living_world()))], {"elsewhere": Home("mixed", 5)}
    )
    assert (dict(seen.pools), seen.total.in_flight, seen.total.kv_share) == ({}, 10, None)


def test_zeros_are_dots_and_what_is_not_told_is_a_question_mark() -> None:
    cluster = manifest()
    del cluster["status"]["pools"][0]["borrowed"]
    lines = shown(reading_of(cluster), Missing("NoRouter", "no router is running"))
    assert lines[1].split() == ["pool", "desired", "ready", "starting", "draining", "borrowed", "GPUs"]
    assert lines[2].split() == ["prefill", "3", "3", "·", "·", "?", "6"]
    assert lines[4].split() == ["mixed", "·", "·", "·", "·", "·", "·"]
    assert lines[-1] == "note: queue, requests in flight and KV use are not told: no router is running"


def test_many_clusters_tell_their_newest_decision_only() -> None:
    lines = shown(reading(), Missing("NoRouter", ""), detailed=False)
    assert [line.split(",")[0] for line in lines if " ago, " in line] == ["prefill 2 -> 3"]


@pytest.mark.parametrize(
    ("written", "told"), [("0.724", "GPUs 72% busy then"), ("high", "GPUs high busy then"), (None, "")]
)
def test_utilisation_is_told_where_the_decision_saw_it(written: str | None, told: str) -> None:
    cluster = manifest()
    if written is not None:
        cluster["status"]["decisions"][0]["inputs"].append({"name": "busyShare", "value": written})
    line = next(
        line for line in shown(reading_of(cluster), Missing("NoRouter", "")) if line.startswith("prefill 2")
    )
    assert line.startswith(f"prefill 2 -> 3, 45s ago, PrefillWork{f', {told}' if told else ''}: ")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(
            {"deletionTimestamp": "2027-01-15T08:01:00Z"}, "deletion asked for 60s ago", id="deleted"
        ),
        pytest.param({"generation": 9}, "the newest spec is not acted on yet", id="behind"),
    ],
)
def test_the_headline_tells_what_is_out_of_the_ordinary(change: dict[str, Any], told: str) -> None:
    cluster = manifest()
    cluster["metadata"] |= change
    assert told in shown(reading_of(cluster), Missing("NoRouter", ""))[0]


def test_an_object_that_holds_nothing_is_shown_all_the_same() -> None:
    assert shown(reading_of({}), Missing("NoRouter", "x"))[0] == (
        "/, mode Automatic, GPUs ? of ?, age ?, not looked at by the operator yet"
    )


def test_large_numbers_fit_a_narrow_terminal() -> None:
    state = router_state(living_world(), in_flight=5_000, held_tokens=10**9)
    table = next(
        part
        for part in view([ClusterLook(reading(), traffic(state))], now=NOW, detailed=True)
        if not isinstance(part, str)
    )
    page = StringIO()
    Console(file=page, width=80, color_system=None).print(table)
    assert "15,000" in page.getvalue()
    assert "…" not in page.getvalue()
    assert max(map(len, page.getvalue().splitlines())) <= 80


def test_what_is_normal_is_what_a_settled_cluster_reports() -> None:
    settled = reading()
    assert {condition.type for condition in settled.conditions} == {kind.value for kind in NORMAL}
    assert [condition.type for condition in settled.not_normal] == ["MetricsAvailable"]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-5.0, "0s"),
        (119.9, "119s"),
        (120.0, "2m"),
        (7199.0, "119m"),
        (7200.0, "2h"),
        (172_799.0, "47h"),
        (172_800.0, "2d"),
    ],
)
def test_an_age_has_one_unit(seconds: float, told: str) -> None:
    assert age(NOW - seconds, now=NOW) == told

"""What a process has seen itself: first readiness, boots to learn from, and fences whose time can or cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.adapters.pods import EnginePod
from inferencecluster.controller.sightings import Sightings
from inferencecluster.core.fleet import Lifecycle, PoolName, Replica, Role

NOW = 1_800_000_000.0


def pod(*, fence: str = "", **changes: Any) -> EnginePod:
    values: dict[str, Any] = {
        "name": "demo-engine-0",
        "uid": "u",
        "home": PoolName.DECODE,
        "role": Role.DECODE,
        "revision": "a",
        "gpus": 2,
        "lifecycle": Lifecycle.READY,
        "created_at": NOW - 600,
        "ready_at": NOW - 500,
    }
    replica = Replica(**values | changes)
    return EnginePod(ObjectKey("team", "demo"), "owner", replica, {}, (), None, fence)


def see(sightings: Sightings, *pods: EnginePod, at: float = 0.0, now: float | None = None) -> Replica:
    """The first replica, `at` seconds later on both clocks, unless the wall clock says `now`."""
    wall = NOW + at if now is None else now
    return sightings.see(((item, item.replica) for item in pods), now=wall, monotonic=1000.0 + at)[0]


STARTING: dict[str, Any] = {"lifecycle": Lifecycle.STARTING, "ready_at": None}


def test_a_boot_counts_when_it_was_seen_from_before_its_end() -> None:
    sightings = Sightings()
    assert see(sightings, pod(**STARTING)).ready_at is None
    ready = see(sightings, pod(), at=100)
    assert (ready.ready_at, ready.boot_seen) == (NOW - 500, True)


def test_after_a_restart_a_readiness_is_no_boot_whatever_the_pod_tells() -> None:
    found = see(Sightings(), pod(ready_at=NOW - 1))
    assert (found.ready_at, found.boot_seen) == (NOW - 1, False)


def test_the_first_readiness_stays_while_the_pod_flaps_and_goes_with_it() -> None:
    sightings = Sightings()
    see(sightings, pod())
    assert see(sightings, pod(**STARTING)).ready_at == NOW - 500
    assert see(sightings, pod(ready_at=NOW)).ready_at == NOW - 500
    assert sightings.see((), now=NOW, monotonic=1000.0) == ()
    assert see(sightings, pod(ready_at=NOW)).ready_at == NOW


def test_a_ready_replica_whose_pod_tells_no_time_has_served_all_the_same() -> None:
    sightings = Sightings()
    assert see(sightings, pod(ready_at=None)).ready_at == NOW
    assert see(sightings, pod(**STARTING), at=60).ready_at == NOW


@pytest.mark.parametrize(
    ("text", "fenced_at"),
    [
        pytest.param("nan", None, id="no time at all"),
        pytest.param("-1e15", -1e15, id="before there was anything"),
        pytest.param("1e300", 1e300, id="at the end of time"),
        pytest.param("1.0", 1.0, id="long before the Pod"),
        pytest.param(str(NOW + 7200), NOW + 7200, id="in two hours"),
    ],
)
def test_a_fence_whose_time_cannot_be_is_one_from_now_on(text: str, fenced_at: float | None) -> None:
    sightings = Sightings()
    odd = pod(fence=text, fenced_at=fenced_at)
    assert see(sightings, odd).fenced_at == NOW
    assert sightings.odd_fences == {"u"}
    assert see(sightings, odd, at=30).fenced_at == NOW, "its deadline does not move"
    assert see(sightings, pod(fence=str(NOW), fenced_at=NOW), at=31).fenced_at == NOW
    assert sightings.odd_fences == frozenset()


def test_how_long_a_fence_was_seen_does_not_follow_a_clock_that_jumps() -> None:
    sightings = Sightings()
    fenced = pod(fence=str(NOW - 60), fenced_at=NOW - 60)
    assert see(sightings, fenced).fence_seen_at == NOW
    jumped = see(sightings, fenced, at=10, now=NOW + 3000)
    assert jumped.fence_seen_at == NOW + 3000 - 10


def test_another_fence_of_the_same_replica_is_seen_anew() -> None:
    sightings = Sightings()
    see(sightings, pod(fence=str(NOW), fenced_at=NOW))
    assert see(sightings, pod(fence=str(NOW + 50), fenced_at=NOW + 50), at=60).fence_seen_at == NOW + 60

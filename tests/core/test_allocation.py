"""What becomes of wishes: bounds, windows, rate limits, restarts, nodes, and the budget that pools share."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tests.core.allocation_builders import (
    D,
    M,
    P,
    Three,
    back_off,
    limits_of,
    request,
    restored,
    sizes_of,
    wanted,
)
from tests.core.sizing_builders import MISSING, cluster, fleet, pool, rules

from inferencecluster.core.allocation import AllocationMemory, Target, allocate
from inferencecluster.core.fleet import Lifecycle
from inferencecluster.core.replacement import BackOff
from inferencecluster.core.sizing import Wanted
from inferencecluster.core.spec import ClusterSpec, PolicyType, ScalingMode, ScalingPolicy, SelectPolicy


def test_an_unlimited_wish_is_the_target() -> None:
    _, targets = allocate(AllocationMemory.empty(), request((3, 2, 1)))
    assert sizes_of(targets) == (3, 2, 1)
    assert targets[0] == Target(P, 3, 3, "", "Work", "3 wanted", (("work", 3.0),))


@pytest.mark.parametrize(
    ("present", "wish", "size"),
    [
        pytest.param(10, 11, 10, id="a tenth more"),
        pytest.param(10, 12, 12, id="two tenths more"),
        pytest.param(10, 9, 10, id="a tenth less"),
        pytest.param(10, 8, 8, id="two tenths less"),
        pytest.param(9, 11, 11, id="two of nine"),
        pytest.param(0, 1, 1, id="from nothing"),
        pytest.param(1, 0, 0, id="to nothing"),
    ],
)
def test_tolerance(present: int, wish: int, size: int) -> None:
    spec = cluster(down=rules(0))
    _, targets = allocate(restored((present, 0, 0)), request((wish, 0, 0), spec=spec))
    assert targets[0].replicas == size
    assert targets[0].limited_by == ("" if size == wish else "tolerance")


@pytest.mark.parametrize(
    ("present", "need", "size"),
    [
        pytest.param(2, 2.2, 2, id="two carry a tenth more"),
        pytest.param(2, 2.21, 3, id="two carry no more than a tenth more"),
        pytest.param(3, 1.71, 3, id="two would be nearly full"),
        pytest.param(3, 1.7, 2, id="two have a tenth of three to spare"),
        pytest.param(1, 1.3, 2, id="one is too few"),
        pytest.param(1, 0.01, 1, id="one for next to nothing"),
        pytest.param(20, 17.1, 20, id="within a tenth of twenty"),
        pytest.param(20, 17.0, 17, id="a tenth of twenty and one"),
    ],
)
def test_the_tolerance_is_of_the_need_and_not_of_whole_replicas(present: int, need: float, size: int) -> None:
    spec = cluster(down=rules(0))
    asked = Wanted(P, math.ceil(need), "Work", "", (), need)
    _, targets = allocate(
        restored((present, 0, 0)),
        replace(request((0, 0, 0), spec=spec), wanted=(asked, *wanted((0, 0, 0))[1:])),
    )
    assert targets[0].replicas == size


def test_a_need_that_wavers_around_a_whole_number_changes_the_size_once() -> None:
    spec = cluster(down=rules(0))
    memory, sizes = restored((2, 0, 0)), []
    for tick in range(100):
        need = 2.0 + 0.3 * math.sin(tick)
        asked = Wanted(P, math.ceil(need), "Work", "", (), need)
        wish = replace(
            request((0, 0, 0), spec=spec, now=1000.0 + tick), wanted=(asked, *wanted((0, 0, 0))[1:])
        )
        memory, targets = allocate(memory, wish)
        sizes.append(targets[0].replicas)
    assert sorted(set(sizes)) == [2, 3]
    assert sizes == sorted(sizes)


def test_growth_is_at_once_and_shrinking_waits_for_the_window() -> None:
    memory, targets = allocate(restored((3, 3, 0)), request((20, 3, 0), now=1000.0))
    assert sizes_of(targets) == (20, 3, 0)
    memory, targets = allocate(memory, request((2, 3, 0), now=1015.0))
    assert targets[0].replicas == 20
    assert targets[0].limited_by == "stabilization"
    memory, targets = allocate(memory, request((5, 3, 0), now=1299.0))
    assert targets[0].replicas == 20
    memory, targets = allocate(memory, request((2, 3, 0), now=1300.0))
    assert targets[0].replicas == 5
    _, targets = allocate(memory, request((2, 3, 0), now=1600.0))
    assert targets[0].replicas == 2


def test_rate_limits_hold_between_decisions() -> None:
    spec = cluster(up=rules(0, ScalingPolicy(PolicyType.PODS, 2, 60.0)))
    memory, targets = allocate(restored((1, 0, 0)), request((9, 0, 0), spec=spec, now=1000.0))
    assert (targets[0].replicas, targets[0].limited_by) == (3, "behavior")
    memory, targets = allocate(memory, request((9, 0, 0), spec=spec, now=1015.0))
    assert targets[0].replicas == 3
    _, targets = allocate(memory, request((9, 0, 0), spec=spec, now=1060.0))
    assert targets[0].replicas == 5


@pytest.mark.parametrize(
    ("wish", "size", "limit"),
    [
        pytest.param(9, 5, "maxReplicas", id="above"),
        pytest.param(0, 2, "minReplicas", id="below"),
        pytest.param(3, 3, "", id="between"),
    ],
)
def test_bounds(wish: int, size: int, limit: str) -> None:
    spec = cluster(prefill=pool(P, minimum=2, maximum=5))
    _, targets = allocate(AllocationMemory.empty(), request((wish, 0, 0), spec=spec))
    assert (targets[0].replicas, targets[0].limited_by) == (size, limit)


def test_a_lower_maximum_and_a_lower_budget_apply_at_once() -> None:
    memory = restored((10, 10, 0), now=999.0)
    lower = cluster(prefill=pool(P, maximum=4))
    assert sizes_of(allocate(memory, request((10, 10, 0), spec=lower))[1]) == (4, 10, 0)
    halved = cluster(budget=10, down=rules(3600, ScalingPolicy(PolicyType.PODS, 1, 60.0)))
    _, targets = allocate(memory, request((10, 10, 0), spec=halved))
    assert sizes_of(targets) == (5, 5, 0)
    assert limits_of(targets) == ("budget", "budget", "")


def test_a_raised_minimum_applies_at_once() -> None:
    spec = cluster(prefill=pool(P, minimum=8), up=rules(600, ScalingPolicy(PolicyType.PODS, 1, 60.0)))
    assert sizes_of(allocate(restored((1, 0, 0)), request((1, 0, 0), spec=spec))[1]) == (8, 1, 0)


@pytest.mark.parametrize("mode", [ScalingMode.EXTERNAL, ScalingMode.FIXED])
def test_sizes_chosen_by_others_follow_at_once_but_within_hard_limits(mode: ScalingMode) -> None:
    spec = cluster(mode=mode, budget=25, prefill=pool(P, maximum=21))
    memory = restored((20, 20, 0), now=999.0)
    _, targets = allocate(memory, request((25, 1, 0), spec=spec))
    assert sizes_of(targets) == (21, 1, 0)
    assert limits_of(targets) == ("maxReplicas", "", "")


def test_an_empty_memory_starts_from_the_fleet_that_it_finds() -> None:
    leaving = replace(fleet(prefill=1)[0], fenced_at=5.0, name="old")
    replicas = (*fleet(prefill=4), leaving)
    memory, targets = allocate(AllocationMemory.empty(), request((1, 0, 0), replicas=replicas, now=1000.0))
    assert targets[0].replicas == 4
    _, targets = allocate(memory, request((1, 0, 0), replicas=replicas, now=1300.0))
    assert targets[0].replicas == 1


def test_a_half_done_growth_goes_on_after_a_restart() -> None:
    _, targets = allocate(
        restored((8, 2, 0), now=1000.0), request(MISSING, replicas=fleet(prefill=5, decode=2))
    )
    assert sizes_of(targets) == (8, 2, 0)


def test_missing_demand_holds_every_size_and_says_why() -> None:
    memory = restored((8, 2, 1))
    for now in (1000.0, 5000.0):
        memory, targets = allocate(memory, request(MISSING, now=now))
        assert sizes_of(targets) == (8, 2, 1)
        assert targets[0].reason == "Down"
        assert targets[0].message == "demand is unknown (connection refused)"
        assert targets[0].limited_by == ""
    # The window starts again when the signal is back.
    _, targets = allocate(memory, request((1, 1, 0), now=5015.0))
    assert sizes_of(targets) == (8, 2, 1)


def test_an_incomplete_signal_grows_but_never_shrinks() -> None:
    spec = cluster(down=rules(0))
    _, targets = allocate(restored((4, 4, 1)), request((9, 1, 0), spec=spec, shrink_allowed=False))
    assert sizes_of(targets) == (9, 4, 1)
    assert limits_of(targets) == ("", "metrics", "metrics")


def test_an_incomplete_signal_trades_nothing_away() -> None:
    spec = cluster(budget=9)
    _, targets = allocate(restored((4, 4, 1)), request((9, 1, 0), spec=spec, shrink_allowed=False))
    assert sizes_of(targets) == (4, 4, 1)
    assert limits_of(targets) == ("budget", "metrics", "metrics")


@pytest.mark.parametrize(
    ("cause", "size", "limited_by"),
    [
        pytest.param(back_off("NodesExhausted"), 3, "nodes", id="nodes: what is Pending goes"),
        pytest.param(back_off("ImagePullFailed"), 3, "backOff", id="image: what is Pending goes"),
        pytest.param(back_off("QuotaExceeded", is_refusal=True), 4, "quota", id="quota: what exists stays"),
        pytest.param(back_off("Forbidden", is_refusal=True), 4, "backOff", id="right: what exists stays"),
    ],
)
def test_what_could_not_start_or_be_created_is_not_asked_for_again(
    cause: BackOff, size: int, limited_by: str
) -> None:
    pending = fleet(prefill=4, lifecycle=Lifecycle.PENDING, ready_at=None)[3:]
    replicas = (*fleet(prefill=3), *pending)
    memory, targets = allocate(
        restored((5, 0, 0)), request((5, 0, 0), replicas=replicas, back_offs={P: cause})
    )
    assert (targets[0].replicas, targets[0].wanted, targets[0].limited_by) == (size, 5, limited_by)
    assert targets[0].reason == cause.reason
    _, targets = allocate(memory, request((5, 0, 0), replicas=replicas))
    assert (targets[0].replicas, targets[0].reason) == (5, "Work")


def test_the_minimum_stays_asked_for_whatever_could_not_start() -> None:
    spec = cluster(prefill=pool(P, minimum=4))
    fleet_of_one = fleet(prefill=1)
    for cause in (back_off("NodesExhausted"), back_off("QuotaExceeded", is_refusal=True)):
        asked = request((6, 0, 0), spec=spec, replicas=fleet_of_one, back_offs={P: cause})
        _, targets = allocate(AllocationMemory.empty(), asked)
        assert (targets[0].replicas, targets[0].limited_by) == (4, cause.limit)
        asked = request((4, 0, 0), spec=spec, replicas=fleet_of_one, back_offs={P: cause})
        _, targets = allocate(AllocationMemory.empty(), asked)
        assert (targets[0].replicas, targets[0].limited_by) == (4, "")


@pytest.mark.parametrize(
    ("budget", "gpus", "wish", "size"),
    [
        pytest.param(12, (1, 1, 1), (8, 4, 0), (8, 4, 0), id="everything fits"),
        pytest.param(6, (1, 1, 1), (8, 4, 0), (4, 2, 0), id="prefill and decode keep their proportion"),
        pytest.param(2, (1, 1, 1), (100, 1, 0), (1, 1, 0), id="each gets its first before any second"),
        pytest.param(12, (1, 1, 1), (8, 4, 5), (8, 4, 0), id="mixed comes last"),
        pytest.param(14, (1, 1, 1), (8, 4, 5), (8, 4, 2), id="mixed takes what is left"),
        pytest.param(9, (4, 2, 1), (2, 2, 5), (1, 2, 1), id="four GPUs do not fit into three, two do"),
        pytest.param(3, (1, 1, 4), (0, 0, 2), (0, 0, 0), id="no replica fits"),
    ],
)
def test_a_budget_is_shared(budget: int, gpus: Three, wish: Three, size: Three) -> None:
    spec = cluster(
        budget=budget,
        prefill=pool(P, gpus=gpus[0]),
        decode=pool(D, gpus=gpus[1]),
        mixed=pool(M, gpus=gpus[2]),
    )
    _, targets = allocate(AllocationMemory.empty(), request(wish, spec=spec))
    assert sizes_of(targets) == size
    assert limits_of(targets) == tuple(
        "budget" if got < asked else "" for got, asked in zip(size, wish, strict=True)
    )


def test_minimums_come_before_every_wish() -> None:
    spec = cluster(budget=10, mixed=pool(M, minimum=3), decode=pool(D, minimum=2))
    _, targets = allocate(AllocationMemory.empty(), request((20, 2, 3), spec=spec))
    assert sizes_of(targets) == (5, 2, 3)


def test_a_budget_below_the_minimums_is_kept_all_the_same() -> None:
    spec = cluster(budget=4, prefill=pool(P, minimum=4), decode=pool(D, minimum=4))
    _, targets = allocate(AllocationMemory.empty(), request((0, 0, 0), spec=spec))
    assert sizes_of(targets) == (2, 2, 0)
    assert limits_of(targets) == ("budget", "budget", "")


def decide_repeatedly(
    memory: AllocationMemory, wish: Three, spec: ClusterSpec, times: list[float]
) -> list[Three]:
    sizes = []
    for now in times:
        memory, targets = allocate(memory, request(wish, now=now, spec=spec))
        sizes.append(sizes_of(targets))
    return sizes


def test_a_pool_that_wants_less_gives_gpus_to_a_short_one_before_its_window_ends() -> None:
    # Decode wants 2 instead of 6. For one boot (120 s) it still counts as needing 6, and shares 10 as 8 to 6.
    spec = cluster(budget=10)
    sizes = decide_repeatedly(restored((4, 6, 0)), (8, 2, 0), spec, [15.0, 119.0, 120.0, 300.0])
    assert sizes == [(6, 4, 0), (6, 4, 0), (8, 2, 0), (8, 2, 0)]


def test_a_trade_takes_no_more_than_is_short() -> None:
    spec = cluster(budget=12)
    assert decide_repeatedly(restored((4, 6, 0)), (8, 2, 0), spec, [15.0, 120.0]) == [(6, 6, 0), (8, 4, 0)]


def test_without_a_short_pool_nothing_is_traded() -> None:
    assert decide_repeatedly(restored((4, 6, 0)), (4, 2, 0), cluster(budget=10), [120.0, 299.0, 300.0]) == [
        (4, 6, 0),
        (4, 6, 0),
        (4, 2, 0),
    ]


def test_a_trade_keeps_the_users_rate_limit() -> None:
    spec = cluster(budget=10, down=rules(300, ScalingPolicy(PolicyType.PODS, 1, 60.0)))
    assert decide_repeatedly(restored((4, 6, 0)), (8, 2, 0), spec, [120.0, 135.0, 180.0]) == [
        (5, 5, 0),
        (5, 5, 0),
        (6, 4, 0),
    ]


def test_a_pool_that_may_not_shrink_gives_nothing() -> None:
    spec = cluster(budget=10, down=rules(300, select=SelectPolicy.DISABLED))
    assert decide_repeatedly(restored((4, 6, 0)), (8, 2, 0), spec, [120.0, 600.0]) == [(4, 6, 0), (4, 6, 0)]


def test_mixed_gives_way_to_short_base_pools() -> None:
    assert decide_repeatedly(restored((4, 4, 2)), (8, 8, 2), cluster(budget=10), [15.0]) == [(5, 5, 0)]


@pytest.mark.parametrize(
    ("present", "size"),
    [
        pytest.param((10, 4, 0), (10, 4, 0), id="one replica off the fair share is left alone"),
        pytest.param((13, 1, 0), (10, 4, 0), id="a starved pool gets its share"),
    ],
)
def test_two_short_pools_trade_only_for_a_real_imbalance(present: Three, size: Three) -> None:
    # Wishes 20 and 8 in a budget of 14: the fair share is 10 and 4. With wishes 20 and 10 it would be 9 and 5.
    assert decide_repeatedly(restored(present), (20, 8, 0), cluster(budget=14), [15.0]) == [size]
    if size == present:
        assert decide_repeatedly(restored(present), (20, 10, 0), cluster(budget=14), [15.0]) == [size]

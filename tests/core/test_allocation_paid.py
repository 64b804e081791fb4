"""GPUs that are paid for whatever happens (`budget.minGpus`), and trades that cost no boot."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.core.allocation_builders import (
    D,
    P,
    Three,
    back_off,
    limits_of,
    request,
    restored,
    sizes_of,
    wanted,
)
from tests.core.sizing_builders import cluster, fleet, pool, rules

from inferencecluster.core.allocation import AllocationRequest, allocate
from inferencecluster.core.spec import ClusterSpec, PolicyType, ScalingMode, ScalingPolicy


def converting(spec: ClusterSpec, *, enabled: bool = True) -> ClusterSpec:
    prefill, decode, mixed = (replace(item, interchangeable=enabled) for item in spec.pools)
    return replace(spec, pools=(prefill, decode, mixed))


def sizes_with_paid_gpus(kept: int, present: Three, wish: Three, *, enabled: bool) -> Three:
    """Of a budget of 12, `kept` of them paid for, after the windows have passed."""
    spec = replace(converting(cluster(budget=12, down=rules(0.0)), enabled=enabled), kept_gpus=kept)
    _, targets = allocate(restored(present), request(wish, now=10_000.0, spec=spec))
    assert sum(sizes_of(targets)) <= 12
    return sizes_of(targets)


@pytest.mark.parametrize(
    ("kept", "present", "wish", "size"),
    [
        pytest.param(0, (6, 4, 2), (2, 2, 0), (2, 2, 0), id="none"),
        pytest.param(12, (6, 4, 2), (2, 2, 0), (6, 6, 0), id="all stay, half and half for equal needs"),
        pytest.param(12, (6, 4, 2), (2, 4, 0), (4, 8, 0), id="who needs twice as much gets twice as much"),
        pytest.param(12, (6, 4, 2), (2, 2, 1), (5, 5, 2), id="mixed has its share, too"),
        pytest.param(12, (6, 4, 2), (8, 2, 0), (10, 2, 0), id="a pool grows by what others do not need"),
        pytest.param(12, (6, 4, 2), (2, 9, 0), (2, 10, 0), id="also by all of it"),
        pytest.param(12, (6, 4, 2), (0, 0, 0), (6, 4, 2), id="without any need they stay where they are"),
        pytest.param(8, (6, 4, 2), (2, 2, 0), (4, 4, 0), id="fewer than there are"),
        pytest.param(12, (2, 2, 0), (2, 2, 0), (6, 6, 0), id="more than there are"),
        pytest.param(20, (2, 2, 0), (2, 2, 0), (6, 6, 0), id="never beyond the budget"),
    ],
)
def test_gpus_that_are_paid_for_follow_needs_where_replicas_convert(
    kept: int, present: Three, wish: Three, size: Three
) -> None:
    assert sizes_with_paid_gpus(kept, present, wish, enabled=True) == size


@pytest.mark.parametrize(
    ("kept", "present", "wish", "size"),
    [
        pytest.param(0, (6, 4, 2), (2, 2, 0), (2, 2, 0), id="none"),
        pytest.param(12, (6, 4, 2), (2, 2, 0), (6, 4, 2), id="all stay where they are"),
        pytest.param(12, (6, 4, 2), (8, 2, 0), (8, 3, 1), id="a pool grows by what others do not need"),
        pytest.param(12, (6, 4, 2), (2, 9, 0), (2, 9, 1), id="also by almost all of it"),
        pytest.param(8, (6, 4, 2), (2, 2, 0), (4, 3, 1), id="fewer than there are"),
        pytest.param(12, (2, 2, 0), (2, 2, 0), (4, 4, 4), id="more than there are"),
        pytest.param(20, (2, 2, 0), (2, 2, 0), (4, 4, 4), id="never beyond the budget"),
    ],
)
def test_gpus_that_are_paid_for_stay_where_a_move_costs_a_boot(
    kept: int, present: Three, wish: Three, size: Three
) -> None:
    assert sizes_with_paid_gpus(kept, present, wish, enabled=False) == size


@pytest.mark.parametrize(
    ("kept", "present", "size"),
    [
        pytest.param(1, (0, 0, 0), (0, 0, 1), id="no pair fits, a mixed replica does"),
        pytest.param(1, (1, 1, 0), (0, 0, 1), id="a pair is given up as one"),
        pytest.param(2, (2, 0, 0), (1, 1, 0), id="a pair comes before a second replica"),
        pytest.param(3, (0, 0, 0), (1, 1, 1), id="a pair and what fits beside it"),
    ],
)
def test_gpus_that_are_paid_for_hold_no_phase_without_the_other(
    kept: int, present: Three, size: Three
) -> None:
    """A prefill replica alone serves nobody, and keeps a cluster from its sleep."""
    assert sizes_with_paid_gpus(kept, present, (0, 0, 0), enabled=False) == size


def test_a_share_of_paid_gpus_moves_nobody_for_a_tenth() -> None:
    spec = replace(converting(cluster(budget=24, down=rules(0.0))), kept_gpus=24)
    prefill, decode, mixed = (replace(item, max_replicas=24) for item in spec.pools)
    spec = replace(spec, pools=(prefill, decode, mixed))
    _, targets = allocate(restored((12, 12, 0)), request((10, 9, 0), now=10_000.0, spec=spec))
    assert sizes_of(targets) == (12, 12, 0)
    _, targets = allocate(restored((12, 12, 0)), request((12, 6, 0), now=10_000.0, spec=spec))
    assert sizes_of(targets) == (16, 8, 0)


def test_what_is_kept_is_told() -> None:
    spec = replace(converting(cluster(budget=12, down=rules(0.0))), kept_gpus=12)
    _, targets = allocate(restored((6, 4, 2)), request((2, 4, 0), now=10_000.0, spec=spec))
    assert limits_of(targets) == ("minGpus", "minGpus", "")
    assert targets[0].message == "budget.minGpus 12 keeps 4: demand asks for 2 (2 wanted)"


def test_what_bounds_leave_of_a_share_goes_to_the_others() -> None:
    spec = replace(cluster(decode=pool(D, maximum=3), budget=12, down=rules(0.0)), kept_gpus=12)
    _, targets = allocate(restored((6, 3, 0)), request((2, 2, 0), now=10_000.0, spec=spec))
    assert sizes_of(targets)[1] == 3
    assert sum(sizes_of(targets)) == 12


@pytest.mark.parametrize("mode", [ScalingMode.FIXED, ScalingMode.EXTERNAL])
def test_sizes_that_others_choose_are_not_kept(mode: ScalingMode) -> None:
    spec = replace(cluster(budget=12, mode=mode), kept_gpus=12)
    _, targets = allocate(restored((6, 4, 2)), request((2, 2, 0), spec=spec))
    assert sizes_of(targets) == (2, 2, 0)


def test_a_pool_that_cannot_start_replicas_is_not_grown_to_keep_gpus() -> None:
    spec = replace(cluster(budget=12, down=rules(0.0)), kept_gpus=12)
    back_offs = {D: back_off("NodesExhausted")}
    _, targets = allocate(
        restored((2, 2, 0)), request((2, 2, 0), spec=spec, replicas=fleet(2, 2), back_offs=back_offs)
    )
    assert sizes_of(targets)[1] == 2


@pytest.mark.parametrize(("interchangeable", "size"), [(False, (6, 4, 0)), (True, (4, 6, 0))])
def test_a_trade_that_costs_no_boot_need_not_wait_for_one(interchangeable: bool, size: Three) -> None:
    spec = cluster(budget=10)
    prefill, decode, mixed = (replace(item, interchangeable=interchangeable) for item in spec.pools)
    spec = replace(spec, pools=(prefill, decode, mixed), boot_seconds=250.0, interval_seconds=15.0)
    memory = restored((6, 4, 0), now=0.0)
    for now in (15.0, 30.0, 45.0):
        memory, targets = allocate(memory, request((4, 6, 0), now=now, spec=spec))
    assert sizes_of(targets) == size


def at_once(spec: ClusterSpec, wish: Three, now: Three) -> AllocationRequest:
    """A request for `wish`, of which `now` arrives and waits at this moment; told only where replicas move in seconds."""
    told = tuple(
        replace(item, at_once=replicas if spec.pool(item.pool).interchangeable else None)
        for item, replicas in zip(wanted(wish), now, strict=True)
    )
    return replace(request(wish, now=15.0, spec=spec), wanted=(told[0], told[1], told[2]))


@pytest.mark.parametrize(
    ("budget", "enabled", "size"),
    [
        pytest.param(10, True, (2, 8, 0), id="what is only planned gives way at once"),
        pytest.param(12, True, (4, 8, 0), id="as far as the others need it"),
        pytest.param(14, True, (6, 8, 0), id="a budget that suffices changes nothing"),
        pytest.param(10, False, (4, 6, 0), id="without conversion a plan counts like arrivals"),
        pytest.param(14, False, (6, 8, 0), id="nor does it without conversion"),
    ],
)
def test_what_arrives_comes_before_what_is_planned_where_replicas_join_in_seconds(
    budget: int, enabled: bool, size: Three
) -> None:
    """Prefill plans 6 for a peak that is over and needs 2; decode needs all of its 8."""
    spec = converting(cluster(budget=budget), enabled=enabled)
    _, targets = allocate(restored((6, 4, 0)), at_once(spec, (6, 8, 0), (2, 8, 0)))
    assert sizes_of(targets) == size


def test_what_a_pool_keeps_below_its_plan_is_told_as_the_budget() -> None:
    spec = converting(cluster(budget=10))
    _, targets = allocate(restored((6, 4, 0)), at_once(spec, (6, 8, 0), (2, 8, 0)))
    assert limits_of(targets) == ("budget", "", "")
    assert targets[0].message == "the budget of 10 GPUs leaves room for 2: demand asks for 6 (6 wanted)"


def test_no_pool_gives_more_than_its_minimum_and_the_rates_of_the_user_allow() -> None:
    spec = converting(cluster(prefill=pool(P, minimum=3), budget=10))
    _, targets = allocate(restored((6, 4, 0)), at_once(spec, (6, 8, 0), (2, 8, 0)))
    assert sizes_of(targets) == (3, 7, 0)
    slowly = converting(cluster(budget=10, down=rules(300.0, ScalingPolicy(PolicyType.PODS, 1, 60.0))))
    _, targets = allocate(restored((6, 4, 0)), at_once(slowly, (6, 8, 0), (2, 8, 0)))
    assert sizes_of(targets) == (5, 5, 0)

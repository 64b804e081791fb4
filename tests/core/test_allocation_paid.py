"""GPUs that are paid for whatever happens (`budget.minGpus`), and trades that cost no boot."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.core.allocation_builders import D, Three, back_off, limits_of, request, restored, sizes_of
from tests.core.sizing_builders import cluster, fleet, rules

from inferencecluster.core.allocation import allocate
from inferencecluster.core.spec import ScalingMode


@pytest.mark.parametrize(
    ("kept", "present", "wish", "size"),
    [
        pytest.param(0, (6, 4, 2), (2, 2, 0), (2, 2, 0), id="none"),
        pytest.param(12, (6, 4, 2), (2, 2, 0), (6, 4, 2), id="nobody shrinks"),
        pytest.param(12, (6, 4, 2), (8, 2, 0), (8, 3, 1), id="a pool grows by what others do not need"),
        pytest.param(12, (6, 4, 2), (2, 9, 0), (2, 9, 1), id="also by almost all of it"),
        pytest.param(8, (6, 4, 2), (2, 2, 0), (4, 3, 1), id="fewer than there are"),
        pytest.param(12, (2, 2, 0), (2, 2, 0), (4, 4, 4), id="more than there are"),
        pytest.param(20, (2, 2, 0), (2, 2, 0), (4, 4, 4), id="never beyond the budget"),
    ],
)
def test_gpus_that_are_paid_for_are_kept(kept: int, present: Three, wish: Three, size: Three) -> None:
    spec = replace(cluster(budget=12, down=rules(0.0)), kept_gpus=kept)
    _, targets = allocate(restored(present), request(wish, now=10_000.0, spec=spec))
    assert sizes_of(targets) == size
    assert sum(sizes_of(targets)) <= 12


def test_what_is_kept_is_told() -> None:
    spec = replace(cluster(budget=12, down=rules(0.0)), kept_gpus=12)
    _, targets = allocate(restored((6, 4, 2)), request((2, 4, 0), now=10_000.0, spec=spec))
    assert limits_of(targets) == ("minGpus", "", "minGpus")
    assert targets[0].message == "budget.minGpus 12 keeps 6: demand asks for 2 (2 wanted)"


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

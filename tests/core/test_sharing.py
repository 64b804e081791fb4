"""The budget's last replicas go by the objective: what is dear is given up first, and only where it is merely held."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.sizing_builders import cluster, pool, rules

from inferencecluster.core.allocation import AllocationMemory, AllocationRequest, allocate
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.sharing import burdens, fill_tier
from inferencecluster.core.sizing import Wanted
from inferencecluster.core.spec import ClusterSpec, Objective

PREFILL, DECODE, MIXED = PoolName
Three = tuple[int, int, int]


def spec(
    objective: Objective,
    *,
    prices: tuple[float | None, float | None, float | None] = (None, None, None),
    watts: tuple[float | None, float | None, float | None] = (None, None, None),
    budget: int = 12,
    maximum: int = 100,
) -> ClusterSpec:
    prefill, decode, mixed = (
        replace(pool(name, maximum=maximum), price_per_gpu_hour=price, watts_per_gpu=power)
        for name, price, power in zip(PoolName, prices, watts, strict=True)
    )
    return replace(
        cluster(prefill=prefill, decode=decode, mixed=mixed, budget=budget, down=rules(300)),
        objective=objective,
    )


def sized(asked: ClusterSpec, present: Three, wish: Three, *, now: float) -> Three:
    """Sizes when these were decided at second 0 and the others are wanted since."""
    prefill, decode, mixed = (
        Wanted(name, size, "Work", "", (), float(size)) for name, size in zip(PoolName, wish, strict=True)
    )
    memory = AllocationMemory.restored(dict(zip(PoolName, present, strict=True)), 0.0)
    _, targets = allocate(
        memory,
        AllocationRequest(
            now=now,
            spec=asked,
            replicas=(),
            wanted=(prefill, decode, mixed),
            shrink_allowed=True,
            capacity=Missing("NotListed"),
            back_offs={},
        ),
    )
    return targets[0].replicas, targets[1].replicas, targets[2].replicas


COST, POWER, THROUGHPUT = Objective.COST, Objective.POWER, Objective.THROUGHPUT


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        pytest.param(spec(COST, prices=(4.0, 1.5, 2.0)), (2, 4, 6), id="dear prefill gives way"),
        pytest.param(spec(COST, prices=(1.5, 4.0, 2.0)), (4, 2, 6), id="dear decode gives way"),
        pytest.param(spec(POWER, watts=(700.0, 400.0, 500.0)), (2, 4, 6), id="hot prefill gives way"),
        pytest.param(
            spec(THROUGHPUT, prices=(4.0, 1.5, 2.0)), (3, 3, 6), id="in proportion, whatever it costs"
        ),
        pytest.param(spec(COST), (3, 3, 6), id="no prices"),
        pytest.param(spec(COST, prices=(4.0, None, 2.0)), (3, 3, 6), id="a price that is not told"),
        pytest.param(spec(COST, prices=(2.0, 2.0, 2.0)), (3, 3, 6), id="equal prices"),
    ],
)
def test_held_replicas_are_given_up_where_the_objective_says(asked: ClusterSpec, size: Three) -> None:
    """Prefill and decode hold 4 each and need 2, mixed has come to need 6: two of four held replicas go."""
    assert sized(asked, (4, 4, 4), (2, 2, 6), now=150.0) == size


@given(
    st.tuples(*[st.integers(0, 20)] * 3),
    st.integers(3, 40),
    st.sampled_from(Objective),
    st.tuples(*[st.floats(0.1, 10.0)] * 3),
)
def test_what_is_needed_is_shared_alike_under_every_objective(
    wish: Three, budget: int, objective: Objective, prices: tuple[float, float, float]
) -> None:
    """The objective never starves a pool that works: only what is held differs."""
    plain, chosen = (
        sized(item, (0, 0, 0), wish, now=1000.0)
        for item in (
            spec(THROUGHPUT, budget=budget),
            spec(objective, prices=prices, watts=prices, budget=budget),
        )
    )
    assert plain == chosen


def test_burdens_count_pools_that_are_on() -> None:
    asked = spec(COST, prices=(4.0, 1.5, None))
    prefill, decode, mixed = asked.pools
    without_mixed = replace(asked, pools=(prefill, decode, replace(mixed, max_replicas=0)))
    assert dict(burdens(without_mixed)) == {PREFILL: 4.0, DECODE: 1.5, MIXED: 0.0}
    assert set(burdens(asked).values()) == {0.0}


def test_a_tier_without_burdens_serves_the_largest_lack_first() -> None:
    sizes = {PREFILL: 0, DECODE: 1, MIXED: 0}
    fill_tier(sizes, [(pool(PREFILL), 4), (pool(DECODE), 4)], free=3)
    assert sizes == {PREFILL: 2, DECODE: 2, MIXED: 0}

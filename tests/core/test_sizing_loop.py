"""Observe, size and allocate in a row on a made-up load: up fast, down slowly, never over the budget."""

from dataclasses import dataclass, replace

import pytest
from tests.core.sizing_builders import (
    MISSING,
    arrivals,
    cluster,
    demand,
    fleet,
    flow,
    metrics,
    observation,
    pool,
    rules,
)

from inferencecluster.core.allocation import AllocationMemory, AllocationRequest, Target, allocate
from inferencecluster.core.demand import Demand, DemandMemory, observe_demand
from inferencecluster.core.fleet import PoolName, Replica
from inferencecluster.core.missing import Missing
from inferencecluster.core.sizing import size_pools
from inferencecluster.core.spec import ClusterSpec

INTERVAL = 15.0
SPEC = cluster(prefill=pool(PoolName.PREFILL, minimum=1), decode=pool(PoolName.DECODE, minimum=1), budget=60)


@dataclass
class Loop:
    """Replicas follow their targets at once; nothing boots, nothing drains."""

    spec: ClusterSpec = SPEC
    demand: DemandMemory = DemandMemory.empty()  # noqa: RUF009 - immutable
    allocation: AllocationMemory = AllocationMemory.empty()  # noqa: RUF009 - immutable
    replicas: tuple[Replica, ...] = ()
    now: float = 0.0

    def tick(self, rate: float, *, blind: bool = False) -> tuple[Target, Target, Target]:
        arrived = flow(rate * INTERVAL, completed=rate * INTERVAL)
        look = observation(
            self.now,
            routers=Missing("Timeout") if blind else arrived,
            metrics=MISSING if blind else metrics(arrived),
            spec=self.spec,
            replicas=self.replicas,
        )
        self.demand, seen = observe_demand(self.demand, look)
        wanted = size_pools(self.spec, seen, self.replicas) if isinstance(seen, Demand) else seen
        shrink = isinstance(seen, Demand) and seen.complete
        asked = AllocationRequest(
            self.now, self.spec, self.replicas, wanted, shrink, Missing("NotListed"), {}
        )
        self.allocation, targets = allocate(self.allocation, asked)
        self.replicas = fleet(*(target.replicas for target in targets))
        self.now += INTERVAL
        assert sum(target.replicas for target in targets) <= self.spec.budget_gpus
        return targets

    def run(self, rates: list[float]) -> list[tuple[int, int, int]]:
        sizes = []
        for rate in rates:
            prefill, decode, mixed = self.tick(rate)
            sizes.append((prefill.replicas, decode.replicas, mixed.replicas))
        return sizes


RAMP_AND_DROP = [20.0] * 5 + [20.0 + 10.0 * step for step in range(1, 9)] + [100.0] * 5 + [10.0] * 40


def test_sizes_follow_a_ramp_with_the_load_and_a_drop_behind_it() -> None:
    sizes = Loop().run(RAMP_AND_DROP)
    prefill = [size[0] for size in sizes]
    # No plan has come due: 20 requests/s and a fifth are 2.88 busy, and 1.28 keep their queue within the TTFT. Decode replicas
    # lend nothing: an iteration full of prompts exceeds the ITL target.
    assert prefill[4] == 5
    # 100 requests/s keep 12 prefill replicas busy; they are asked for when the load is there.
    assert all(count >= 0.12 * rate for count, rate in zip(prefill, RAMP_AND_DROP, strict=True))
    # The last wish for the full load is of tick 17; its window of 300 s ends with tick 37.
    assert min(prefill[18:37]) >= 15
    assert prefill[18:] == sorted(prefill[18:], reverse=True)


def test_a_ramp_that_plans_fell_short_of_leaves_a_reserve_for_an_hour() -> None:
    sizes = Loop().run([*RAMP_AND_DROP, *[10.0] * 260])
    # 1.2 busy and 1.28 would be three; an hour later they are.
    assert sizes[57][0] > 3
    assert sizes[-1][0] == 3


def test_a_jump_is_followed_within_one_tick() -> None:
    sizes = Loop().run([20.0] * 30 + [60.0])
    # 2.88 busy with the fifth of the beginning, and 1.28 to keep their queue within the TTFT; the tolerance keeps the fifth.
    assert sizes[29][0] == 5
    # 7.2 busy want 9.
    assert sizes[30][0] == 9
    assert sizes[30][1] >= sizes[29][1]


def test_decode_grows_with_the_load_too() -> None:
    sizes = Loop().run(RAMP_AND_DROP)
    assert sizes[17][1] > sizes[4][1]
    assert sizes[-1][1] < sizes[17][1]


def test_a_blind_stretch_changes_no_size() -> None:
    loop = Loop()
    before = loop.run([60.0] * 10)[-1]
    for _ in range(60):
        targets = loop.tick(0.0, blind=True)
        assert tuple(target.replicas for target in targets) == before
        assert targets[0].reason == "NoSource"
    assert loop.run([1.0] * 19)[-1] == before


def test_no_demand_ends_at_the_minimums() -> None:
    loop = Loop()
    loop.run([60.0] * 5)
    assert loop.run([0.0] * 60)[-1] == (1, 1, 0)


def test_the_whole_run_repeats_exactly() -> None:
    first, second = Loop(), Loop()
    assert first.run(RAMP_AND_DROP) == second.run(RAMP_AND_DROP)
    assert (first.demand, first.allocation) == (second.demand, second.allocation)


@pytest.mark.parametrize("budget", [3, 8, 20])
def test_a_tight_budget_is_used_up_and_starves_no_phase(budget: int) -> None:
    spec = cluster(budget=budget)
    prefill, decode, _ = Loop(spec).run([20.0] * 5 + [400.0] * 20)[-1]
    assert prefill + decode == budget
    # 48 busy and (800 + 47) / 48.8 = 17: about three to one
    assert decode >= 1
    assert prefill >= decode


@pytest.mark.parametrize(
    ("budget", "enabled", "sizes"),
    [
        pytest.param(20, True, (10, 10), id="prefill gives at once what only its plan holds"),
        pytest.param(30, True, (20, 10), id="and no more than decode needs"),
        pytest.param(20, False, (16, 4), id="without conversion the plan keeps its share"),
        pytest.param(100, True, (35, 10), id="a budget for both takes nothing from the plan"),
        pytest.param(100, False, (35, 10), id="nor does it without conversion"),
    ],
)
def test_the_decision_that_sees_demand_turn_trades_where_replicas_convert(
    budget: int, enabled: bool, sizes: tuple[int, int]
) -> None:
    """Prefill had a peak of long prompts, which it plans for still; now many short ones arrive, whose tokens need decode."""
    now = demand(400, length=100.0)
    seen = replace(now, planned=now.arrivals.at_least(arrivals(40, 5000.0)))
    prefill, decode, mixed = (replace(item, interchangeable=enabled) for item in cluster().pools)
    spec = cluster(prefill=prefill, decode=decode, mixed=mixed, budget=budget, down=rules(0))
    before = AllocationMemory.restored(
        {PoolName.PREFILL: budget - 4, PoolName.DECODE: 4, PoolName.MIXED: 0}, 0.0
    )
    wanted = size_pools(spec, seen, ())
    asked = AllocationRequest(1000.0, spec, (), wanted, True, Missing("NotListed"), {})
    _, (prefills, decodes, _) = allocate(before, asked)
    assert (prefills.wanted, decodes.wanted) == (35, 10)
    assert (prefills.replicas, decodes.replicas) == sizes

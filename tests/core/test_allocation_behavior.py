"""The HPA's `behavior`, computed by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.sizing_builders import rules

from inferencecluster.core.spec import Behavior, PolicyType, ScalingPolicy, ScalingRules, SelectPolicy
from inferencecluster.core.stabilization import PoolHistory, Stamped, rate_limited, stabilized

NOW = 1000.0
PODS, PERCENT = PolicyType.PODS, PolicyType.PERCENT


def behavior(up: ScalingRules | None = None, down: ScalingRules | None = None) -> Behavior:
    return Behavior(up or rules(0), down or rules(0))


def history(size: int, *changes: tuple[float, int]) -> PoolHistory:
    """Changes as (seconds ago, replicas)."""
    return PoolHistory(size, (), (), tuple(Stamped(NOW - ago, change) for ago, change in changes))


@pytest.mark.parametrize(
    ("up", "down", "past", "recommended", "size"),
    [
        pytest.param(0, 0, [(10, 9)], 3, 3, id="no windows: at once"),
        pytest.param(0, 300, [(10, 9)], 3, 5, id="down: never above the present size"),
        pytest.param(0, 300, [(10, 4)], 3, 4, id="down: to the largest of the window"),
        pytest.param(0, 300, [(300, 4)], 3, 3, id="down: what is exactly as old as the window is out"),
        pytest.param(60, 0, [(10, 6)], 9, 6, id="up: to the smallest of the window"),
        pytest.param(60, 0, [(10, 2)], 9, 5, id="up: never below the present size"),
        pytest.param(60, 300, [(10, 5)], 9, 5, id="both"),
    ],
)
def test_windows(up: float, down: float, past: list[tuple[float, int]], recommended: int, size: int) -> None:
    limits = behavior(rules(up), rules(down))
    pool = PoolHistory(5, (), ())
    for ago, replicas in past:
        pool = pool.recommend(replicas, NOW - ago, limits)
    pool = pool.recommend(recommended, NOW, limits)
    assert stabilized(pool, recommended, NOW, limits) == size


@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(0, 20)), max_size=40),
    st.integers(0, 20),
    st.integers(0, 20),
    st.floats(0, 400),
    st.floats(0, 400),
)
def test_the_pruned_history_answers_as_the_full_one(
    steps: list[tuple[float, int]], size: int, recommended: int, up: float, down: float
) -> None:
    limits = behavior(rules(up), rules(down))
    pool, full, now = PoolHistory(size, (), ()), [], 0.0
    for step, replicas in [*steps, (1.0, recommended)]:
        now += step
        pool = pool.recommend(replicas, now, limits)
        full.append((now, replicas))
    lowest = min([recommended, *(replicas for time, replicas in full if time > now - up)])
    highest = max([recommended, *(replicas for time, replicas in full if time > now - down)])
    assert stabilized(pool, recommended, now, limits) == min(max(size, lowest), highest)


def test_a_pool_at_rest_remembers_one_recommendation() -> None:
    limits = behavior(down=rules(300))
    pool = PoolHistory.starting(5, 0.0)
    for tick in range(1000):
        pool = pool.recommend(5, 15.0 * tick, limits)
    assert pool.highs == pool.lows == (Stamped(15.0 * 999, 5),)


@pytest.mark.parametrize(
    ("select", "policies", "changes", "desired", "size"),
    [
        pytest.param(SelectPolicy.MAX, [], [], 100, 100, id="no policies: in one step"),
        pytest.param(SelectPolicy.MAX, [(PODS, 4, 15)], [], 100, 14, id="pods"),
        pytest.param(SelectPolicy.MAX, [(PERCENT, 100, 15)], [], 100, 20, id="per cent"),
        pytest.param(SelectPolicy.MAX, [(PERCENT, 10, 15)], [], 100, 11, id="exactly eleven"),
        pytest.param(SelectPolicy.MAX, [(PERCENT, 15, 15)], [], 100, 12, id="per cents round up"),
        pytest.param(SelectPolicy.MAX, [(PODS, 4, 15), (PERCENT, 100, 15)], [], 100, 20, id="Max: the wider"),
        pytest.param(
            SelectPolicy.MIN, [(PODS, 4, 15), (PERCENT, 100, 15)], [], 100, 14, id="Min: the narrower"
        ),
        pytest.param(SelectPolicy.DISABLED, [(PODS, 4, 15)], [], 100, 10, id="Disabled"),
        pytest.param(SelectPolicy.MAX, [(PODS, 4, 60)], [(30, 3)], 100, 11, id="three of four are used up"),
        pytest.param(SelectPolicy.MAX, [(PODS, 4, 60)], [(60, 3)], 100, 14, id="the period is over"),
        pytest.param(
            SelectPolicy.MAX, [(PODS, 4, 60)], [(30, 6)], 100, 10, id="a narrower policy came later"
        ),
        pytest.param(SelectPolicy.MAX, [(PODS, 4, 60)], [(30, -2)], 100, 16, id="what shrank may come back"),
        pytest.param(SelectPolicy.MAX, [(PODS, 4, 15)], [], 12, 12, id="within the limit"),
        pytest.param(SelectPolicy.MAX, [(PODS, 4, 15)], [], 10, 10, id="nothing to do"),
    ],
)
def test_growing(
    select: SelectPolicy,
    policies: list[tuple[PolicyType, int, float]],
    changes: list[tuple[float, int]],
    desired: int,
    size: int,
) -> None:
    limits = behavior(up=rules(0, *(ScalingPolicy(*policy) for policy in policies), select=select))
    assert rate_limited(history(10, *changes), desired, NOW, limits) == size


def test_an_empty_pool_grows_by_per_cents_of_one() -> None:
    limits = behavior(up=rules(0, ScalingPolicy(PERCENT, 100, 15)))
    assert rate_limited(history(0), 10, NOW, limits) == 2


@pytest.mark.parametrize(
    ("select", "policies", "changes", "desired", "size"),
    [
        pytest.param(SelectPolicy.MAX, [], [], 0, 0, id="no policies: in one step"),
        pytest.param(SelectPolicy.MAX, [(PODS, 4, 15)], [], 0, 6, id="pods"),
        pytest.param(SelectPolicy.MAX, [(PERCENT, 25, 15)], [], 0, 7, id="per cents round down"),
        pytest.param(SelectPolicy.MAX, [(PERCENT, 300, 15)], [], 2, 2, id="more than all"),
        pytest.param(SelectPolicy.MAX, [(PODS, 1, 15), (PERCENT, 50, 15)], [], 0, 5, id="Max: the wider"),
        pytest.param(SelectPolicy.MIN, [(PODS, 1, 15), (PERCENT, 50, 15)], [], 0, 9, id="Min: the narrower"),
        pytest.param(SelectPolicy.DISABLED, [(PODS, 4, 15)], [], 0, 10, id="Disabled"),
        pytest.param(SelectPolicy.MAX, [(PODS, 4, 60)], [(30, -3)], 0, 9, id="three of four are used up"),
        pytest.param(SelectPolicy.MAX, [(PODS, 4, 60)], [(30, -6)], 0, 10, id="never grows"),
    ],
)
def test_shrinking(
    select: SelectPolicy,
    policies: list[tuple[PolicyType, int, float]],
    changes: list[tuple[float, int]],
    desired: int,
    size: int,
) -> None:
    limits = behavior(down=rules(0, *(ScalingPolicy(*policy) for policy in policies), select=select))
    assert rate_limited(history(10, *changes), desired, NOW, limits) == size


def test_changes_are_remembered_for_the_longest_period_only() -> None:
    limits = behavior(rules(0, ScalingPolicy(PODS, 4, 15)), rules(0, ScalingPolicy(PODS, 4, 60)))
    pool = (
        PoolHistory.starting(10, 0.0).resize(12, 1.0, limits).resize(12, 20.0, limits).resize(9, 50.0, limits)
    )
    assert pool.changes == (Stamped(1.0, 2), Stamped(50.0, -3))
    assert pool.resize(9, 61.0, limits).changes == (Stamped(50.0, -3),)
    assert pool.resize(9, 61.0, behavior()).changes == ()

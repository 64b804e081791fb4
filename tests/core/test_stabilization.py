"""The windows and rates of `behavior` across a clock that is set."""

from __future__ import annotations

import pytest
from tests.strategies import AT_ONCE

from inferencecluster.core.spec import Behavior, PolicyType, ScalingPolicy, ScalingRules, SelectPolicy
from inferencecluster.core.stabilization import PoolHistory, rate_limited, stabilized

HELD = Behavior(AT_ONCE, ScalingRules(300.0, SelectPolicy.MAX, ()))
SLOW = Behavior(
    ScalingRules(0.0, SelectPolicy.MAX, (ScalingPolicy(PolicyType.PODS, 1, 60.0),)),
    AT_ONCE,
)


def allowed(
    history: PoolHistory, recommended: int, now: float, behavior: Behavior
) -> tuple[PoolHistory, int]:
    history = history.recommend(recommended, now, behavior)
    size = rate_limited(history, stabilized(history, recommended, now, behavior), now, behavior)
    return history.resize(size, now, behavior), size


class TestAClockThatIsSetBack:
    """By an hour, after a recommendation at second 10,000."""

    @pytest.mark.parametrize("now", [6400.0, 9999.0])
    def test_a_pool_grows_at_once(self, now: float) -> None:
        history, _ = allowed(PoolHistory.starting(2, 9990.0), 2, 10_000.0, HELD)
        assert allowed(history, 8, now, HELD)[1] == 8

    def test_a_pool_shrinks_after_its_window_and_not_before(self) -> None:
        history, _ = allowed(PoolHistory.starting(8, 9990.0), 8, 10_000.0, HELD)
        history, size = allowed(history, 2, 6400.0, HELD)
        assert size == 8
        history, size = allowed(history, 2, 6690.0, HELD)
        assert size == 8
        assert allowed(history, 2, 6701.0, HELD)[1] == 2

    def test_a_change_counts_against_its_period_only(self) -> None:
        history, size = allowed(PoolHistory.starting(2, 9990.0), 8, 10_000.0, SLOW)
        assert size == 3
        history, size = allowed(history, 8, 6400.0, SLOW)
        assert size == 3
        assert allowed(history, 8, 6461.0, SLOW)[1] == 4

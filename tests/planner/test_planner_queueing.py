from __future__ import annotations

import bisect
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferencecluster.planner.queueing import Queue, Wait, Work, erlang_c, normal_below


@pytest.mark.parametrize(
    ("servers", "load", "expected"),
    [
        pytest.param(1, 0.5, 0.5, id="one server waits as often as it is busy"),
        pytest.param(2, 1.0, 1 / 3, id="two servers, by hand"),
        pytest.param(5, 4.0, 0.5541, id="five servers, from Erlang's tables"),
    ],
)
def test_erlang_c_matches_known_values(servers: int, load: float, expected: float) -> None:
    assert erlang_c(servers, load) == pytest.approx(expected, abs=1e-4)


def test_exponential_service_is_the_exact_queue() -> None:
    wait = Queue(1, rate=0.8, service_seconds=1.0, service_seconds_squared=2.0).wait()
    assert wait.mean == pytest.approx(0.8 / (1 - 0.8))
    assert wait.within(1.0) == pytest.approx(1 - 0.8 * math.exp(-0.2))


def test_constant_service_waits_half_as_long() -> None:
    wait = Queue(1, rate=0.8, service_seconds=1.0, service_seconds_squared=1.0).wait()
    assert wait.mean == pytest.approx(0.8 / (1 - 0.8) / 2)


def test_an_overloaded_queue_never_serves_in_time() -> None:
    wait = Queue(2, rate=2.5, service_seconds=1.0, service_seconds_squared=1.0).wait()
    assert wait.within(1e9) == 0.0
    assert wait.mean == math.inf


def test_an_idle_queue_has_no_wait() -> None:
    wait = Queue(2, rate=0.0, service_seconds=1.0, service_seconds_squared=1.0).wait()
    assert (wait.mean, wait.within(0.0), wait.within(-0.1)) == (0.0, 1.0, 0.0)


@given(st.integers(1, 50), st.floats(0.01, 0.99), st.floats(0.0, 100.0))
def test_another_server_never_lengthens_the_wait(servers: int, busy: float, seconds: float) -> None:
    rate = servers * busy

    def within(count: int) -> float:
        return Queue(count, rate, 1.0, 1.5).wait().within(seconds)

    assert 0.0 <= within(servers) <= within(servers + 1) <= 1.0


def test_a_normal_variable_without_spread_is_a_step() -> None:
    assert normal_below(1.0, mean=1.0, deviation=0.0) == 1.0
    assert normal_below(0.9, mean=1.0, deviation=0.0) == 0.0
    assert normal_below(1.2816, mean=0.0, deviation=1.0) == pytest.approx(0.9, abs=1e-4)


def test_a_wait_that_cannot_happen_has_no_mean() -> None:
    assert Wait(0.0, 0.0).mean == 0.0


def idle_share(load: float, level: float, seconds: float) -> float:
    """Of many stretches of a simulated M/D/1 queue with services of 1 s, those with at least `level` idle seconds."""
    source = random.Random(1)
    arrived = free = 0.0
    starts: list[float] = []
    for _ in range(40_000):
        arrived += source.expovariate(load)
        starts.append(max(arrived, free))
        free = starts[-1] + 1.0

    def busy_until(moment: float) -> float:
        served = bisect.bisect_right(starts, moment) - 1
        return served + min(1.0, moment - starts[served])

    moments = [100.0 + index for index in range(int(starts[-1] - seconds) - 101)]
    idle = [seconds - busy_until(moment + seconds) + busy_until(moment) for moment in moments]
    return sum(value >= level for value in idle) / len(idle)


@pytest.mark.parametrize(
    ("load", "level", "seconds"),
    [
        pytest.param(0.7, 0.1, 4.0, id="a few services long"),
        pytest.param(0.7, 5.0, 20.0, id="about the mean"),
        pytest.param(0.85, 1.0, 30.0, id="near its limit"),
        pytest.param(0.5, 25.0, 60.0, id="hardly loaded"),
    ],
)
def test_idle_time_of_a_stretch_is_that_of_a_simulated_queue(
    load: float, level: float, seconds: float
) -> None:
    expected = idle_share(load, level, seconds)
    assert 0.05 < expected < 0.95
    found = Work(1.0 - load, load).idle_at_least(level, seconds=seconds)
    assert found == pytest.approx(expected, abs=0.06)


@given(
    st.floats(0.01, 0.99),
    st.floats(1e-6, 10.0),
    st.floats(0.0, 1.0),
    st.floats(0.01, 1e4),
    st.floats(0.0, 5.0),
)
def test_more_idle_time_is_never_likelier(
    drift: float, variance: float, share: float, seconds: float, noise: float
) -> None:
    work = Work(drift, variance)
    less, more = (
        work.idle_at_least(part * share * seconds, seconds=seconds, noise=noise) for part in (0.5, 1.0)
    )
    assert 0.0 <= more <= less + 1e-6 <= 1.0 + 1e-6
    assert work.idle_at_least(0.0, seconds=seconds) == 1.0

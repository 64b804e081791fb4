"""Scale to zero: pools fall asleep together, one held request wakes them together, and conditions say what happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import QUIET, World, make_observation, make_replica, make_spec

from inferencecluster.core.decision import Decision, Memory, decide
from inferencecluster.core.fleet import Lifecycle, PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import RouterSample
from inferencecluster.core.spec import (
    Behavior,
    ClusterSpec,
    PolicyType,
    ScalingMode,
    ScalingPolicy,
    ScalingRules,
    SelectPolicy,
)
from inferencecluster.core.status import Condition, ConditionType

PREFILL, DECODE, MIXED = PoolName
WINDOW = 60.0
CALM = Behavior(
    ScalingRules(0.0, SelectPolicy.MAX, ()),
    ScalingRules(WINDOW, SelectPolicy.MAX, ()),
)
SLEEPY = make_spec(maximum=(10, 10, 0), behavior=CALM)


class Life:
    """A cluster whose replicas serve as soon as they exist."""

    def __init__(self, spec: ClusterSpec = SLEEPY) -> None:
        self.world = World(spec)
        self.memory = Memory.empty()

    def look(
        self, rate: float = 0.0, *, held: int = 0, seconds: float = 10.0, sizing_due: bool = True
    ) -> Decision:
        observation = make_observation(
            self.world.spec, self.world.observed(), now=self.world.now, rate=rate, sizing_due=sizing_due
        )
        assert isinstance(observation.routers, RouterSample)
        queue = replace(QUIET, held_requests=held, held_tokens=1000 * held)
        observation = replace(observation, routers=replace(observation.routers, queue=queue))
        decision = decide(observation, self.memory)
        self.memory = decision.memory
        self.world.apply(decision.actions)
        self.world.pass_time(seconds)
        return decision

    def fall_asleep(self) -> Decision:
        for _ in range(100):
            decision = self.look()
            if not any(decision.targets.values()):
                return decision
        raise AssertionError(f"awake for ever: {self.memory.targets}")


def sizes(decision: Decision) -> tuple[int, int, int]:
    return decision.targets[PREFILL], decision.targets[DECODE], decision.targets[MIXED]


def ready(decision: Decision) -> Condition:
    return next(item for item in decision.status.conditions if item.type is ConditionType.READY)


def settled(decision: Decision) -> Condition:
    return next(item for item in decision.status.conditions if item.type is ConditionType.RECONCILING)


def limit(percent_or_pods: PolicyType, value: int) -> ScalingPolicy:
    return ScalingPolicy(percent_or_pods, value, 60.0)


windows = st.sampled_from([0.0, 15.0, 60.0])
rules = st.builds(
    ScalingRules,
    windows,
    st.sampled_from([SelectPolicy.MAX, SelectPolicy.MIN]),
    st.lists(st.builds(limit, st.sampled_from(PolicyType), st.integers(1, 50)), max_size=2).map(tuple),
)


@given(
    rates=st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.2, 5.0, 40.0]), st.integers(1, 12)), max_size=6),
    behavior=st.builds(Behavior, rules, rules),
    gpus=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    extra=st.integers(0, 12),
    held=st.integers(0, 40),
)
def test_prefill_and_decode_are_asleep_or_awake_together(
    rates: Sequence[tuple[float, int]],
    behavior: Behavior,
    gpus: tuple[int, int],
    extra: int,
    held: int,
) -> None:
    """Whatever demand does, however windows and rates differ, and however little the budget holds beside one pair."""
    shapes = {PREFILL: gpus[0], DECODE: gpus[1], MIXED: 1}
    life = Life(make_spec(maximum=(10, 10, 2), gpus=shapes, budget=sum(gpus) + extra, behavior=behavior))
    for rate, looks in rates:
        for _ in range(looks):
            prefill, decode, _mixed = sizes(life.look(rate))
            assert (prefill > 0) == (decode > 0)
    life.fall_asleep()
    prefill, decode, _mixed = sizes(life.look(held=held))
    assert (prefill > 0, decode > 0) == (held > 0, held > 0)


def test_a_cluster_that_nobody_asks_sleeps_after_its_window_and_says_so() -> None:
    life = Life()
    for _ in range(5):
        busy = life.look(5.0)
    began = life.world.now
    asleep = life.fall_asleep()
    assert min(sizes(busy)[:2]) > 0
    assert sizes(asleep) == (0, 0, 0)
    assert life.world.now - began >= WINDOW
    assert {(record.pool, record.after, record.reason) for record in asleep.records} == {
        (PREFILL, 0, "ScaledToZero"),
        (DECODE, 0, "ScaledToZero"),
    }
    assert (ready(asleep).status.value, settled(asleep).status.value) == ("True", "False")


def test_one_held_request_wakes_both_pools_at_once_and_between_two_ticks() -> None:
    life = Life()
    for _ in range(5):
        life.look(5.0)
    life.fall_asleep()
    for _ in range(30):
        life.look()
    quiet = life.look(sizing_due=False, seconds=1.0)
    woken = life.look(held=1, sizing_due=False)
    assert sizes(quiet) == (0, 0, 0)
    assert min(sizes(woken)[:2]) > 0
    assert {record.reason for record in woken.records} == {"Woken"}
    assert all("held request" in record.message for record in woken.records)


def test_a_request_that_is_held_while_replicas_are_wanted_waits_for_the_tick_like_any_other() -> None:
    life = Life()
    life.look(held=1)
    assert sizes(life.look(40.0, held=30, sizing_due=False)) == (1, 1, 0)


def test_a_wake_lasts_a_window_even_when_the_client_has_gone() -> None:
    life = Life()
    life.look()
    woken_at = life.world.now
    life.look(held=1)
    asleep = life.fall_asleep()
    assert life.world.now - 10.0 - woken_at >= WINDOW
    assert sizes(asleep) == (0, 0, 0)


def test_a_cluster_without_base_pools_wakes_its_mixed_pool() -> None:
    life = Life(make_spec(maximum=(0, 0, 4), behavior=CALM))
    life.look()
    assert sizes(life.look(held=1, sizing_due=False)) == (0, 0, 1)


def test_ready_stays_true_from_sleep_to_service_so_that_helm_and_flux_settle() -> None:
    life = Life()
    reasons: dict[str, None] = {}
    for held in (0, 1, 1, 1, 1, 1, 0):
        decision = life.look(held=held)
        assert (ready(decision).status.value, settled(decision).status.value) == ("True", "False")
        reasons[ready(decision).reason] = None
    assert list(reasons) == ["ScaledToZero", "Waking", "Serving"]


def test_a_wake_whose_replicas_do_not_start_is_not_ready() -> None:
    life = Life()
    life.world.starts = lambda _replica: False
    for _ in range(30):
        decision = life.look(held=1)
    assert ready(decision).status.value == "False"


def test_a_cluster_whose_replicas_have_stopped_serving_does_not_count_as_waking() -> None:
    silent = [
        make_replica(0, PREFILL, lifecycle=Lifecycle.UNREADY),
        make_replica(1, DECODE, lifecycle=Lifecycle.UNREADY),
    ]
    decision = decide(make_observation(SLEEPY, silent), Memory.empty())
    assert (ready(decision).status.value, ready(decision).reason) == ("False", "NoServingReplica")


def test_without_a_word_from_its_routers_a_cluster_neither_sleeps_nor_wakes() -> None:
    life = Life()
    for _ in range(5):
        life.look(5.0)
    for _ in range(60):
        blind = make_observation(
            SLEEPY, life.world.observed(), now=life.world.now, rate=Missing("RouterUnreachable")
        )
        decision = decide(blind, life.memory)
        life.memory = decision.memory
        life.world.pass_time(10.0)
    assert min(sizes(decision)[:2]) > 0


@pytest.mark.parametrize("mode", [ScalingMode.FIXED, ScalingMode.EXTERNAL, ScalingMode.RECOMMEND])
def test_where_demand_does_not_decide_a_held_request_wakes_nothing(mode: ScalingMode) -> None:
    life = Life(replace(SLEEPY, mode=mode))
    life.look()
    assert sizes(life.look(held=5)) == (0, 0, 0)


def test_after_a_restart_in_its_sleep_a_cluster_sleeps_on_and_wakes() -> None:
    life = Life()
    life.look(5.0)
    life.fall_asleep()
    life.memory = Memory.restored(dict.fromkeys(PoolName, 0), life.memory.records, life.world.now)
    asleep, woken = life.look(), life.look(held=1, sizing_due=False)
    assert (sizes(asleep), asleep.records) == ((0, 0, 0), ())
    assert sizes(woken) == (1, 1, 0)

"""Conditions as people and tools read them: type, status, reason, message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.strategies import UNSEEN, make_fleet, make_observation, make_replica, make_spec

from inferencecluster.core.allocation import Target
from inferencecluster.core.demand import DemandMemory, observe_demand
from inferencecluster.core.fleet import Lifecycle, PoolName, Replica
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import NOT_CONFIGURED, Observation, RouterSample
from inferencecluster.core.replacement import ReplacementMemory, review_replicas
from inferencecluster.core.status import Condition, ConditionType
from inferencecluster.core.verdicts import Situation, conditions, is_settled

PREFILL, DECODE, MIXED = PoolName
SPEC = make_spec(minimum=(1, 1, 0), budget=8)


def target(name: PoolName, replicas: int, *, wanted: int | None = None, limited_by: str = "") -> Target:
    return Target(name, replicas, replicas if wanted is None else wanted, limited_by, "Work", "message", ())


def situation(
    observation: Observation,
    *targets: Target,
    settled: bool = True,
    failing: Sequence[Replica] = (),
) -> Situation:
    known = {item.pool: item for item in targets}
    prefill, decode, mixed = (
        known.get(name, target(name, observation.spec.pool(name).min_replicas)) for name in PoolName
    )
    _, demand = observe_demand(DemandMemory.empty(), observation)
    seen = replace(observation, replicas=tuple(failing))
    memory, _ = review_replicas(ReplacementMemory.empty(), seen)
    return Situation(observation, demand, (prefill, decode, mixed), memory.troubles, spec_settled=settled)


def condition(kind: ConditionType, about: Situation) -> tuple[str, str]:
    found = next(item for item in conditions(about) if item.type is kind)
    return found.status.value, found.reason


def message(kind: ConditionType, about: Situation) -> str:
    found: Condition = next(item for item in conditions(about) if item.type is kind)
    return found.message


HEALTHY = make_observation(SPEC, make_fleet(1, 1))
assert isinstance(HEALTHY.routers, RouterSample)
NO_FLOW = replace(HEALTHY.routers, flow=Missing("RoutersChanged"))


def test_all_is_well() -> None:
    assert [(item.type.value, item.status.value, item.reason) for item in conditions(situation(HEALTHY))] == [
        ("Ready", "True", "Serving"),
        ("Reconciling", "False", "Settled"),
        ("Stalled", "False", "Progressing"),
        ("MetricsAvailable", "True", "Available"),
        ("ScalingLimited", "False", "WithinLimits"),
        ("Disaggregated", "True", "PrefillAndDecode"),
    ]


NO_ROUTER = replace(HEALTHY, routers=Missing("NoRouter", "no router of the cluster is running"))


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        pytest.param(make_observation(SPEC, make_fleet(1, 1)), ("True", "Serving"), id="minimum reached"),
        pytest.param(
            make_observation(SPEC, make_fleet(1, 0)), ("False", "BelowMinimum"), id="a pool below it"
        ),
        pytest.param(make_observation(SPEC, []), ("False", "NoServingReplica"), id="nothing serves"),
        pytest.param(NO_ROUTER, ("False", "NoRouter"), id="nobody can reach it"),
        pytest.param(
            replace(HEALTHY, routers=UNSEEN), ("True", "Serving"), id="a silent router may well serve clients"
        ),
    ],
)
def test_ready(observation: Observation, expected: tuple[str, str]) -> None:
    assert condition(ConditionType.READY, situation(observation)) == expected


def test_a_cluster_that_should_sleep_is_ready() -> None:
    asleep = make_observation(make_spec(minimum=0), [])
    assert condition(ConditionType.READY, situation(asleep)) == ("True", "ScaledToZero")


def test_numbers_are_in_the_message() -> None:
    replicas = [*make_fleet(1), make_replica(5, DECODE, lifecycle=Lifecycle.STARTING)]
    about = situation(make_observation(SPEC, replicas))
    assert (
        message(ConditionType.READY, about)
        == "decode has 0 serving and 1 starting replicas, minReplicas is 1"
    )


@pytest.mark.parametrize(
    ("replicas", "reason"),
    [
        pytest.param(
            [*make_fleet(1, 1), make_replica(8, revision="r0")], "RollingOut", id="an old replica is there"
        ),
        pytest.param([*make_fleet(1, 1), make_replica(8, gpus=2)], "RollingOut", id="an old shape"),
        pytest.param(make_fleet(5, 4), "OverBudget", id="over a budget that was lowered"),
        pytest.param(make_fleet(1, 3), "OverMaximum", id="over a maximum that was lowered"),
        pytest.param(make_fleet(1, 0), "BelowMinimum", id="below the minimum"),
        pytest.param([], "BelowMinimum", id="nothing yet"),
    ],
)
def test_a_new_spec_is_reconciled_until_its_bounds_hold(replicas: list[Replica], reason: str) -> None:
    spec = make_spec(minimum=(1, 1, 0), maximum=(8, 2, 2), budget=8)
    about = situation(make_observation(spec, replicas), settled=False)
    assert condition(ConditionType.RECONCILING, about) == ("True", reason)
    assert condition(ConditionType.READY, about)[0] == "False"
    assert not is_settled(about)


def test_a_new_spec_waits_for_its_routers() -> None:
    about = situation(replace(HEALTHY, routers=UNSEEN), settled=False)
    assert condition(ConditionType.RECONCILING, about) == ("True", "RouterUnavailable")


def test_autoscaling_never_sets_reconciling() -> None:
    replicas = [
        *make_fleet(1, 1),
        make_replica(5, lifecycle=Lifecycle.PENDING),
        make_replica(6, fenced_at=990.0, fence_reason="ScaleDown"),
    ]
    about = situation(make_observation(SPEC, replicas), target(PREFILL, 4))
    assert condition(ConditionType.RECONCILING, about) == ("False", "Settled")
    assert condition(ConditionType.READY, about) == ("True", "Serving")
    assert is_settled(about)


BROKEN = make_replica(9, lifecycle=Lifecycle.FAILED, failure="ErrImagePull: not found")


class TestStalled:
    """Somebody has to do something."""

    def test_a_minimum_that_cannot_start(self) -> None:
        about = situation(make_observation(SPEC, make_fleet(0, 1)), settled=False, failing=[BROKEN])
        assert condition(ConditionType.STALLED, about) == ("True", "ImagePullFailed")
        assert message(ConditionType.STALLED, about) == (
            "prefill cannot start: c-engine-9 failed with ErrImagePull: not found; check spec.engine.image and its "
            "pull secret"
        )

    def test_a_rollout_that_cannot_start(self) -> None:
        old = make_fleet(1, 1, revision="r0")
        about = situation(make_observation(SPEC, old), settled=False, failing=[BROKEN])
        assert condition(ConditionType.STALLED, about) == ("True", "ImagePullFailed")

    def test_a_stalled_cluster_is_not_reconciling_for_kstatus(self) -> None:
        about = situation(make_observation(SPEC, make_fleet(0, 1)), settled=False, failing=[BROKEN])
        assert condition(ConditionType.RECONCILING, about) == ("False", "Stalled")
        assert condition(ConditionType.READY, about) == ("False", "BelowMinimum")

    def test_growth_that_cannot_start_is_no_stall(self) -> None:
        about = situation(HEALTHY, failing=[BROKEN])
        assert condition(ConditionType.STALLED, about) == ("False", "Progressing")


class TestMetrics:
    """What is seen of the world."""

    @pytest.mark.parametrize(
        ("observation", "reason", "told"),
        [
            pytest.param(
                replace(HEALTHY, routers=UNSEEN),
                "RouterUnavailable",
                "the routers cannot be read (connection refused): sizes hold or grow, no pool shrinks, and drains wait",
                id="routers",
            ),
            pytest.param(
                replace(HEALTHY, metrics=Missing("TimedOut")),
                "PrometheusUnavailable",
                "Prometheus cannot be read (TimedOut): no pool shrinks, and growth follows the routers alone",
                id="Prometheus",
            ),
            pytest.param(
                replace(HEALTHY, routers=UNSEEN, metrics=UNSEEN),
                "RouterUnavailable",
                "the routers cannot be read (connection refused): sizes hold or grow, no pool shrinks, and drains wait",
                id="both",
            ),
        ],
    )
    def test_what_is_missing_is_told(self, observation: Observation, reason: str, told: str) -> None:
        about = situation(observation)
        assert condition(ConditionType.METRICS_AVAILABLE, about) == ("False", reason)
        assert message(ConditionType.METRICS_AVAILABLE, about) == told

    @pytest.mark.parametrize(
        ("routers", "expected"),
        [
            pytest.param(HEALTHY.routers, ("True", "RoutersOnly"), id="routers answer"),
            pytest.param(NO_FLOW, ("True", "RoutersOnly"), id="a router restarted"),
            pytest.param(UNSEEN, ("False", "RouterUnavailable"), id="routers are silent"),
        ],
    )
    def test_a_prometheus_that_was_never_configured_is_no_outage(
        self, routers: RouterSample | Missing, expected: tuple[str, str]
    ) -> None:
        about = situation(replace(HEALTHY, routers=routers, metrics=Missing(NOT_CONFIGURED)))
        assert condition(ConditionType.METRICS_AVAILABLE, about) == expected

    def test_sources_that_disagree_are_told(self) -> None:
        about = situation(HEALTHY)
        assert not isinstance(about.demand, Missing)
        doubted = replace(about, demand=replace(about.demand, gaps=(Missing("SourcesDisagree", "300 or 3"),)))
        assert condition(ConditionType.METRICS_AVAILABLE, doubted) == ("False", "SourcesDisagree")


class TestScalingLimited:
    """Demand wants more than it gets."""

    @pytest.mark.parametrize(
        ("limited", "reason", "told"),
        [
            pytest.param(
                target(PREFILL, 4, wanted=9, limited_by="budget"),
                "BudgetExhausted",
                "prefill needs 9 replicas and gets 4 within budget.gpus 8; raise it, or lower minReplicas of other pools",
                id="budget",
            ),
            pytest.param(
                target(DECODE, 10, wanted=12, limited_by="maxReplicas"),
                "AtMaxReplicas",
                "decode needs 12 replicas and gets 10, its maxReplicas; raise it to allow more",
                id="maximum",
            ),
        ],
    )
    def test_the_limit_is_named(self, limited: Target, reason: str, told: str) -> None:
        about = situation(HEALTHY, limited)
        assert condition(ConditionType.SCALING_LIMITED, about) == ("True", reason)
        assert message(ConditionType.SCALING_LIMITED, about) == told

    @pytest.mark.parametrize(
        "lowered",
        [
            pytest.param(target(PREFILL, 1, wanted=2, limited_by="backOff"), id="wish lowered"),
            pytest.param(target(PREFILL, 2), id="wish not lowered yet, or the minimum"),
        ],
    )
    def test_what_could_not_start_is_named_by_its_cause(self, lowered: Target) -> None:
        about = situation(HEALTHY, lowered, failing=[BROKEN])
        assert condition(ConditionType.SCALING_LIMITED, about) == ("True", "ImagePullFailed")
        assert message(ConditionType.SCALING_LIMITED, about) == (
            "prefill serves with 1 of 2 replicas: c-engine-9 failed with ErrImagePull: not found; check "
            "spec.engine.image and its pull secret"
        )

    def test_what_could_not_start_is_no_limit_once_it_is_not_needed(self) -> None:
        about = situation(HEALTHY, target(PREFILL, 1), failing=[BROKEN])
        assert condition(ConditionType.SCALING_LIMITED, about) == ("False", "WithinLimits")

    @pytest.mark.parametrize(
        "unlimited",
        [
            pytest.param(target(PREFILL, 4, wanted=2, limited_by="stabilization"), id="held up, not down"),
            pytest.param(target(PREFILL, 1, wanted=0, limited_by="minReplicas"), id="the user's own minimum"),
            pytest.param(target(PREFILL, 2, wanted=4, limited_by="behavior"), id="the user's own rate"),
        ],
    )
    def test_what_the_user_wishes_is_no_limit(self, unlimited: Target) -> None:
        about = situation(HEALTHY, unlimited)
        assert condition(ConditionType.SCALING_LIMITED, about) == ("False", "WithinLimits")


class TestDisaggregated:
    """Whether two phases really are served apart."""

    @pytest.mark.parametrize(
        ("replicas", "reason"),
        [
            pytest.param(make_fleet(0, 1), "ServedWhole", id="no prefill"),
            pytest.param(make_fleet(1, 0), "ServedWhole", id="no decode"),
            pytest.param(make_fleet(0, 0, 1), "ServedWhole", id="mixed only for now"),
            pytest.param([], "NoServingReplica", id="nothing"),
            pytest.param(
                [make_replica(0, revision="r0"), make_replica(1, DECODE)], "NoPair", id="two revisions"
            ),
        ],
    )
    def test_it_is_false(self, replicas: list[Replica], reason: str) -> None:
        about = situation(make_observation(SPEC, replicas))
        assert condition(ConditionType.DISAGGREGATED, about) == ("False", reason)

    @pytest.mark.parametrize(
        ("replicas", "told"),
        [
            pytest.param(make_fleet(0, 1), "prefill has no serving replica", id="no prefill"),
            pytest.param(make_fleet(1, 0), "decode has no serving replica", id="no decode"),
            pytest.param(
                make_fleet(0, 0, 1), "neither prefill nor decode has a serving replica", id="neither"
            ),
        ],
    )
    def test_it_says_what_lacks(self, replicas: list[Replica], told: str) -> None:
        about = situation(make_observation(SPEC, replicas))
        assert message(ConditionType.DISAGGREGATED, about).startswith(told)

    def test_a_switch_is_told_as_such(self) -> None:
        spec = make_spec(maximum=(0, 0, 4))
        about = situation(make_observation(spec, make_fleet(0, 0, 1)))
        assert condition(ConditionType.DISAGGREGATED, about) == ("False", "MixedOnly")
        assert message(ConditionType.DISAGGREGATED, about) == (
            "maxReplicas of prefill and decode is 0: each request is served by one replica"
        )

"""What users read in status and Events, as whole sentences: whoever changes one sees it here."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.strategies import (
    UNSEEN,
    make_fleet,
    make_observation,
    make_replica,
    make_spec,
    sizes,
)

from inferencecluster.core.decision import Memory, decide
from inferencecluster.core.fleet import Lifecycle, PoolName
from inferencecluster.core.observation import Observation, Refusal
from inferencecluster.core.spec import ScalingMode
from inferencecluster.core.status import ConditionType

PREFILL, DECODE, _ = PoolName
SPEC = make_spec(minimum=(1, 1, 0), budget=20)
LOADED = 12.0
"""Requests per second; with a fifth of headroom, because no plan has come due, they keep 2.88 prefill replicas busy."""
BUSY = "arriving prompts keep 2.88 replicas busy, and 2.00 more keep their queue within the TTFT"
QUOTA = Refusal(PREFILL, "QuotaExceeded", 'pods "c-engine-2" is forbidden: exceeded quota: gpus (403)')
NO_QUOTA = (
    'no replica can be created: pods "c-engine-2" is forbidden: exceeded quota: gpus (403); raise the namespace\'s '
    "ResourceQuota, or lower maxReplicas"
)


def restored(*counts: int) -> Memory:
    return Memory.restored(sizes(*counts), (), 990.0)


@pytest.mark.parametrize(
    ("observation", "memory", "told"),
    [
        pytest.param(
            make_observation(SPEC, rate=UNSEEN, metrics=UNSEEN),
            Memory.empty(),
            "prefill 0 -> 1 MinReplicas: minReplicas 1: no demand seen yet",
            id="the first, with nothing seen",
        ),
        pytest.param(
            make_observation(SPEC),
            Memory.empty(),
            "prefill 0 -> 1 MinReplicas: minReplicas 1: demand asks for 0 (nothing arrives, waits or decodes)",
            id="the first, without demand",
        ),
        pytest.param(
            make_observation(make_spec(minimum=(2, 1, 0)), make_fleet(1, 1), rate=UNSEEN, metrics=UNSEEN),
            restored(1, 1, 0),
            "prefill 1 -> 2 MinReplicas: minReplicas 2: demand is unknown (routers: RouterUnreachable (connection refused); "
            "metrics: RouterUnreachable (connection refused))",
            id="a raised minimum, with nothing seen",
        ),
        pytest.param(
            make_observation(SPEC, make_fleet(1, 1), rate=LOADED),
            restored(1, 1, 0),
            f"prefill 1 -> 5 PrefillWork: {BUSY}",
            id="growth",
        ),
        pytest.param(
            make_observation(make_spec(minimum=(1, 1, 0), maximum=(2, 2, 1)), make_fleet(1, 1), rate=LOADED),
            restored(1, 1, 0),
            f"prefill 1 -> 2 MaxReplicas: maxReplicas 2: demand asks for 5 ({BUSY})",
            id="maximum",
        ),
        pytest.param(
            make_observation(make_spec(minimum=(1, 1, 0), budget=3), make_fleet(1, 1), rate=LOADED),
            restored(1, 1, 0),
            f"prefill 1 -> 2 Budget: the budget of 3 GPUs leaves room for 2: demand asks for 5 ({BUSY})",
            id="budget",
        ),
        pytest.param(
            make_observation(
                replace(SPEC, mode=ScalingMode.EXTERNAL), make_fleet(1, 1), external=sizes(50, 1, 0)
            ),
            restored(1, 1, 0),
            "prefill 1 -> 10 MaxReplicas: maxReplicas 10: /scale asks for 50",
            id="others, beyond the maximum",
        ),
        pytest.param(
            make_observation(
                replace(SPEC, mode=ScalingMode.EXTERNAL), make_fleet(1, 1), external=sizes(3, 1, 0)
            ),
            restored(1, 1, 0),
            "prefill 1 -> 3 External: set through /scale",
            id="others",
        ),
        pytest.param(
            make_observation(replace(SPEC, mode=ScalingMode.RECOMMEND), make_fleet(1, 1), rate=LOADED),
            restored(1, 1, 0),
            f"prefill 1 -> 5 PrefillWork: recommended only: {BUSY}",
            id="a recommendation",
        ),
        pytest.param(
            replace(make_observation(SPEC, make_fleet(1, 1), rate=LOADED), refusals=(QUOTA,)),
            restored(3, 1, 0),
            f"prefill 3 -> 1 QuotaExceeded: 1 until the next try: demand asks for 5 ({BUSY}); {NO_QUOTA}",
            id="quota",
        ),
    ],
)
def test_a_decision(observation: Observation, memory: Memory, told: str) -> None:
    record = decide(observation, memory).records[0]
    assert f"{record.pool} {record.before} -> {record.after} {record.reason}: {record.message}" == told


BROKEN = make_replica(9, lifecycle=Lifecycle.FAILED, failure="ErrImagePull: not found")


@pytest.mark.parametrize(
    ("observation", "kind", "told"),
    [
        pytest.param(
            make_observation(SPEC, make_fleet(1, 1)),
            ConditionType.READY,
            "True Serving: every pool serves with at least its minimum",
            id="ready",
        ),
        pytest.param(
            make_observation(SPEC, []),
            ConditionType.READY,
            "False NoServingReplica: none of 2 wanted replicas is ready",
            id="not ready",
        ),
        pytest.param(
            make_observation(SPEC, make_fleet(1, 1)),
            ConditionType.RECONCILING,
            "False Settled: the newest spec is rolled out",
            id="settled",
        ),
        pytest.param(
            make_observation(SPEC, [*make_fleet(1, 1), make_replica(5, revision="r0")]),
            ConditionType.RECONCILING,
            "True RollingOut: 1 of 3 replicas are of an older revision, shape or placement",
            id="rolling out",
        ),
        pytest.param(
            make_observation(SPEC, [make_replica(1, DECODE), BROKEN]),
            ConditionType.STALLED,
            "True ImagePullFailed: prefill cannot start: c-engine-9 failed with ErrImagePull: not found; check "
            "spec.engine.image and its pull secret",
            id="image",
        ),
        pytest.param(
            replace(make_observation(SPEC, [make_replica(1, DECODE)]), refusals=(QUOTA,)),
            ConditionType.STALLED,
            f"True QuotaExceeded: prefill cannot start: {NO_QUOTA}",
            id="quota below the minimum",
        ),
        pytest.param(
            replace(make_observation(SPEC, make_fleet(1, 1), rate=LOADED), refusals=(QUOTA,)),
            ConditionType.SCALING_LIMITED,
            f"True QuotaExceeded: prefill serves with 1 of 5 replicas: {NO_QUOTA}",
            id="quota above the minimum",
        ),
        pytest.param(
            make_observation(SPEC, make_fleet(0, 1)),
            ConditionType.DISAGGREGATED,
            "False ServedWhole: prefill has no serving replica: each request is served by one replica",
            id="served whole",
        ),
    ],
)
def test_a_condition(observation: Observation, kind: ConditionType, told: str) -> None:
    [condition] = [
        item for item in decide(observation, Memory.empty()).status.conditions if item.type is kind
    ]
    assert f"{condition.status.value} {condition.reason}: {condition.message}" == told

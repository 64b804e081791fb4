"""What people read about a size: what was asked for, and what bound it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.core.allocation_builders import (
    D,
    P,
    back_off,
    request,
    restored,
)
from tests.core.sizing_builders import MISSING, cluster, fleet, pool, rules

from inferencecluster.core.allocation import AllocationMemory, AllocationRequest, allocate
from inferencecluster.core.observation import PoolCapacity
from inferencecluster.core.spec import PolicyType, ScalingPolicy

DOWN_SLOWLY = cluster(prefill=pool(P, minimum=1, maximum=5))
CAPACITY = (PoolCapacity(D, 1, 8, 8, 0, 0), PoolCapacity(P, 2, 16, 13, 3, 2))
REFUSED = back_off("QuotaExceeded", is_refusal=True)


@pytest.mark.parametrize(
    ("present", "asked", "message"),
    [
        pytest.param(1, request((3, 0, 0)), "3 wanted", id="nothing binds"),
        pytest.param(
            None, request(MISSING, spec=DOWN_SLOWLY), "minReplicas 1: no demand seen yet", id="first, blind"
        ),
        pytest.param(
            None,
            request((0, 0, 0), spec=DOWN_SLOWLY),
            "minReplicas 1: demand asks for 0 (0 wanted)",
            id="first",
        ),
        pytest.param(
            0,
            request(MISSING, spec=DOWN_SLOWLY),
            "minReplicas 1: demand is unknown (connection refused)",
            id="minimum, blind",
        ),
        pytest.param(
            1,
            request((9, 0, 0), spec=DOWN_SLOWLY),
            "maxReplicas 5: demand asks for 9 (9 wanted)",
            id="maximum",
        ),
        pytest.param(
            1,
            replace(request((9, 0, 0), spec=DOWN_SLOWLY), asked_by="/scale"),
            "maxReplicas 5: /scale asks for 9",
            id="maximum, set by others",
        ),
        pytest.param(
            1,
            request((9, 0, 0), spec=cluster(budget=4)),
            "the budget of 4 GPUs leaves room for 3: demand asks for 9 (9 wanted)",
            id="budget",
        ),
        pytest.param(
            5,
            request((2, 0, 0)),
            "the stabilization window of behavior.scaleDown holds 5: demand asks for 2 (2 wanted)",
            id="window down",
        ),
        pytest.param(
            2,
            request((5, 0, 0), spec=cluster(up=rules(3600))),
            "the stabilization window of behavior.scaleUp holds 2: demand asks for 5 (5 wanted)",
            id="window up",
        ),
        pytest.param(
            1,
            request((9, 0, 0), spec=cluster(up=rules(0, ScalingPolicy(PolicyType.PODS, 2, 60.0)))),
            "the rate limits of behavior.scaleUp allow 3 for now: demand asks for 9 (9 wanted)",
            id="rate up",
        ),
        pytest.param(
            9,
            request((1, 0, 0), spec=cluster(down=rules(0, ScalingPolicy(PolicyType.PODS, 2, 60.0)))),
            "the rate limits of behavior.scaleDown allow 7 for now: demand asks for 1 (1 wanted)",
            id="rate down",
        ),
        pytest.param(
            10, request((11, 0, 0)), "10 is within 10 %: demand asks for 11 (11 wanted)", id="tolerance"
        ),
        pytest.param(
            4,
            request((1, 0, 0), shrink_allowed=False),
            "no pool shrinks while metrics are missing: demand asks for 1 (1 wanted)",
            id="metrics",
        ),
        pytest.param(
            5,
            replace(
                request((5, 0, 0), replicas=fleet(prefill=3), back_offs={P: back_off("NodesExhausted")}),
                capacity=CAPACITY,
            ),
            "the nodes hold 3, 2 more could not be scheduled (3 GPUs are free, at most 2 on one node): demand asks for 5 "
            "(5 wanted)",
            id="nodes",
        ),
        pytest.param(
            5,
            request((5, 0, 0), replicas=fleet(prefill=3), back_offs={P: back_off("NodesExhausted")}),
            "the nodes hold 3, 2 more could not be scheduled: demand asks for 5 (5 wanted)",
            id="nodes that cannot be read",
        ),
        pytest.param(
            5,
            request((5, 0, 0), replicas=fleet(prefill=3), back_offs={P: REFUSED}),
            "3 until the next try: demand asks for 5 (5 wanted); QuotaExceeded happened; mend it",
            id="quota",
        ),
        pytest.param(
            5,
            request((5, 0, 0), replicas=fleet(prefill=3), back_offs={P: back_off("ImagePullFailed")}),
            "3 until the next try: demand asks for 5 (5 wanted); ImagePullFailed happened; mend it",
            id="image",
        ),
    ],
)
def test_a_message_says_what_was_asked_for_and_what_bound_it(
    present: int | None, asked: AllocationRequest, message: str
) -> None:
    memory = AllocationMemory.empty() if present is None else restored((present, 0, 0), now=999.0)
    _, targets = allocate(memory, asked)
    assert targets[0].message == message

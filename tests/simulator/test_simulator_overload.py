"""What an overload of minutes costs: about as many requests as there are too many, and none is refused (docs/decisions/0015)."""

from __future__ import annotations

import random

import pytest
from tests.simulator.simulator_builders import LINK, ROUND, cluster_spec, hardware, run, scenario

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.spec import Slo
from inferencecluster.simulator.journeys import Outcome
from inferencecluster.simulator.workload import Request

TTFT, PROMPT = 1.0, 1000
ALONE = ROUND.prefill.seconds(PROMPT)
PREFILL, DECODE = 4, 2


def poisson(rate: float, seconds: float) -> list[Request]:
    chance, now, found = random.Random(1), 0.0, []
    while (now := now + chance.expovariate(rate)) < seconds:
        found.append(Request(now, PROMPT, 60))
    return found


@pytest.mark.parametrize(
    ("overload", "allowed"),
    [
        pytest.param(1.2, 0.01, id="decode replicas lend what is missing"),
        # Together they serve about 1.35 times what prefill replicas serve alone.
        pytest.param(1.4, 0.10, id="a few per cent too many"),
        pytest.param(1.6, 0.30, id="a fifth too many: turns for the urgent"),
    ],
)
def test_a_minute_of_too_many_prompts_costs_about_those_that_are_too_many(
    overload: float, allowed: float
) -> None:
    spec = cluster_spec(
        (PREFILL, DECODE, 0), slo=Slo(90, ttft_seconds=TTFT, itl_seconds=0.040), overflow_tokens=None
    )
    # Links that nobody waits for: this is about prompts.
    engines = {name: hardware(link_bytes_per_second=100 * LINK) for name in PoolName}

    found = run(scenario(spec, hardware=engines), poisson(overload * PREFILL / ALONE, 60.0)).journeys

    assert all(journey.outcome is Outcome.COMPLETED for journey in found)
    missed = sum(journey.ttft_seconds > TTFT + ALONE for journey in found)
    assert missed <= allowed * len(found)

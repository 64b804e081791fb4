from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.planner.planner_builders import question

from inferencecluster.planner.answer import Option, plan
from inferencecluster.planner.capacity import Target
from inferencecluster.planner.designs import Disaggregated
from inferencecluster.planner.manifest import manifest
from inferencecluster.planner.verify import MAX_REFUTED, SimulatorVerifier, Verified, confirm
from inferencecluster.simulator.synthetic import Phase, Shape, alternating
from inferencecluster.simulator.workload import Request


@dataclass
class Scripted:
    """Answers from a list; the last one again and again."""

    attainments: list[float]
    asked: list[str] = field(default_factory=list)

    def verify(self, option: Option, manifest: Mapping[str, Any], target: Target) -> Verified:
        self.asked.append(option.design.name)
        attainment = self.attainments[min(len(self.asked), len(self.attainments)) - 1]
        return Verified(1, attainment, 1.0, attainment, 1.0, 4.0)


def nothing(option: Option) -> Mapping[str, Any]:
    return {}


def test_the_first_option_that_holds_is_taken_and_those_before_it_are_rejected() -> None:
    found = plan(question())
    verifier = Scripted([0.5, 0.89, 0.9])
    confirmed = confirm(found, verifier, nothing)
    assert confirmed.holds
    assert verifier.asked == [option.design.name for option in found.options[:3]]
    assert confirmed.plan.options == found.options[2:]
    assert [item.design for item in confirmed.plan.rejected[-2:]] == [
        option.design for option in found.options[:2]
    ]
    assert "simulator saw 50.0%" in confirmed.plan.rejected[-2].reason


def test_when_all_fail_the_first_is_shown_as_unconfirmed() -> None:
    found = plan(question())
    verifier = Scripted([0.5, 0.6])
    confirmed = confirm(found, verifier, nothing)
    assert not confirmed.holds
    assert confirmed.plan == found
    assert confirmed.verified.static_attainment == 0.5
    assert len(verifier.asked) == min(MAX_REFUTED + 1, len(found.options))


def requests(rate: float, seconds: float) -> Iterable[Request]:
    return alternating(
        [Phase(Shape(1155, 211, 0.0, 0.0), rate)], phase_seconds=seconds, duration_seconds=seconds, seed=1
    )


@pytest.mark.parametrize("split", [False, True])
def test_the_simulator_confirms_what_was_planned_and_refutes_what_was_not(split: bool) -> None:
    asked = question(rate=4.0, target=Target(0.9, 0.6, 0.025))
    option = next(
        option for option in plan(asked).options if isinstance(option.design, Disaggregated) is split
    )
    found = manifest(asked, option, engine_version="1.2.1")
    honest = SimulatorVerifier(lambda _: requests(4.0, 600.0)).verify(option, found, asked.target)
    assert honest.holds(asked.target)
    assert honest.static_gpus == pytest.approx(option.fitted.peak_gpus, rel=0.01)
    assert honest.requests > 2000
    # Every GPU of the question costs the same.
    assert honest.autoscaled_dollars_per_hour == pytest.approx(
        honest.autoscaled_gpus * asked.gpus[0].dollars_per_hour
    )
    crowded = SimulatorVerifier(lambda _: requests(40.0, 60.0)).verify(option, found, asked.target)
    assert not crowded.holds(asked.target)

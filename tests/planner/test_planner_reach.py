from __future__ import annotations

from dataclasses import replace

import pytest
from tests.planner.planner_builders import H200, fitted, question

from inferencecluster.core.profiles import PROFILES
from inferencecluster.planner.answer import NothingHoldsError, Question, plan
from inferencecluster.planner.capacity import Target
from inferencecluster.planner.catalogue import PricedGpu
from inferencecluster.planner.designs import Mixed, PoolShape
from inferencecluster.planner.levers import Lever, Speculation
from inferencecluster.planner.reach import Reach, pull, reach
from inferencecluster.planner.traffic import steady
from inferencecluster.render.trtllm.versions import parse_version

A100, H100 = PricedGpu("a100", 1.3), PricedGpu("h100", 3.0)
V1_2 = parse_version("1.2.1")
SPECULATION = Speculation()


def transcription(*gpus: PricedGpu, itl: float = 0.008) -> Question:
    """1,000 queries an hour; a plain step over one sequence takes 11.37 ms on A100 and 6.65 ms on H100."""
    return question(
        model="llama-3.1-8b-bf16",
        gpus=gpus,
        target=Target(0.9, 1.0, itl),
        load=steady(rate=1000 / 3600, prompt_tokens=300, output_tokens=250),
    )


def reached(asked: Question, *, speculation: Speculation = SPECULATION) -> Reach:
    with pytest.raises(NothingHoldsError) as refused:
        plan(asked)
    assert refused.value.question == asked
    return reach(asked, version=V1_2, speculation=speculation)


def test_speculation_brings_a_step_under_the_target_on_one_gpu() -> None:
    found = reached(transcription(A100))
    (way,) = found.ways
    assert way.levers == (Lever.SPECULATION,)
    # 2.533 tokens a step: (11.31 * 1.1 + 0.0323 * 4 + 6.258e-5 * 425) / 2.533.
    assert way.token_milliseconds == pytest.approx(12.597 / 2.533, rel=1e-3)
    assert way.option.fitted.peak == (1,)
    assert way.option.cost.static.dollars == pytest.approx(1.3)
    assert dict(found.unknown) == {
        Lever.FP8_WEIGHTS: "a100 has no FP8 arithmetic",
        Lever.FP8_CACHE: "a100 has no FP8 arithmetic",
        Lever.FP4_CACHE: "a100 has no FP4",
    }


def test_drafts_that_nobody_accepts_reach_nothing() -> None:
    assert reached(transcription(A100), speculation=Speculation(3, 0.0)).ways == ()


def test_every_way_holds_the_slo_and_ways_are_in_the_order_of_their_cost() -> None:
    asked = transcription(A100, H100, itl=0.0045)
    found = reached(asked)
    assert {way.levers for way in found.ways} >= {(Lever.SPECULATION,)}
    assert any(Lever.FP8_WEIGHTS in way.levers for way in found.ways)
    bills = [way.option.cost.autoscaled.dollars for way in found.ways]
    assert bills == sorted(bills)
    for way in found.ways:
        assert way.token_milliseconds <= 4.5
        assert way.option.fitted.attainment >= asked.target.share


def test_a_lever_more_is_only_told_where_it_saves() -> None:
    ways = reached(transcription(H100, itl=0.0045)).ways
    for way in ways:
        for other in ways:
            if set(other.levers) < set(way.levers):
                assert way.option.cost.autoscaled.dollars < other.option.cost.autoscaled.dollars


def test_the_limit_on_gpus_holds_for_ways_too() -> None:
    asked = replace(question(rate=50.0, target=Target(0.9, 1.0, 0.006), gpus=(H200,)), max_gpus=4)
    assert reached(asked).ways == ()
    assert reached(replace(asked, max_gpus=None)).ways


def test_no_lever_pulled_is_the_fit_itself() -> None:
    for profile in PROFILES.values():
        assert pull(profile, (), SPECULATION) == profile


def test_narrow_weights_leave_room_for_the_cache() -> None:
    wide = PROFILES["llama-3.1-8b-bf16/h100-tp1"]
    narrow = pull(wide, (Lever.FP8_WEIGHTS, Lever.FP8_CACHE), SPECULATION)
    assert narrow.weight_bytes < wide.weight_bytes
    assert narrow.kv_bytes_per_token * 2 == wide.kv_bytes_per_token
    assert narrow.performance.kv_capacity_tokens > 2 * wide.performance.kv_capacity_tokens
    asked = transcription(H100, itl=0.02)
    fitted(Mixed(PoolShape(narrow, H100)), asked.traffic, asked.target)

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.planner.planner_builders import H200, TARGET, fitted, question, shape, traffic

from inferencecluster.core.errors import SpecError
from inferencecluster.core.missing import Missing
from inferencecluster.planner.answer import Objective, plan, verdict, why_it_loses
from inferencecluster.planner.capacity import Target
from inferencecluster.planner.catalogue import (
    GPU_SHEETS,
    PricedGpu,
    find_model,
    gpus_for,
    parse_gpu,
    profiles_of,
)
from inferencecluster.planner.cost import charge
from inferencecluster.planner.designs import Disaggregated, Mixed
from inferencecluster.planner.search import candidates, fit, largest_scale
from inferencecluster.planner.traffic import Traffic, steady
from inferencecluster.simulator.hardware import GPU_FACTS

TP2 = "llama-3.1-70b-fp8/h200-tp2"
MIXED = Mixed(shape(TP2))
SPLIT = Disaggregated(shape(TP2), shape(TP2))


def test_the_default_price_of_every_gpu_is_inside_its_published_range() -> None:
    for name, sheet in GPU_SHEETS.items():
        low, high = sheet.price_range
        assert low <= GPU_FACTS[name].dollars_per_hour <= high


@pytest.mark.parametrize(
    "name", ["llama-3.1-70b-fp8", "nvidia/Llama-3.1-70B-Instruct-FP8", "/models/llama-3.1-70b-instruct-fp8/"]
)
def test_models_are_found_by_profile_repository_and_directory(name: str) -> None:
    choice = find_model(name)
    assert choice.model.name == "llama-3.1-70b-fp8"
    assert choice.source == ("nvidia/Llama-3.1-70B-Instruct-FP8" if "/" not in name else name)


def test_a_model_without_a_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"llama-3\.1-8b-bf16.*measure a replica"):
        find_model("mistralai/Mistral-7B")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("h100", PricedGpu("h100", GPU_FACTS["h100"].dollars_per_hour)),
        ("H100-SXM=2.25", PricedGpu("h100", 2.25)),
    ],
)
def test_gpus_are_read_with_and_without_a_price(text: str, expected: PricedGpu) -> None:
    assert parse_gpu(text) == expected


@pytest.mark.parametrize("text", ["v100", "h100=", "h100=cheap", "h100=-1", "h100=nan", "h100=inf"])
def test_unknown_gpus_and_prices_are_refused(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_gpu(text)
    assert caught.value.field == "--gpu"


def test_a_gpu_without_a_profile_of_the_model_is_refused() -> None:
    with pytest.raises(SpecError, match="h100, h200, b200"):
        profiles_of(find_model("llama-3.1-70b-fp8").model, [PricedGpu("l40s", 1.0)])


def test_candidates_are_every_mixed_design_then_every_pair() -> None:
    model = find_model("llama-3.1-70b-fp8").model
    gpus = gpus_for(model)
    shapes = len(profiles_of(model, gpus))
    kinds = [type(design) for design in candidates(profiles_of(model, gpus), gpus)]
    assert kinds == [Mixed] * shapes + [Disaggregated] * shapes * shapes


def test_sizes_are_the_smallest_that_hold() -> None:
    window = traffic().windows[0]
    ((mixed,),) = fitted(MIXED, traffic()).sizes
    assert MIXED.attainment(window, TARGET, (mixed,)).both >= TARGET.share
    assert (mixed - 1 < MIXED.least(window, TARGET)[0]) or (
        MIXED.attainment(window, TARGET, (mixed - 1,)).both < TARGET.share
    )
    ((prefill, decode),) = fitted(SPLIT, traffic()).sizes
    assert SPLIT.attainment(window, TARGET, (prefill, decode)).both >= TARGET.share
    assert (prefill - 1 < SPLIT.least(window, TARGET)[0]) or (
        SPLIT.attainment(window, TARGET, (prefill - 1, decode)).both < TARGET.share
    )


@settings(max_examples=40)
@given(st.floats(0.2, 200.0), st.floats(1.05, 4.0), st.sampled_from([MIXED, SPLIT]))
def test_more_load_never_needs_fewer_gpus(rate: float, factor: float, design: Mixed | Disaggregated) -> None:
    assert fitted(design, traffic(rate)).peak_gpus <= fitted(design, traffic(rate * factor)).peak_gpus


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        pytest.param(Target(0.9, 0.05, 0.03), "TtftOutOfReach", id="a prefill alone takes longer"),
        pytest.param(Target(0.9, 0.4, 0.012), "ItlOutOfReach", id="a step alone takes longer"),
    ],
)
def test_what_idle_replicas_cannot_hold_is_missing_with_a_reason(target: Target, reason: str) -> None:
    for design in (MIXED, SPLIT):
        found = fit(design, traffic(), target)
        assert isinstance(found, Missing)
        assert found.reason == reason


def test_the_verdict_says_mixed_only_where_a_second_pool_is_half_empty() -> None:
    found = plan(question(rate=2.0, target=Target(0.9, 1.0, 0.04)))
    assert isinstance(found.best.design, Mixed)
    assert verdict(found).startswith("mixed only: ")
    assert "costs" in verdict(found)


def test_a_tie_is_no_win_and_says_which_design_is_taken_and_why() -> None:
    # 20 requests/s of 1000 and 200 tokens: 3 mixed replicas, or 2 for prefill and 1 for decode.
    load = steady(rate=20.0, prompt_tokens=1000, output_tokens=200)
    found = plan(question(load=load, target=Target(0.9, 1.0, 0.04)))
    mixed, split = found.best_of(Mixed), found.best_of(Disaggregated)
    assert mixed is not None
    assert split is not None
    assert mixed.cost.autoscaled == split.cost.autoscaled
    assert verdict(found) == (
        "a tie: the best mixed design, mixed h200 x2, and the best disaggregated one, prefill h200 x2 + decode h200 x2, "
        "cost the same; mixed h200 x2 is taken, because one pool is simpler to run than two"
    )
    assert why_it_loses(found, split).startswith("costs the same: ")


@pytest.mark.parametrize(
    ("objective", "changes", "reason"),
    [
        pytest.param(Objective.COST, {"gpu_hours": 1.0}, "it takes fewer GPU-hours", id="cost"),
        pytest.param(Objective.POWER, {"dollars": 1.0}, "it costs less", id="power"),
    ],
)
def test_between_equals_the_second_measure_decides(
    objective: Objective, changes: dict[str, float], reason: str
) -> None:
    load = steady(rate=20.0, prompt_tokens=1000, output_tokens=200)
    found = plan(question(load=load, target=Target(0.9, 1.0, 0.04), objective=objective))
    mixed, split = found.best_of(Mixed), found.best_of(Disaggregated)
    assert mixed is not None
    assert split is not None
    cheaper = replace(split, cost=replace(split.cost, autoscaled=replace(split.cost.autoscaled, **changes)))
    tied = replace(found, options=(cheaper, mixed))
    assert verdict(tied).startswith("a tie: ")
    assert verdict(tied).endswith(f"{split.design.name} is taken, because {reason}")


def test_a_difference_that_rounds_to_nothing_is_told_as_small() -> None:
    found = plan(question())
    split, mixed = found.best_of(Disaggregated), found.best_of(Mixed)
    assert split is not None
    assert mixed is not None
    bill = replace(mixed.cost.autoscaled, dollars=split.cost.autoscaled.dollars * 1.001)
    near = replace(mixed, cost=replace(mixed.cost, autoscaled=bill))
    assert verdict(replace(found, options=(split, near))).endswith("costs less than 1% more")


def test_the_verdict_disaggregates_where_the_token_target_is_tight() -> None:
    found = plan(question())
    assert isinstance(found.best.design, Disaggregated)
    assert verdict(found).startswith("disaggregate: the best mixed design, mixed h200 x2, costs ")
    loser = found.best_of(Mixed)
    assert loser is not None
    assert "stretch a token" in why_it_loses(found, loser)


def test_prices_decide_between_gpus() -> None:
    cheap = plan(question(gpus=(H200, PricedGpu("b200", 5.0))))
    dear = plan(question(gpus=(H200, PricedGpu("b200", 50.0))))
    assert "b200" in cheap.best.design.name
    assert "b200" not in dear.best.design.name


def test_power_is_another_objective_than_cost() -> None:
    gpus = (PricedGpu("h200", 1.0), PricedGpu("b200", 9.0))
    by_cost = plan(question(gpus=gpus))
    by_power = plan(question(gpus=gpus, objective=Objective.POWER))
    assert by_power.best.cost.autoscaled.kilowatt_hours < by_cost.best.cost.autoscaled.kilowatt_hours
    assert by_power.best.cost.autoscaled.dollars > by_cost.best.cost.autoscaled.dollars
    assert "draws" in verdict(by_power)


def test_throughput_fills_the_gpus_and_no_more() -> None:
    found = plan(question(rate=1.0, objective=Objective.THROUGHPUT, max_gpus=32))
    assert all(option.fitted.peak_gpus <= 32 for option in found.options)
    assert [option.scale for option in found.options] == sorted(
        (option.scale for option in found.options), reverse=True
    )
    again = largest_scale(found.best.design, traffic(1.0), TARGET, gpus=32)
    assert found.best.scale == again
    more = fit(found.best.design, traffic(again * 1.01), TARGET)
    assert isinstance(more, Missing) or more.peak_gpus > 32
    assert "serves" in verdict(found)


def test_throughput_needs_a_number_of_gpus() -> None:
    with pytest.raises(SpecError, match="--max-gpus"):
        plan(question(objective=Objective.THROUGHPUT))


def test_designs_that_need_too_many_gpus_are_out() -> None:
    found = plan(question(max_gpus=30))
    assert all(option.fitted.peak_gpus <= 30 for option in found.options)
    assert any("of 30 allowed" in item.reason for item in found.rejected)


def test_when_nothing_holds_the_error_says_why() -> None:
    with pytest.raises(SpecError, match=r"needs \d+ GPUs at its peak of 2 allowed"):
        plan(question(max_gpus=2))
    with pytest.raises(SpecError, match="no load of this kind fits"):
        plan(question(max_gpus=1, objective=Objective.THROUGHPUT))


def varying(*rates: float) -> Traffic:
    one = traffic().windows[0]
    return Traffic(tuple(replace(one, seconds=60.0, requests=rate * 60.0) for rate in rates), "test")


def test_the_autoscaled_bill_holds_for_one_boot_and_orders_one_boot_ahead() -> None:
    load = varying(*[5.0] * 4, 60.0, *[5.0] * 11)
    found = fitted(MIXED, load)
    (low,), (high,) = found.quietest, found.peak
    cost = charge(found, load, boot_seconds=120.0)
    # Two minutes before the peak, the peak, two minutes after it.
    minutes = 5 * high + 11 * low
    assert cost.autoscaled.gpu_hours == pytest.approx(2 * minutes / 60)
    assert cost.static.gpu_hours == pytest.approx(2 * 16 * high / 60)
    assert cost.saving == pytest.approx(1 - minutes / (16 * high))


def test_a_silent_window_keeps_one_replica_and_needs_none() -> None:
    load = varying(0.0, 5.0)
    found = fitted(SPLIT, load)
    assert found.sizes[0] == (0, 0)
    assert found.quietest == (1, 1)


def test_equal_questions_get_equal_plans() -> None:
    assert plan(question()) == plan(question())

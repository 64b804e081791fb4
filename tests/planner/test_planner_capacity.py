from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.perfmodel import DecodeModel, PerformanceModel, PrefillModel
from inferencecluster.core.profiles import PROFILES
from inferencecluster.core.spec import (
    Behavior,
    ClusterSpec,
    PoolSpec,
    ScalingMode,
    ScalingRules,
    SelectPolicy,
    Slo,
)
from inferencecluster.planner.capacity import (
    PromptTime,
    Target,
    TokenPhase,
    batch_limit,
    highest_rate_decode,
    highest_rate_prefill,
)
from inferencecluster.planner.catalogue import PricedGpu
from inferencecluster.planner.chunked import MixedPhase, highest_rate_mixed
from inferencecluster.planner.designs import Design, Disaggregated, Mixed, PoolShape
from inferencecluster.planner.traffic import Window, steady
from inferencecluster.simulator.hardware import Hardware
from inferencecluster.simulator.journeys import Journey
from inferencecluster.simulator.scenario import Scenario
from inferencecluster.simulator.simulation import simulate
from inferencecluster.simulator.synthetic import Phase, Shape, alternating

H200 = "llama-3.1-70b-fp8/h200-tp2"
SIMPLE = PerformanceModel(
    PrefillModel(0.010, 0.0001, 0.0), DecodeModel(0.010, 0.0001, 0.0), 100_000, max_batch_size=50
)
"""Prompts of 1,000 take 110 ms alone; a step takes 10 ms and 0.1 ms for each sequence."""


def window(prompt: int, output: int, rate: float = 1.0) -> Window:
    return steady(rate=rate, prompt_tokens=prompt, output_tokens=output).windows[0]


def test_a_decode_batch_is_littles_law() -> None:
    phase = TokenPhase.of(SIMPLE, window(1000, 101), rate=10.0)
    assert phase is not None
    # 10/s * 100 steps * 0.1 ms take a tenth of the time: the base fills the other nine.
    assert phase.seconds_per_token == pytest.approx(0.010 / 0.9)
    assert phase.batch == pytest.approx(1000 * 0.010 / 0.9)
    assert phase.step_seconds == pytest.approx(phase.seconds_per_token)


def test_prompts_stretch_the_tokens_of_a_mixed_replica() -> None:
    alone = TokenPhase.of(SIMPLE, window(1000, 101), rate=2.0)
    shared = TokenPhase.of(SIMPLE, window(1000, 101), rate=2.0, prompt_share=0.49)
    assert alone is not None
    assert shared is not None
    assert shared.seconds_per_token == pytest.approx(0.010 / 0.49)
    assert shared.step_seconds < shared.seconds_per_token / 1.9
    assert alone.seconds_per_token == pytest.approx(0.010 / 0.98)


def test_an_overloaded_replica_has_no_equilibrium() -> None:
    assert TokenPhase.of(SIMPLE, window(1000, 101), rate=100.0) is None
    assert TokenPhase.of(SIMPLE, window(1000, 101), rate=1.0, prompt_share=1.0) is None


def mixed(
    performance: PerformanceModel, one: Window, *, rate: float, itl_seconds: float = 0.040
) -> MixedPhase:
    phase = MixedPhase.of(performance, one, rate=rate, itl_seconds=itl_seconds)
    assert phase is not None
    return phase


def test_prompts_of_a_mixed_replica_share_the_tokens_of_its_iterations() -> None:
    phase = mixed(SIMPLE, window(1000, 101), rate=2.0)
    # 30 ms beside the base hold 300 tokens, in whole tiles 256, each of 0.1 ms, whether of a prompt or of the batch.
    assert phase.filled_seconds == pytest.approx(0.010 + 256 * 0.0001)
    # 2/s * (100 ms of prompt + 100 steps of 0.1 ms) leave 78 % for bases; 254 - 2.6 tokens are left for prompts: four chunks.
    assert phase.tokens.seconds_per_token == pytest.approx(0.010 / 0.78)
    assert phase.own.seconds(1000) == pytest.approx(0.100 + 4 * phase.tokens.step_seconds)
    # 3.95 iterations when the next prompt uses the rest of the last one.
    assert 0.100 + 3.94 * phase.tokens.step_seconds < phase.prompt_seconds < phase.own.seconds(1000)
    assert phase.busy == pytest.approx(2.0 * phase.prompt_seconds)


@given(st.floats(0.1, 5.0), st.integers(100, 9000), st.integers(2, 600), st.floats(0.02, 0.2))
def test_the_mean_time_per_token_is_the_mean_over_iterations_with_and_without_prompts(
    rate: float, prompt: int, output: int, itl: float
) -> None:
    one = window(prompt, output)
    phase = MixedPhase.of(PROFILES[H200].performance, one, rate=rate, itl_seconds=itl)
    if phase is None:
        return
    busy = rate * prompt / phase.own.chunk_tokens * phase.filled_seconds
    steps = busy / phase.filled_seconds + (1 - busy) / phase.tokens.step_seconds
    assert phase.tokens.seconds_per_token == pytest.approx(1 / steps)


def test_one_pass_over_the_weights_serves_both_phases() -> None:
    heavy = replace(SIMPLE, prefill=replace(SIMPLE.prefill, base_seconds=0.012))
    one = window(1000, 101)
    both, extra = mixed(SIMPLE, one, rate=1e-6), mixed(heavy, one, rate=1e-6)
    assert both.own.seconds(1000) == pytest.approx(0.100 + 4 * 0.010, rel=1e-4)
    assert extra.own.seconds(1000) == pytest.approx(0.100 + 4 * 0.012, rel=1e-4)


def test_a_mixed_replica_whose_prompts_never_end_has_no_equilibrium() -> None:
    one = window(1000, 101)
    highest = highest_rate_mixed(SIMPLE, one, 0.020)
    assert mixed(SIMPLE, one, rate=highest * 0.999, itl_seconds=0.020).busy == pytest.approx(1.0, abs=0.01)
    assert MixedPhase.of(SIMPLE, one, rate=highest * 1.001, itl_seconds=0.020) is None


def test_iterations_within_the_target_never_make_tokens_late() -> None:
    one, target = window(1000, 101, rate=4.0), Target(0.9, 1.0, 0.040)
    assert mixed(SIMPLE, one, rate=4.0).meets_itl(one, target, replicas=1) == 1.0
    # Full iterations take 19.6 ms: beside 96 tokens, the fewest that an engine may hold.
    tight = replace(target, itl_seconds=0.015)
    phase = mixed(SIMPLE, one, rate=2.5, itl_seconds=0.015)
    assert phase.filled_seconds == pytest.approx(0.0196)
    assert 0.5 < phase.meets_itl(one, tight, replicas=1) < phase.meets_itl(one, tight, replicas=4) < 1.0
    assert phase.meets_itl(window(1000, 1), tight, replicas=1) == 1.0


def test_a_long_prompt_takes_one_iteration_per_chunk() -> None:
    prompt = PromptTime(PrefillModel(0.0, 1e-5, 0.0), per_iteration=1.0, chunk_tokens=8192)
    assert prompt.seconds(8192) == pytest.approx(0.08192 + 1)
    assert prompt.seconds(8193) == pytest.approx(0.08193 + 2)


def test_rates_by_hand() -> None:
    one = window(1000, 101)
    assert highest_rate_prefill(SIMPLE, one) == pytest.approx(1 / 0.110)
    # 50 sequences: 15 ms a step, 100 steps each.
    assert highest_rate_decode(SIMPLE, one, 0.040) == pytest.approx(50 / (100 * 0.015))
    # (1 - a/ITL) / (w + s*b) with ITL 15 ms; the batch is far below its limit.
    assert highest_rate_mixed(SIMPLE, one, 0.015) == pytest.approx(1 / 3 / (0.100 + 0.010), rel=1e-6)
    # With ITL 20 ms prompts are always there: 96 tokens in each 19.6 ms, of 1,000 prompt and 100 later ones per request.
    assert highest_rate_mixed(SIMPLE, one, 0.020) == pytest.approx(96 / 0.0196 / 1100, rel=1e-6)


def test_memory_limits_the_batch() -> None:
    assert batch_limit(SIMPLE, window(9900, 101)) == pytest.approx(100_000 / 10_000.5)


def test_a_replica_that_is_too_slow_has_no_rate() -> None:
    one = window(1000, 101)
    assert highest_rate_decode(SIMPLE, one, 0.009) == 0.0
    assert highest_rate_mixed(SIMPLE, one, 0.009) == 0.0


def test_answers_of_one_token_need_no_decode() -> None:
    assert highest_rate_decode(SIMPLE, window(1000, 1), 0.040) == math.inf
    phase = TokenPhase.of(SIMPLE, window(1000, 1), rate=1.0)
    assert phase is not None
    assert phase.meets_itl(window(1000, 1), 0.001, replicas=1) == 1.0


def shape(name: str = H200) -> PoolShape:
    profile = PROFILES[name]
    return PoolShape(profile, PricedGpu(profile.gpu.name, 1.0))


@given(st.integers(1, 30), st.floats(0.1, 80.0), st.integers(50, 8000), st.integers(1, 600))
def test_more_mixed_replicas_serve_no_fewer_in_time(
    count: int, rate: float, prompt: int, output: int
) -> None:
    one, target = window(prompt, output, rate), Target(0.9, 1.0, 0.04)
    design = Mixed(shape())
    before, after = (design.attainment(one, target, (size,)).both for size in (count, count + 1))
    assert 0.0 <= before <= after + 1e-9
    assert after <= design.unloaded(one, target).both + 1e-9


RULES = ScalingRules(0.0, SelectPolicy.MAX, ())


def simulated(design: Design, sizes: tuple[int, ...], one: Window, target: Target) -> tuple[float, float]:
    """Shares in time, TTFT and ITL, of some 20,000 requests on the simulator; the first minute is not counted."""
    by_name = dict(zip((name for name, _ in design.pools), sizes, strict=True))
    profile = design.pools[0][1].profile
    prefill, decode, mixed = (
        PoolSpec(name, size, size, profile.tensor_parallel, profile.performance)
        for name in PoolName
        for size in (by_name.get(name, 0),)
    )
    spec = ClusterSpec(
        generation=1,
        revision="r",
        budget_gpus=1000,
        slo=Slo(90, target.ttft_seconds, target.itl_seconds),
        pools=(prefill, decode, mixed),
        mode=ScalingMode.FIXED,
        behavior=Behavior(RULES, RULES),
        interval_seconds=15.0,
        boot_seconds=120.0,
        startup_deadline_seconds=1800.0,
        drain_deadline_seconds=1800.0,
        overflow_tokens=8192,
    )
    lengths = Shape(one.prompt_tokens, one.outputs[0][0], 0.0, 0.0)
    seconds = 20_000 / one.rate
    arrivals = alternating(
        [Phase(lengths, one.rate)], phase_seconds=seconds, duration_seconds=seconds, seed=3
    )
    journeys: list[Journey] = []
    hardware = {name: Hardware.of_profile(profile, name, itl_seconds=target.itl_seconds) for name in PoolName}
    simulate(Scenario(spec, hardware), arrivals, record=journeys.append)
    counted = [journey for journey in journeys if journey.arrived_at >= 60.0]
    first = sum(journey.ttft_seconds <= target.ttft_seconds for journey in counted)
    steps = one.outputs[0][0] - 1
    fluent = sum(
        (journey.ended_at - journey.first_token_at) / steps <= target.itl_seconds for journey in counted
    )
    return first / len(counted), fluent / len(counted)


@pytest.mark.parametrize(
    ("split", "sizes", "rate", "lengths", "limits"),
    [
        pytest.param(True, (1, 1), 7.0, (1155, 211), (0.25, 0.03), id="one pair, a queue for prefill"),
        pytest.param(True, (3, 1), 30.0, (1155, 211), (0.25, 0.0215), id="three prefills share a queue"),
        pytest.param(
            False, (1,), 5.0, (1155, 211), (0.25, 0.025), id="one mixed replica, both targets tight"
        ),
        pytest.param(False, (1,), 3.0, (2048, 28), (0.4, 0.03), id="one mixed replica, short answers"),
        pytest.param(False, (1,), 2.0, (2048, 28), (0.25, 0.027), id="one mixed replica, moderate load"),
        pytest.param(False, (1,), 1.0, (6000, 200), (1.0, 0.028), id="one mixed replica, long prompts"),
        pytest.param(False, (4,), 4.4, (6000, 200), (1.0, 0.028), id="four mixed replicas share a queue"),
    ],
)
def test_formulas_and_simulator_agree(
    split: bool,
    sizes: tuple[int, ...],
    rate: float,
    lengths: tuple[int, int],
    limits: tuple[float, float],
) -> None:
    one, target = window(*lengths, rate=rate), Target(0.9, *limits)
    design: Design = Disaggregated(shape(), shape()) if split else Mixed(shape())
    expected = design.attainment(one, target, sizes)
    assert min(expected.ttft, expected.itl) < 0.96, "the case would be met whatever the formula says"
    ttft, itl = simulated(design, sizes, one, target)
    # The formulas know no order: newest first keeps more requests in time where half of them are late.
    assert expected.ttft == pytest.approx(ttft, abs=0.07)
    assert expected.itl == pytest.approx(itl, abs=0.06)

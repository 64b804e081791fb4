from __future__ import annotations

import pytest

from inferencecluster.core.profiles import PROFILES
from inferencecluster.planner.levers import Speculation, Staircase, Surroundings, staircase
from inferencecluster.planner.roofline import Machine, Precision, estimate, recast
from inferencecluster.planner.traffic import steady
from inferencecluster.render.trtllm.versions import EngineVersion, parse_version

V1_2, V1_3 = parse_version("1.2.1"), parse_version("1.3.0rc29")


def stairs(profile: str, version: EngineVersion = V1_2, itl: float = 0.04) -> Staircase:
    window = steady(rate=1.0, prompt_tokens=1155, output_tokens=211).windows[0]
    return staircase(Surroundings(PROFILES[profile], window, itl, version, Speculation()))


def names(found: Staircase) -> list[str]:
    return [stair.name for stair in found.stairs]


def test_the_stairs_of_a_large_model_on_hopper() -> None:
    found = stairs("llama-3.1-70b-fp8/h200-tp2")
    assert names(found) == [
        "one request at a time",
        "continuous batching",
        "FP8 weights",
        "FP8 KV cache",
        "speculation, 3 drafts at 70%",
        "disaggregation",
        "latent attention",
    ]
    users = [stair.users_per_gpu for stair in found.stairs[:5]]
    assert users == sorted(users)
    assert [stair.basis for stair in found.stairs] == [
        "estimate",
        "estimate",
        "estimate",
        "fit",
        "estimate",
        "estimate",
        "new model",
    ]
    # 2 * 80 layers * 8 heads * 128, in 16 and 8 bits; 576 latent elements in 80 layers.
    assert [round(stair.kv_bytes_per_token) for stair in found.stairs] == [
        327_680, 327_680, 327_680, 163_840, 163_840, 163_840, 80 * 576,
    ]  # fmt: skip


def test_no_stair_misses_the_target() -> None:
    for profile in PROFILES:
        for stair in stairs(profile).stairs:
            assert stair.token_milliseconds <= 40.0 + 1e-6


def test_a_gpu_without_fp8_leaves_those_levers_out() -> None:
    found = stairs("llama-3.1-8b-bf16/a100-tp1")
    assert not any("FP8" in name for name in names(found))
    assert dict(found.left_out)["FP8 weights"] == "a100 has no FP8 arithmetic"


def test_the_engine_release_decides_over_fp4_caches() -> None:
    old, new = (stairs("llama-3.1-70b-fp8/b200-tp2", version) for version in (V1_2, V1_3))
    assert "1.3.0rc7" in dict(old.left_out)["FP4 KV cache"]
    assert "FP4 KV cache" in names(new)


def test_an_itl_that_no_step_meets_serves_nobody_until_a_lever_makes_it() -> None:
    found = stairs("llama-3.1-70b-fp8/h200-tp2", itl=0.010)
    users = dict(zip(names(found), (stair.users_per_gpu for stair in found.stairs), strict=True))
    assert users["FP8 KV cache"] == 0.0
    assert users["speculation, 3 drafts at 70%"] > 0.0


@pytest.mark.parametrize(("acceptance", "tokens"), [(0.0, 1.0), (0.5, 1.875), (1.0, 4.0)])
def test_accepted_drafts_are_a_geometric_sum(acceptance: float, tokens: float) -> None:
    assert Speculation(3, acceptance).tokens_per_step == pytest.approx(tokens)


def test_rejected_drafts_cost_time() -> None:
    performance = PROFILES["llama-3.1-8b-bf16/h100-tp1"].performance
    slower = Speculation(3, 0.0).speed_up(performance).decode
    assert slower.step_seconds(10, 10_000) > performance.decode.step_seconds(10, 10_000)


@pytest.mark.parametrize("name", PROFILES)
def test_estimates_are_within_a_quarter_of_each_fit(name: str) -> None:
    profile = PROFILES[name]
    own = Precision(profile.model.bytes_per_weight, profile.model.bytes_per_kv_element)
    guess, measured = estimate(profile.model.shape, own, Machine.of(profile)), profile.performance
    for tokens in (2048, 8192):
        assert guess.prefill.seconds(tokens) == pytest.approx(measured.prefill.seconds(tokens), rel=0.26)
    for batch, context in ((1, 1000), (64, 2000), (256, 1000)):
        expected = measured.decode.step_seconds(batch, batch * context)
        assert guess.decode.step_seconds(batch, batch * context) == pytest.approx(expected, rel=0.26)
    assert guess.kv_capacity_tokens == pytest.approx(measured.kv_capacity_tokens, abs=1)


def test_a_fit_in_its_own_precision_stays_as_it_is() -> None:
    profile = PROFILES["llama-3.1-70b-fp8/h200-tp2"]
    assert recast(profile, Precision(1, 1)) == profile.performance
    wide = recast(profile, Precision(2, 2))
    assert wide.decode.base_seconds > profile.performance.decode.base_seconds
    assert wide.kv_capacity_tokens < profile.performance.kv_capacity_tokens / 2

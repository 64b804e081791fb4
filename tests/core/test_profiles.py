import pytest

from inferencecluster.core.errors import SpecError
from inferencecluster.core.missing import Missing
from inferencecluster.core.profiles import (
    PROFILES,
    Gpu,
    Model,
    ModelShape,
    find_profile,
    kv_capacity_tokens,
    profile,
)

TINY = Model(
    "tiny", frozenset(), ModelShape(2, 8, 16, 4, 2, 4, 10), bytes_per_weight=2, bytes_per_kv_element=2
)


def test_weight_bytes_by_hand() -> None:
    # attention: 2 * 8 * (4 + 2) * 4 = 384; MLP: 3 * 8 * 16 = 384; two layers, 2 bytes; embeddings 2 * 10 * 8 * 2 bytes
    assert TINY.shape.weight_bytes(2) == 2 * (384 + 384) * 2 + 320
    assert TINY.shape.weight_bytes(1) == 2 * (384 + 384) + 320


def test_kv_bytes_per_token_by_hand() -> None:
    assert TINY.shape.kv_bytes_per_token(2) == 2 * 2 * 2 * 4 * 2


def test_kv_capacity_is_what_remains_beside_the_weights() -> None:
    reserve = 3 * 2**30
    gpu = Gpu("small", frozenset(), reserve + 10_000, 1e9)
    # 0.85 * (2 * 10,000 - 3,392) = 14,116.8 bytes of 64 each
    assert kv_capacity_tokens(TINY, gpu, 2) == 220
    assert kv_capacity_tokens(TINY, Gpu("none", frozenset(), reserve, 1e9), 1) == 0


@pytest.mark.parametrize(
    ("name", "billions", "kv_bytes"),
    [
        pytest.param("llama-3.1-70b-bf16/a100-tp4", 70.55, 327_680, id="70B in 16 bits"),
        pytest.param("llama-3.1-8b-bf16/h100-tp1", 8.03, 131_072, id="8B in 16 bits"),
    ],
)
def test_shapes_give_the_published_parameter_counts(name: str, billions: float, kv_bytes: int) -> None:
    found = profile(name)
    assert found.weight_bytes / 2 / 1e9 == pytest.approx(billions, abs=0.01)
    assert found.kv_bytes_per_token == kv_bytes


@pytest.mark.parametrize(
    ("name", "prefill_ms", "step_ms"),
    [
        # aiconfigurator 0.12.0 itself, at 2,048 prompt tokens and at 64 sequences of 1,024 tokens
        pytest.param("llama-3.1-70b-fp8/h200-tp2", 141.381, 15.8, id="70B on two H200"),
        pytest.param("qwen3-32b-fp8/h200-tp1", 135.424, 14.89, id="32B on one H200"),
        pytest.param("llama-3.1-8b-bf16/l40s-tp1", 154.638, 35.963, id="8B on one L40S"),
    ],
)
def test_a_fit_gives_back_what_it_was_fitted_to(name: str, prefill_ms: float, step_ms: float) -> None:
    found = profile(name)
    performance = found.performance
    # A single point may lie some times the mean error away from the fit.
    assert performance.prefill.seconds(2048) * 1000 == pytest.approx(prefill_ms, rel=4 * found.prefill_error)
    assert performance.decode.step_seconds(64, 64 * 1024) * 1000 == pytest.approx(
        step_ms, rel=4 * found.decode_error
    )


def test_every_profile_has_room_for_a_batch() -> None:
    for found in PROFILES.values():
        assert found.performance.kv_capacity_tokens > 100_000, found.name
        assert found.name == f"{found.model.name}/{found.gpu.name}-tp{found.tensor_parallel}"
        assert 0 < found.prefill_error < 0.06
        assert 0 < found.decode_error < 0.06


def test_an_unknown_profile_is_answered_with_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"llama-3\.1-70b-fp8/h200-tp2") as caught:
        profile("gpt-2/h200-tp1")
    assert caught.value.value == "'gpt-2/h200-tp1'"


@pytest.mark.parametrize(
    ("source", "product", "tensor", "name"),
    [
        pytest.param(
            "nvidia/Llama-3.1-70B-Instruct-FP8",
            "NVIDIA-H200",
            2,
            "llama-3.1-70b-fp8/h200-tp2",
            id="repository",
        ),
        pytest.param(
            "/models/Llama-3.3-70B-Instruct/",
            "NVIDIA-A100-SXM4-80GB",
            4,
            "llama-3.1-70b-bf16/a100-tp4",
            id="path",
        ),
        pytest.param("Qwen3-32B-FP8", "NVIDIA-H100-80GB-HBM3", 2, "qwen3-32b-fp8/h100-tp2", id="bare name"),
    ],
)
def test_a_profile_is_found_by_model_gpu_and_parallelism(
    source: str, product: str, tensor: int, name: str
) -> None:
    assert find_profile(source, product, tensor) is profile(name)


@pytest.mark.parametrize(
    ("source", "product", "tensor"),
    [
        pytest.param("org/other-model", "NVIDIA-H200", 2, id="model"),
        pytest.param("nvidia/Llama-3.1-70B-Instruct-FP8", "NVIDIA-H200-SHARED", 2, id="time-sliced GPU"),
        pytest.param("nvidia/Llama-3.1-70B-Instruct-FP8", "NVIDIA-H200", 8, id="parallelism"),
        pytest.param("nvidia/Llama-3.1-70B-Instruct-FP8", "", 2, id="no GPU chosen"),
    ],
)
def test_what_has_no_profile_is_missing_and_says_what_to_set(source: str, product: str, tensor: int) -> None:
    found = find_profile(source, product, tensor)
    assert isinstance(found, Missing)
    assert found.reason == "NoProfile"
    assert "performance.coefficients" in found.message

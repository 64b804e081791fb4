"""Built-in performance models, by model, GPU and tensor parallelism.

The step-time coefficients are least-squares fits to aiconfigurator 0.12.0's TensorRT-LLM kernel database
(prefill at batch 1 and 128-32,768 tokens; decode at batch 1-256 and 256-16,384 tokens of context). The mean absolute
percentage error of each fit stands in its row. They are modelled from measured kernels, not from end-to-end runs:
an engine that was measured belongs into `performance.coefficients` of its pool.

KV capacity is computed, not fitted:

    capacity = KV_MEMORY_FRACTION * (gpus * (HBM - RUNTIME_RESERVE) - weights) / (KV bytes per token)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from inferencecluster.core.errors import SpecError
from inferencecluster.core.missing import Missing
from inferencecluster.core.perfmodel import DecodeModel, PerformanceModel, PrefillModel

KV_MEMORY_FRACTION: Final = 0.85
"""Share of the memory left after weights that holds KV cache: `kv_cache_config.free_gpu_memory_fraction` of
TensorRT-LLM's published decode recipes. Its default, 0.9, leaves too little for transfer buffers of disaggregated serving."""
RUNTIME_RESERVE_BYTES: Final = 3 * 2**30
"""Per GPU: CUDA context, communicators, captured graphs and activations at batch 256. An estimate."""
UNKNOWN_LINK_BYTES_PER_SECOND: Final = 50e9
"""Of a GPU that nobody names: 400 Gbit/s, as in most servers since 2022."""
EMBEDDING_BYTES: Final = 2
"""Embedding and output head stay in 16 bits in the FP8 checkpoints, too."""

SOURCE: Final = "aiconfigurator 0.12.0, TensorRT-LLM, least-squares fit"


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A dense decoder with grouped-query attention and a gated MLP, as its `config.json` describes it."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dimension: int
    vocabulary: int

    def weight_bytes(self, bytes_per_weight: int) -> int:
        """Bytes of all weights; norms (under 0.01 %) are left out."""
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dimension
        mlp = 3 * self.hidden * self.intermediate
        embeddings = 2 * self.vocabulary * self.hidden
        return self.layers * (attention + mlp) * bytes_per_weight + embeddings * EMBEDDING_BYTES

    def kv_bytes_per_token(self, bytes_per_element: int) -> int:
        """Bytes of one token's keys and values in all layers (Splitwise, arXiv 2311.18677, with grouped heads)."""
        return 2 * self.layers * self.kv_heads * self.head_dimension * bytes_per_element


@dataclass(frozen=True, slots=True)
class Model:
    """A model in one precision, and the repositories that hold it."""

    name: str
    sources: frozenset[str]
    """Lower-case last path components of `spec.model.source` that have this shape and precision."""
    shape: ModelShape
    bytes_per_weight: int
    bytes_per_kv_element: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU."""

    name: str
    products: frozenset[str]
    """Values of the node label `nvidia.com/gpu.product` (GPU feature discovery)."""
    memory_bytes: int
    """What `nvidia-smi` reports as total memory."""
    link_bytes_per_second: float
    """To other servers, each way: InfiniBand of its DGX generation (200, 400 or 800 Gbit/s per GPU); the L40S stands in PCIe
    servers with some 64 Gbit/s per GPU."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The speed and the memory of one replica of `model` on `tensor_parallel` GPUs of kind `gpu`."""

    name: str
    model: Model
    gpu: Gpu
    tensor_parallel: int
    performance: PerformanceModel
    weight_bytes: int
    kv_bytes_per_token: int
    prefill_error: float
    """Mean absolute percentage error of the prefill fit, as a fraction."""
    decode_error: float
    """The same for a decode step."""
    source: str = SOURCE


def kv_capacity_tokens(model: Model, gpu: Gpu, tensor_parallel: int) -> int:
    """Tokens whose KV cache fits beside the weights on `tensor_parallel` GPUs; 0 when the weights do not fit."""
    free = tensor_parallel * (gpu.memory_bytes - RUNTIME_RESERVE_BYTES) - model.shape.weight_bytes(
        model.bytes_per_weight
    )
    return max(
        0, int(KV_MEMORY_FRACTION * free) // model.shape.kv_bytes_per_token(model.bytes_per_kv_element)
    )


def profile(name: str) -> Profile:
    """The built-in profile called `name`. Raises `SpecError` that lists the known names."""
    found = PROFILES.get(name)
    if found is None:
        raise SpecError(
            field="performance.profile",
            value=repr(name),
            rule=f"the built-in profiles are {', '.join(PROFILES)}",
            advice="name one of them, or give measured performance.coefficients",
        )
    return found


def find_profile(model_source: str, gpu_product: str, tensor: int) -> Profile | Missing:
    """The profile for a model source, a value of the node label `nvidia.com/gpu.product` and a tensor parallelism.

    Only the last path component of the source counts, so that mirrors and local directories match, too. Shared
    and partitioned GPUs (`-SHARED`, `-MIG-...`) have other speeds and match nothing.
    """
    source = model_source.rstrip("/").rpartition("/")[2].lower()
    for candidate in PROFILES.values():
        if (
            source in candidate.model.sources
            and gpu_product in candidate.gpu.products
            and tensor == candidate.tensor_parallel
        ):
            return candidate
    return Missing(
        "NoProfile",
        f"no built-in profile for {model_source} on {tensor} x {gpu_product or 'any GPU'}: set performance.profile "
        "or performance.coefficients of the pool",
    )


_LLAMA_70B: Final = ModelShape(80, 8192, 28672, 64, 8, 128, 128_256)
_LLAMA_8B: Final = ModelShape(32, 4096, 14336, 32, 8, 128, 128_256)
_QWEN3_32B: Final = ModelShape(64, 5120, 25600, 64, 8, 128, 151_936)

_LLAMA_70B_FP8: Final = Model(
    "llama-3.1-70b-fp8",
    frozenset(
        {
            "llama-3.1-70b-instruct-fp8",
            "llama-3.3-70b-instruct-fp8",
            "meta-llama-3.1-70b-instruct-fp8",
        }
    ),
    _LLAMA_70B,
    bytes_per_weight=1,
    bytes_per_kv_element=1,
)
_LLAMA_70B_BF16: Final = Model(
    "llama-3.1-70b-bf16",
    frozenset(
        {
            "llama-3.1-70b",
            "llama-3.1-70b-instruct",
            "llama-3.3-70b-instruct",
            "meta-llama-3.1-70b",
            "meta-llama-3.1-70b-instruct",
        }
    ),
    _LLAMA_70B,
    bytes_per_weight=2,
    bytes_per_kv_element=2,
)
_LLAMA_8B_BF16: Final = Model(
    "llama-3.1-8b-bf16",
    frozenset({"llama-3.1-8b", "llama-3.1-8b-instruct", "meta-llama-3.1-8b", "meta-llama-3.1-8b-instruct"}),
    _LLAMA_8B,
    bytes_per_weight=2,
    bytes_per_kv_element=2,
)
_QWEN3_32B_FP8: Final = Model(
    # The fitted step time per context token matches one byte per KV element: the engine must set kv_cache_config.dtype fp8.
    "qwen3-32b-fp8",
    frozenset({"qwen3-32b-fp8"}),
    _QWEN3_32B,
    bytes_per_weight=1,
    bytes_per_kv_element=1,
)

_MIB: Final = 2**20
_A100: Final = Gpu("a100", frozenset({"NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-SXM-80GB"}), 81_920 * _MIB, 25e9)
_H100: Final = Gpu("h100", frozenset({"NVIDIA-H100-80GB-HBM3"}), 81_559 * _MIB, 50e9)
_H200: Final = Gpu("h200", frozenset({"NVIDIA-H200"}), 143_771 * _MIB, 50e9)
_B200: Final = Gpu("b200", frozenset({"NVIDIA-B200"}), 183_359 * _MIB, 100e9)
_L40S: Final = Gpu("l40s", frozenset({"NVIDIA-L40S"}), 46_068 * _MIB, 8e9)

_Fit = tuple[float, float, float, float]
"""a, b, c in milliseconds, and the mean absolute percentage error of the fit in per cent."""

_FITS: Final[tuple[tuple[Model, Gpu, int, _Fit, _Fit], ...]] = (
    (_LLAMA_70B_FP8, _H100, 4, (10.73, 0.04156, 4.22e-7, 1.8), (9.80, 0.0392, 1.389e-5, 1.4)),
    (_LLAMA_70B_FP8, _H200, 2, (8.32, 0.06117, 8.92e-7, 2.4), (12.34, 0.0322, 1.952e-5, 1.8)),
    (_LLAMA_70B_FP8, _H200, 4, (8.34, 0.04014, 4.30e-7, 1.6), (8.01, 0.0351, 1.009e-5, 1.9)),
    (_LLAMA_70B_FP8, _B200, 2, (8.52, 0.03236, 4.15e-7, 2.9), (10.20, 0.0150, 1.215e-5, 1.4)),
    (_QWEN3_32B_FP8, _H100, 2, (8.83, 0.03730, 6.91e-7, 2.2), (9.02, 0.0212, 2.191e-5, 1.8)),
    (_QWEN3_32B_FP8, _H200, 1, (9.55, 0.05814, 1.579e-6, 1.1), (11.65, 0.0315, 3.095e-5, 3.5)),
    (_QWEN3_32B_FP8, _H200, 2, (7.57, 0.03592, 6.90e-7, 2.0), (7.61, 0.0215, 1.582e-5, 2.7)),
    (_LLAMA_8B_BF16, _H100, 1, (4.46, 0.01854, 5.85e-7, 5.4), (6.62, 0.0076, 4.301e-5, 1.6)),
    (_LLAMA_8B_BF16, _A100, 1, (7.39, 0.05630, 1.81e-6, 1.1), (11.31, 0.0323, 6.258e-5, 3.0)),
    (_LLAMA_8B_BF16, _L40S, 1, (15.0, 0.06048, 2.48e-6, 5.1), (19.8, 0.0396, 1.972e-4, 2.5)),
    (_LLAMA_70B_BF16, _A100, 4, (20.1, 0.15965, 2.19e-6, 0.8), (26.2, 0.1165, 3.862e-5, 2.5)),
)


def _profile(model: Model, gpu: Gpu, tensor_parallel: int, prefill: _Fit, decode: _Fit) -> Profile:
    """One row of the table, in seconds."""
    return Profile(
        name=f"{model.name}/{gpu.name}-tp{tensor_parallel}",
        model=model,
        gpu=gpu,
        tensor_parallel=tensor_parallel,
        performance=PerformanceModel(
            PrefillModel(prefill[0] / 1000, prefill[1] / 1000, prefill[2] / 1000),
            DecodeModel(decode[0] / 1000, decode[1] / 1000, decode[2] / 1000),
            kv_capacity_tokens(model, gpu, tensor_parallel),
        ),
        weight_bytes=model.shape.weight_bytes(model.bytes_per_weight),
        kv_bytes_per_token=model.shape.kv_bytes_per_token(model.bytes_per_kv_element),
        prefill_error=prefill[3] / 100,
        decode_error=decode[3] / 100,
    )


PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {row.name: row for row in (_profile(*fit) for fit in _FITS)}
)
"""Every built-in profile by name, `<model>-<precision>/<gpu>-tp<tensor parallelism>`, in a fixed order."""

"""Step times that nobody fitted: another precision, another cache, another model on hardware that a fit exists for.

A decode step reads the weights and the cache once and adds the host's and the network's share:

    base         = weights / (bandwidth * gpus * MEMORY_EFFICIENCY) + OVERHEAD_PER_LAYER * layers
    per sequence = 2 * parameters / (arithmetic * gpus * BATCH_EFFICIENCY)
    per token    = KV bytes / (bandwidth * gpus * CACHE_EFFICIENCY)

A prefill computes: 2 * parameters per token at PREFILL_EFFICIENCY of the arithmetic peak, and attention on top.

The constants come from the fits of `core.profiles`; `tests/planner` states how far the estimate is from each fit. That is
tens of per cent, which tells levers apart and sizes no pool: plans use fits only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from inferencecluster.core.perfmodel import DecodeModel, PerformanceModel, PrefillModel
from inferencecluster.core.profiles import (
    EMBEDDING_BYTES,
    KV_MEMORY_FRACTION,
    RUNTIME_RESERVE_BYTES,
    ModelShape,
    Profile,
)
from inferencecluster.planner.catalogue import GpuSheet, sheet_of

MEMORY_EFFICIENCY: Final = 0.85
"""Of the bandwidth while weights are read: what is left of `base` after the same model's fits on one and two (Qwen3-32B, H200),
and on two and four GPUs (Llama-3.1-70B, H200) are told apart by weights per GPU."""
OVERHEAD_PER_LAYER: Final = 45e-6
"""Seconds: kernel launches, norms and reductions. The remainder of the same fits, 46 and 56 us, and 31 us on a single H100."""
CACHE_EFFICIENCY: Final = 0.9
"""Of the bandwidth while the cache is read: 0.87 (Llama-3.1-70B, H200 x2) to 0.91 (Llama-3.1-8B, H100)."""
BATCH_EFFICIENCY: Final = 1.0
"""Of the arithmetic peak for one more sequence in a decode batch. At the peak, because part of it hides behind the weights."""
PREFILL_EFFICIENCY: Final = {1: 0.5, 2: 0.68}
"""Of the arithmetic peak at 2,048 prompt tokens, by bytes per weight: FP8 fits 0.36-0.52, 16-bit fits 0.59-0.81."""
ATTENTION_EFFICIENCY: Final = 0.5
"""Of the 16-bit peak: attention of long prompts in the H200 fits."""
PREFILL_BASE: Final = 8e-3
"""Seconds of an empty prefill: the middle of the fits of 70B and 32B models."""


@dataclass(frozen=True, slots=True)
class Machine:
    """GPUs that one replica runs on."""

    sheet: GpuSheet
    memory_bytes: int
    """Of each GPU."""
    gpus: int

    @classmethod
    def of(cls, profile: Profile) -> Machine:
        """The machine of a profile."""
        return cls(sheet_of(profile.gpu), profile.gpu.memory_bytes, profile.tensor_parallel)

    @property
    def bandwidth(self) -> float:
        """Bytes per second of all its memory."""
        return self.sheet.bandwidth * self.gpus

    def kv_capacity_tokens(self, *, weight_bytes: float, kv_bytes_per_token: float) -> int:
        """Tokens of cache beside the weights; 0 when the weights do not fit."""
        free = self.gpus * (self.memory_bytes - RUNTIME_RESERVE_BYTES) - weight_bytes
        return max(0, int(KV_MEMORY_FRACTION * free / kv_bytes_per_token))


@dataclass(frozen=True, slots=True)
class Precision:
    """How wide weights and cache are."""

    bytes_per_weight: int
    bytes_per_kv_element: float


def parameters(shape: ModelShape) -> float:
    """Weights that every token passes: the layers and the output head."""
    embeddings = 2 * shape.vocabulary * shape.hidden
    return float(shape.weight_bytes(1) - embeddings * EMBEDDING_BYTES + embeddings / 2)


def kv_bytes(shape: ModelShape, bytes_per_element: float) -> float:
    """Of one token in all layers; scales of block formats make elements of broken bytes."""
    return shape.kv_bytes_per_token(1) * bytes_per_element


def estimate(shape: ModelShape, precision: Precision, machine: Machine) -> PerformanceModel:
    """One replica from data sheets alone."""
    sheet = machine.sheet
    weights = shape.weight_bytes(precision.bytes_per_weight)
    cache = kv_bytes(shape, precision.bytes_per_kv_element)
    arithmetic = sheet.arithmetic(precision.bytes_per_weight) * machine.gpus
    flops = 2 * parameters(shape)
    attention = 2 * shape.layers * shape.heads * shape.head_dimension
    return PerformanceModel(
        PrefillModel(
            PREFILL_BASE,
            flops / (arithmetic * _prefill_efficiency(precision, sheet)),
            attention / (sheet.arithmetic_16_bit * machine.gpus * ATTENTION_EFFICIENCY),
        ),
        DecodeModel(
            weights / (machine.bandwidth * MEMORY_EFFICIENCY) + OVERHEAD_PER_LAYER * shape.layers,
            flops / (arithmetic * BATCH_EFFICIENCY),
            cache / (machine.bandwidth * CACHE_EFFICIENCY),
        ),
        machine.kv_capacity_tokens(weight_bytes=weights, kv_bytes_per_token=cache),
    )


def recast(profile: Profile, precision: Precision) -> PerformanceModel:
    """The fit of `profile`, moved to another precision: only what the precision changes is estimated."""
    shape, machine = profile.model.shape, Machine.of(profile)
    sheet, performance = machine.sheet, profile.performance
    before = Precision(profile.model.bytes_per_weight, profile.model.bytes_per_kv_element)
    if precision == before:
        return performance
    weights = shape.weight_bytes(precision.bytes_per_weight)
    read_seconds = (weights - profile.weight_bytes) / (machine.bandwidth * MEMORY_EFFICIENCY)
    compute = sheet.arithmetic(before.bytes_per_weight) / sheet.arithmetic(precision.bytes_per_weight)
    prefill = compute * _prefill_efficiency(before, sheet) / _prefill_efficiency(precision, sheet)
    cache = precision.bytes_per_kv_element / before.bytes_per_kv_element
    return replace(
        performance,
        prefill=replace(
            performance.prefill, per_token_seconds=performance.prefill.per_token_seconds * prefill
        ),
        decode=DecodeModel(
            performance.decode.base_seconds + read_seconds,
            performance.decode.per_sequence_seconds * compute,
            performance.decode.per_context_token_seconds * cache,
        ),
        kv_capacity_tokens=machine.kv_capacity_tokens(
            weight_bytes=weights, kv_bytes_per_token=kv_bytes(shape, precision.bytes_per_kv_element)
        ),
    )


def _prefill_efficiency(precision: Precision, sheet: GpuSheet) -> float:
    """Weights that the GPU has to widen run at the efficiency of the wide arithmetic."""
    width = precision.bytes_per_weight if sheet.arithmetic_8_bit is not None else 2
    return PREFILL_EFFICIENCY[width]

"""The staircase: how many users one GPU serves, lever by lever, each on top of those before it.

A user takes one token per ITL: users are output tokens per second times the ITL target, in a steady flow of whole requests
whose mean time per token is within it, so that prefill takes its share. Who gets tokens faster is done earlier and makes room
for others; that is why users may exceed the sequences in flight. A lever that the engine release or the GPU does not know is left out of the stairs and named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final, assert_never

from inferencecluster.core.perfmodel import DecodeModel, PerformanceModel
from inferencecluster.core.profiles import Profile
from inferencecluster.planner.capacity import (
    TokenPhase,
    batch_limit,
    highest_rate_decode,
    highest_rate_prefill,
    prefill_prompt,
)
from inferencecluster.planner.catalogue import GpuSheet
from inferencecluster.planner.chunked import MixedPhase, highest_rate_mixed
from inferencecluster.planner.roofline import Machine, Precision, kv_bytes, recast
from inferencecluster.planner.traffic import Window
from inferencecluster.render.trtllm.keys import SECTIONS, TOP_LEVEL
from inferencecluster.render.trtllm.versions import EngineVersion

DRAFT_COST: Final = 0.1
"""Seconds of drafting per second of verification: one decoder layer and the output head for each draft token (EAGLE-3), three
drafts beside 64-80 layers. An assumption; measure yours."""
FP4_KV_BYTES: Final = 0.5625
"""NVFP4: half a byte, and one FP8 scale for each 16 elements."""
LATENT_ELEMENTS: Final = 576
"""Of one token in one layer with multi-head latent attention: rank 512 and 64 rotary elements (DeepSeek-V2, arXiv 2405.04434)."""
FP4_KV_SINCE: Final = EngineVersion(1, 3, 0, candidate=7)
"""`--kv_cache_dtype nvfp4`."""


class Lever(StrEnum):
    """What changes the speed of the same model on the same GPUs."""

    FP8_WEIGHTS = "FP8 weights"
    FP8_CACHE = "FP8 KV cache"
    FP4_CACHE = "FP4 KV cache"
    SPECULATION = "speculative decoding"


COSTS: Final[Mapping[Lever, str]] = MappingProxyType(
    {
        Lever.FP8_WEIGHTS: "a quantised checkpoint: check its accuracy",
        Lever.FP8_CACHE: "attention in 8 bits: check long contexts",
        Lever.FP4_CACHE: "attention in 4 bits: check every task",
        Lever.SPECULATION: "a draft head; full batches gain least",
    }
)
"""What a lever costs beside money."""


def obstacle(lever: Lever, sheet: GpuSheet, version: EngineVersion) -> str | None:
    """Why this GPU or this engine release does not know the lever; None when both do."""
    match lever:
        case Lever.FP8_WEIGHTS | Lever.FP8_CACHE if sheet.arithmetic_8_bit is None:
            return f"{sheet.name} has no FP8 arithmetic"
        case Lever.FP8_CACHE if version not in SECTIONS["kv_cache_config"]["dtype"]:
            return f"TensorRT-LLM {version} has no kv_cache_config.dtype"
        case Lever.FP4_CACHE if not sheet.has_fp4:
            return f"{sheet.name} has no FP4"
        case Lever.FP4_CACHE if version < FP4_KV_SINCE:
            return f"TensorRT-LLM {version} lacks it: from {FP4_KV_SINCE} on"
        case Lever.SPECULATION if version not in TOP_LEVEL["speculative_config"]:
            return f"TensorRT-LLM {version} has no speculative_config"
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Speculation:
    """Draft tokens per step, and the share of them that the model accepts, each given that the one before was."""

    draft_tokens: int = 3
    acceptance: float = 0.7

    @property
    def tokens_per_step(self) -> float:
        """1 + a + a**2 + ... (Leviathan et al., arXiv 2211.17192)."""
        return sum(self.acceptance**index for index in range(self.draft_tokens + 1))

    @property
    def name(self) -> str:
        """As tables show it."""
        return f"speculation, {self.draft_tokens} drafts at {self.acceptance:.0%}"

    def speed_up(self, performance: PerformanceModel) -> PerformanceModel:
        """Times per *token*: a step checks all drafts, reads weights and cache once, and makes several tokens."""
        decode, made = performance.decode, self.tokens_per_step
        return replace(
            performance,
            decode=DecodeModel(
                decode.base_seconds * (1 + DRAFT_COST) / made,
                decode.per_sequence_seconds * (1 + self.draft_tokens) / made,
                decode.per_context_token_seconds / made,
            ),
        )


def narrowed(precision: Precision, lever: Lever) -> Precision:
    """With one lever more; speculation leaves it as it is."""
    match lever:
        case Lever.FP8_WEIGHTS:
            return replace(precision, bytes_per_weight=1)
        case Lever.FP8_CACHE:
            return replace(precision, bytes_per_kv_element=1)
        case Lever.FP4_CACHE:
            return replace(precision, bytes_per_kv_element=FP4_KV_BYTES)
        case Lever.SPECULATION:
            return precision
        case _:
            assert_never(lever)


@dataclass(frozen=True, slots=True)
class Stair:
    """One lever."""

    name: str
    users_per_gpu: float
    requests_per_gpu: float
    """Per second."""
    sequences_per_gpu: float
    """In their token phase at once."""
    token_milliseconds: float
    """Mean time per token at that load, prefill of others included."""
    kv_bytes_per_token: float
    basis: str
    """`fit`, `estimate` or `new model`."""
    price: str
    """What it costs beside money."""


@dataclass(frozen=True, slots=True)
class Staircase:
    """The levers that can be pulled, and those that cannot."""

    stairs: tuple[Stair, ...]
    left_out: tuple[tuple[str, str], ...]
    """Lever and reason."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the levers act on."""

    profile: Profile
    window: Window
    itl_seconds: float
    version: EngineVersion
    speculation: Speculation


def staircase(around: Surroundings) -> Staircase:
    """Levers in the order in which most people reach for them."""
    climb = _Climb(around)
    climb.begin()
    climb.narrow_precision()
    climb.speculate()
    climb.disaggregate()
    climb.compress()
    return Staircase(tuple(climb.stairs), tuple(climb.left_out))


class _Climb:
    """The stairs so far, and what the last of them left behind."""

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self.machine = Machine.of(around.profile)
        self.stairs: list[Stair] = []
        self.left_out: list[tuple[str, str]] = []
        self.precision = Precision(2, 2)
        self.performance = recast(around.profile, self.precision)

    def begin(self) -> None:
        """One sequence at a time, then as many as the ITL allows; in 16 bits where they fit."""
        if batch_limit(self.performance, self.around.window) < 1:
            self._leave_out("16-bit weights", f"they do not fit on {self._hardware}")
            self._take(Precision(1, 2))
        window, performance = self.around.window, self.performance
        step = performance.decode.step_seconds(1.0, window.context)
        alone = prefill_prompt(performance).mean(window) + window.steps * step
        serves = step <= self.around.itl_seconds
        self._add(
            "one request at a time", _Load(1.0 / alone if serves else 0.0, 1.0 if serves else 0.0, step), ""
        )
        self._add("continuous batching", self._mixed(), "tokens get slower with load")

    def narrow_precision(self) -> None:
        """FP8 weights, FP8 cache, FP4 cache."""
        if self.precision.bytes_per_weight == 2:
            self._narrow(Lever.FP8_WEIGHTS)
        self._narrow(Lever.FP8_CACHE)
        self._narrow(Lever.FP4_CACHE)

    def speculate(self) -> None:
        """Several tokens per step."""
        if self._is_known(Lever.SPECULATION):
            speculation = self.around.speculation
            self.performance = speculation.speed_up(self.performance)
            self._add(speculation.name, self._mixed(), COSTS[Lever.SPECULATION], basis="estimate")

    def disaggregate(self) -> None:
        """Prefill on other GPUs of the same kind; their share is charged."""
        load = self._disaggregated()
        price = "a network for KV caches"
        if load.rate <= self._mixed().rate:
            price += "; no gain here"
        self._add("disaggregation", load, price)

    def compress(self) -> None:
        """Latent attention: what the cache of the same layers would weigh in a model that was trained with it."""
        shape, before = self.around.profile.model.shape, self.precision
        elements = 2 * shape.kv_heads * shape.head_dimension
        if elements <= LATENT_ELEMENTS:
            self._leave_out("latent attention", "the cache is no larger than a latent one")
            return
        share = LATENT_ELEMENTS / elements
        decode = self.performance.decode
        self.performance = replace(
            self.performance,
            decode=replace(decode, per_context_token_seconds=decode.per_context_token_seconds * share),
            kv_capacity_tokens=int(self.performance.kv_capacity_tokens / share),
        )
        self.precision = replace(before, bytes_per_kv_element=before.bytes_per_kv_element * share)
        load = max(self._mixed(), self._disaggregated(), key=lambda one: one.rate)
        self._add("latent attention", load, "another model: trained anew", basis="new model")

    @property
    def _hardware(self) -> str:
        return f"{self.machine.gpus} x {self.machine.sheet.name}"

    def _narrow(self, lever: Lever) -> None:
        if self._is_known(lever):
            self._take(narrowed(self.precision, lever))
            self._add(lever.value, self._mixed(), COSTS[lever])

    def _is_known(self, lever: Lever) -> bool:
        """A lever that is not known is named."""
        reason = obstacle(lever, self.machine.sheet, self.around.version)
        if reason is not None:
            self._leave_out(lever.value, reason)
        return reason is None

    def _leave_out(self, name: str, reason: str) -> None:
        self.left_out.append((name, reason))

    def _take(self, precision: Precision) -> None:
        self.precision = precision
        self.performance = recast(self.around.profile, precision)

    def _add(self, name: str, load: _Load, price: str, *, basis: str = "") -> None:
        gpus = self.machine.gpus
        is_fit = self.performance == self.around.profile.performance
        cache = kv_bytes(self.around.profile.model.shape, self.precision.bytes_per_kv_element)
        self.stairs.append(
            Stair(
                name=name,
                users_per_gpu=load.rate * self.around.window.steps * self.around.itl_seconds / gpus,
                requests_per_gpu=load.rate / gpus,
                sequences_per_gpu=load.sequences / gpus,
                token_milliseconds=load.seconds_per_token * 1000,
                kv_bytes_per_token=cache,
                basis=basis or ("fit" if is_fit else "estimate"),
                price=price,
            )
        )

    def _mixed(self) -> _Load:
        """Whole requests, as many as the mean time per token allows."""
        window, performance = self.around.window, self.performance
        itl = self.around.itl_seconds
        rate = highest_rate_mixed(performance, window, itl)
        phase = MixedPhase.of(performance, window, rate=rate, itl_seconds=itl)
        if phase is None or rate <= 0:
            return NO_LOAD
        return _Load(rate, phase.tokens.batch, phase.tokens.seconds_per_token)

    def _disaggregated(self) -> _Load:
        """For each decode replica, as much of a prefill replica as it needs; both count as GPUs."""
        window, performance = self.around.window, self.performance
        decode = highest_rate_decode(performance, window, self.around.itl_seconds)
        if not 0 < decode < math.inf:
            return NO_LOAD
        replicas = 1.0 + decode / highest_rate_prefill(performance, window)
        phase = TokenPhase.of(performance, window, rate=decode)
        if phase is None:
            return NO_LOAD
        return _Load(decode / replicas, phase.batch / replicas, phase.seconds_per_token)


@dataclass(frozen=True, slots=True)
class _Load:
    """Of one replica, or of what stands for one."""

    rate: float
    sequences: float
    seconds_per_token: float


NO_LOAD: Final = _Load(0.0, 0.0, 0.0)

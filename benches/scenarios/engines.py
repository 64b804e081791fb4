"""Scenarios about single engines: what a phase uses, memory, latency, users per GPU."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from benches.scenarios.load import CONVERSATION, TARGET, highest, highest_rate, shape, window
from benches.scenarios.markdown import table
from inferencecluster.core.perfmodel import PerformanceModel
from inferencecluster.core.profiles import PROFILES, ModelShape
from inferencecluster.planner.capacity import (
    Target,
    batch_limit,
    highest_rate_decode,
    highest_rate_prefill,
    prefill_prompt,
)
from inferencecluster.planner.catalogue import GpuSheet
from inferencecluster.planner.chunked import MixedPhase, highest_rate_mixed
from inferencecluster.planner.designs import Disaggregated, Mixed
from inferencecluster.planner.levers import Speculation, Surroundings, staircase
from inferencecluster.planner.queueing import Queue
from inferencecluster.planner.roofline import Machine, Precision, estimate, kv_bytes, parameters, recast
from inferencecluster.planner.traffic import Window
from inferencecluster.render.trtllm.versions import EngineVersion

ENGINE: Final = EngineVersion(1, 2, 1)
MAX_BATCH: Final = 256
UNHURRIED_SECONDS: Final = 10.0
"""An ITL that never binds: what is left is memory."""
LLAMA_2_7B: Final = ModelShape(32, 4096, 11_008, 32, 32, 128, 32_000)
"""meta-llama/Llama-2-7b-hf, config.json: no grouped heads, so that its cache is four times that of Llama-3.1-8B."""
A100_40: Final = GpuSheet("a100-40gb", 312e12, None, 1.555e12, (0.0, 0.0))
"""NVIDIA's data sheet; not offered for planning, so without a price."""
A100_40_BYTES: Final = 40_960 * 2**20


def phases() -> str:
    """What each phase keeps busy, and how many GPUs' worth of arithmetic a balanced fleet of 64 does."""
    rows = []
    for name in ("llama-3.1-70b-fp8/h100-tp4", "llama-3.1-70b-fp8/h200-tp2", "llama-3.1-8b-bf16/h100-tp1"):
        profile, machine = PROFILES[name], Machine.of(PROFILES[name])
        prefill = profile.performance.prefill.seconds(2048)
        decode = [_decode_shares(name, batch) for batch in (1, 32, MAX_BATCH)]
        arithmetic = _arithmetic(name)
        rows.append(
            [
                name,
                f"{2 * parameters(profile.model.shape) * 2048 / arithmetic / prefill:.0%}",
                f"{profile.weight_bytes / machine.bandwidth / prefill:.0%}",
                " / ".join(f"{compute:.1%}" for compute, _ in decode),
                " / ".join(f"{memory:.0%}" for _, memory in decode),
                f"{64 * _useful_share(name):.0f}",
            ]
        )
    header = [
        "replica",
        "prefill of 2,048: arithmetic",
        "memory",
        f"decode of 1 / 32 / {MAX_BATCH} at 1,024: arithmetic",
        "memory",
        "useful GPUs of 64",
    ]
    return table(header, rows)


def _arithmetic(name: str) -> float:
    profile, machine = PROFILES[name], Machine.of(PROFILES[name])
    return machine.sheet.arithmetic(profile.model.bytes_per_weight) * machine.gpus


def _decode_shares(name: str, batch: int) -> tuple[float, float]:
    """Shares of arithmetic and bandwidth of a step at 1,024 tokens of context."""
    profile, machine = PROFILES[name], Machine.of(PROFILES[name])
    step = profile.performance.decode.step_seconds(batch, batch * 1024)
    moved = profile.weight_bytes + batch * 1024 * profile.kv_bytes_per_token
    flops = 2 * parameters(profile.model.shape) * batch
    return flops / _arithmetic(name) / step, moved / machine.bandwidth / step


def _useful_share(name: str) -> float:
    """Arithmetic done over arithmetic bought, both pools as full as the SLO allows."""
    one, performance = window(*CONVERSATION), PROFILES[name].performance
    replicas = 1 / highest_rate_prefill(performance, one) + 1 / highest_rate_decode(
        performance, one, TARGET.itl_seconds
    )
    flops = 2 * parameters(PROFILES[name].model.shape) * sum(CONVERSATION)
    return flops / _arithmetic(name) / replicas


def transcription() -> str:
    """1,000 queries an hour of 3 s each, wanted within 2 s."""
    performance = PROFILES["llama-3.1-8b-bf16/a100-tp1"].performance
    prompt, output, limit = 300, 250, 2.0
    one = window(prompt, output)
    rows = []
    for name, faster in (
        ("plain", performance),
        *(
            (f"speculation, {share:.0%} accepted", Speculation(3, share).speed_up(performance))
            for share in (0.5, 0.6, 0.7, 0.8)
        ),
    ):
        step = faster.decode.step_seconds(1.0, one.context)
        seconds = faster.prefill.seconds(prompt) + one.steps * step
        queue = Queue(1, 1000 / 3600, seconds, seconds**2)
        hourly = _rate_within(faster, one, limit) * 3600
        rows.append(
            [
                name,
                f"{step * 1000:.1f}",
                f"{seconds:.2f}",
                f"{seconds + queue.wait().mean:.1f}",
                f"{hourly:,.0f}" if hourly else "none",
                f"{math.ceil(1000 / hourly)}" if hourly else "no number",
            ]
        )
    header = [
        "decoding",
        "ms per token",
        "s per query alone",
        "mean s, one query at a time",
        "queries/h within 2 s, batched",
        "GPUs for 1,000/h",
    ]
    return table(header, rows)


def long_context() -> str:
    """Llama-2-7B with prompts of 4,096 tokens and answers of 256 on an A100 of 40 GB at $2.50."""
    one = window(4096, 256)
    machine = Machine(A100_40, A100_40_BYTES, 1)
    rows = []
    for name, precision, batch in (
        ("16-bit cache, batch 4", Precision(2, 2), 4),
        ("16-bit cache, all that fits", Precision(2, 2), MAX_BATCH),
        ("8-bit cache, batch 8", Precision(2, 1), 8),
        ("8-bit cache, all that fits", Precision(2, 1), MAX_BATCH),
    ):
        performance = replace(estimate(LLAMA_2_7B, precision, machine), max_batch_size=batch)
        fits = batch_limit(performance, one)
        hourly = highest_rate_mixed(performance, one, UNHURRIED_SECONDS) * 3600
        cache = kv_bytes(LLAMA_2_7B, precision.bytes_per_kv_element)
        rows.append(
            [
                name,
                f"{cache * 4096 / 1e9:.2f}",
                f"{performance.kv_capacity_tokens:,}",
                f"{fits:.1f}",
                f"{hourly:,.0f}",
                f"{2.50 / hourly * 1000:.2f}",
            ]
        )
    header = ["", "GB per prompt", "tokens that fit", "sequences", "requests/h", "$ per 1,000"]
    return table(header, rows)


def fraud() -> str:
    """One answer within a second: every combination of levers, on H100 at $3."""
    profile = PROFILES["llama-3.1-8b-bf16/h100-tp1"]
    prompt, output, limit = 1000, 220, 1.0
    one = window(prompt, output)
    speculation = Speculation()
    wide, narrow = profile.performance, recast(profile, Precision(1, 1))
    double = replace(Machine.of(profile), gpus=2)
    choices: tuple[tuple[str, PerformanceModel, int], ...] = (
        ("16 bits", wide, 1),
        ("16 bits, a second replica", wide, 2),
        ("16 bits, tensor parallel 2", estimate(profile.model.shape, Precision(2, 2), double), 2),
        ("FP8", narrow, 1),
        ("16 bits, speculation", speculation.speed_up(wide), 1),
        ("FP8, speculation", speculation.speed_up(narrow), 1),
    )
    rows = []
    for name, performance, gpus in choices:
        seconds = _alone(performance, one)
        replicas = gpus if "second" in name else 1
        rate = _rate_within(performance, one, limit) * replicas
        cost = f"{3.0 * gpus / rate / 3.6:.4f}" if rate else "-"
        rows.append([name, f"{seconds:.2f}", "yes" if rate else "no", f"{3 * gpus:.2f}", f"{rate:.1f}", cost])
    header = ["levers", "s alone", "within 1 s", "$/h", "requests/s within 1 s", "$ per 1,000 at that load"]
    return table(header, rows)


def _rate_within(performance: PerformanceModel, one: Window, limit: float) -> float:
    """Requests/s of a mixed replica whose prompt and tokens take `limit` seconds together on average; 0 when they cannot.

    Its engine is configured for the time per token that a prompt on an idle replica leaves.
    """
    itl = (limit - prefill_prompt(performance).mean(one)) / one.steps

    def holds(rate: float) -> bool:
        phase = MixedPhase.of(performance, one, rate=rate, itl_seconds=itl)
        if phase is None or phase.tokens.batch > batch_limit(performance, one):
            return False
        return phase.own.mean(one) + one.steps * phase.tokens.seconds_per_token <= limit

    return highest(holds)


def _alone(performance: PerformanceModel, one: Window) -> float:
    step = performance.decode.step_seconds(1.0, one.context)
    return prefill_prompt(performance).mean(one) + one.steps * step


def users() -> str:
    """The staircase of two models, each beside the published one."""
    published = {
        "one request at a time": "1",
        "continuous batching": "15",
        "FP8 weights": "20",
        "speculation, 3 drafts at 70%": "28",
        "FP8 KV cache": "70 with distilled models",
        "latent attention": "140",
    }
    stairs = [
        staircase(
            Surroundings(PROFILES[name], window(*CONVERSATION), TARGET.itl_seconds, ENGINE, Speculation())
        ).stairs
        for name in ("llama-3.1-70b-fp8/h200-tp2", "llama-3.1-8b-bf16/h100-tp1")
    ]
    rows = [
        [
            large.name,
            f"{large.users_per_gpu:.1f}",
            f"{large.kv_bytes_per_token:,.0f}",
            f"{small.users_per_gpu:.0f}",
            f"{small.kv_bytes_per_token:,.0f}",
            published.get(large.name, "-"),
        ]
        for large, small in zip(*stairs, strict=True)
    ]
    header = ["lever", "70B on H200 x2", "KV bytes", "8B on H100", "KV bytes", "the talk"]
    return table(header, rows)


def against_aiconfigurator() -> str:
    """Whether disaggregation pays, beside NVIDIA's planner on 32 H200."""
    cases = (
        (
            "Qwen3-32B, 1155/211, 40 ms",
            ("qwen3-32b-fp8/h200-tp1", "qwen3-32b-fp8/h200-tp2"),
            (1155, 211),
            (0.4, 0.04),
            (245.0, 228.0),
        ),
        ("Llama-70B, 1155/211, 30 ms", _LLAMA, (1155, 211), (0.4, 0.03), (105.0, 147.0)),
        ("Llama-70B, 2048/28, 40 ms", _LLAMA, (2048, 28), (0.4, 0.04), (90.5, 86.8)),
        ("Llama-70B, 12035/343, 40 ms", _LLAMA, (12_035, 343), (3.0, 0.04), (12.2, 14.1)),
    )
    rows = []
    for name, profiles, lengths, (ttft, itl), (mixed, split) in cases:
        one = window(*lengths)
        ours_mixed = max(_mixed_rate(profile, one, itl) for profile in profiles)
        full = max(_split_rate(a, b, one, itl, (1.0, 1.0)) for a in profiles for b in profiles)
        held = max(_split_rate(a, b, one, itl, (0.8, 0.85)) for a in profiles for b in profiles)
        target = replace(TARGET, ttft_seconds=ttft, itl_seconds=itl)
        rows.append(
            [
                name,
                f"{mixed:.0f} / {split:.0f} = {split / mixed:.2f}",
                f"{ours_mixed:.0f} / {full:.0f} = {full / ours_mixed:.2f}",
                f"{ours_mixed:.0f} / {held:.0f} = {held / ours_mixed:.2f}",
                _planned(profiles, lengths, target),
            ]
        )
    header = [
        "model, prompt/output, ITL",
        "aiconfigurator: mixed / disaggregated",
        "ours, means, all busy",
        "ours, means, pools 80 and 85% full",
        "`plan`: 90% of a Poisson flow in time",
    ]
    return table(header, rows)


_LLAMA: Final = ("llama-3.1-70b-fp8/h200-tp2", "llama-3.1-70b-fp8/h200-tp4")
_GPUS: Final = 32


def _mixed_rate(name: str, one: Window, itl: float) -> float:
    profile = PROFILES[name]
    return _GPUS // profile.tensor_parallel * highest_rate_mixed(profile.performance, one, itl)


def _split_rate(prefill: str, decode: str, one: Window, itl: float, full: tuple[float, float]) -> float:
    """The best split of all GPUs, whole replicas."""
    first, second = PROFILES[prefill], PROFILES[decode]
    prompts = full[0] * highest_rate_prefill(first.performance, one)
    tokens = full[1] * highest_rate_decode(second.performance, one, itl)
    return max(
        min(count * prompts, (_GPUS - count * first.tensor_parallel) // second.tensor_parallel * tokens)
        for count in range(1, _GPUS // first.tensor_parallel)
    )


def _planned(profiles: tuple[str, ...], lengths: tuple[int, int], target: Target) -> str:
    """What the planner's own rules fit into the same GPUs; a GPU is the unit of price."""
    shapes = [shape(name, 1.0) for name in profiles]
    mixed = max(highest_rate(Mixed(one), target, lengths, budget=_GPUS) for one in shapes)
    split = max(
        highest_rate(Disaggregated(a, b), target, lengths, budget=_GPUS) for a in shapes for b in shapes
    )
    return f"{mixed:.1f} / {split:.1f} = {split / mixed:.2f}"

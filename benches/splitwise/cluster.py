"""A design as a scenario of our simulator, under the peer's physics or under ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from benches.splitwise.designs import GPUS, Design, Machine, Model
from benches.splitwise.table import PROFILED_BATCH, HonestTimes, PeerTimes, Profiles
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.perfmodel import DecodeModel, PerformanceModel, PrefillModel
from inferencecluster.core.spec import (
    Behavior,
    ClusterSpec,
    PoolSpec,
    ScalingMode,
    ScalingRules,
    SelectPolicy,
    Slo,
)
from inferencecluster.simulator.hardware import Hardware
from inferencecluster.simulator.links import Network
from inferencecluster.simulator.scenario import Scenario

GPU_MEMORY_BYTES: Final = 80 * 2**30
PROMPT_TOKENS: Final = 2048
"""Of one iteration."""
MAX_BATCH: Final = 512
OVERFLOW_TOKENS: Final = 8192
"""Splitwise's limits: machine, machine, cluster scheduler."""
PEER_LINK_BYTES_PER_SECOND: Final = 200.0 * 2**30
"""Whatever else travels: splitwise-sim's links never fill up."""
PATIENCE_SECONDS: Final = 3600.0
"""Nobody is refused: Splitwise's clusters queue without end."""


@dataclass(frozen=True, slots=True)
class Physics:
    """What is taken from measurement and what from splitwise-sim."""

    name: str
    decodes_by_batch: bool
    """Decode steps, alone and beside prompts, by batch and context; otherwise as splitwise-sim asks its table."""
    counts_kv_heads: bool
    shares_links: bool
    """Links of the machines' own speed carry one cache after another, layer by layer while the prompt is computed;
    otherwise each cache has 200 GB/s of its own, after the prompt."""
    guesses_outputs: bool
    """The router learns how long answers are; otherwise it knows each one's length in advance."""


PEER: Final = Physics(
    "peer", decodes_by_batch=False, counts_kv_heads=False, shares_links=False, guesses_outputs=False
)
HONEST: Final = Physics(
    "honest", decodes_by_batch=True, counts_kv_heads=True, shares_links=True, guesses_outputs=True
)
ALONE: Final = (
    replace(PEER, name="decode by batch", decodes_by_batch=True),
    replace(PEER, name="KV heads", counts_kv_heads=True),
    replace(PEER, name="shared links", shares_links=True),
    replace(PEER, name="guessed outputs", guesses_outputs=True),
)
"""The peer's, with one thing corrected each."""
PHYSICS: Final[Mapping[str, Physics]] = MappingProxyType({item.name: item for item in (PEER, HONEST, *ALONE)})
"""By name."""


def scenario(design: Design, model: Model, physics: Physics, profiles: Profiles) -> Scenario:
    """The cluster, never resized. Raises `SpecError` when the table lacks a machine."""
    kind = design.kind
    machines = dict(zip(PoolName, (kind.prompt, kind.token, kind.prompt), strict=True))
    hardware = {name: _hardware(machine, model, physics, profiles) for name, machine in machines.items()}
    overlap = max(kind.prompt.unoverlapped_seconds, kind.token.unoverlapped_seconds)
    return Scenario(
        spec=_spec(design, hardware),
        hardware=hardware,
        initial=design.sizes,
        network=Network(layer_wise=True, constant_seconds=overlap)
        if physics.shares_links
        else Network(dedicated=True),
        max_queue_seconds=PATIENCE_SECONDS,
        late_seconds=math.inf,
        chunked_prefill=False,
        prefill_answers=True,
        knows_outputs=not physics.guesses_outputs,
    )


def _hardware(machine: Machine, model: Model, physics: Physics, profiles: Profiles) -> Hardware:
    rows = profiles.get((model.name, machine.hardware))
    if rows is None:
        raise SpecError(
            field="table",
            value=f"{model.name} on {machine.hardware} is absent",
            rule="it has every machine of the designs at tensor parallel 8",
            advice="give splitwise-sim's data/perf_model.csv",
        )
    kv_bytes = model.kv_bytes_per_token if physics.counts_kv_heads else model.peer_kv_bytes_per_token
    capacity = int((GPU_MEMORY_BYTES * GPUS - model.weight_bytes) / kv_bytes)
    measured = HonestTimes.of(rows)
    return Hardware(
        name=machine.hardware,
        performance=_belief(measured, capacity),
        kv_bytes_per_token=kv_bytes,
        link_bytes_per_second=machine.link_bytes_per_second
        if physics.shares_links
        else PEER_LINK_BYTES_PER_SECOND,
        max_num_tokens=PROMPT_TOKENS,
        step_times=measured if physics.decodes_by_batch else PeerTimes.of(rows),
    )


def _belief(measured: HonestTimes, capacity: int) -> PerformanceModel:
    """What the operator is told, which decides nothing here: the closed form through some points of the table."""
    base, full = measured.prompt_seconds(0), measured.prompt_seconds(PROMPT_TOKENS)
    step, many = measured.flat_step_seconds(1), measured.flat_step_seconds(PROFILED_BATCH)
    return PerformanceModel(
        PrefillModel(base, (full - base) / PROMPT_TOKENS, 0.0),
        DecodeModel(step, (many - step) / PROFILED_BATCH, measured.context_token_seconds),
        capacity,
        MAX_BATCH,
    )


def _spec(design: Design, hardware: Mapping[PoolName, Hardware]) -> ClusterSpec:
    prefill, decode, mixed = (
        PoolSpec(name, size, size, GPUS, hardware[name].performance) for name, size in design.sizes.items()
    )
    rules = ScalingRules(0.0, SelectPolicy.MAX, ())
    return ClusterSpec(
        generation=1,
        revision="splitwise",
        budget_gpus=design.machines * GPUS,
        slo=Slo(percentile=99, ttft_seconds=1.0, itl_seconds=0.1),
        pools=(prefill, decode, mixed),
        mode=ScalingMode.FIXED,
        behavior=Behavior(rules, rules),
        # Nothing is ever decided: the loop only looks now and then.
        interval_seconds=60.0,
        boot_seconds=0.0,
        startup_deadline_seconds=PATIENCE_SECONDS,
        drain_deadline_seconds=PATIENCE_SECONDS,
        overflow_tokens=OVERFLOW_TOKENS,
    )

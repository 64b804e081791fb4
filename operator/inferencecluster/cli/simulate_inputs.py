"""From an InferenceCluster to what the simulator needs: the spec that the core decides on, and the hardware below it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from inferencecluster.api.hardware import gpu_of, kv_bytes_per_token, link_bytes_per_second, profile_of
from inferencecluster.api.inferencecluster import InferenceCluster
from inferencecluster.api.pools import Pool
from inferencecluster.api.translate import revision_of, to_core
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.spec import ClusterSpec, PoolSpec
from inferencecluster.core.token_budget import iteration_tokens
from inferencecluster.simulator.hardware import (
    GPU_FACTS,
    GpuFacts,
    Hardware,
)

_UNKNOWN_GPU: Final = GpuFacts(dollars_per_hour=0.0, watts=0.0)
"""Cost and power stay untold."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is simulated, and what had to be assumed."""

    name: str
    spec: ClusterSpec
    hardware: Mapping[PoolName, Hardware]
    notes: tuple[str, ...]


def cluster_of(manifest: InferenceCluster, *, boot_seconds: float | None) -> Cluster:
    """The cluster as its manifest describes it. Raises `SpecError` when a pool's speed cannot be told."""
    spec = to_core(manifest, revision=revision_of(manifest))
    if boot_seconds is not None:
        # A boot beyond the deadline would be given up in real life, too: the user asked what such a boot does.
        deadline = max(spec.startup_deadline_seconds, boot_seconds * 2)
        spec = replace(spec, boot_seconds=boot_seconds, startup_deadline_seconds=deadline)
    hardware: dict[PoolName, Hardware] = {}
    notes: list[str] = []
    pools = manifest.spec.pools
    chosen = {PoolName.PREFILL: pools.prefill, PoolName.DECODE: pools.decode, PoolName.MIXED: pools.mixed}
    for name, pool in chosen.items():
        if pool is not None and pool.max_replicas > 0:
            hardware[name], note = _hardware(
                manifest.spec.model.source, pool, spec.pool(name), spec.slo.itl_seconds
            )
            notes += [f"{name}: {text}" for text in note]
    return Cluster(f"{manifest.metadata.namespace}/{manifest.metadata.name}", spec, hardware, tuple(notes))


def _hardware(
    model_source: str, pool: Pool, spec: PoolSpec, itl_seconds: float
) -> tuple[Hardware, list[str]]:
    """One replica, and what is not known of it."""
    known = profile_of(model_source, pool)
    if known is not None:
        mine = replace(known, performance=spec.performance)
        return Hardware.of_profile(mine, spec.iterates_like, itl_seconds=itl_seconds), []
    notes = []
    kv_bytes = kv_bytes_per_token(model_source, pool)
    if kv_bytes is None:
        notes.append("no built-in profile knows the model: transfers of its KV cache take no time")
    gpu = gpu_of(model_source, pool)
    if gpu is None:
        notes.append("the GPU is not known: 400 Gbit/s per GPU between servers, no dollars, no energy")
    facts = GPU_FACTS[gpu.name] if gpu else _UNKNOWN_GPU
    measured = Hardware(
        name="measured",
        performance=spec.performance,
        kv_bytes_per_token=float(kv_bytes or 0),
        link_bytes_per_second=link_bytes_per_second(model_source, pool),
        max_num_tokens=iteration_tokens(spec.iterates_like, spec.performance, itl_seconds=itl_seconds),
        dollars_per_gpu_hour=facts.dollars_per_hour,
        watts_per_gpu=facts.watts,
    )
    return measured, notes

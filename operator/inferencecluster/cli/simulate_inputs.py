"""From an InferenceCluster to what the simulator needs: the spec that the core decides on, and the hardware below it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from inferencecluster.api.inferencecluster import InferenceCluster
from inferencecluster.api.pools import Pool
from inferencecluster.api.translate import gpu_product, revision_of, to_core
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.profiles import PROFILES, Gpu, Profile, find_profile, profile
from inferencecluster.core.spec import ClusterSpec, PoolSpec
from inferencecluster.simulator.hardware import (
    DECODE_PROMPT_TOKENS,
    GPU_FACTS,
    PREFILL_TOKENS,
    GpuFacts,
    Hardware,
)

_UNKNOWN_GPU: Final = GpuFacts(link_bytes_per_second=50e9, dollars_per_hour=0.0, watts=0.0)
"""A network of 400 Gbit/s per GPU, as in most servers since 2022; cost and power stay untold."""


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
            hardware[name], note = _hardware(manifest.spec.model.source, pool, spec.pool(name))
            notes += [f"{name}: {text}" for text in note]
    return Cluster(f"{manifest.metadata.namespace}/{manifest.metadata.name}", spec, hardware, tuple(notes))


def _hardware(model_source: str, pool: Pool, spec: PoolSpec) -> tuple[Hardware, list[str]]:
    """One replica, and what is not known of it."""
    known = _profile_of(model_source, pool)
    if known is not None:
        mine = replace(known, performance=spec.performance)
        return Hardware.of_profile(mine, _tuned_for(spec)), []
    notes = []
    kv_bytes = _kv_bytes_per_token(model_source)
    if kv_bytes is None:
        notes.append("no built-in profile knows the model: transfers of its KV cache take no time")
    gpu = _gpu_of(pool)
    if gpu is None:
        notes.append("the GPU is not known: 400 Gbit/s per GPU between servers, no dollars, no energy")
    facts = GPU_FACTS[gpu.name] if gpu else _UNKNOWN_GPU
    batch = spec.performance.max_batch_size
    tokens = {
        PoolName.PREFILL: max(PREFILL_TOKENS, batch),
        PoolName.DECODE: batch + DECODE_PROMPT_TOKENS,
        PoolName.MIXED: batch + PREFILL_TOKENS,
    }
    measured = Hardware(
        name="measured",
        performance=spec.performance,
        kv_bytes_per_token=kv_bytes or 0.0,
        link_bytes_per_second=facts.link_bytes_per_second * spec.gpus_per_replica,
        max_num_tokens=tokens[_tuned_for(spec)],
        dollars_per_gpu_hour=facts.dollars_per_hour,
        watts_per_gpu=facts.watts,
    )
    return measured, notes


def _tuned_for(spec: PoolSpec) -> PoolName:
    """As `PoolContext.tuned_for`."""
    return PoolName.MIXED if spec.interchangeable else spec.name


def _profile_of(model_source: str, pool: Pool) -> Profile | None:
    """The built-in profile that the pool's speed comes from; None when it was measured."""
    if pool.performance is not None:
        return profile(pool.performance.profile) if pool.performance.profile else None
    product = gpu_product(pool)
    if isinstance(product, Missing):
        return None
    found = find_profile(model_source, product, pool.tensor_parallelism)
    return None if isinstance(found, Missing) else found


def _kv_bytes_per_token(model_source: str) -> float | None:
    """Of any profile of the model: it does not depend on the GPU."""
    source = model_source.rstrip("/").rpartition("/")[2].lower()
    return next(
        (float(known.kv_bytes_per_token) for known in PROFILES.values() if source in known.model.sources),
        None,
    )


def _gpu_of(pool: Pool) -> Gpu | None:
    product = gpu_product(pool)
    return next((known.gpu for known in PROFILES.values() if product in known.gpu.products), None)

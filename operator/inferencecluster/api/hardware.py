"""What hardware a pool's replicas are made of, as far as its manifest tells: profile, GPU, bytes of the KV cache."""

from __future__ import annotations

from inferencecluster.api.pools import Pool
from inferencecluster.api.translate import gpu_product
from inferencecluster.core.missing import Missing
from inferencecluster.core.profiles import (
    PROFILES,
    UNKNOWN_LINK_BYTES_PER_SECOND,
    Gpu,
    Profile,
    find_profile,
    profile,
)


def profile_of(model_source: str, pool: Pool) -> Profile | None:
    """The built-in profile that the pool's speed comes from; None when it was measured. Raises `SpecError`."""
    if pool.performance is not None:
        return profile(pool.performance.profile) if pool.performance.profile else None
    product = gpu_product(pool)
    if isinstance(product, Missing):
        return None
    found = find_profile(model_source, product, pool.tensor_parallelism)
    return None if isinstance(found, Missing) else found


def kv_bytes_per_token(model_source: str, pool: Pool) -> int | None:
    """Of the pool's profile, else of any profile of the model: it does not depend on the GPU. Raises `SpecError`."""
    known = profile_of(model_source, pool)
    if known is not None:
        return known.kv_bytes_per_token
    source = model_source.rstrip("/").rpartition("/")[2].lower()
    return next(
        (
            candidate.kv_bytes_per_token
            for candidate in PROFILES.values()
            if source in candidate.model.sources
        ),
        None,
    )


def gpu_of(model_source: str, pool: Pool) -> Gpu | None:
    """Of the pool's profile, else the one that its placement pins; None when neither tells. Raises `SpecError`."""
    known = profile_of(model_source, pool)
    if known is not None:
        return known.gpu
    product = gpu_product(pool)
    return next((candidate.gpu for candidate in PROFILES.values() if product in candidate.gpu.products), None)


def link_bytes_per_second(model_source: str, pool: Pool) -> float:
    """Of one replica to others, each way. Raises `SpecError`."""
    gpu = gpu_of(model_source, pool)
    of_gpu = gpu.link_bytes_per_second if gpu else UNKNOWN_LINK_BYTES_PER_SECOND
    return of_gpu * pool.gpus_per_replica

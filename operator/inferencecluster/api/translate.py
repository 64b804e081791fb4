"""From the custom resource to what the core decides on: seconds, whole GPUs, resolved performance models."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from inferencecluster.api.engine import IMAGE_TAG_WITH_VERSION, Engine
from inferencecluster.api.inferencecluster import InferenceCluster
from inferencecluster.api.placement import NodeSelectorOperator, NodeSelectorTerm
from inferencecluster.api.pools import Coefficients, Pool, Pools
from inferencecluster.api.scaling import (
    DOWN_WINDOW_SECONDS,
    UP_WINDOW_SECONDS,
    Conversion,
    ScalingBehavior,
    ScalingRules,
    SloTargets,
)
from inferencecluster.core import spec as core
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.perfmodel import DecodeModel, PerformanceModel, PrefillModel
from inferencecluster.core.profiles import find_profile, profile

GPU_PRODUCT_LABEL: Final = "nvidia.com/gpu.product"
"""Node label of NVIDIA's GPU Feature Discovery; with it a pool needs no performance block."""

_DIGEST_CHARACTERS: Final = 10
"""Forty bits: a cluster sees some thousands of revisions in its life, so equal prefixes are out of reach."""

_TEMPLATE_FIELDS: Final = {
    "gpus_per_replica",
    "gpu_resource_name",
    "node_selector",
    "tolerations",
    "affinity",
    "topology_spread",
    "resources",
    "extra_resources",
    "labels",
    "annotations",
}
"""Fields of a pool that go into its Pods as they are."""

_MILLI: Final = 1e-3
_NANO: Final = 1e-9
_PICO: Final = 1e-12


def revision_of(cluster: InferenceCluster) -> str:
    """Ten hexadecimal digits over what makes engines compatible; equal specs give equal revisions.

    Model, backend, image, version, configuration, environment (it chooses transports) and KV transfer.
    Sizes are left out: they change without a rollout. Shape, placement and resources of a pool are its `template_of`.
    """
    engine = cluster.spec.engine
    relevant = {
        "model": cluster.spec.model.model_dump(mode="json", include={"source", "served_name"}),
        "engine": engine.model_dump(
            mode="json", include={"backend", "image", "version", "config", "env", "kv_transfer"}
        ),
    }
    return _digest(relevant)


def template_of(pool: Pool) -> str:
    """Ten hexadecimal digits over what the user chose for the pool's Pods; another one replaces the pool's replicas.

    Shape, devices, placement, resources, labels and annotations; of the speed only what configures the engine (its
    batch). Bounds and measured speeds change no Pod. What the operator adds is left out, and so are fields at their
    default: another release of the operator must not replace every replica.
    """
    chosen = pool.model_dump(mode="json", include=_TEMPLATE_FIELDS, exclude_defaults=True)
    performance = pool.performance
    batch = performance.coefficients.max_batch_size if performance and performance.coefficients else None
    profile_name = performance.profile if performance else None
    cut = [pool.tensor_parallelism, pool.pipeline_stages]
    return _digest({**chosen, "cut": cut, "profile": profile_name, "max_batch_size": batch})


def _digest(relevant: dict[str, Any]) -> str:
    text = json.dumps(relevant, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]


def engine_version(engine: Engine) -> str | Missing:
    """TensorRT-LLM release of the engine: `version`, else the release in the image's tag."""
    if engine.version is not None:
        return engine.version
    tag = re.search(IMAGE_TAG_WITH_VERSION, engine.image)
    if tag is None:
        return Missing(
            "NoEngineVersion", "neither spec.engine.version nor the tag of spec.engine.image tells it"
        )
    return tag["version"]


def to_core(cluster: InferenceCluster, *, revision: str) -> core.ClusterSpec:
    """The spec that the core decides on.

    An absent pool becomes one with 0..0 replicas. Raises `SpecError` when a pool's speed cannot be told.
    """
    spec = cluster.spec
    scaling = spec.scaling
    return core.ClusterSpec(
        generation=cluster.metadata.generation,
        revision=revision,
        budget_gpus=spec.budget.gpus,
        slo=_slo(spec.slo),
        pools=_pools(spec.pools, model_source=spec.model.source, conversion=scaling.conversion),
        mode=scaling.mode,
        behavior=_behavior(scaling.behavior),
        interval_seconds=float(scaling.interval_seconds),
        boot_seconds=float(scaling.expected_boot_seconds),
        startup_deadline_seconds=float(scaling.startup_timeout_seconds),
        drain_deadline_seconds=float(scaling.drain_timeout_seconds),
        overflow_tokens=spec.router.overflow_tokens,
        kept_gpus=spec.budget.min_gpus or 0,
        objective=scaling.objective,
    )


def _slo(targets: SloTargets) -> core.Slo:
    return core.Slo(
        percentile=targets.percentile,
        ttft_seconds=targets.ttft_milliseconds * _MILLI,
        itl_seconds=targets.itl_milliseconds * _MILLI,
    )


def _behavior(behavior: ScalingBehavior) -> core.Behavior:
    return core.Behavior(
        scale_up=_rules(behavior.scale_up, default_window=UP_WINDOW_SECONDS),
        scale_down=_rules(behavior.scale_down, default_window=DOWN_WINDOW_SECONDS),
    )


def _rules(rules: ScalingRules, *, default_window: int) -> core.ScalingRules:
    window = rules.stabilization_window_seconds
    return core.ScalingRules(
        stabilization_window_seconds=float(default_window if window is None else window),
        select_policy=rules.select_policy,
        policies=tuple(
            core.ScalingPolicy(
                type=policy.type, value=policy.value, period_seconds=float(policy.period_seconds)
            )
            for policy in rules.policies
        ),
    )


def _pools(
    pools: Pools, *, model_source: str, conversion: Conversion
) -> tuple[core.PoolSpec, core.PoolSpec, core.PoolSpec]:
    """Prefill, decode, mixed. A pool that is off takes its shape and speed from one that is on."""
    by_name = {PoolName.PREFILL: pools.prefill, PoolName.DECODE: pools.decode, PoolName.MIXED: pools.mixed}
    on = {
        name: core.PoolSpec(
            name=name,
            min_replicas=pool.min_replicas,
            max_replicas=pool.max_replicas,
            gpus_per_replica=pool.gpus_per_replica,
            performance=_performance(pool, field=f"spec.pools.{name}", model_source=model_source),
            template=template_of(pool),
            price_per_gpu_hour=None if pool.price_per_gpu_hour is None else float(pool.price_per_gpu_hour),
            watts_per_gpu=None if pool.watts_per_gpu is None else float(pool.watts_per_gpu),
        )
        for name, pool in by_name.items()
        if pool is not None and pool.max_replicas > 0
    }
    if not on:
        raise SpecError(
            field="spec.pools",
            value="without a replica",
            rule="at least one pool must have maxReplicas above 0",
            advice="give mixed a maxReplicas of at least 1, or prefill and decode one each",
        )
    shape = next(iter(on.values()))
    if conversion is Conversion.ENABLED:
        on = _with_conversion(on)
    prefill, decode, mixed = (on.get(name, _switched_off(name, shape)) for name in by_name)
    return prefill, decode, mixed


def _with_conversion(pools: Mapping[PoolName, core.PoolSpec]) -> dict[PoolName, core.PoolSpec]:
    """Pools that agree with another one in all that their Pods rest on become interchangeable.

    Their template changes with it, because their engines are configured otherwise: replicas of before are replaced.
    """

    def agrees(pool: core.PoolSpec) -> bool:
        shape = pool.template, pool.performance
        return any(shape == (item.template, item.performance) for item in pools.values() if item is not pool)

    return {
        name: replace(pool, interchangeable=True, template=_digest({"every phase": pool.template}))
        if agrees(pool)
        else pool
        for name, pool in pools.items()
    }


def _switched_off(name: PoolName, shape: core.PoolSpec) -> core.PoolSpec:
    return core.PoolSpec(
        name=name,
        min_replicas=0,
        max_replicas=0,
        gpus_per_replica=shape.gpus_per_replica,
        performance=shape.performance,
    )


def _performance(pool: Pool, *, field: str, model_source: str) -> PerformanceModel:
    chosen = pool.performance
    if chosen is None:
        return _performance_by_hardware(pool, field=field, model_source=model_source)
    if chosen.coefficients is not None:
        return _measured_performance(chosen.coefficients)
    if chosen.profile is None:
        raise SpecError(
            field=f"{field}.performance",
            value="empty",
            rule="exactly one of profile and coefficients describes the speed",
            advice="set one of them",
        )
    return _performance_by_name(pool, name=chosen.profile, field=field)


def _performance_by_name(pool: Pool, *, name: str, field: str) -> PerformanceModel:
    try:
        found = profile(name)
    except SpecError as error:
        raise SpecError(
            field=f"{field}.{error.field}", value=error.value, rule=error.rule, advice=error.advice
        ) from error
    shape = (pool.tensor_parallelism, pool.pipeline_stages)
    if shape != (found.tensor_parallel, 1):
        raise SpecError(
            field=f"{field}.performance.profile",
            value=repr(name),
            rule=f"it was measured with tensor parallelism {found.tensor_parallel} and the pool has "
            f"tensor {shape[0]} x pipeline {shape[1]}",
            advice="name a profile of the pool's own parallelism, or set performance.coefficients",
        )
    return found.performance


def _performance_by_hardware(pool: Pool, *, field: str, model_source: str) -> PerformanceModel:
    """The built-in profile for model, GPU product and tensor parallelism."""
    advice = "set performance.profile or performance.coefficients"
    if pool.pipeline_stages > 1:
        raise SpecError(
            field=f"{field}.performance",
            value="absent",
            rule="the built-in profiles hold for one pipeline stage",
            advice=advice,
        )
    product = gpu_product(pool)
    if isinstance(product, Missing):
        raise SpecError(
            field=f"{field}.performance",
            value="absent",
            rule=product.message,
            advice=f"{advice}, or put {GPU_PRODUCT_LABEL} into nodeSelector",
        )
    found = find_profile(model_source, product, pool.tensor_parallelism)
    if isinstance(found, Missing):
        raise SpecError(
            field=f"{field}.performance",
            value="absent",
            rule=f"no built-in profile fits {model_source} on {pool.tensor_parallelism} x {product}",
            advice=advice,
        )
    return found.performance


def gpu_product(pool: Pool) -> str | Missing:
    """GPU product that the pool's placement pins: from the node selector, or a required single value of the affinity."""
    if GPU_PRODUCT_LABEL in pool.node_selector:
        return pool.node_selector[GPU_PRODUCT_LABEL]
    affinity = pool.affinity.node_affinity if pool.affinity else None
    required = affinity.required_during_scheduling_ignored_during_execution if affinity else None
    terms = required.node_selector_terms if required else ()
    pinned = {_pinned_products(term) for term in terms}
    match [*pinned]:
        case [(product,)]:
            return product
    return Missing("NoGpuProduct", f"the pool's placement does not pin one {GPU_PRODUCT_LABEL}")


def _pinned_products(term: NodeSelectorTerm) -> tuple[str, ...]:
    """GPU products that a term admits; empty when it admits any."""
    for expression in term.match_expressions:
        if expression.key == GPU_PRODUCT_LABEL and expression.operator is NodeSelectorOperator.IN:
            return expression.values
    return ()


def _measured_performance(measured: Coefficients) -> PerformanceModel:
    return PerformanceModel(
        prefill=PrefillModel(
            base_seconds=measured.prefill.base_nanoseconds * _NANO,
            per_token_seconds=measured.prefill.per_token_picoseconds * _PICO,
            per_token_squared_seconds=measured.prefill.per_token_squared_picoseconds * _PICO,
        ),
        decode=DecodeModel(
            base_seconds=measured.decode.base_nanoseconds * _NANO,
            per_sequence_seconds=measured.decode.per_sequence_picoseconds * _PICO,
            per_context_token_seconds=measured.decode.per_context_token_picoseconds * _PICO,
        ),
        kv_capacity_tokens=measured.kv_capacity_tokens,
        max_batch_size=measured.max_batch_size,
    )

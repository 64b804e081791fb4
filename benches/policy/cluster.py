"""The cluster of the benchmark: Llama-3.1-70B in FP8 on H200, tensor parallel 2, for every policy alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from benches.policy.workloads import WARM_UP_SECONDS
from inferencecluster.api.scaling import DOWN_WINDOW_SECONDS
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.profiles import Profile, profile
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
from inferencecluster.simulator.scenario import Scenario

GPUS_PER_REPLICA: Final = 2
KV_CAPACITY_TOKENS: Final = 1_120_000
FIXED_REPLICAS: Final = 24
FIXED_GPUS: Final = FIXED_REPLICAS * GPUS_PER_REPLICA
INSIDE: Final = 0.99
"""Share of requests inside the SLO that counts as holding it."""
SLO: Final = Slo(percentile=99, ttft_seconds=1.0, itl_seconds=0.040)
"""The TTFT target comes on top of each request's own prefill on an empty replica (`Scenario.scored_slo`)."""

_ELASTIC_GPUS: Final = 2000
"""Never binds: question (i) is about need."""
_ROOM: Final = 2
_LEAST_MAXIMUM: Final = 4
"""Every elastic pool may grow to twice what its busiest moment needs, as a careful administrator bounds it: an autoscaler that
chases a queue through a boot would otherwise be judged by a bound that nobody sets."""
_INTERVAL_SECONDS: Final = 15.0
"""The API's default."""
_DEADLINE_SECONDS: Final = 1800.0

Sizes = tuple[int, int, int]
"""Prefill, decode, mixed."""


def default_profile() -> Profile:
    """The built-in profile with the benchmark's KV memory."""
    known = profile("llama-3.1-70b-fp8/h200-tp2")
    return replace(known, performance=replace(known.performance, kv_capacity_tokens=KV_CAPACITY_TOKENS))


def hardware() -> dict[PoolName, Hardware]:
    """Of every pool; what the operator believes of it is true."""
    return {
        name: Hardware.of_profile(default_profile(), name, itl_seconds=SLO.itl_seconds) for name in PoolName
    }


def elastic(*, boot_seconds: float, initial: Sizes, peak: Sizes, seed: int) -> Scenario:
    """GPUs can be had. `peak` is what hindsight needs at most; the mixed pool may be as large as prefill needs to be."""
    prefill, decode = (max(_LEAST_MAXIMUM, _ROOM * size) for size in peak[:2])
    maxima = (prefill, decode, max(_LEAST_MAXIMUM, peak[0]))
    spec = _spec(boot_seconds, minima=(1, 1, 0), maxima=maxima, budget=_ELASTIC_GPUS)
    return _scenario(spec, initial=initial, seed=seed)


def reserved(*, boot_seconds: float, initial: Sizes, seed: int, conversion: bool) -> Scenario:
    """24 replicas that are paid for, in pools of any size: `budget.minGpus` is `budget.gpus`.

    Without `conversion` pools trade by drain and boot: all that an autoscaler of replica counts can ask for.
    """
    maxima = (FIXED_REPLICAS - 1, FIXED_REPLICAS - 1, FIXED_REPLICAS)
    spec = _spec(boot_seconds, minima=(1, 1, 0), maxima=maxima, budget=FIXED_GPUS)
    spec = replace(spec, kept_gpus=FIXED_GPUS)
    return with_conversion(_scenario(spec, initial=initial, seed=seed), enabled=conversion)


def with_conversion(scenario: Scenario, *, enabled: bool) -> Scenario:
    """With `spec.scaling.conversion` as told. Enabled: every engine takes any work."""
    prefill, decode, mixed = (replace(pool, interchangeable=enabled) for pool in scenario.spec.pools)
    spec = replace(scenario.spec, pools=(prefill, decode, mixed))
    engines = {
        pool.name: Hardware.of_profile(default_profile(), pool.iterates_like, itl_seconds=SLO.itl_seconds)
        for pool in spec.pools
    }
    return replace(scenario, spec=spec, hardware=engines)


def fixed(sizes: Sizes, *, seed: int) -> Scenario:
    """Pools that never change. Pools without replicas are off."""
    spec = _spec(0.0, minima=sizes, maxima=sizes, budget=FIXED_GPUS)
    return _scenario(replace(spec, mode=ScalingMode.FIXED), initial=sizes, seed=seed)


def by_pool(sizes: Sizes) -> Mapping[PoolName, int]:
    """By name."""
    return dict(zip(PoolName, sizes, strict=True))


def _spec(boot_seconds: float, *, minima: Sizes, maxima: Sizes, budget: int) -> ClusterSpec:
    performance = default_profile().performance
    prefill, decode, mixed = (
        PoolSpec(name, least, most, GPUS_PER_REPLICA, performance)
        for name, least, most in zip(PoolName, minima, maxima, strict=True)
    )
    return ClusterSpec(
        generation=1,
        revision="benchmark",
        budget_gpus=budget,
        slo=SLO,
        pools=(prefill, decode, mixed),
        mode=ScalingMode.AUTOMATIC,
        behavior=Behavior(_at_once(0.0), _at_once(float(DOWN_WINDOW_SECONDS))),
        interval_seconds=_INTERVAL_SECONDS,
        boot_seconds=boot_seconds,
        startup_deadline_seconds=_DEADLINE_SECONDS,
        drain_deadline_seconds=_DEADLINE_SECONDS,
        overflow_tokens=None,
    )


def _at_once(window: float) -> ScalingRules:
    return ScalingRules(window, SelectPolicy.MAX, ())


def _scenario(spec: ClusterSpec, *, initial: Sizes, seed: int) -> Scenario:
    return Scenario(
        spec=spec,
        hardware=hardware(),
        initial=by_pool(initial),
        seed=seed,
        warm_up_seconds=WARM_UP_SECONDS,
    )

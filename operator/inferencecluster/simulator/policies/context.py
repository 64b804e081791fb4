"""What a policy may be built from, and what several policies do alike.

The mixed pool is at its minimum under every baseline, because none of the published systems has one; where both base
pools are off (`maxReplicas` 0) it is the one pool there is, and is sized like any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.observation import Flow
from inferencecluster.core.spec import ClusterSpec, PoolSpec
from inferencecluster.simulator.workload import Request

ROUNDING: Final = 1e-9
"""A size that exceeds a whole number only by the error of floating point is that number."""
LENGTH_REQUESTS: Final = 64.0
"""Requests that a running mean of lengths looks back over: Dynamo's planner keeps as many samples
(`max_num_fpm_samples`)."""


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """What an administrator knows before the first request: the cluster, and what load and stress tests told."""

    spec: ClusterSpec
    boot_seconds: float
    """Longest boot to plan for. Only hindsight and TokenScale ask; the others never knew of boots."""
    prompt_tokens: float
    """Mean prompt length of the workload: where a published system relies on profiles or stress tests, at these."""
    output_tokens: float
    """Mean output length."""
    static_sizes: Mapping[PoolName, int] = field(default_factory=lambda: MappingProxyType({}))
    """What the static policy holds."""
    workload: Iterable[Request] = ()
    """The future, by ascending arrival, for hindsight only. Read once."""
    target: float | None = None
    """The one knob of a policy that has one (its class says which); None for its default."""


def with_mixed_minimum(spec: ClusterSpec, sizes: Mapping[PoolName, int]) -> Mapping[PoolName, int]:
    """`sizes`, and the mixed pool at its minimum unless they speak of it."""
    return {PoolName.MIXED: spec.pool(PoolName.MIXED).min_replicas, **sizes}


def bounded(pool: PoolSpec, replicas: int) -> int:
    """`replicas` within the pool's bounds, at least 1: autoscalers do not go to zero unless told to."""
    return min(max(replicas, pool.min_replicas, 1), max(pool.max_replicas, 0))


def whole(replicas: float) -> int:
    """Rounded up, floating-point noise aside; never negative."""
    return max(0, math.ceil(replicas - ROUNDING))


@dataclass(slots=True)
class Lengths:
    """Running means of prompt and output lengths; what the profile said until requests were seen."""

    prompt: float
    output: float

    def learn(self, flow: Flow) -> None:
        """Take one interval in; older requests fade out over `LENGTH_REQUESTS`."""
        if flow.requests > 0:
            share = min(1.0, flow.requests / LENGTH_REQUESTS)
            self.prompt += share * (flow.prompt_tokens / flow.requests - self.prompt)
        if flow.completed > 0:
            share = min(1.0, flow.completed / LENGTH_REQUESTS)
            self.output += share * (flow.completed_output_tokens / flow.completed - self.output)

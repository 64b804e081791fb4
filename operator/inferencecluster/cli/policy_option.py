"""`--policy NAME@KNOB`: who sizes the pools instead of the operator, and how it is set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from inferencecluster.cli.workload import Workload
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.simulator.policies.context import PolicyContext
from inferencecluster.simulator.policies.hindsight import Hindsight
from inferencecluster.simulator.policies.registry import POLICIES, build_policy
from inferencecluster.simulator.signals import SizingPolicy

_LEAST_SHARE: Final = 0.01
"""Below a hundredth, a share asks for more than a hundred times the replicas that the load needs."""


@dataclass(frozen=True, slots=True)
class Knob:
    """The number behind the `@`, with its bounds."""

    meaning: str
    least: float
    most: float


def _share(meaning: str) -> Knob:
    return Knob(meaning, _LEAST_SHARE, 1.0)


KNOBS: Final[Mapping[str, Knob]] = MappingProxyType(
    {
        "hpa-gpu-utilization": _share("the utilisation to steer at"),
        "hpa-queue": Knob("the waiting requests per replica to steer at", 0.1, 1000.0),
        "hpa-busy": _share("the busy share to steer at"),
        "knative-kpa": _share("the utilisation to steer at"),
        "aibrix-apa": _share("the share of memory and concurrency to steer at"),
        "dynamo-load": _share("the sensitivity for scaling down"),
        "heteroscale": _share("the share of the highest rate to steer at"),
        "hindsight": Knob("the margin of both targets", 0.0, 0.9),
    }
)
"""Of each policy that has one."""


@dataclass(frozen=True, slots=True)
class PolicyOption:
    """A policy as it was asked for."""

    name: str
    knob: float | None

    def __str__(self) -> str:
        """As on the command line."""
        return self.name if self.knob is None else f"{self.name}@{self.knob:g}"

    def build(self, spec: ClusterSpec, workload: Workload) -> SizingPolicy:
        """A fresh policy for one run."""
        prompts = outputs = 0
        for request in workload:
            prompts += request.prompt_tokens
            outputs += request.output_tokens
        context = PolicyContext(
            spec=spec,
            boot_seconds=spec.boot_seconds,
            prompt_tokens=prompts / len(workload),
            output_tokens=outputs / len(workload),
            workload=workload,
            target=self.knob,
        )
        if self.name == "static":
            context = _with_peak_sizes(context)
        return build_policy(self.name, context)


def parse_policy(text: str) -> PolicyOption:
    """`hpa-busy` or `hpa-busy@0.7`. Raises `SpecError` for an unknown name, or a knob that the policy does not have or not in these bounds."""
    name, separator, written = text.partition("@")
    if name not in POLICIES:
        raise SpecError(
            field="--policy",
            value=repr(text),
            rule=f"the known policies are {', '.join(POLICIES)}",
            advice="name one of them, or none for the operator's own sizing",
        )
    if not separator:
        return PolicyOption(name, None)
    knob = KNOBS.get(name)
    if knob is None:
        raise SpecError(
            field="--policy",
            value=repr(text),
            rule=f"{name} has no knob",
            advice=f"write {name}; those with one are {', '.join(KNOBS)}",
        )
    try:
        value = float(written)
    except ValueError:
        value = float("nan")
    if not knob.least <= value <= knob.most:
        raise SpecError(
            field="--policy",
            value=repr(text),
            rule=f"the knob is a number from {knob.least:g} to {knob.most:g}, {knob.meaning}",
            advice=f"write for example {name}@{min(0.7, knob.most):g}",
        )
    return PolicyOption(name, value)


def _with_peak_sizes(context: PolicyContext) -> PolicyContext:
    """Static peak: the sizes that hindsight needs in the busiest moment, within each pool's bounds."""
    peak: Mapping[PoolName, int] = Hindsight(context).peak_sizes()
    sizes = {
        pool.name: min(max(peak[pool.name], pool.min_replicas), pool.max_replicas)
        for pool in context.spec.pools
    }
    return replace(context, workload=(), static_sizes=MappingProxyType(sizes))

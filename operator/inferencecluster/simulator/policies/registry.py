"""Every policy by the name that the command line and the benchmark use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from inferencecluster.core.errors import SpecError
from inferencecluster.simulator.policies.aibrix import AibrixApa
from inferencecluster.simulator.policies.context import PolicyContext
from inferencecluster.simulator.policies.dynamo_load import DynamoLoad
from inferencecluster.simulator.policies.dynamo_throughput import DynamoThroughput
from inferencecluster.simulator.policies.heteroscale import HeteroScale
from inferencecluster.simulator.policies.hindsight import Hindsight
from inferencecluster.simulator.policies.hpa_policies import BusyShareHpa, GpuUtilizationHpa
from inferencecluster.simulator.policies.keda import QueueHpa
from inferencecluster.simulator.policies.knative import KnativeKpa
from inferencecluster.simulator.policies.static import StaticSizes
from inferencecluster.simulator.policies.tokenscale import TokenScale
from inferencecluster.simulator.policies.wva import WvaSaturation, WvaTokens
from inferencecluster.simulator.signals import SizingPolicy

POLICIES: Final[Mapping[str, Callable[[PolicyContext], SizingPolicy]]] = MappingProxyType(
    {
        policy.name: policy
        for policy in (
            StaticSizes,
            GpuUtilizationHpa,
            QueueHpa,
            BusyShareHpa,
            KnativeKpa,
            AibrixApa,
            WvaSaturation,
            WvaTokens,
            DynamoThroughput,
            DynamoLoad,
            HeteroScale,
            TokenScale,
            Hindsight,
        )
    }
)
"""Factories in the order of tables. A policy keeps windows and cool-downs: build one for each run."""


def build_policy(name: str, context: PolicyContext) -> SizingPolicy:
    """A fresh policy. Raises `SpecError` that lists the known names."""
    factory = POLICIES.get(name)
    if factory is None:
        raise SpecError(
            field="policy",
            value=repr(name),
            rule=f"the known policies are {', '.join(POLICIES)}",
            advice="name one of them, or none for the operator's own sizing",
        )
    return factory(context)

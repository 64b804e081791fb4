"""The custom resource `InferenceCluster`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field, ValidationError

from inferencecluster.api.engine import Engine, Model
from inferencecluster.api.names import (
    API_VERSION,
    CLUSTER_KIND,
    CLUSTER_NAME_PATTERN,
    MAX_CLUSTER_NAME_LENGTH,
)
from inferencecluster.api.pools import Pools
from inferencecluster.api.routing import Router
from inferencecluster.api.scaling import Budget, Scaling, SloTargets
from inferencecluster.api.schema import DEFAULTED, ApiModel, Rule, rules
from inferencecluster.api.status import InferenceClusterStatus
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName


def _minimum_gpus(pool: PoolName) -> str:
    """CEL: GPUs that the pool's minimum needs, 0 when the pool is absent."""
    path = f"self.pools.{pool}"
    return f"(has({path}) ? {path}.minReplicas * {path}.gpusPerReplica : 0)"


def _replica_gpus(pool: PoolName) -> str:
    """CEL: GPUs of one replica of the pool, 0 when the pool is absent or switched off."""
    path = f"self.pools.{pool}"
    return f"(has({path}) && {path}.maxReplicas > 0 ? {path}.gpusPerReplica : 0)"


_ALL_MINIMUMS: Final = " + ".join(_minimum_gpus(pool) for pool in PoolName)
_PAIR: Final = (
    f"{_replica_gpus(PoolName.PREFILL)} + {_replica_gpus(PoolName.DECODE)} + {_minimum_gpus(PoolName.MIXED)}"
)

_SPEC_RULES: Final = (
    Rule(
        rule=f"{_ALL_MINIMUMS} <= self.budget.gpus",
        message="budget.gpus does not hold the minimums (sum of minReplicas x gpusPerReplica): "
        "raise budget.gpus or lower minReplicas",
        detail="budget.gpus is %d, but the minimums need %d GPUs (prefill %d, decode %d, mixed %d): "
        "raise budget.gpus or lower minReplicas",
        values=("self.budget.gpus", _ALL_MINIMUMS, *(_minimum_gpus(pool) for pool in PoolName)),
        path=".budget.gpus",
    ),
    Rule(
        rule=f"{_PAIR} <= self.budget.gpus",
        message="budget.gpus does not hold one prefill and one decode replica, which only serve together, beside "
        "mixed.minReplicas: raise budget.gpus or lower gpusPerReplica",
        detail="budget.gpus is %d, but one prefill and one decode replica, which only serve together, and mixed.minReplicas "
        "need %d GPUs: raise budget.gpus or lower gpusPerReplica",
        values=("self.budget.gpus", _PAIR),
        path=".budget.gpus",
    ),
    Rule(
        rule=f"{_replica_gpus(PoolName.MIXED)} <= self.budget.gpus",
        message="budget.gpus does not hold one mixed replica: raise budget.gpus or lower pools.mixed.gpusPerReplica",
        path=".budget.gpus",
    ),
    Rule(
        rule="self.router.maxQueueSeconds * 1000 >= self.slo.ttftMilliseconds",
        message="router.maxQueueSeconds is shorter than slo.ttftMilliseconds, so requests would be refused "
        "that could still meet the target: raise router.maxQueueSeconds or lower slo.ttftMilliseconds",
        path=".router.maxQueueSeconds",
    ),
    Rule(
        rule="!has(self.router.wakeQueueSeconds) || self.router.wakeQueueSeconds >= self.scaling.expectedBootSeconds",
        message="router.wakeQueueSeconds is shorter than scaling.expectedBootSeconds, so the requests that wake a cluster "
        "would be refused before it serves: raise router.wakeQueueSeconds or leave it out",
        path=".router.wakeQueueSeconds",
    ),
)

_NAME_RULE: Final = Rule(
    rule=(
        f"self.metadata.name.size() <= {MAX_CLUSTER_NAME_LENGTH} && "
        f"self.metadata.name.matches('{CLUSTER_NAME_PATTERN}')"
    ),
    message=f"metadata.name must be a DNS label of at most {MAX_CLUSTER_NAME_LENGTH} characters that starts with a letter, "
    "because the names of its Pods and Services continue it: choose another name",
)


class ObjectMeta(ApiModel):
    """The part of meta/v1 `ObjectMeta` that the operator reads."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    deletion_timestamp: datetime | None = None
    finalizers: tuple[str, ...] = ()
    labels: Mapping[str, str] = Field(default_factory=dict)
    annotations: Mapping[str, str] = Field(default_factory=dict)


class InferenceClusterSpec(ApiModel):
    """What to serve, how well, and within which limits. The operator never writes it."""

    model_config = ConfigDict(json_schema_extra=rules(*_SPEC_RULES))

    model: Model
    """The weights and the name that they are served under."""
    engine: Engine
    """The engine software of all replicas."""
    slo: SloTargets
    """Latency that requests should meet; the pools are sized for it."""
    budget: Budget
    """What the cluster may take at most."""
    pools: Pools
    """Bounds, hardware shape, speed and placement of the pools."""
    scaling: Annotated[Scaling, DEFAULTED] = Scaling()
    """Who decides the sizes of the pools, how often and with which limits."""
    router: Annotated[Router, DEFAULTED] = Router()
    """The data plane that clients talk to."""


class InferenceCluster(ApiModel):
    """One model served by prefill, decode and mixed pools of engines that follow the live demand."""

    model_config = ConfigDict(json_schema_extra=rules(_NAME_RULE))

    api_version: str = API_VERSION
    kind: str = CLUSTER_KIND
    metadata: ObjectMeta
    spec: InferenceClusterSpec
    """What to serve, how well, and within which limits."""
    status: InferenceClusterStatus | None = None
    """What the operator last saw and did."""


def parse_cluster(manifest: Mapping[str, Any]) -> InferenceCluster:
    """The object as the API server returned it, checked and with the operator's defaults.

    Raises `SpecError` on the first field that this version of the operator cannot read: the CRD
    that admitted it is of another version.
    """
    try:
        return InferenceCluster.model_validate(manifest)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise SpecError(
            field=".".join(str(part) for part in first["loc"]),
            value=str(first["input"])[:_SHOWN_VALUE_CHARACTERS],
            rule=_SUBJECT.sub("it should ", first["msg"]),
            advice="correct the field, or install the CRDs and the operator from the same release",
        ) from error


_SUBJECT: Final = re.compile(r"^(Input|String) should ")
"""What pydantic calls the value; the sentence has named it already."""
_SHOWN_VALUE_CHARACTERS: Final = 80
"""Enough to recognise the value; conditions are read in a terminal."""

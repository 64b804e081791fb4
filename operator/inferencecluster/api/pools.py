"""`spec.pools`: bounds, hardware shape, speed and placement of prefill, decode and mixed."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import ConfigDict, Field

from inferencecluster.api.placement import Affinity, ContainerResources, Toleration, TopologySpread
from inferencecluster.api.scalars import (
    MAX_GPUS_PER_REPLICA,
    MAX_REPLICAS,
    Annotations,
    Labels,
    NodeLabels,
    ResourceName,
)
from inferencecluster.api.schema import ATOMIC, DEFAULTED, ApiModel, Rule, checked, rules
from inferencecluster.core.fleet import PoolName

Replicas = Annotated[int, Field(ge=0, le=MAX_REPLICAS)]
Gpus = Annotated[int, Field(ge=1, le=MAX_GPUS_PER_REPLICA)]

SECOND_IN_NANOSECONDS: Final = 1_000_000_000
SECOND_IN_PICOSECONDS: Final = 1_000_000_000_000


class Parallelism(ApiModel):
    """How one replica's model is cut over its GPUs."""

    tensor: Gpus
    """Tensor parallelism."""
    pipeline: Gpus | None = None
    """Pipeline parallelism; absent means 1."""


class PrefillCoefficients(ApiModel):
    """t(L) = base + perToken*L + perTokenSquared*L^2 for a prompt of L uncached tokens, alone on one replica."""

    base_nanoseconds: Annotated[int, Field(ge=0, le=10 * SECOND_IN_NANOSECONDS)]
    """Time of an empty prefill, in nanoseconds."""
    per_token_picoseconds: Annotated[int, Field(ge=1, le=SECOND_IN_PICOSECONDS)]
    """Time per prompt token, in picoseconds."""
    per_token_squared_picoseconds: Annotated[int, Field(ge=0, le=SECOND_IN_NANOSECONDS)]
    """Time per squared prompt token (attention), in picoseconds."""


class DecodeCoefficients(ApiModel):
    """t(B, S) = base + perSequence*B + perContextToken*S for a step over B sequences with S context tokens."""

    base_nanoseconds: Annotated[int, Field(ge=0, le=10 * SECOND_IN_NANOSECONDS)]
    """Time of a step over nothing (reading the weights), in nanoseconds."""
    per_sequence_picoseconds: Annotated[int, Field(ge=1, le=SECOND_IN_PICOSECONDS)]
    """Time per sequence of the batch, in picoseconds."""
    per_context_token_picoseconds: Annotated[int, Field(ge=0, le=SECOND_IN_NANOSECONDS)]
    """Time per context token of the batch, in picoseconds."""


class Coefficients(ApiModel):
    """A measured performance model of one replica."""

    prefill: PrefillCoefficients
    """Time of a prefill."""
    decode: DecodeCoefficients
    """Time of a decode step."""
    kv_capacity_tokens: Annotated[int, Field(ge=1, le=1_000_000_000)]
    """Tokens whose KV cache one replica can hold."""
    max_batch_size: Annotated[int, Field(ge=1, le=65_536)]
    """Largest decode batch the engine is configured for."""


class Performance(ApiModel):
    """Speed of one replica: the name of a built-in profile, or measured coefficients."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule="has(self.profile) != has(self.coefficients)",
                message="exactly one of profile and coefficients describes the speed: set one, remove the other",
            )
        )
    )

    profile: (
        Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[a-z0-9][-a-z0-9._/]*$")] | None
    ) = None
    """Name of a built-in profile, such as llama-3.1-70b-bf16/a100-tp4."""
    coefficients: Coefficients | None = None
    """Measured coefficients, for hardware or models without a profile."""


_PIPELINE: Final = "(has(self.parallelism.pipeline) ? self.parallelism.pipeline : 1)"


class Pool(ApiModel):
    """One pool: a home for replicas of one hardware shape."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule="self.minReplicas <= self.maxReplicas",
                message="minReplicas must not exceed maxReplicas: lower minReplicas or raise maxReplicas",
                detail="minReplicas %d exceeds maxReplicas %d: lower minReplicas or raise maxReplicas",
                values=("self.minReplicas", "self.maxReplicas"),
                path=".minReplicas",
            ),
            Rule(
                rule=f"!has(self.parallelism) || self.parallelism.tensor * {_PIPELINE} == self.gpusPerReplica",
                message="parallelism.tensor x parallelism.pipeline must equal gpusPerReplica: change one of them",
                detail="parallelism.tensor %d x parallelism.pipeline %d must equal gpusPerReplica %d: change one of them",
                values=("self.parallelism.tensor", _PIPELINE, "self.gpusPerReplica"),
                path=".parallelism",
            ),
            Rule(
                rule="!has(self.extraResources) || !(self.gpuResourceName in self.extraResources)",
                message="extraResources must not name gpuResourceName, whose count is gpusPerReplica: remove it there",
                path=".extraResources",
            ),
        )
    )

    min_replicas: Replicas
    """Fewest replicas; in Fixed mode the size of the pool. prefill and decode reach 0 only together."""
    max_replicas: Replicas
    """Most replicas; 0 switches the pool off. prefill and decode are switched off only together."""
    gpus_per_replica: Gpus
    """GPUs of one replica, all on one node."""
    gpu_resource_name: Annotated[ResourceName, DEFAULTED] = "nvidia.com/gpu"
    """Extended resource that the GPUs are requested as, such as nvidia.com/mig-3g.40gb."""
    parallelism: Parallelism | None = None
    """Cut of the model over the GPUs; absent means tensor parallelism over all of them."""
    price_per_gpu_hour: (
        Annotated[str, Field(max_length=16, pattern=r"^[0-9]{1,6}(\.[0-9]{1,4})?$")] | None
    ) = None
    """Price of one GPU for an hour, such as "2.49", in any currency that is the same for all pools; for scaling.objective and metrics."""
    watts_per_gpu: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Power of one GPU under load, in watts; for scaling.objective and metrics."""
    performance: Performance | None = None
    """Speed of one replica; absent means the built-in profile for the model, the node selector's nvidia.com/gpu.product and the tensor parallelism."""
    node_selector: NodeLabels = Field(default_factory=dict)
    """Labels that a node must carry."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32), ATOMIC] = ()
    """Taints that replicas accept."""
    affinity: Affinity | None = None
    """Node affinity of the replicas."""
    topology_spread: Annotated[tuple[TopologySpread, ...], Field(max_length=4), ATOMIC] = ()
    """How the pool's replicas spread over zones, racks or nodes."""
    resources: ContainerResources | None = None
    """CPU, memory and disk of the engine container."""
    extra_resources: Annotated[
        dict[str, Annotated[int, Field(ge=1, le=1000)]],
        Field(max_length=8),
        checked(
            Rule(
                rule="self.all(key, key.size() <= 317 && key.contains('/'))",
                message="extraResources holds extended resources such as rdma/ib: "
                "cpu, memory and ephemeral-storage belong into resources",
            )
        ),
    ] = Field(default_factory=dict)
    """Further devices of one replica by resource name, such as rdma/ib: 1."""
    labels: Labels = Field(default_factory=dict)
    """Labels added to the replicas."""
    annotations: Annotations = Field(default_factory=dict)
    """Annotations added to the replicas."""

    @property
    def pipeline_stages(self) -> int:
        """Pipeline parallelism of one replica, >= 1."""
        return (self.parallelism.pipeline or 1) if self.parallelism else 1

    @property
    def tensor_parallelism(self) -> int:
        """Tensor parallelism of one replica; times `pipeline_stages` it is `gpus_per_replica`."""
        return self.parallelism.tensor if self.parallelism else self.gpus_per_replica


def _bound(pool: PoolName, field: str) -> str:
    """CEL: the bound of a pool that may be absent."""
    return f"(has(self.{pool}) ? self.{pool}.{field} : 0)"


_PREFILL_MIN, _PREFILL_MAX = _bound(PoolName.PREFILL, "minReplicas"), _bound(PoolName.PREFILL, "maxReplicas")
_DECODE_MIN, _DECODE_MAX = _bound(PoolName.DECODE, "minReplicas"), _bound(PoolName.DECODE, "maxReplicas")
_MIXED_MAX = _bound(PoolName.MIXED, "maxReplicas")


class Pools(ApiModel):
    """The three pools. An absent pool is one with 0 replicas at least and at most."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule=f"({_PREFILL_MAX} == 0) == ({_DECODE_MAX} == 0)",
                message="prefill.maxReplicas and decode.maxReplicas must both be 0 or both be above 0, "
                "because neither phase can end without the other: change one of them",
                detail="prefill.maxReplicas is %d and decode.maxReplicas is %d, but neither phase can end without the other: "
                "set both to 0 (mixed alone serves) or both above 0",
                values=(_PREFILL_MAX, _DECODE_MAX),
            ),
            Rule(
                rule=f"({_PREFILL_MIN} == 0) == ({_DECODE_MIN} == 0)",
                message="prefill.minReplicas and decode.minReplicas must both be 0 or both be above 0, "
                "because one without the other serves nothing: change one of them",
                detail="prefill.minReplicas is %d and decode.minReplicas is %d, but one without the other serves nothing: "
                "set both to 0 (scale to zero) or both above 0",
                values=(_PREFILL_MIN, _DECODE_MIN),
            ),
            Rule(
                rule=f"{_PREFILL_MAX} > 0 || {_DECODE_MAX} > 0 || {_MIXED_MAX} > 0",
                message="no pool may hold a replica: "
                "give mixed a maxReplicas of at least 1, or prefill and decode one each",
            ),
        )
    )

    prefill: Pool | None = None
    """Replicas whose home is the prompt phase (compute bound)."""
    decode: Pool | None = None
    """Replicas whose home is the token phase (memory bound)."""
    mixed: Pool | None = None
    """Replicas that serve whole requests, sized by the moment."""

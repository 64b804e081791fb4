"""Where replicas may run and what their containers may take: an allow-list with core/v1's own field names."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from inferencecluster.api.scalars import DAY_SECONDS, LabelKey, LabelValue, Quantity
from inferencecluster.api.schema import ATOMIC, ApiModel, Rule, rules


class TaintEffect(StrEnum):
    """core/v1 `TaintEffect`."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class TolerationOperator(StrEnum):
    """core/v1 `TolerationOperator`."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class NodeSelectorOperator(StrEnum):
    """core/v1 `NodeSelectorOperator`."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"
    GREATER_THAN = "Gt"
    LESS_THAN = "Lt"


class WhenUnsatisfiable(StrEnum):
    """core/v1 `UnsatisfiableConstraintAction`."""

    DO_NOT_SCHEDULE = "DoNotSchedule"
    SCHEDULE_ANYWAY = "ScheduleAnyway"


class Toleration(ApiModel):
    """core/v1 `Toleration`."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule="!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
                message="operator Exists takes no value: remove value, or use operator Equal",
                path=".value",
            ),
            Rule(
                rule="has(self.key) || (has(self.operator) && self.operator == 'Exists')",
                message="a toleration without key needs operator Exists: set key, or operator to Exists",
                path=".key",
            ),
            Rule(
                rule="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
                message="tolerationSeconds needs effect NoExecute: set effect, or remove tolerationSeconds",
                path=".tolerationSeconds",
            ),
        )
    )

    key: LabelKey | None = None
    """Taint key; absent, with operator Exists, matches every taint."""
    operator: TolerationOperator | None = None
    """Exists or Equal; absent means Equal."""
    value: LabelValue | None = None
    """Taint value, for operator Equal."""
    effect: TaintEffect | None = None
    """Taint effect; absent matches all effects."""
    toleration_seconds: Annotated[int, Field(ge=0, le=DAY_SECONDS)] | None = None
    """For effect NoExecute: how long a running replica stays; absent means for ever."""


class NodeSelectorRequirement(ApiModel):
    """core/v1 `NodeSelectorRequirement`."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule=(
                    "self.operator in ['In', 'NotIn'] ? (has(self.values) && self.values.size() > 0) : "
                    "self.operator in ['Gt', 'Lt'] ? (has(self.values) && self.values.size() == 1) : "
                    "(!has(self.values) || self.values.size() == 0)"
                ),
                message="In and NotIn need values, Gt and Lt exactly one, Exists and DoesNotExist none: "
                "correct values or operator",
                path=".values",
            ),
            Rule(
                rule=(
                    "!(self.operator in ['Gt', 'Lt']) || !has(self.values) || "
                    "self.values.all(value, value.matches('^[0-9]{1,18}$'))"
                ),
                message="Gt and Lt compare whole numbers: write an integer of at most 18 digits, or use In",
                path=".values",
            ),
        )
    )

    key: LabelKey
    """Node label."""
    operator: NodeSelectorOperator
    """How the label's value relates to `values`."""
    values: Annotated[tuple[LabelValue, ...], Field(max_length=64), ATOMIC] = ()
    """Values for In and NotIn, one integer for Gt and Lt, none for Exists and DoesNotExist."""


class NodeSelectorTerm(ApiModel):
    """core/v1 `NodeSelectorTerm`: its expressions all hold."""

    match_expressions: Annotated[
        tuple[NodeSelectorRequirement, ...], Field(min_length=1, max_length=16), ATOMIC
    ]
    """Requirements on node labels, all of which must hold."""


class NodeSelector(ApiModel):
    """core/v1 `NodeSelector`: one of its terms holds."""

    node_selector_terms: Annotated[tuple[NodeSelectorTerm, ...], Field(min_length=1, max_length=16), ATOMIC]
    """Alternatives, one of which must hold."""


class PreferredSchedulingTerm(ApiModel):
    """core/v1 `PreferredSchedulingTerm`."""

    weight: Annotated[int, Field(ge=1, le=100)]
    """How much the preference counts, 1-100."""
    preference: NodeSelectorTerm
    """Nodes that are preferred."""


class NodeAffinity(ApiModel):
    """core/v1 `NodeAffinity`."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    """Nodes outside are never used."""
    preferred_during_scheduling_ignored_during_execution: Annotated[
        tuple[PreferredSchedulingTerm, ...], Field(max_length=16), ATOMIC
    ] = ()
    """Nodes that the scheduler prefers."""


class Affinity(ApiModel):
    """The part of core/v1 `Affinity` that speaks of nodes."""

    node_affinity: NodeAffinity | None = None
    """Node affinity of the replicas; admitted nodes also bound what the pool can grow to."""


class TopologySpread(ApiModel):
    """core/v1 `TopologySpreadConstraint` without the selector: it always counts the pool's own replicas."""

    max_skew: Annotated[int, Field(ge=1, le=100)]
    """Largest difference of replicas between two domains."""
    topology_key: LabelKey
    """Node label that names the domain, such as topology.kubernetes.io/zone."""
    when_unsatisfiable: WhenUnsatisfiable
    """DoNotSchedule keeps a replica Pending, ScheduleAnyway only prefers."""


class ResourceQuantities(ApiModel):
    """CPU, memory and disk of one container. GPUs come from gpusPerReplica."""

    cpu: Quantity | None = None
    """Cores, such as 8 or 500m."""
    memory: Quantity | None = None
    """Bytes, such as 64Gi."""
    ephemeral_storage: Quantity | None = Field(default=None, alias="ephemeral-storage")
    """Bytes of node-local disk, such as 100Gi."""


def _fits(field: str) -> Rule:
    """`field` as CEL escapes it."""
    name = field.replace("__dash__", "-")
    sides = [f"self.{side}.{field}" for side in ("requests", "limits")]
    absent = " || ".join(f"!has({path})" for path in ("self.requests", "self.limits", *sides))
    compared = [f"quantity(string({side}))" for side in sides]
    return Rule(
        rule=f"{absent} || {compared[0]}.compareTo({compared[1]}) <= 0",
        message=f"a container cannot reserve more {name} than it may use: lower requests, or raise limits",
        path=".requests",
    )


class ContainerResources(ApiModel):
    """core/v1 `ResourceRequirements`, without devices."""

    model_config = ConfigDict(
        json_schema_extra=rules(_fits("cpu"), _fits("memory"), _fits("ephemeral__dash__storage"))
    )

    requests: ResourceQuantities | None = None
    """What the scheduler reserves."""
    limits: ResourceQuantities | None = None
    """What the container may use at most."""

"""`spec.slo`, `spec.budget` and `spec.scaling`: what to reach, what to stay under and how fast to move."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import ConfigDict, Field

from inferencecluster.api.scalars import DAY_SECONDS, MAX_BUDGET_GPUS
from inferencecluster.api.schema import ATOMIC, DEFAULTED, ApiModel, Rule, rules
from inferencecluster.core.spec import Objective, PolicyType, ScalingMode, SelectPolicy

UP_WINDOW_SECONDS: Final = 0
"""HPA's default: up at once."""
DOWN_WINDOW_SECONDS: Final = 0
"""Not the HPA's 300: sizes hold what was needed within the last boot (`core.demand`), and two holds add up."""


class Conversion(StrEnum):
    """Whether replicas may move between pools without a restart."""

    DISABLED = "Disabled"
    """A replica that another pool needs drains, and another one boots; each pool's engines are tuned for their phase."""
    ENABLED = "Enabled"
    """Pools of one shape and speed share one engine configuration, which takes every phase, and their replicas move."""


class SloTargets(ApiModel):
    """Latency that requests should meet."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule="self.itlMilliseconds <= self.ttftMilliseconds",
                message="itlMilliseconds must not exceed ttftMilliseconds, because the first token "
                "takes at least one step: swap them if they are mixed up, or raise ttftMilliseconds",
                detail="itlMilliseconds %d exceeds ttftMilliseconds %d, but the first token takes at least one step: "
                "swap them if they are mixed up, or raise ttftMilliseconds",
                values=("self.itlMilliseconds", "self.ttftMilliseconds"),
                path=".itlMilliseconds",
            )
        )
    )

    percentile: Annotated[int, Field(ge=50, le=99), DEFAULTED] = 90
    """Share of requests, in per cent, that should meet both targets."""
    ttft_milliseconds: Annotated[int, Field(ge=10, le=600_000)]
    """Time to first token, from arrival at the router, in milliseconds."""
    itl_milliseconds: Annotated[int, Field(ge=1, le=10_000)]
    """Inter-token latency: mean time between two output tokens of a request, in milliseconds."""


class Budget(ApiModel):
    """What the cluster may take at most, and what it keeps."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule="!has(self.minGpus) || self.minGpus <= self.gpus",
                message="minGpus must not exceed gpus: lower minGpus or raise gpus",
                detail="minGpus %d exceeds gpus %d: lower minGpus or raise gpus",
                values=("self.minGpus", "self.gpus"),
                path=".minGpus",
            )
        )
    )

    gpus: Annotated[int, Field(ge=1, le=MAX_BUDGET_GPUS)]
    """Hard cap on the GPUs of all existing replicas at every instant: starting, draining and Pending ones count."""
    min_gpus: Annotated[int, Field(ge=0, le=MAX_BUDGET_GPUS)] | None = None
    """GPUs that are paid for anyway: demand removes no replica while all together hold no more. Absent means 0."""


class ScalingPolicy(ApiModel):
    """autoscaling/v2 `HPAScalingPolicy`: most change within a period."""

    type: PolicyType
    """Pods (replicas) or Percent of the current size."""
    value: Annotated[int, Field(ge=1, le=10_000)]
    """Replicas or per cent."""
    period_seconds: Annotated[int, Field(ge=1, le=1800)]
    """Length of the period."""


class ScalingRules(ApiModel):
    """autoscaling/v2 `HPAScalingRules` for one direction."""

    stabilization_window_seconds: Annotated[int, Field(ge=0, le=3600)] | None = None
    """How far back wishes count; absent means 0: up at once, and down when sizing wants less (it holds peaks itself)."""
    select_policy: SelectPolicy = SelectPolicy.MAX
    """Which of several policies binds; Disabled forbids the direction. Absent means Max."""
    policies: Annotated[tuple[ScalingPolicy, ...], Field(max_length=8), ATOMIC] = ()
    """Limits on the rate of change; none means that a change happens in one step."""


class ScalingBehavior(ApiModel):
    """autoscaling/v2 `HorizontalPodAutoscalerBehavior`, for each pool."""

    scale_up: ScalingRules = ScalingRules()
    """Growing. Absent means at once and in one step."""
    scale_down: ScalingRules = ScalingRules()
    """Shrinking. Absent means at once when sizing wants less; sizing itself holds peaks for as long as a boot takes."""


class Scaling(ApiModel):
    """Who decides the sizes of the pools, how often and with which limits."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                rule="self.expectedBootSeconds <= self.startupTimeoutSeconds",
                message="expectedBootSeconds must not exceed startupTimeoutSeconds, "
                "or every replica would be given up: raise startupTimeoutSeconds or lower expectedBootSeconds",
                detail="expectedBootSeconds %d exceeds startupTimeoutSeconds %d, so every replica would be given up: "
                "raise startupTimeoutSeconds or lower expectedBootSeconds",
                values=("self.expectedBootSeconds", "self.startupTimeoutSeconds"),
                path=".expectedBootSeconds",
            )
        )
    )

    mode: Annotated[ScalingMode, DEFAULTED] = ScalingMode.AUTOMATIC
    """Automatic; Recommend: decide and explain, leave sizes alone; External: HPA, KEDA or people scale the EnginePools; Fixed: every pool stays at minReplicas."""
    objective: Annotated[Objective, DEFAULTED] = Objective.COST
    """What to spare when budget.gpus binds: replicas that are only held are given up first where pricePerGpuHour (Cost) or wattsPerGpu (Power) is highest; Throughput: in proportion."""
    interval_seconds: Annotated[int, Field(ge=1, le=600), DEFAULTED] = 15
    """Time between two sizing decisions."""
    expected_boot_seconds: Annotated[int, Field(ge=1, le=7200), DEFAULTED] = 120
    """Time from creating a replica to its readiness, until measured boots replace it."""
    startup_timeout_seconds: Annotated[int, Field(ge=1, le=DAY_SECONDS), DEFAULTED] = 1800
    """A replica that is Pending or starting for longer is given up, and the wish lowered to what the nodes hold."""
    drain_timeout_seconds: Annotated[int, Field(ge=1, le=DAY_SECONDS), DEFAULTED] = 1800
    """A draining replica is deleted after this time even with work in flight; status tells."""
    conversion: Annotated[Conversion, DEFAULTED] = Conversion.DISABLED
    """Enabled: pools that agree in shape, placement, resources and performance share one engine configuration, and their replicas move from one to the other without a restart. A change restarts the replicas of such pools, as a rollout does."""
    behavior: ScalingBehavior = ScalingBehavior()
    """Stabilisation windows and rate limits per direction, with the HorizontalPodAutoscaler's own field names."""

"""What is simulated: the cluster as its user wrote it, the hardware as it is, and everything that may go wrong."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.sleep import may_sleep, wake_hold_seconds
from inferencecluster.core.spec import ClusterSpec, Slo
from inferencecluster.simulator.hardware import Hardware
from inferencecluster.simulator.links import CONTEXT_FIRST, Network

MAX_QUEUE_SECONDS: Final = 30.0
"""`spec.router.maxQueueSeconds`' default."""
METRICS_WINDOW_SECONDS: Final = 60.0
"""The operator's default, IC_PROMETHEUS_WINDOW_SECONDS."""
FOLLOW_UP_SECONDS: Final = 1.0
"""The operator's default, IC_FOLLOW_UP_SECONDS."""
DEBOUNCE_SECONDS: Final = 0.1
"""The operator's default, IC_DEBOUNCE_SECONDS."""
TERMINATION_SECONDS: Final = 2.0
"""From the deletion of an idle engine to the end of its Pod: its process ends, the kubelet confirms. GPUs are held."""
CONVERSION_SECONDS: Final = 1.0
"""Until every router has seen the label of a converted replica, which its watch brings in well under a second."""


@dataclass(frozen=True, slots=True)
class Boot:
    """From the creation of a replica to its readiness, part by part; each spreads by itself."""

    image_seconds: float
    weights_seconds: float
    warm_up_seconds: float
    spread: float = 0.0
    """Standard deviation of the logarithm of each part; the means stay. 0: every boot takes the same time."""

    @classmethod
    def of(cls, seconds: float, *, spread: float = 0.0) -> Boot:
        """A boot of `seconds` on average: a quarter image, half weights, a quarter warm-up, about as measured on Kubernetes."""
        return cls(seconds / 4, seconds / 2, seconds / 4, spread)

    def draw(self, source: random.Random) -> float:
        """One boot, in seconds."""
        parts = (self.image_seconds, self.weights_seconds, self.warm_up_seconds)
        if self.spread == 0.0:
            return sum(parts)
        middle = -self.spread * self.spread / 2
        return sum(part * source.lognormvariate(middle, self.spread) for part in parts)


@dataclass(frozen=True, slots=True)
class Failure:
    """A replica that ends without warning."""

    at: float
    replica: str = ""
    """Its name; empty for one that is drawn among those that serve. Nothing happens when there is none."""


@dataclass(frozen=True, slots=True)
class NodeLoss:
    """A node that goes with everything on it, and does not come back."""

    at: float
    node: str
    """`node-<group>-<index>`, both from 0. Nothing happens where there is none of that name."""


@dataclass(frozen=True, slots=True)
class Outage:
    """Something does not work for a while."""

    begin: float
    end: float
    """It works again from here on."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What breaks. All requests of a replica that fails meet a broken connection."""

    mean_hours: float = 0.0
    """Mean time of a replica from readiness to failure (exponential); 0: never."""
    failures: tuple[Failure, ...] = ()
    node_losses: tuple[NodeLoss, ...] = ()
    boots: tuple[Outage, ...] = ()
    """Replicas that would become ready meanwhile crash instead."""
    routers: tuple[Outage, ...] = ()
    """The operator reaches no router. They themselves go on with what they know, fences too."""
    metrics: tuple[Outage, ...] = ()
    """Prometheus does not answer."""
    restarts: tuple[float, ...] = ()
    """Another process takes over from the operator, which knows no more than status tells."""


def is_out(outages: tuple[Outage, ...], now: float) -> bool:
    """Whether one of the outages is on."""
    return any(outage.begin <= now < outage.end for outage in outages)


@dataclass(frozen=True, slots=True)
class SpecChange:
    """The user edits the cluster while it runs: budget, bounds, behaviour. Router and engines keep what they began with."""

    at: float
    spec: ClusterSpec
    """Of a newer generation, and of the same revision and shapes."""


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Equal nodes that some pools may use."""

    pools: frozenset[PoolName]
    nodes: int
    gpus_per_node: int


@dataclass(frozen=True, slots=True)
class Operations:
    """How quickly the operator and Kubernetes act. The defaults are the product's."""

    follow_up_seconds: float = FOLLOW_UP_SECONDS
    debounce_seconds: float = DEBOUNCE_SECONDS
    metrics_window_seconds: float = METRICS_WINDOW_SECONDS
    termination_seconds: float = TERMINATION_SECONDS
    conversion_seconds: float = CONVERSION_SECONDS


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run but for its workload and policy. Times are seconds since the beginning of the workload."""

    spec: ClusterSpec
    """What operator and router are told; its mode decides who sizes the pools (`simulate`)."""
    hardware: Mapping[PoolName, Hardware]
    """How each pool really is; pools that are off may be absent."""
    initial: Mapping[PoolName, int] = field(default_factory=dict)
    """Replicas that serve at the beginning; pools that are absent begin with their minimum."""
    seed: int = 0
    """Of everything that is drawn: boots, failures."""
    warm_up_seconds: float = 0.0
    """Requests that arrive earlier, and what the cluster costs until then, are not counted."""
    boot: Boot | None = None
    """None: always the `boot_seconds` of the spec."""
    faults: Faults = field(default_factory=Faults)
    network: Network = CONTEXT_FIRST
    operations: Operations = field(default_factory=Operations)
    changes: tuple[SpecChange, ...] = ()
    nodes: tuple[NodeGroup, ...] = ()
    """Empty: the nodes always have room, and the operator does not see them."""
    max_queue_seconds: float = MAX_QUEUE_SECONDS
    late_seconds: float | None = None
    """When a waiting request lets newer ones pass; None: after half of the TTFT target, as the router does."""
    optimistic_memory: bool = False
    """Engines set aside memory for what is there only, and preempt."""
    chunked_prefill: bool = True
    """Engines cut prompts and share iterations between them and the whole batch (TensorRT-LLM as this product configures it).
    False: prompts come first and whole (Splitwise's machines)."""
    prefill_answers: bool = False
    """The prefill replica sends the first token (Splitwise), not the decode replica."""
    knows_outputs: bool = False
    """The router knows how long answers will be, as splitwise-sim's does; otherwise it learns their mean, as the product does."""
    scored_slo: Slo | None = None
    """What requests are judged by; None: the SLO of the spec. The TTFT target is on top of the request's own prefill."""
    timeline_seconds: float = 60.0
    """Resolution of the report's series."""

    def __post_init__(self) -> None:
        """Raises `SpecError`."""
        for pool in self.spec.pools:
            if pool.max_replicas > 0 and pool.name not in self.hardware:
                raise SpecError(
                    field=f"hardware[{pool.name}]",
                    value="absent",
                    rule=f"the pool may have up to {pool.max_replicas} replicas",
                    advice="describe its hardware",
                )
        gpus = sum(self.spec.pool(name).gpus_per_replica * self.initial_size(name) for name in PoolName)
        if gpus > self.spec.budget_gpus:
            raise SpecError(
                field="initial",
                value=f"{gpus} GPUs",
                rule=f"the budget is {self.spec.budget_gpus}",
                advice="begin with fewer replicas",
            )

    def initial_size(self, name: PoolName) -> int:
        """Replicas of a pool at the beginning."""
        return self.initial.get(name, self.spec.pool(name).min_replicas)

    @property
    def wake_queue_seconds(self) -> float:
        """How long a request waits where nothing serves: longer than usual only for a cluster that sleeps."""
        if not may_sleep(self.spec):
            return self.max_queue_seconds
        return wake_hold_seconds(
            boot_seconds=self.spec.boot_seconds, max_queue_seconds=self.max_queue_seconds
        )

    @property
    def slo(self) -> Slo:
        """What requests are judged by."""
        return self.scored_slo or self.spec.slo

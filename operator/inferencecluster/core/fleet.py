"""The vocabulary of a cluster's fleet as types: pools, roles, replicas and what a router sees of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from inferencecluster.core.missing import Missing


class PoolName(StrEnum):
    """A pool is a *home* for replicas, with bounds and a hardware shape."""

    PREFILL = "prefill"
    DECODE = "decode"
    MIXED = "mixed"


class Role(StrEnum):
    """What a replica serves now; differs from its home pool while it is borrowed."""

    PREFILL = "prefill"
    DECODE = "decode"
    MIXED = "mixed"


class Lifecycle(StrEnum):
    """Where a replica stands, as the API server shows it. Every state holds its GPUs."""

    PENDING = "Pending"
    """Not bound to a node."""
    STARTING = "Starting"
    """Bound to a node, engine not ready yet (image, weights, warm-up)."""
    READY = "Ready"
    UNREADY = "Unready"
    """Was ready once, is not now."""
    FAILED = "Failed"
    """Ended, evicted, or its container cannot run (image, crash loop); `failure` says why."""
    TERMINATING = "Terminating"
    """Deletion was asked for by anyone; the Pod object still exists."""


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """Work that all routers together hold on one replica, at the moment of the observation."""

    in_flight: int
    """Requests sent to the replica whose answer has not ended (either phase)."""
    kv_transfers: int
    """Prefills done here whose KV cache has not been fully pulled by a decode replica yet."""
    fence_confirmed: bool
    """Every router has said that it no longer sends anything new to this replica."""

    @property
    def is_idle(self) -> bool:
        """Nothing in flight and no KV transfer under way."""
        return self.in_flight == 0 and self.kv_transfers == 0


@dataclass(frozen=True, slots=True)
class Replica:
    """One engine serving HTTP: one Pod. Times are seconds on the observation's clock (Unix time in the operator)."""

    name: str
    uid: str
    home: PoolName
    role: Role
    revision: str
    gpus: int
    lifecycle: Lifecycle
    created_at: float
    ready_at: float | None = None
    """When it first became ready (None: never yet)."""
    fenced_at: float | None = None
    """When the operator asked for the fence (annotation on the Pod), else None."""
    fence_seen_at: float | None = None
    """Since when the observer has seen this fence itself; None where it need not be told from `fenced_at`."""
    boot_seen: bool = True
    """False where the observer did not see the replica become ready: `ready_at` may be a later readiness than its first."""
    fence_reason: str = ""
    node: str | None = None
    failure: str = ""
    template: str = ""
    """`PoolSpec.template` that it was created with; empty where its Pod does not tell."""
    load: ReplicaLoad | Missing = Missing("NotObserved")

    @property
    def is_serving(self) -> bool:
        """Ready, not fenced: routers may send work."""
        return self.lifecycle is Lifecycle.READY and self.fenced_at is None

    @property
    def is_starting(self) -> bool:
        """On its way to its first readiness."""
        return self.lifecycle in (Lifecycle.PENDING, Lifecycle.STARTING) and self.fenced_at is None

    @property
    def is_leaving(self) -> bool:
        """Fenced or terminating: it counts in the budget, not in its pool's size."""
        return self.fenced_at is not None or self.lifecycle is Lifecycle.TERMINATING

    @property
    def counts(self) -> bool:
        """Counts towards its pool's size (serving, starting or temporarily unready)."""
        return not self.is_leaving and self.lifecycle is not Lifecycle.FAILED


def gpus_held(replicas: tuple[Replica, ...]) -> int:
    """GPUs of all existing replicas: starting, draining, Pending, failed and terminating ones included."""
    return sum(replica.gpus for replica in replicas)

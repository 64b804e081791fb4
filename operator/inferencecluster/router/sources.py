"""What the router is told from outside: the replicas of its cluster, and the cluster's settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.routing import RoutingPolicy
from inferencecluster.render.trtllm.versions import EngineVersion


@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """One replica as the outside world shows it. The same `name` with another `uid` is another engine."""

    name: str
    uid: str
    home: PoolName
    revision: str
    url: str
    """Base URL without a trailing slash; empty until the replica has an address."""
    ready: bool
    fenced: bool
    """The operator asked for a fence, or the Pod is terminating."""
    kv_capacity_tokens: int
    max_batch_size: int
    engine_version: EngineVersion | None = None
    """Which fields its protocol has; None: as the cluster's settings say."""
    fenced_at: str = ""
    """Which fence the operator asked for, in its own words; empty when it asked for none."""
    model: str = ""
    """The name that it serves; empty where it does not say, which counts as whatever is asked for."""


@dataclass(frozen=True, slots=True)
class WakeSettings:
    """Of a cluster that scales to zero."""

    boot_seconds: float
    """Expected time until a replica serves."""
    hold_seconds: float
    """A request that comes while no replica serves waits so long; at least `boot_seconds`."""


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """Settings of the cluster; they may change at any time."""

    model: str
    """The name that clients put into `model`; while replicas of an older spec serve on, theirs is served, too."""
    engine_version: EngineVersion
    """Of replicas that do not tell theirs: decides which fields the protocol has."""
    routing: RoutingPolicy
    max_queue_seconds: float
    ttft_seconds: float
    """Target of the time to the first token: after a part of it a waiting request is late (`core.waiting`)."""
    kv_transfer_timeout_seconds: float
    """The engines give up a transfer after this long."""
    wake: WakeSettings | None = None
    """How to hold requests while the cluster has no replica because it sleeps; None where it never does."""
    prefill_seconds_per_token: float | None = None
    """How fast prompts are by the performance model, until answers tell better; None where it is not known."""


ReplicaListener = Callable[[ReplicaRecord | None, ReplicaRecord | None], None]
"""Called with a replica before and after a change; None where it did not or does not exist."""

SettingsListener = Callable[[RouterSettings], None]


class FleetSource(Protocol):
    """Tells which replicas exist. Outages of its origin keep the last fleet."""

    @property
    def listed(self) -> bool:
        """Every replica that exists has been told once."""

    @property
    def synced(self) -> bool:
        """Listed, and changes arrive as they happen: only then a fence may be confirmed."""

    async def run(self, listener: ReplicaListener) -> None:
        """Call `listener` for every change until cancelled."""


class SettingsSource(Protocol):
    """Tells the cluster's settings. Outages of its origin keep the last ones."""

    async def run(self, listener: SettingsListener) -> None:
        """Call `listener` with the settings, and again when they change, until cancelled."""

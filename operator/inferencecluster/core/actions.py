"""What a transition may do to the fleet. Each action is idempotent and carries what guards it."""

from __future__ import annotations

from dataclasses import dataclass

from inferencecluster.core.fleet import PoolName


@dataclass(frozen=True, slots=True)
class Create:
    """Create one replica under a dense name, `<cluster>-engine-<ordinal>`; a repeat answers 409."""

    ordinal: int
    pool: PoolName
    gpus: int
    reason: str


@dataclass(frozen=True, slots=True)
class Fence:
    """Ask the routers to send nothing new to the replica: step one of every removal."""

    replica: str
    uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unfence:
    """Take back a fence whose drain is no longer wanted: the replica serves again without a boot."""

    replica: str
    uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class Convert:
    """Move a replica's home to another pool without a restart; a fence that it has is taken back in the same write."""

    replica: str
    uid: str
    pool: PoolName
    """Its new home."""
    reason: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a replica that is idle, or never served, or whose drain deadline has passed (`forced`)."""

    replica: str
    uid: str
    reason: str
    forced: bool = False


Action = Create | Fence | Unfence | Convert | Delete

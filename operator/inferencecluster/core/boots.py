"""How long replicas took to become ready, and how long to plan for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from inferencecluster.core.observation import Observation
from inferencecluster.core.spec import ClusterSpec

BOOTS_KEPT: Final = 16
"""Latest boots that the estimate rests on."""
BOOT_QUANTILE: Final = 0.75
"""Three of four replicas are up within the estimate; the slowest boot is an accident, the median comes late for half."""


@dataclass(frozen=True, slots=True)
class Boot:
    """One replica's way to its first readiness."""

    uid: str
    ready_at: float
    seconds: float


def latest_boots(known: tuple[Boot, ...], observation: Observation) -> tuple[Boot, ...]:
    """The latest boots; a replica that is seen again changes nothing."""
    boots = {boot.uid: boot for boot in known}
    for replica in observation.replicas:
        if replica.ready_at is None or not replica.boot_seen:
            continue
        seconds = max(replica.ready_at - replica.created_at, 0.0)
        # At its deadline a replica is given up: what came up later is no boot to plan with, or no boot at all.
        if seconds < observation.spec.startup_deadline_seconds:
            boots[replica.uid] = Boot(replica.uid, replica.ready_at, seconds)
    return tuple(sorted(boots.values(), key=lambda boot: (boot.ready_at, boot.uid))[-BOOTS_KEPT:])


def planned_boot_seconds(boots: tuple[Boot, ...], spec: ClusterSpec) -> float:
    """The `BOOT_QUANTILE` of measured boots, or what the user expects, in seconds."""
    if not boots:
        return spec.boot_seconds
    seconds = sorted(boot.seconds for boot in boots)
    return seconds[math.ceil(BOOT_QUANTILE * len(seconds)) - 1]

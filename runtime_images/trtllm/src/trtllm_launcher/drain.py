"""When an engine that shall stop may stop listening: a pure decision from what was seen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sighting:
    """The engine at one moment. `completed` is None when it could not be asked."""

    at: float
    connections: int
    completed: float | None


class WorkHistory:
    """When the engine last worked, kept from its start on, so that an idle one need not wait when it shall stop."""

    def __init__(self) -> None:
        self._completed: float | None = None
        self.last_work_at: float | None = None
        """Latest moment at which work is known or must be assumed; None: there never was any."""

    def see(self, sighting: Sighting) -> None:
        """A completion since the last look counts as work now. An engine that does not tell works while any
        connection is open.
        """
        if sighting.completed is None:
            worked = sighting.connections > 0
        else:
            worked = sighting.completed != (self._completed or 0.0)
            self._completed = sighting.completed
        if worked:
            self.last_work_at = sighting.at


@dataclass(frozen=True, slots=True)
class DrainRule:
    """How long to keep listening. What is open when the engine stops listening is not cut: it finishes then."""

    quiet_seconds: float
    kv_transfer_seconds: float

    def waits_for(
        self, *, now: float, stopping_since: float, connections: int, last_work_at: float | None
    ) -> str:
        """What is waited for; empty when the engine may stop listening."""
        waited = now - stopping_since
        if waited < self.quiet_seconds:
            return "routers to fence this engine"
        if connections and waited < self.kv_transfer_seconds:
            # One of them may be a prompt whose KV cache others have yet to fetch.
            return "open connections"
        needed = max(self.quiet_seconds, self.kv_transfer_seconds)
        if last_work_at is not None and now - last_work_at < needed:
            return "KV caches to be fetched"
        return ""

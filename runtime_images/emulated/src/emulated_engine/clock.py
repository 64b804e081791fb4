"""The engine's time: monotonic seconds that stand still while the engine hangs (a fault)."""

from __future__ import annotations

from collections.abc import Callable


class EngineClock:
    """`source` minus the time spent stopped, so that nothing is caught up after a hang."""

    def __init__(self, source: Callable[[], float]) -> None:
        self._source = source
        self._lost = 0.0
        self._stopped_at: float | None = None

    def now(self) -> float:
        """Seconds; never goes back."""
        reading = self._source() if self._stopped_at is None else self._stopped_at
        return reading - self._lost

    @property
    def is_stopped(self) -> bool:
        """Time stands still."""
        return self._stopped_at is not None

    def stop(self) -> None:
        """Stand still from now on."""
        if self._stopped_at is None:
            self._stopped_at = self._source()

    def resume(self) -> None:
        """Go on from where it stood."""
        if self._stopped_at is not None:
            self._lost += self._source() - self._stopped_at
            self._stopped_at = None

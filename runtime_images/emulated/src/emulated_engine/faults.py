"""Faults that a test switches on over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from emulated_engine.errors import RequestError

LARGEST_SLOW_FACTOR = 10_000.0


@dataclass(slots=True)
class Faults:
    """What is broken now."""

    hang: bool = False
    """Nothing is computed and no token leaves, while /health stays 200 (a wedged KV transfer does this)."""
    slow_factor: float = 1.0
    """Factor on the duration of every iteration that starts from now on."""
    refuse_kv_transfer: bool = False
    """Held KV caches are not handed out."""
    fail_health: bool = False
    """/health answers 503."""
    crash: bool = False
    """End the process at once, without a word to its clients."""

    def update(self, changes: object) -> None:
        """Apply a JSON object of fields. Raises `RequestError`, in which case nothing has changed."""
        if not isinstance(changes, Mapping):
            raise RequestError(f"faults must be a JSON object, got {type(changes).__name__}")
        for name, value in changes.items():
            self._check(name, value)
        for name, value in changes.items():
            setattr(self, name, value)

    def _check(self, name: str, value: object) -> None:
        if name not in Faults.__slots__:
            known = ", ".join(sorted(asdict(self)))
            raise RequestError(f"fault {name!r} is unknown: use one of {known}")
        if name == "slow_factor":
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not 0 < float(str(value)) <= LARGEST_SLOW_FACTOR:
                raise RequestError(
                    f"slow_factor is {value!r}: must be above 0 and at most {LARGEST_SLOW_FACTOR:g}"
                )
        elif not isinstance(value, bool):
            raise RequestError(f"{name} is {value!r}: must be true or false")

    def as_json(self) -> dict[str, Any]:
        """The present faults."""
        return asdict(self)

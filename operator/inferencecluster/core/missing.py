"""A measurement that could not be taken."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Missing:
    """Stands where a measurement is absent; it is never 0, `None` or NaN, and it always says why.

    `reason` is one CamelCase word fit for a Kubernetes condition; `message` is for people.
    """

    reason: str
    message: str = ""

"""Numbers from the command line."""

from __future__ import annotations

import math
from typing import Final

import typer

LONGEST_BOOT_SECONDS: Final = 86_400.0
"""A day, the API's limit of `startupTimeoutSeconds`."""


def finite(value: float | None) -> float | None:
    """Callback of options: ranges let `nan` through, and half-open ones `inf`. Raises `typer.BadParameter`."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number that can be counted with: give a finite one")
    return value

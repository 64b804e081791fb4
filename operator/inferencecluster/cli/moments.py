"""Moments for people: how long ago, as kubectl tells it, and when."""

from __future__ import annotations

from typing import Final

_STEPS: Final = ((172_800.0, 86_400.0, "d"), (7200.0, 3600.0, "h"), (120.0, 60.0, "m"))
"""From so many seconds on, seconds of one unit, its letter: two of a unit before the next one tells."""


def age(moment: float | None, *, now: float) -> str:
    """`45s`, `12m`, `5h` or `3d`; `?` for a moment that is not known. One that is still to come (clocks differ) is `0s`."""
    if moment is None:
        return "?"
    seconds = max(0.0, now - moment)
    for least, unit, letter in _STEPS:
        if seconds >= least:
            return f"{int(seconds / unit)}{letter}"
    return f"{int(seconds)}s"

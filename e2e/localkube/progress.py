"""One line per step, with its duration, on standard error (standard output is for results)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Step:
    """A step in progress; the code inside sets `note` to what the line should add."""

    note: str = ""

    def cached(self) -> None:
        """Say that nothing had to be done."""
        self.note = "cached"


@contextmanager
def step(name: str, *, quiet: bool = False) -> Iterator[Step]:
    """Print `name`, the seconds the block took and its note when it ends, also when it fails."""
    current = Step()
    started = time.monotonic()
    try:
        yield current
    except BaseException:
        current.note = "FAILED"
        raise
    finally:
        if not quiet or current.note == "FAILED":
            elapsed = time.monotonic() - started
            print(f"[{elapsed:7.2f} s] {name}  {current.note}".rstrip(), file=sys.stderr, flush=True)

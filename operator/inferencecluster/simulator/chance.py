"""Where randomness comes from: a seed and a purpose, so that one thing that is drawn does not change another."""

from __future__ import annotations

import random


def chance(seed: int, *purpose: object) -> random.Random:
    """A source of its own for each purpose; equal arguments give equal draws, in every process."""
    name = "/".join(map(str, (seed, *purpose)))
    return random.Random(name)  # noqa: S311 - repeatable simulation, protects nothing

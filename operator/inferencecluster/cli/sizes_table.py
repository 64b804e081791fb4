"""The table of pools and their sizes that `kubectl-ic top` and the demo draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from rich.table import Table

from inferencecluster.cli.paper import compact_table

SIZES: Final = ("desired", "ready", "starting", "draining", "borrowed")
_NONE: Final = "·"
"""Zeros are everywhere: what is there stands out beside a dot."""
_NOT_TOLD: Final = "?"


class Sizes(Protocol):
    """Replicas of one pool; None is not told."""

    @property
    def desired(self) -> int | None:
        """That the pool should have."""

    @property
    def ready(self) -> int | None:
        """That serve."""

    @property
    def starting(self) -> int | None:
        """That are Pending or boot."""

    @property
    def draining(self) -> int | None:
        """That are fenced or terminating."""

    @property
    def borrowed(self) -> int | None:
        """That do mixed work for the opposite phase."""


def sizes_table(
    pools: Mapping[str, Sizes], further: Mapping[str, Sequence[int | str | None]] | None = None
) -> Table:
    """One row a pool. `further` are columns beside the sizes, each with a value a pool in the same order."""
    columns = further or {}
    table = compact_table("pool")
    for heading in (*SIZES, *columns):
        table.add_column(heading, justify="right")
    for row, (name, sizes) in enumerate(pools.items()):
        counts = [getattr(sizes, size) for size in SIZES]
        table.add_row(
            name, *(_cell(value) for value in (*counts, *(column[row] for column in columns.values())))
        )
    return table


def _cell(value: int | str | None) -> str:
    if value is None:
        return _NOT_TOLD
    if value == 0:
        return _NONE
    return f"{value:,}" if isinstance(value, int) else value

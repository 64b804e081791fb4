"""Fixed sizes: what most clusters have, usually the sizes of the busiest hour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.simulator.policies.context import PolicyContext
from inferencecluster.simulator.signals import Signals


class StaticSizes:
    """`PolicyContext.static_sizes`, always. Raises `SpecError` when there are none."""

    name: Final = "static"
    interval_seconds: Final = 60.0

    def __init__(self, context: PolicyContext) -> None:
        if not context.static_sizes:
            raise SpecError(
                field="policy.static.sizes",
                value="empty",
                rule="the static policy holds sizes that somebody gave it",
                advice="give sizes of the pools, for example those of the busiest minute",
            )
        self._sizes = dict(context.static_sizes)

    def sizes(self, signals: Signals) -> Mapping[PoolName, int]:  # noqa: ARG002 - static: it does not look
        """The given sizes."""
        return self._sizes

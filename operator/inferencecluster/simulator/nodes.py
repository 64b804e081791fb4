"""Nodes with GPUs, filled first fit: a replica never spans two of them."""

from __future__ import annotations

from collections.abc import Iterable

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import PoolCapacity
from inferencecluster.simulator.scenario import NodeGroup


class Node:
    """One node."""

    __slots__ = ("free", "gpus", "name", "pools")

    def __init__(self, name: str, gpus: int, pools: frozenset[PoolName]) -> None:
        self.name = name
        self.gpus = self.free = gpus
        self.pools = pools


class Nodes:
    """All nodes. Without any, there is always room and nothing to see."""

    def __init__(self, groups: Iterable[NodeGroup]) -> None:
        self._nodes = [
            Node(f"node-{number}-{index}", group.gpus_per_node, group.pools)
            for number, group in enumerate(groups)
            for index in range(group.nodes)
        ]
        self.are_modelled = bool(self._nodes)
        """Placement may fail."""

    def place(self, pool: PoolName, gpus: int) -> Node | None:
        """Take `gpus` of the first node with room; None where there is none."""
        for node in self._nodes:
            if pool in node.pools and node.free >= gpus:
                node.free -= gpus
                return node
        return None

    def lose(self, name: str) -> None:
        """Nothing is placed there any more."""
        self._nodes = [node for node in self._nodes if node.name != name]

    def capacity(self) -> tuple[PoolCapacity, ...] | Missing:
        """As the operator sees it."""
        if not self.are_modelled:
            return Missing("NotModelled", "the scenario has no nodes")
        return tuple(self._capacity_of(pool) for pool in PoolName)

    def _capacity_of(self, pool: PoolName) -> PoolCapacity:
        mine = [node for node in self._nodes if pool in node.pools]
        total, free = sum(node.gpus for node in mine), sum(node.free for node in mine)
        largest = max((node.free for node in mine), default=0)
        return PoolCapacity(pool, len(mine), total, total - free, free, largest)

"""What every decision about one cluster must hold (DESIGN section 7), for tests that make thousands of them.

1  the GPUs of all that exists stay within the budget            `gpus_stay_within_the_budget`
2  sizes stay within the bounds of their pools                   `sizes_stay_within_bounds_and_budget`
3  nobody is deleted with work before the drain deadline         `nobody_busy_is_deleted`
4  what is not seen shrinks no pool                              `what_is_not_seen_shrinks_nothing`
5  equal inputs give equal decisions                             `equal_inputs_decide_equally`
6  at rest nothing is written, and the fleet is as it should be  `is_at_rest`, `the_fleet_is_as_decided`
7  from any crash point the same: 6, after operators that died
8  requests are answered, or refused: test_simulator_invariants.py
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from inferencecluster.core.actions import Delete
from inferencecluster.core.decision import Decision, Memory, decide
from inferencecluster.core.fleet import Lifecycle, PoolName, Replica, ReplicaLoad
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Observation
from inferencecluster.core.spec import ClusterSpec, ScalingMode
from inferencecluster.core.transition import Complete
from inferencecluster.core.victims import is_current, never_served

TIMES: Final = int(os.environ.get("PROPERTY_TIMES", "1"))
HARD_LIMITS: Final = ("nodes", "quota", "backOff", "budget")
SIZED_BY_DEMAND: Final = (ScalingMode.AUTOMATIC, ScalingMode.RECOMMEND)


def cases(usual: int) -> int:
    """How many a test makes: `usual` in a run of the suite, `PROPERTY_TIMES` as many where that is set."""
    return usual * TIMES


@dataclass
class Witness:
    """Sees every decision about one cluster, and all that exists."""

    decided: Mapping[PoolName, int] = field(default_factory=dict)
    """The sizes that hold; an operator that dies does not take them with it, because they were published."""
    generation: int = -1
    """Of the spec that they were decided for."""
    most_gpus: int = 0
    """Held when the fleet was last looked at."""
    decisions: int = 0

    def saw(self, observation: Observation, memory: Memory, decision: Decision) -> None:
        """A decision, before it is carried out."""
        self.decisions += 1
        self.sizes_stay_within_bounds_and_budget(observation.spec, decision)
        self.nobody_busy_is_deleted(observation, decision)
        self.what_is_not_seen_shrinks_nothing(observation, decision)
        self.equal_inputs_decide_equally(observation, memory, decision)

    def published(self, spec: ClusterSpec, decision: Decision) -> None:
        """Its sizes hold from now on."""
        self.decided, self.generation = dict(decision.targets), spec.generation

    def gpus_stay_within_the_budget(self, gpus: int, spec: ClusterSpec) -> None:
        """More exist only where the budget was lowered below what existed, and they never grow."""
        assert gpus <= max(spec.budget_gpus, self.most_gpus), f"{gpus} of {spec.budget_gpus} GPUs"
        self.most_gpus = gpus

    @staticmethod
    def sizes_stay_within_bounds_and_budget(spec: ClusterSpec, decision: Decision) -> None:
        for name, size in decision.targets.items():
            pool = spec.pool(name)
            assert pool.min_replicas <= size <= pool.max_replicas, (name, size)
        gpus = sum(spec.pool(name).gpus_per_replica * size for name, size in decision.targets.items())
        assert gpus <= spec.budget_gpus
        if spec.mode is ScalingMode.AUTOMATIC:
            prefill, decode = decision.targets[PoolName.PREFILL], decision.targets[PoolName.DECODE]
            assert (prefill == 0) == (decode == 0), "one phase without the other"

    @staticmethod
    def nobody_busy_is_deleted(observation: Observation, decision: Decision) -> None:
        by_name = {replica.name: replica for replica in observation.replicas}
        for action in decision.actions:
            if not isinstance(action, Delete):
                continue
            replica = by_name[action.replica]
            if action.forced:
                assert replica.fenced_at is not None
                assert observation.now >= replica.fenced_at + observation.spec.drain_deadline_seconds
            elif replica.lifecycle is not Lifecycle.FAILED and not never_served(replica):
                assert isinstance(replica.load, ReplicaLoad), f"{replica.name} was not seen"
                assert replica.load.is_idle, replica
                assert replica.load.fence_confirmed, replica

    def what_is_not_seen_shrinks_nothing(self, observation: Observation, decision: Decision) -> None:
        """Hard limits apply all the same, and whoever writes sizes needs no signals."""
        spec = observation.spec
        is_blind = isinstance(observation.routers, Missing) or isinstance(observation.metrics, Missing)
        if not is_blind or self.generation != spec.generation or spec.mode not in SIZED_BY_DEMAND:
            return
        # A pool in a back-off holds what exists, also where nothing was wanted any more.
        waiting = decision.memory.replacement.waiting(observation.now)
        for target in decision.memory.targets or ():
            if target.limited_by not in HARD_LIMITS and target.pool not in waiting:
                assert target.replicas >= self.decided.get(target.pool, 0), f"shrank unseen: {target}"

    @staticmethod
    def equal_inputs_decide_equally(observation: Observation, memory: Memory, decision: Decision) -> None:
        assert decide(observation, memory) == decision


def is_at_rest(decision: Decision) -> bool:
    """Nothing is done to the fleet, and no change of size is told."""
    return decision.outcome == Complete() and not decision.records


def the_fleet_is_as_decided(
    spec: ClusterSpec, replicas: Iterable[Replica], targets: Mapping[PoolName, int]
) -> None:
    """Everybody serves, in the newest form, and the pools have their sizes."""
    counts = dict.fromkeys(PoolName, 0)
    for replica in replicas:
        assert replica.is_serving, f"{replica.name} does not serve"
        assert is_current(replica, spec), f"{replica.name} is old"
        counts[replica.home] += 1
    assert counts == dict(targets)

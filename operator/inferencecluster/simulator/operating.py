"""The operator's loop: look, decide, act, and look again as soon as there is a reason (controller/reconcile.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, assert_never

from inferencecluster.core.actions import Action, Convert, Create, Delete, Fence, Unfence
from inferencecluster.core.decision import Decision, Memory, decide
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Observation
from inferencecluster.core.spec import ClusterSpec, ScalingMode
from inferencecluster.simulator.events import EventQueue
from inferencecluster.simulator.observing import Observer
from inferencecluster.simulator.replicas import Replicas
from inferencecluster.simulator.scenario import Scenario
from inferencecluster.simulator.signals import SizingPolicy

TICK_SLACK: Final = 0.1
"""The operator's own: a tick is due from nine tenths of its interval on."""


class Operator:
    """Runs `core.decision.decide` on what it sees and carries out its actions."""

    def __init__(
        self,
        scenario: Scenario,
        events: EventQueue,
        replicas: Replicas,
        observer: Observer,
        policy: SizingPolicy | None,
    ) -> None:
        """With a policy, it writes the sizes (mode External); without one, the spec's mode says who does."""
        spec = scenario.spec
        self.on_decision: Callable[[Observation, Decision], None] = lambda _observation, _decision: None
        """Told of each decision before it is carried out."""
        self._spec = _sized_by(policy, spec)
        self._operations = scenario.operations
        self._events = events
        self._replicas = replicas
        self._observer = observer
        self._policy = policy
        self._memory = Memory.empty()
        self._external: Mapping[PoolName, int] | Missing = Missing("NotExternal")
        self._sized_at: float | None = None
        self._event = 0
        self._look_at = float("inf")
        for change in scenario.changes:
            events.at(change.at, self._change_spec, change.spec)
        for restart in scenario.faults.restarts:
            events.at(restart, self._restart)

    def start(self) -> None:
        """Look now, and from now on."""
        now = self._events.now
        self._look_by(now)
        if self._policy is not None:
            # Nothing is written yet: the sizes that are there stay.
            self._external = {}
            self._events.at(now + self._policy.interval_seconds, self._ask, self._policy)

    def wake(self, now: float) -> None:
        """A Pod changed: look soon."""
        self._look_by(now + self._operations.debounce_seconds)

    def _change_spec(self, spec: ClusterSpec) -> None:
        self._spec = _sized_by(self._policy, spec)
        self.wake(self._events.now)

    def _restart(self, _: object) -> None:
        """Lose everything but what status tells."""
        memory, now = self._memory, self._events.now
        if memory.targets is not None:
            self._memory = Memory.restored(
                {target.pool: target.replicas for target in memory.targets},
                memory.records,
                now,
                settled_generation=memory.settled_generation,
            )
        self._sized_at = None
        self.wake(now)

    def _look_by(self, time: float) -> None:
        if time < self._look_at:
            self._look_at = time
            self._event = self._events.at_numbered(time, self._look)

    def _ask(self, policy: SizingPolicy) -> None:
        now = self._events.now
        sizes = policy.sizes(self._observer.signals(now, self._spec))
        known = {} if isinstance(self._external, Missing) else self._external
        self._external = {**known, **sizes}
        # A written /scale is looked at at once.
        self._sized_at = None
        self._look_by(now)
        self._events.at(now + policy.interval_seconds, self._ask, policy)

    def _look(self, number: int) -> None:
        if number != self._event:
            return
        now, interval = self._events.now, self._spec.interval_seconds
        self._look_at = float("inf")
        is_due = self._sized_at is None or now - self._sized_at >= interval * (1 - TICK_SLACK)
        if is_due:
            self._sized_at = now
        observation = self._observer.observe(now, self._spec, external=self._external, sizing_due=is_due)
        decision = decide(observation, self._memory)
        self.on_decision(observation, decision)
        self._memory = decision.memory
        for action in decision.actions:
            self._carry_out(action)
        is_draining = any(replica.fenced_at is not None for replica in self._replicas)
        if is_draining or decision.actions:
            self._look_by(now + self._operations.follow_up_seconds)
        since = now - (self._sized_at if self._sized_at is not None else now)
        self._look_by(now + max(self._operations.follow_up_seconds, interval - since))

    def _carry_out(self, action: Action) -> None:
        match action:
            case Create(ordinal, pool):
                self._replicas.create(ordinal, pool)
            case Fence(name, uid, reason):
                self._replicas.fence(name, uid, reason)
            case Unfence(name, uid):
                self._replicas.unfence(name, uid)
            case Convert(name, uid, to):
                self._replicas.convert(name, uid, to)
            case Delete(name, uid):
                self._replicas.delete(name, uid)
            case _:
                assert_never(action)


def _sized_by(policy: SizingPolicy | None, spec: ClusterSpec) -> ClusterSpec:
    """The spec as the operator is told it: a policy writes the sizes."""
    return spec if policy is None else replace(spec, mode=ScalingMode.EXTERNAL)

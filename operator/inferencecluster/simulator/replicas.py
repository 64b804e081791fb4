"""The life of replicas: created, pending, booting, ready, fenced, terminating, gone; failed or converted on the way.

Nothing here decides. The operator's actions come in (`create`, `fence`, `unfence`, `delete`, `convert`), what happens goes
to the router (`Frontend`) and wakes the operator.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from inferencecluster.core.fleet import Lifecycle, PoolName, Replica, ReplicaLoad, Role
from inferencecluster.core.spec import PoolSpec
from inferencecluster.simulator.chance import chance
from inferencecluster.simulator.events import EventQueue
from inferencecluster.simulator.frontend import Frontend
from inferencecluster.simulator.hardware import Hardware
from inferencecluster.simulator.ledger import Entry
from inferencecluster.simulator.links import Link
from inferencecluster.simulator.mixed_engine import Engine, EngineLimits
from inferencecluster.simulator.nodes import Node, Nodes
from inferencecluster.simulator.scenario import Boot, Failure, NodeLoss, Scenario, is_out

CLUSTER_NAME = "simulated"


class SimulatedReplica:
    """One Pod and its engine."""

    __slots__ = (
        "created_at",
        "entry",
        "failure",
        "fence_reason",
        "fenced_at",
        "gpus",
        "hardware",
        "home",
        "lifecycle",
        "name",
        "node",
        "ready_at",
        "template",
        "uid",
    )

    def __init__(self, name: str, uid: str, shape: PoolSpec, hardware: Hardware, created_at: float) -> None:
        self.name = name
        self.uid = uid
        self.home = shape.name
        self.gpus = shape.gpus_per_replica
        self.template = shape.template
        self.hardware = hardware
        """What it was created on, which no conversion changes."""
        self.created_at = created_at
        self.lifecycle = Lifecycle.PENDING
        self.node: Node | None = None
        self.ready_at: float | None = None
        self.fenced_at: float | None = None
        self.fence_reason = ""
        self.failure = ""
        self.entry: Entry | None = None
        """What the router holds on it; None before it is ready."""

    @property
    def is_serving(self) -> bool:
        """Routers may send work."""
        return self.lifecycle is Lifecycle.READY and self.fenced_at is None

    @property
    def is_leaving(self) -> bool:
        """As `Replica.is_leaving`."""
        return self.fenced_at is not None or self.lifecycle is Lifecycle.TERMINATING

    def observed(self, revision: str) -> Replica:
        """As the operator sees it. Its one router confirms a fence as soon as it is asked."""
        entry = self.entry
        load = ReplicaLoad(0, 0, fence_confirmed=False)
        if entry is not None:
            load = ReplicaLoad(entry.in_flight, entry.kv_transfers, self.fenced_at is not None)
        return Replica(
            name=self.name,
            uid=self.uid,
            home=self.home,
            role=Role.MIXED if entry is not None and entry.borrowed else Role(self.home.value),
            revision=revision,
            gpus=self.gpus,
            lifecycle=self.lifecycle,
            created_at=self.created_at,
            ready_at=self.ready_at,
            fenced_at=self.fenced_at,
            fence_reason=self.fence_reason,
            node=self.node.name if self.node is not None else None,
            failure=self.failure,
            template=self.template,
            load=load,
        )


class Replicas:
    """All replicas that exist."""

    def __init__(
        self,
        scenario: Scenario,
        events: EventQueue,
        frontend: Frontend,
        on_change: Callable[[float], None],
    ) -> None:
        """`on_change` is called with the time whenever a Pod came, changed or went."""
        self.nodes = Nodes(scenario.nodes)
        self.conversions = 0
        """Since the beginning."""
        self.failures = 0
        self._past_preemptions = 0
        self._scenario = scenario
        self._boot = scenario.boot or Boot.of(scenario.spec.boot_seconds)
        self._events = events
        self._frontend = frontend
        self._on_change = on_change
        self._replicas: dict[str, SimulatedReplica] = {}
        self._created = 0
        for failure in scenario.faults.failures:
            events.at(failure.at, self._fail_on_schedule, failure)
        for loss in scenario.faults.node_losses:
            events.at(loss.at, self._lose_node, loss)

    def __iter__(self) -> Iterator[SimulatedReplica]:
        return iter(self._replicas.values())

    def __len__(self) -> int:
        return len(self._replicas)

    @property
    def gpus(self) -> int:
        """Held by everything that exists."""
        return sum(replica.gpus for replica in self)

    @property
    def preemptions(self) -> int:
        """Of sequences, in all engines that there have been."""
        living = sum(replica.entry.engine.usage.preemptions for replica in self if replica.entry is not None)
        return self._past_preemptions + living

    def observed(self) -> tuple[Replica, ...]:
        """As the operator sees them, ordered by name."""
        revision = self._scenario.spec.revision
        return tuple(replica.observed(revision) for replica in sorted(self, key=lambda replica: replica.name))

    def start_initial(self) -> None:
        """The replicas of the beginning: ready at once. They were created one boot earlier."""
        now = self._events.now
        ordinal = 0
        for name in PoolName:
            for _ in range(self._scenario.initial_size(name)):
                replica = self._add(ordinal, name, now - self._scenario.spec.boot_seconds)
                replica.node = self.nodes.place(name, replica.gpus)
                self._become_ready(replica)
                ordinal += 1

    def create(self, ordinal: int, pool: PoolName) -> None:
        """Create a replica; a name that exists already changes nothing, as a 409 would."""
        if _name(ordinal) in self._replicas:
            return
        replica = self._add(ordinal, pool, self._events.now)
        self._place(replica)
        self._on_change(self._events.now)

    def fence(self, name: str, uid: str, reason: str) -> None:
        """Nothing new is sent to it from now on."""
        replica = self._find(name, uid)
        if replica is not None and replica.fenced_at is None:
            replica.fenced_at = self._events.now
            replica.fence_reason = reason
            self._show(replica)

    def unfence(self, name: str, uid: str) -> None:
        """It serves again."""
        replica = self._find(name, uid)
        if replica is not None and replica.fenced_at is not None:
            replica.fenced_at = None
            replica.fence_reason = ""
            self._show(replica)

    def delete(self, name: str, uid: str) -> None:
        """It ends within `termination_seconds`; what it still holds then is lost."""
        replica = self._find(name, uid)
        if replica is not None and replica.lifecycle is not Lifecycle.TERMINATING:
            replica.lifecycle = Lifecycle.TERMINATING
            self._show(replica)
            seconds = self._scenario.operations.termination_seconds
            self._events.at(self._events.now + seconds, self._end, replica)

    def convert(self, name: str, uid: str, pool: PoolName) -> None:
        """Move a replica's home to another pool, and take back its fence: what it holds goes on, and the router treats it as
        before until it has seen the label, `conversion_seconds` later. Only where its shape fits: the caller knows.
        """
        replica = self._find(name, uid)
        is_over = replica is None or replica.lifecycle in (Lifecycle.TERMINATING, Lifecycle.FAILED)
        if replica is None or is_over or replica.home is pool:
            return
        now = self._events.now
        replica.home = pool
        replica.template = self._scenario.spec.pool(pool).template
        replica.fenced_at = None
        replica.fence_reason = ""
        self.conversions += 1
        self._events.at(now + self._scenario.operations.conversion_seconds, self._conversion_seen, replica)
        self._on_change(now)

    def fail(self, replica: SimulatedReplica) -> None:
        """Its engine is gone. The Pod stays, failed, until the operator deletes it."""
        if self._replicas.get(replica.name) is not replica or replica.entry is None:
            return
        now = self._events.now
        self.failures += 1
        replica.entry.engine.die(now)
        if replica.lifecycle is not Lifecycle.TERMINATING:
            replica.lifecycle = Lifecycle.FAILED
            replica.failure = "Error: the engine's process ended"
        self._frontend.lose(replica.entry, now)
        self._on_change(now)

    def _find(self, name: str, uid: str) -> SimulatedReplica | None:
        replica = self._replicas.get(name)
        return replica if replica is not None and replica.uid == uid else None

    def _add(self, ordinal: int, pool: PoolName, created_at: float) -> SimulatedReplica:
        self._created += 1
        name = _name(ordinal)
        shape = self._scenario.spec.pool(pool)
        hardware = self._scenario.hardware[pool]
        replica = SimulatedReplica(name, f"uid-{self._created}", shape, hardware, created_at)
        self._replicas[name] = replica
        return replica

    def _place(self, replica: SimulatedReplica) -> None:
        """Bind it to a node, if one has room; the boot begins."""
        if self.nodes.are_modelled:
            replica.node = self.nodes.place(replica.home, replica.gpus)
            if replica.node is None:
                return
        replica.lifecycle = Lifecycle.STARTING
        seconds = self._boot.draw(self._source("boot", replica))
        self._events.at(self._events.now + seconds, self._end_boot, replica)

    def _end_boot(self, replica: SimulatedReplica) -> None:
        if is_out(self._scenario.faults.boots, self._events.now):
            self._fail_to_start(replica, "CrashLoopBackOff: exit code 1")
        else:
            self._become_ready(replica)

    def _fail_to_start(self, replica: SimulatedReplica, failure: str) -> None:
        """Nobody has sent anything to it."""
        if replica.lifecycle is Lifecycle.STARTING:
            replica.lifecycle = Lifecycle.FAILED
            replica.failure = failure
            self._on_change(self._events.now)

    def _become_ready(self, replica: SimulatedReplica) -> None:
        if replica.lifecycle not in (Lifecycle.PENDING, Lifecycle.STARTING):
            return
        now = self._events.now
        replica.lifecycle = Lifecycle.READY
        replica.ready_at = now
        replica.entry = self._entry(replica)
        self._frontend.ledger.add(replica.entry)
        self._show(replica)
        hours = self._scenario.faults.mean_hours
        if hours > 0:
            life = self._source("failure", replica).expovariate(1.0 / (hours * 3600.0))
            self._events.at(now + life, self.fail, replica)

    def _entry(self, replica: SimulatedReplica) -> Entry:
        scenario = self._scenario
        hardware = replica.hardware
        performance = hardware.performance
        limits = EngineLimits(
            kv_capacity_tokens=performance.kv_capacity_tokens,
            max_batch_size=performance.max_batch_size,
            max_num_tokens=hardware.max_num_tokens,
            optimistic=scenario.optimistic_memory,
            fetch_at_boundary=scenario.network.fetches_at_boundary,
            chunked_prefill=scenario.chunked_prefill,
        )
        engine = Engine(limits, hardware.times, self._events, self._frontend)
        entry = Entry(replica.name, replica.home, scenario.spec.revision, engine)
        entry.egress = Link(hardware.link_bytes_per_second)
        entry.ingress = Link(hardware.link_bytes_per_second)
        entry.kv_bytes_per_token = hardware.kv_bytes_per_token
        entry.noted_at = self._events.now
        self._tell_limits(entry, replica.home)
        return entry

    def _tell_limits(self, entry: Entry, pool: PoolName) -> None:
        """What annotations tell the router: the spec's belief, not the engine's truth."""
        believed = self._scenario.spec.pool(pool).performance
        entry.kv_capacity_tokens = max(1, believed.kv_capacity_tokens)
        entry.max_batch_size = believed.max_batch_size

    def _show(self, replica: SimulatedReplica) -> None:
        """Let the router know whether it may send work, and the operator that something changed."""
        entry = replica.entry
        if entry is not None and entry.alive:
            entry.serving = replica.is_serving
            self._frontend.ledger.publish(entry)
        now = self._events.now
        self._on_change(now)
        if entry is not None and entry.serving:
            self._frontend.room_came(now)

    def _conversion_seen(self, replica: SimulatedReplica) -> None:
        """By the router. A replica that has become ready meanwhile was met in its new home."""
        entry = replica.entry
        if entry is not None and entry.alive:
            entry.home = replica.home
            self._tell_limits(entry, replica.home)
            self._show(replica)

    def _end(self, replica: SimulatedReplica) -> None:
        now = self._events.now
        del self._replicas[replica.name]
        if replica.entry is not None:
            self._past_preemptions += replica.entry.engine.usage.preemptions
        if replica.entry is not None and replica.entry.alive:
            replica.entry.engine.die(now)
            self._frontend.lose(replica.entry, now)
        if replica.node is not None:
            replica.node.free += replica.gpus
            for waiting in self:
                if waiting.lifecycle is Lifecycle.PENDING:
                    self._place(waiting)
        self._on_change(now)

    def _fail_on_schedule(self, failure: Failure) -> None:
        serving = sorted(
            (replica for replica in self if replica.is_serving), key=lambda replica: replica.name
        )
        named = [replica for replica in serving if replica.name == failure.replica]
        candidates = named if failure.replica else serving
        if candidates:
            source = chance(self._scenario.seed, "scheduled", failure.at)
            self.fail(source.choice(candidates))

    def _lose_node(self, loss: NodeLoss) -> None:
        self.nodes.lose(loss.node)
        lost = [replica for replica in self if replica.node is not None and replica.node.name == loss.node]
        for replica in lost:
            if replica.entry is None:
                self._fail_to_start(replica, "NodeLost: its node is gone")
            elif replica.entry.alive:
                self.fail(replica)

    def _source(self, purpose: str, replica: SimulatedReplica) -> random.Random:
        """Randomness of one replica for one purpose: other replicas do not change what it draws."""
        return chance(self._scenario.seed, purpose, replica.uid)


def _name(ordinal: int) -> str:
    return f"{CLUSTER_NAME}-engine-{ordinal}"

"""Hypothesis strategies for specs, fleets and observations, and the small model of Kubernetes that plans are applied to.

`World` holds what the API server, the nodes and the routers would: it applies actions at once, and each `pass_time`
lets Pods start and end and requests finish. It knows nothing of the planner's rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from hypothesis import strategies as st

from inferencecluster.core.actions import Action, Convert, Create, Delete, Fence, Unfence
from inferencecluster.core.fleet import Lifecycle, PoolName, Replica, ReplicaLoad, Role, gpus_held
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import (
    Flow,
    MetricsSample,
    Observation,
    PoolCapacity,
    QueueState,
    RouterSample,
)
from inferencecluster.core.perfmodel import DecodeModel, PerformanceModel, PrefillModel
from inferencecluster.core.profiles import PROFILES
from inferencecluster.core.spec import (
    Behavior,
    ClusterSpec,
    Objective,
    PoolSpec,
    ScalingMode,
    ScalingRules,
    SelectPolicy,
    Slo,
)
from inferencecluster.simulator.hardware import GPU_FACTS, Hardware

SPEED = PerformanceModel(
    # 1000 prompt tokens take 0.2 s; some 40 sequences fit an ITL of 20 ms.
    PrefillModel(0.0, 2e-4, 0.0),
    DecodeModel(0.010, 1e-4, 1e-7),
    kv_capacity_tokens=100_000,
)
IDLE = ReplicaLoad(0, 0, fence_confirmed=False)
DRAINED = ReplicaLoad(0, 0, fence_confirmed=True)
UNSEEN = Missing("RouterUnreachable", "connection refused")
QUIET = QueueState(0, 0, 0.0, 0, 0, 0, 0)
AT_ONCE = ScalingRules(0.0, SelectPolicy.MAX, ())
NO_DELAY = Behavior(AT_ONCE, AT_ONCE)


def make_pool(
    name: PoolName, *, minimum: int = 0, maximum: int = 10, gpus: int = 1, speed: PerformanceModel = SPEED
) -> PoolSpec:
    return PoolSpec(name, minimum, maximum, gpus, speed)


def make_spec(
    *,
    budget: int = 100,
    gpus: Mapping[PoolName, int] | int = 1,
    minimum: int | tuple[int, int, int] = 0,
    maximum: int | tuple[int, int, int] = 10,
    revision: str = "r1",
    generation: int = 1,
    mode: ScalingMode = ScalingMode.AUTOMATIC,
    behavior: Behavior = NO_DELAY,
    interchangeable: bool = False,
) -> ClusterSpec:
    lows = (minimum,) * 3 if isinstance(minimum, int) else minimum
    highs = (maximum,) * 3 if isinstance(maximum, int) else maximum
    prefill, decode, mixed = (
        replace(
            make_pool(
                name, minimum=low, maximum=high, gpus=gpus if isinstance(gpus, int) else gpus.get(name, 1)
            ),
            interchangeable=interchangeable,
        )
        for name, low, high in zip(PoolName, lows, highs, strict=True)
    )
    return ClusterSpec(
        generation=generation,
        revision=revision,
        budget_gpus=budget,
        slo=Slo(90, ttft_seconds=0.5, itl_seconds=0.020),
        pools=(prefill, decode, mixed),
        mode=mode,
        behavior=behavior,
        interval_seconds=10.0,
        boot_seconds=30.0,
        startup_deadline_seconds=100.0,
        drain_deadline_seconds=200.0,
        overflow_tokens=None,
    )


def make_replica(
    ordinal: int,
    home: PoolName = PoolName.PREFILL,
    *,
    lifecycle: Lifecycle = Lifecycle.READY,
    revision: str = "r1",
    gpus: int = 1,
    created_at: float = 0.0,
    ready_at: float | None = None,
    fenced_at: float | None = None,
    fence_reason: str = "",
    failure: str = "",
    load: ReplicaLoad | Missing = IDLE,
) -> Replica:
    """Ready replicas have served since their creation, unless `ready_at` says otherwise."""
    served = lifecycle in (Lifecycle.READY, Lifecycle.UNREADY)
    return Replica(
        name=f"c-engine-{ordinal}",
        uid=f"uid-{ordinal}",
        home=home,
        role=Role(home.value),
        revision=revision,
        gpus=gpus,
        lifecycle=lifecycle,
        created_at=created_at,
        ready_at=created_at if ready_at is None and served else ready_at,
        fenced_at=fenced_at,
        fence_reason=fence_reason,
        failure=failure,
        load=load,
    )


def make_fleet(prefill: int = 0, decode: int = 0, mixed: int = 0, *, revision: str = "r1") -> list[Replica]:
    """Ready and idle replicas with ordinals in pool order."""
    counts = zip(PoolName, (prefill, decode, mixed), strict=True)
    homes = [home for home, count in counts for _ in range(count)]
    return [make_replica(ordinal, home, revision=revision) for ordinal, home in enumerate(homes)]


def sizes(prefill: int = 0, decode: int = 0, mixed: int = 0) -> dict[PoolName, int]:
    return dict(zip(PoolName, (prefill, decode, mixed), strict=True))


def make_flow(rate: float, seconds: float = 10.0) -> Flow:
    """`rate` requests per second of 1000 prompt tokens and 100 output tokens."""
    requests = rate * seconds
    return Flow(seconds, requests, requests * 1e3, requests * 1e6, requests, requests * 100)


def make_observation(
    spec: ClusterSpec,
    replicas: Iterable[Replica] = (),
    *,
    now: float = 1000.0,
    rate: float | Missing = 0.0,
    metrics: MetricsSample | Missing | None = None,
    capacity: tuple[PoolCapacity, ...] | Missing = Missing("NotAllowed"),
    external: Mapping[PoolName, int] | Missing = Missing("NotExternal"),
    sizing_due: bool = True,
) -> Observation:
    """`rate` Missing stands for routers that do not answer; metrics agree with it unless given."""
    known = 0.0 if isinstance(rate, Missing) else rate
    return Observation(
        now=now,
        spec=spec,
        replicas=tuple(sorted(replicas, key=lambda replica: replica.name)),
        routers=rate if isinstance(rate, Missing) else RouterSample(QUIET, make_flow(rate)),
        metrics=MetricsSample(make_flow(known, 60.0), Missing("None"), Missing("None"))
        if metrics is None
        else metrics,
        capacity=capacity,
        external=external,
        sizing_due=sizing_due,
    )


class SafetyError(AssertionError):
    """The planner did what it must never do."""


@dataclass
class World:
    """Pods, nodes and routers of one cluster."""

    spec: ClusterSpec
    now: float = 1000.0
    replicas: dict[str, Replica] = field(default_factory=dict)
    """By name."""
    starts: Callable[[Replica], bool] = lambda _: True
    """Which replicas get a node and become ready."""
    routers_answer: bool = True
    created: int = 0
    ends_at: dict[str, float] = field(default_factory=dict)
    """Terminating replicas, by uid."""
    history: list[str] = field(default_factory=list)

    def add(self, replicas: Iterable[Replica]) -> World:
        self.replicas |= {replica.name: replica for replica in replicas}
        return self

    def observed(self) -> tuple[Replica, ...]:
        """As the operator sees them: without routers no load is known."""
        seen = sorted(self.replicas.values(), key=lambda replica: replica.name)
        return tuple(seen if self.routers_answer else (replace(replica, load=UNSEEN) for replica in seen))

    def apply(self, actions: Iterable[Action]) -> None:
        """What the API server would do, checking what must hold at that instant."""
        for action in actions:
            self.history.append(f"{self.now:.0f}: {action}")
            match action:
                case Create():
                    self._create(action)
                case Fence(name, uid, reason):
                    if self._is(name, uid):
                        self.change(name, fenced_at=self.now, fence_reason=reason)
                case Unfence(name, uid):
                    if self._is(name, uid):
                        self.change(name, fenced_at=None, fence_reason="")
                case Convert():
                    self._convert(action)
                case Delete():
                    self._delete(action)

    def pass_time(self, seconds: float = 10.0) -> None:
        """Terminating Pods end, new ones start, routers confirm fences, one request of each drain ends."""
        self.now += seconds
        for name, replica in list(self.replicas.items()):
            match replica.lifecycle:
                case Lifecycle.TERMINATING if self.now >= self.ends_at.get(replica.uid, 0.0):
                    del self.replicas[name]
                    continue
                case Lifecycle.PENDING if self.starts(replica):
                    self.change(name, lifecycle=Lifecycle.STARTING)
                case Lifecycle.STARTING if self.starts(replica):
                    self.change(
                        name, lifecycle=Lifecycle.READY, ready_at=replica.ready_at or self.now, load=IDLE
                    )
            if isinstance(replica.load, ReplicaLoad):
                ended = 1 if replica.fenced_at is not None else 0
                held = max(0, replica.load.in_flight - ended)
                self.change(name, load=ReplicaLoad(held, 0, fence_confirmed=ended == 1))

    def change(self, name: str, **values: object) -> None:
        self.replicas[name] = replace(self.replicas[name], **values)  # type: ignore[arg-type]  # fields of Replica

    def _is(self, name: str, uid: str) -> bool:
        return name in self.replicas and self.replicas[name].uid == uid

    def _create(self, action: Create) -> None:
        name = f"c-engine-{action.ordinal}"
        if name in self.replicas:
            message = f"the name {name} is taken"
            raise SafetyError(self.explain(message))
        self.created += 1
        replica = make_replica(
            action.ordinal,
            action.pool,
            lifecycle=Lifecycle.PENDING,
            revision=self.spec.revision,
            gpus=action.gpus,
            created_at=self.now,
        )
        self.replicas[name] = replace(
            replica,
            uid=f"uid-{action.ordinal}-{self.created}",
            template=self.spec.pool(action.pool).template,
        )
        held = gpus_held(tuple(self.replicas.values()))
        if held > self.spec.budget_gpus:
            raise SafetyError(self.explain(f"{held} GPUs exceed the budget"))

    def _convert(self, action: Convert) -> None:
        if not self._is(action.replica, action.uid):
            return
        replica, pool = self.replicas[action.replica], self.spec.pool(action.pool)
        if not pool.interchangeable or replica.gpus != pool.gpus_per_replica:
            raise SafetyError(self.explain(f"{replica.name} is no replica for {action.pool}"))
        if replica.template != pool.template or replica.revision != self.spec.revision:
            raise SafetyError(self.explain(f"the engine of {replica.name} is none for {action.pool}"))
        self.change(
            action.replica, home=action.pool, role=Role(action.pool.value), fenced_at=None, fence_reason=""
        )

    def _delete(self, action: Delete) -> None:
        if not self._is(action.replica, action.uid):
            return
        replica = self.replicas[action.replica]
        if replica.lifecycle is Lifecycle.TERMINATING:
            return
        load = replica.load
        busy = isinstance(load, ReplicaLoad) and not load.is_idle
        served = replica.ready_at is not None and replica.lifecycle is not Lifecycle.FAILED
        overdue = (
            replica.fenced_at is not None and self.now >= replica.fenced_at + self.spec.drain_deadline_seconds
        )
        if served and busy and not overdue:
            raise SafetyError(self.explain(f"{replica.name} was deleted with {load}"))
        if served and replica.fenced_at is None:
            raise SafetyError(self.explain(f"{replica.name} was deleted without a fence"))
        if action.forced and not overdue:
            raise SafetyError(self.explain(f"{replica.name} was forced before its deadline"))
        self.terminate(action.replica)

    def terminate(self, name: str, seconds: float = 15.0) -> None:
        """What any deletion of a Pod leads to: it exists for some looks more."""
        self.ends_at[self.replicas[name].uid] = self.now + seconds
        self.change(name, lifecycle=Lifecycle.TERMINATING)

    def explain(self, message: str) -> str:
        """For failures: what was done so far, and where it led."""
        fleet = "\n".join(f"  {replica}" for replica in self.replicas.values())
        return "\n".join([message, *self.history, f"budget {self.spec.budget_gpus}, fleet:", fleet])


BASE_POOLS = {PoolName.PREFILL, PoolName.DECODE}

pool_names = st.sampled_from(PoolName)

loads = st.one_of(
    st.just(UNSEEN),
    st.builds(
        ReplicaLoad,
        in_flight=st.integers(0, 3),
        kv_transfers=st.integers(0, 1),
        fence_confirmed=st.booleans(),
    ),
)


@st.composite
def replica_at(draw: st.DrawFn, ordinal: int) -> Replica:
    """Any replica that can be seen at second 1000."""
    lifecycle = draw(st.sampled_from(Lifecycle))
    created_at = float(draw(st.integers(800, 1000)))
    fenced = draw(st.booleans())
    return make_replica(
        ordinal,
        draw(pool_names),
        lifecycle=lifecycle,
        revision=draw(st.sampled_from(["r0", "r1"])),
        created_at=created_at,
        ready_at=draw(st.sampled_from([None, created_at])),
        fenced_at=float(draw(st.integers(800, 1000))) if fenced else None,
        fence_reason=draw(st.sampled_from(["ScaleDown", "Rollout"])) if fenced else "",
        failure="CrashLoopBackOff: exit code 1" if lifecycle is Lifecycle.FAILED else "",
        load=draw(loads),
    )


@st.composite
def fleets(draw: st.DrawFn, largest: int = 8) -> tuple[Replica, ...]:
    """Any fleet at second 1000, ordered by name."""
    ordinals = draw(st.lists(st.integers(0, 9), unique=True, max_size=largest))
    return tuple(sorted((draw(replica_at(ordinal)) for ordinal in ordinals), key=lambda item: item.name))


class Design(StrEnum):
    """What pools a cluster has."""

    APART = "each pool on hardware of its own"
    CONVERTING = "pools that trade replicas"
    MIXED_ONLY = "mixed replicas only"
    SLEEPING = "pools that sleep when nothing is asked"


@dataclass(frozen=True)
class Gpus:
    """One replica's GPUs, as the user describes them."""

    speed: PerformanceModel
    price: float | None
    watts: float | None


@st.composite
def gpus_of_any_kind(draw: st.DrawFn, *, memory_tokens: int | None = None, most_sequences: int = 256) -> Gpus:
    """A100, H100 or H200, perhaps under a power cap; `memory_tokens` makes them as small as short runs need."""
    profile = draw(st.sampled_from(_PROFILES))
    facts, cap = GPU_FACTS[profile.gpu.name], draw(st.sampled_from([1.0, 1.0, 0.7, 0.5]))
    capped = replace(
        Hardware.of_profile(profile, PoolName.MIXED, itl_seconds=0.04), power_cap=cap
    ).capped_performance
    speed = replace(
        capped,
        kv_capacity_tokens=memory_tokens or capped.kv_capacity_tokens,
        max_batch_size=most_sequences,
    )
    if not draw(st.booleans()):
        return Gpus(speed, None, None)
    return Gpus(speed, facts.dollars_per_hour, facts.watts * cap)


_PROFILES = [
    profile
    for profile in PROFILES.values()
    if profile.gpu.name in ("a100", "h100", "h200") and profile.model.name.startswith("llama")
]


@st.composite
def specs(
    draw: st.DrawFn,
    *,
    generation: int = 1,
    design: Design | None = None,
    memory_tokens: int | None = None,
    most_sequences: int = 256,
) -> ClusterSpec:
    """Small specs as the API lets them through: minimums and one pair fit the budget, base pools sleep together."""
    any_gpus = gpus_of_any_kind(memory_tokens=memory_tokens, most_sequences=most_sequences)
    design = design or draw(st.sampled_from(Design))
    shapes = {name: draw(st.integers(1, 2)) for name in PoolName}
    hardware = {name: draw(any_gpus) for name in PoolName}
    alike = draw(st.sampled_from([set(PoolName), BASE_POOLS])) if design is Design.CONVERTING else set()
    for name in alike:
        shapes[name], hardware[name] = shapes[PoolName.DECODE], hardware[PoolName.DECODE]
    sleeps = design is Design.SLEEPING or (design is not Design.APART and draw(st.booleans()))
    base = st.just(0) if sleeps else st.integers(1, 2)
    lows = (draw(base), draw(base), draw(st.integers(0, int(design is not Design.SLEEPING))))
    widths = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(0, 3)))
    if design is Design.MIXED_ONLY:
        # Without base pools the mixed pool serves alone.
        lows, widths = (0, 0, lows[2]), (0, 0, widths[0])
    highs = tuple(low + width for low, width in zip(lows, widths, strict=True))
    spec = make_spec(
        gpus=shapes,
        minimum=lows,
        maximum=(highs[0], highs[1], highs[2]),
        revision=draw(st.sampled_from(["r1", "r2"])),
        generation=generation,
        mode=draw(st.sampled_from([ScalingMode.AUTOMATIC, ScalingMode.FIXED, ScalingMode.RECOMMEND])),
    )
    prefill, decode, mixed = (
        replace(
            pool,
            performance=hardware[pool.name].speed,
            price_per_gpu_hour=hardware[pool.name].price,
            watts_per_gpu=hardware[pool.name].watts,
            interchangeable=pool.name in alike,
        )
        for pool in spec.pools
    )
    spec = replace(spec, pools=(prefill, decode, mixed))
    budget = smallest_budget(spec) + draw(st.integers(0, 6))
    return replace(
        spec,
        budget_gpus=budget,
        objective=draw(st.sampled_from(Objective)),
        kept_gpus=draw(st.sampled_from([0, 0, budget // 2, budget])),
    )


def smallest_budget(spec: ClusterSpec) -> int:
    """GPUs that the API asks for: every minimum, and one replica of each pool that a request needs."""
    prefill, decode, mixed = spec.pools
    needed = {PoolName.MIXED} if prefill.max_replicas == 0 else BASE_POOLS
    return sum(
        max(pool.min_replicas, int(pool.name in needed)) * pool.gpus_per_replica
        for pool in (prefill, decode, mixed)
    )


def with_half_the_budget(spec: ClusterSpec) -> ClusterSpec:
    """As far as the API lets it."""
    budget = max(smallest_budget(spec), spec.budget_gpus // 2)
    kept = min(spec.kept_gpus, budget)
    return replace(spec, budget_gpus=budget, kept_gpus=kept, generation=spec.generation + 1)


@st.composite
def with_other_bounds(draw: st.DrawFn, spec: ClusterSpec) -> ClusterSpec:
    """Narrower or wider above the minimums, for all pools that are on."""
    prefill, decode, mixed = (
        replace(pool, max_replicas=max(1, pool.min_replicas) + draw(st.integers(0, 3)))
        if pool.max_replicas
        else pool
        for pool in spec.pools
    )
    return replace(spec, pools=(prefill, decode, mixed), generation=spec.generation + 1)

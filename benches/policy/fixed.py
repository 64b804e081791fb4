"""Question (ii): 24 replicas are paid for. How much of a workload's load do they carry inside the SLO?

The load is bisected; a run is stopped as soon as it has missed too much. Fixed splits are searched for the best one in
hindsight: from the split that the oracle has on average, one replica after the other in the direction that carries more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from benches.policy.cluster import FIXED_REPLICAS, INSIDE, Sizes, fixed, reserved
from benches.policy.contenders import PRODUCT, Contender, contender
from benches.policy.elastic import attainment
from benches.policy.facts import Facts
from benches.policy.loads import Load
from benches.policy.variants import without_borrowing
from benches.policy.workloads import WARM_UP_SECONDS
from inferencecluster.core.fleet import PoolName
from inferencecluster.simulator.journeys import Journey, Outcome
from inferencecluster.simulator.report import Report
from inferencecluster.simulator.scenario import Scenario
from inferencecluster.simulator.signals import SizingPolicy
from inferencecluster.simulator.simulation import Simulation
from inferencecluster.simulator.workload import Request

SPLIT: Final = "fixed-split"
SPLIT_WITHOUT_BORROWING: Final = "fixed-split-without-borrowing"
ALL_MIXED: Final = "all-mixed"
FROM_WRONG_SPLIT: Final = "-from-wrong-split"
"""Follows the name of a contender."""
WRONG_START: Final = f"{PRODUCT}{FROM_WRONG_SPLIT}"
WITHOUT_CONVERSION: Final = f"{PRODUCT}-without-conversion"
RESOLUTION: Final = 1.015
"""The highest load is told to one and a half per cent."""
STRIDE: Final = 1.25
SMALLEST: Final = 0.01
TRIED_BEYOND: Final = 2
"""Neighbouring splits that may carry less before the search turns."""
WRONG_SPLIT: Final = 4
"""Replicas that the phase with more need begins with, of 24."""
ALL: Final = "all requests"
EVERY: Final = "every phase"


@dataclass(frozen=True, slots=True)
class Setup:
    """One cluster that carries a load."""

    name: str
    scenario: Scenario
    policy: Callable[[Sequence[Request]], SizingPolicy | None]
    contender: Contender
    borrowing: bool = True
    split: Sizes | None = None

    def simulation(self, requests: Sequence[Request], record: Callable[[Journey], None]) -> Simulation:
        """Ready to serve."""
        scenario, variant = self.scenario, self.contender.variant
        if variant is not None:
            scenario = variant.scenario(scenario)
        simulation = Simulation(scenario, self.policy(requests), record)
        if variant is not None:
            variant.prepare(simulation)
        if not self.borrowing:
            without_borrowing(simulation)
        return simulation


class _MissedTooMuchError(Exception):
    """The run cannot hold the SLO any more."""


class _Misses:
    """Counts misses while a run goes on."""

    def __init__(self, scenario: Scenario, allowed: float) -> None:
        self._left = allowed
        self._slo = scenario.slo
        hardware = scenario.hardware[PoolName.PREFILL]
        self._alone = hardware.capped_performance.prefill.seconds

    def __call__(self, journey: Journey) -> None:
        if journey.arrived_at < WARM_UP_SECONDS or self._is_inside(journey):
            return
        self._left -= 1
        if self._left < 0:
            raise _MissedTooMuchError

    def _is_inside(self, journey: Journey) -> bool:
        return (
            journey.outcome is Outcome.COMPLETED
            and journey.ttft_seconds <= self._slo.ttft_seconds + self._alone(journey.prompt_tokens)
            and journey.tpot_seconds <= self._slo.itl_seconds
        )


class Arena:
    """One workload with one seed, at any load."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._outcomes: dict[tuple[str, float], dict[str, Any] | None] = {}
        self.runs = 0

    @property
    def criteria(self) -> tuple[str, ...]:
        """What must be inside the SLO: all requests together, and those of every phase by themselves."""
        return (ALL, EVERY) if len(self._load.workload.spotlights) > 1 else (ALL,)

    def outcome(self, setup: Setup, scale: float) -> dict[str, Any] | None:
        """At `scale` times the load; None where too much was missed."""
        key = (setup.name, scale)
        if key not in self._outcomes:
            self.runs += 1
            self._outcomes[key] = self._run(setup, scale)
        return self._outcomes[key]

    def holds(self, setup: Setup, scale: float, criterion: str) -> bool:
        """Whether enough requests are inside the SLO."""
        outcome = self.outcome(setup, scale)
        return outcome is not None and outcome["attainment"][criterion] >= INSIDE

    def highest(self, setup: Setup, criterion: str, *, start: float) -> float:
        """The highest load that holds, as a share of the full one; 0 when none does."""
        low, high = 0.0, math.inf
        scale = start
        while low == 0.0 or high == math.inf:
            if self.holds(setup, scale, criterion):
                low, scale = scale, scale * STRIDE
            else:
                high, scale = scale, scale / STRIDE
            if scale < SMALLEST:
                return 0.0
        while high / low > RESOLUTION:
            middle = math.sqrt(low * high)
            if self.holds(setup, middle, criterion):
                low = middle
            else:
                high = middle
        return low

    def _run(self, setup: Setup, scale: float) -> dict[str, Any] | None:
        requests = list(self._load.requests(scale=scale))
        scored = sum(request.arrival >= WARM_UP_SECONDS for request in requests)
        if not scored:
            return None
        with setup.contender.applied():
            misses = _Misses(setup.scenario, scored * (1.0 - INSIDE))
            simulation = setup.simulation(requests, misses)
            try:
                simulation.serve(requests)
            except _MissedTooMuchError:
                return None
        return self._document(simulation.report())

    def _document(self, report: Report) -> dict[str, Any]:
        phases = [attainment(report, spot) for spot in self._load.workload.spotlights]
        document = report.document()
        kept = (
            "gpu_hours",
            "scale_events",
            "conversions",
            "ttft_ms",
            "tpot_ms",
            "paths",
            "refused",
            "failed",
        )
        return {name: document[name] for name in kept} | {
            "attainment": {ALL: report.slo_attainment, EVERY: min(phases, default=1.0)}
        }


@dataclass(frozen=True, slots=True)
class Runner:
    """What a row of the table is made of."""

    arena: Arena
    facts: Facts
    boot_seconds: float
    seed: int

    def run(self, name: str) -> dict[str, Any]:
        """The highest load of one row, for each criterion."""
        rows = {}
        for criterion in self.arena.criteria:
            setup, scale = self._best(name, criterion)
            outcome = self.arena.outcome(setup, scale) if scale else None
            rows[criterion] = {"load": scale, "split": setup.split, "outcome": outcome}
        return {"criteria": rows, "runs": self.arena.runs}

    def _best(self, name: str, criterion: str) -> tuple[Setup, float]:
        if name in (SPLIT, SPLIT_WITHOUT_BORROWING):
            return self._best_split(name, criterion)
        setup = self._setup(name)
        return setup, self.arena.highest(setup, criterion, start=self._guess)

    @property
    def _guess(self) -> float:
        """A load that 24 replicas might carry: full ones in the busiest twentieth of the time."""
        pairs = zip(self.facts.prefill, self.facts.decode, strict=False)
        needs = sorted(prefill + decode for prefill, decode in pairs)
        return FIXED_REPLICAS / max(1, needs[int(0.95 * len(needs))])

    @property
    def _share(self) -> int:
        """Prefill replicas in proportion to the mean need."""
        prefill, decode = self.facts.mean_need
        return min(FIXED_REPLICAS - 1, max(1, round(FIXED_REPLICAS * prefill / (prefill + decode))))

    def _setup(self, name: str) -> Setup:
        if name == ALL_MIXED:
            return self._fixed((0, 0, FIXED_REPLICAS), name)
        chosen = contender(name.removesuffix(FROM_WRONG_SPLIT))
        prefill = self._share
        if name.endswith(FROM_WRONG_SPLIT):
            prefill = WRONG_SPLIT if 2 * prefill >= FIXED_REPLICAS else FIXED_REPLICAS - WRONG_SPLIT
        scenario = reserved(
            boot_seconds=self.boot_seconds,
            initial=(prefill, FIXED_REPLICAS - prefill, 0),
            seed=self.seed,
            conversion=chosen.is_product,
        )
        context = self.facts.context(boot_seconds=self.boot_seconds, spec=scenario.spec, target=chosen.target)
        return Setup(
            name, scenario, lambda requests: chosen.build(replace(context, workload=requests)), chosen
        )

    def _fixed(self, split: Sizes, name: str) -> Setup:
        return Setup(
            name=f"{name} {split}",
            scenario=fixed(split, seed=self.seed),
            policy=lambda _requests: None,
            contender=Contender(name),
            borrowing=name != SPLIT_WITHOUT_BORROWING,
            split=split,
        )

    def _best_split(self, name: str, criterion: str) -> tuple[Setup, float]:
        best = self._fixed((self._share, FIXED_REPLICAS - self._share, 0), name)
        load = self.arena.highest(best, criterion, start=self._guess)
        for direction in (1, -1):
            found, more = self._climb(best, load, criterion, direction)
            if more > load:
                return found, more
        return best, load

    def _climb(self, best: Setup, load: float, criterion: str, direction: int) -> tuple[Setup, float]:
        """From one split in one direction, as long as it carries more."""
        name, (prefill, _, _) = best.contender.name, best.split or (self._share, 0, 0)
        beyond = 0
        while beyond < TRIED_BEYOND and 1 <= prefill + direction < FIXED_REPLICAS:
            prefill += direction
            setup = self._fixed((prefill, FIXED_REPLICAS - prefill, 0), name)
            more = max(load, SMALLEST) * RESOLUTION
            if self.arena.holds(setup, more, criterion):
                best, load, beyond = setup, self.arena.highest(setup, criterion, start=more), 0
            else:
                beyond += 1
        return best, load

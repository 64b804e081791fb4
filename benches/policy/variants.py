"""Ablations: the product with one of its mechanisms off, so that each earns its place.

Most mechanisms have no switch of their own, because nobody would turn them off. A variant therefore changes what it is given: the
scenario, the router's books, or (`replaced`) a constant or function of the core, for the time of one run in one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final
from unittest.mock import patch

from benches.policy.cluster import with_conversion
from inferencecluster.core.arrivals import NOTHING
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.headroom import Rule
from inferencecluster.core.replica_views import Fleet, ReplicaView
from inferencecluster.core.token_budget import PREFILL_TOKENS
from inferencecluster.simulator.scenario import Scenario
from inferencecluster.simulator.simulation import Simulation

_CORE: Final = "inferencecluster.core"


def _unchanged(scenario: Scenario) -> Scenario:
    return scenario


def _nothing(simulation: Simulation) -> None:
    del simulation


@dataclass(frozen=True, slots=True)
class Variant:
    """The product without something."""

    name: str
    title: str
    scenario: Callable[[Scenario], Scenario] = _unchanged
    prepare: Callable[[Simulation], None] = _nothing
    """Called before the run."""
    replaced: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Values of the core's module attributes during the run, by `module.attribute`."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The core with `replaced`. Raises `SpecError` when the core has no such attribute any more."""
        with ExitStack() as stack:
            for path, value in self.replaced.items():
                module_name, _, attribute = path.rpartition(".")
                module = import_module(f"{_CORE}.{module_name}")
                if not hasattr(module, attribute):
                    raise SpecError(
                        field=f"variant {self.name}",
                        value=path,
                        rule="core has no such attribute any more",
                        advice="bring benches/policy/variants.py up to date with the core",
                    )
                stack.enter_context(patch.object(module, attribute, value))
            yield


class _FleetWithoutBorrowing(Fleet):
    """Offers nobody to borrow."""

    def to_borrow(self, home: PoolName, revision: str) -> Iterator[ReplicaView]:
        del home, revision
        return iter(())


def _without_mixed(scenario: Scenario) -> Scenario:
    prefill, decode, mixed = scenario.spec.pools
    spec = replace(scenario.spec, pools=(prefill, decode, replace(mixed, max_replicas=0)))
    return replace(scenario, spec=spec, initial={**scenario.initial, PoolName.MIXED: 0})


def without_borrowing(simulation: Simulation) -> None:
    """Routers never lend a replica to the opposite phase."""
    simulation.frontend.ledger.fleet = _FleetWithoutBorrowing()


def _first_come_first_served(scenario: Scenario) -> Scenario:
    return replace(scenario, late_seconds=math.inf)


def _with_long_iterations(scenario: Scenario) -> Scenario:
    long = {
        name: replace(hardware, max_num_tokens=hardware.performance.max_batch_size + PREFILL_TOKENS)
        for name, hardware in scenario.hardware.items()
    }
    return replace(scenario, hardware=long)


def _without_conversion(scenario: Scenario) -> Scenario:
    return with_conversion(scenario, enabled=False)


VARIANTS: Final[Mapping[str, Variant]] = MappingProxyType(
    {
        variant.name: variant
        for variant in (
            Variant("without-mixed", "no mixed pool", scenario=_without_mixed),
            Variant("without-borrowing", "no borrowing", prepare=without_borrowing),
            Variant(
                "without-order", "no queue order: first come, first served", scenario=_first_come_first_served
            ),
            Variant(
                "without-hold",
                "no held peak: sizes follow the level down at once",
                replaced={"demand.HOLD_BOOTS": 0.0},
            ),
            Variant(
                "without-average",
                "always planned for the recent peak, never for the mean",
                replaced={"demand.cheaper_of": lambda *_tracks, **_limits: Rule.PEAK},
            ),
            Variant(
                "without-lending",
                "a reserve for prompts as if decode replicas could lend nothing",
                replaced={"sizing.lendable": lambda *_model, **_load: 0.0},
            ),
            Variant(
                "without-token-budget",
                "decode and mixed iterations as long as prefill ones, whatever the ITL",
                scenario=_with_long_iterations,
            ),
            Variant(
                "without-headroom",
                "no reserve for what earlier plans lacked",
                replaced={"demand.reserve_of": lambda *_outcomes, **_limits: NOTHING},
            ),
            Variant(
                "without-daily-profile",
                "no forecast: what the times of day brought is never believed",
                replaced={"seasonality.FEWEST_JUDGED": math.inf},
            ),
            Variant(
                "without-queue",
                "no queue term: age and backlog do not size",
                replaced={"sizing.queue_needs": lambda *_arguments: []},
            ),
            Variant(
                "without-conversion",
                "no conversion: a replica that another pool needs drains, and another one boots",
                scenario=_without_conversion,
            ),
        )
    }
)
"""In the order of tables."""

"""Plans are made with formulas; before they are shown, requests run through the product's own code on the simulator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from inferencecluster.api.inferencecluster import parse_cluster
from inferencecluster.api.translate import revision_of, to_core
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.spec import ClusterSpec, ScalingMode
from inferencecluster.planner.answer import Option, Plan
from inferencecluster.planner.capacity import Target
from inferencecluster.simulator.hardware import Hardware
from inferencecluster.simulator.journeys import Journey, Outcome
from inferencecluster.simulator.scenario import Scenario
from inferencecluster.simulator.simulation import simulate
from inferencecluster.simulator.workload import Request, with_mirrored_warm_up

WARM_UP_SECONDS: Final = 600.0
"""The beginning, mirrored and not scored: pools settle, which takes a boot and a scale-down window."""
MAX_REFUTED: Final = 5
"""Options that may fail in the simulator before the search is given up: then the formulas are wrong for this case."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What the simulator measured for an option. Attainment: requests inside both targets, refused ones count as missed."""

    requests: int
    static_attainment: float
    """Every pool at its planned peak."""
    static_gpus: float
    """Mean over the time from the first to the last arrival."""
    autoscaled_attainment: float
    """The operator sizes the pools, within the manifest's bounds."""
    autoscaled_gpus: float
    autoscaled_dollars_per_hour: float | None
    """Mean, at the prices of the question; None of a single request, which takes no time."""

    def holds(self, target: Target) -> bool:
        """The planned sizes are enough: what remains is the autoscaler's surprise."""
        return self.static_attainment >= target.share


@dataclass(frozen=True, slots=True)
class Served:
    """One run."""

    requests: int
    attainment: float
    gpus: float
    """Mean over the time from the first to the last arrival, as the next."""
    dollars_per_hour: float | None


class Verifier(Protocol):
    """Whoever can tell what an option really does."""

    def verify(self, option: Option, manifest: Mapping[str, Any], target: Target) -> Verified:
        """The option, as its manifest describes it, under the traffic it was fitted to."""
        ...


@dataclass(frozen=True, slots=True)
class SimulatorVerifier:
    """The discrete-event simulator, with the operator's decisions and the router's."""

    workload: Callable[[Option], Iterable[Request]]
    """The requests that the option was fitted to, at its scale."""

    def verify(self, option: Option, manifest: Mapping[str, Any], target: Target) -> Verified:
        """Two runs over the same requests."""
        spec = _spec_of(manifest)
        static = self._run(option, Scenario(_at_peak(spec, option), _hardware(option, target)), target)
        followed = self.autoscaled(option, manifest, target)
        return Verified(
            requests=static.requests,
            static_attainment=static.attainment,
            static_gpus=static.gpus,
            autoscaled_attainment=followed.attainment,
            autoscaled_gpus=followed.gpus,
            autoscaled_dollars_per_hour=followed.dollars_per_hour,
        )

    def autoscaled(self, option: Option, manifest: Mapping[str, Any], target: Target) -> Served:
        """The operator sizes the pools, within the manifest's bounds."""
        scenario = Scenario(_spec_of(manifest), _hardware(option, target), initial=_initial(option))
        return self._run(option, scenario, target)

    def _run(self, option: Option, scenario: Scenario, target: Target) -> Served:
        """The planner's targets are absolute; the simulator's own score forgives each request its prefill."""
        met = scored = 0

        def score(journey: Journey) -> None:
            nonlocal met, scored
            if journey.arrived_at >= WARM_UP_SECONDS:
                scored += 1
                met += _meets(journey, target)

        workload = with_mirrored_warm_up(self.workload(option), WARM_UP_SECONDS)
        report = simulate(replace(scenario, warm_up_seconds=WARM_UP_SECONDS), workload, record=score)
        hours = report.seconds / 3600
        prices = {name: shape.gpu.dollars_per_hour for name, shape in option.design.pools}
        dollars = sum(report.gpu_hours[name] * price for name, price in prices.items())
        return Served(
            requests=scored,
            attainment=met / scored if scored else 1.0,
            gpus=report.total_gpu_hours / hours if hours > 0 else 0.0,
            dollars_per_hour=dollars / hours if hours > 0 else None,
        )


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A plan whose best option was verified."""

    plan: Plan
    verified: Verified
    holds: bool
    """False: every option that was tried failed; the plan is the original one, with the measurement of its best."""


def confirm(plan: Plan, verifier: Verifier, manifest_of: Callable[[Option], Mapping[str, Any]]) -> Confirmed:
    """Go through the options until one holds in the verifier's eyes; those before it are rejected."""
    target = plan.question.target
    first = verified = verifier.verify(plan.best, manifest_of(plan.best), target)
    current = plan
    for _ in range(MAX_REFUTED):
        if verified.holds(target):
            return Confirmed(current, verified, holds=True)
        if len(current.options) == 1:
            break
        current = current.without_best(
            f"the formulas expected {current.best.fitted.attainment:.1%} of the requests in time, "
            f"the simulator saw {verified.static_attainment:.1%}"
        )
        verified = verifier.verify(current.best, manifest_of(current.best), target)
    return Confirmed(plan, first, holds=False)


def _meets(journey: Journey, target: Target) -> bool:
    if journey.outcome is not Outcome.COMPLETED or journey.ttft_seconds > target.ttft_seconds:
        return False
    steps = journey.output_tokens - 1
    return steps < 1 or (journey.ended_at - journey.first_token_at) / steps <= target.itl_seconds


def _spec_of(manifest: Mapping[str, Any]) -> ClusterSpec:
    cluster = parse_cluster({**manifest, "metadata": {"namespace": "default", **manifest["metadata"]}})
    return to_core(cluster, revision=revision_of(cluster))


def _hardware(option: Option, target: Target) -> dict[PoolName, Hardware]:
    """Of the design's pools, and of the mixed pool that the manifest puts beside two others."""
    itl = target.itl_seconds
    hardware = {
        name: Hardware.of_profile(shape.profile, name, itl_seconds=itl) for name, shape in option.design.pools
    }
    if PoolName.MIXED not in hardware:
        _, decode = option.design.pools[-1]
        hardware[PoolName.MIXED] = Hardware.of_profile(decode.profile, PoolName.MIXED, itl_seconds=itl)
    return hardware


def _initial(option: Option) -> dict[PoolName, int]:
    """The sizes that the warm-up begins with: its requests are the traffic's beginning, backwards."""
    windows = option.traffic.windows
    index = min(len(windows) - 1, int(WARM_UP_SECONDS / option.traffic.window_seconds))
    sizes = option.fitted.sizes[index]
    return {name: max(1, size) for (name, _), size in zip(option.design.pools, sizes, strict=True)}


def _at_peak(spec: ClusterSpec, option: Option) -> ClusterSpec:
    """Every pool fixed at its planned peak, the others off."""
    peak = {name: size for (name, _), size in zip(option.design.pools, option.fitted.peak, strict=True)}
    prefill, decode, mixed = (
        replace(pool, min_replicas=peak.get(pool.name, 0), max_replicas=peak.get(pool.name, 0))
        for pool in spec.pools
    )
    return replace(spec, mode=ScalingMode.FIXED, pools=(prefill, decode, mixed))

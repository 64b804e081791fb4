"""What is measured during a run: every request once, every GPU-second, every change of size."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from inferencecluster.core.decision import Decision
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.status import DecisionRecord
from inferencecluster.simulator.activity import Activity
from inferencecluster.simulator.hardware import Hardware
from inferencecluster.simulator.journeys import Journey, Outcome, Path
from inferencecluster.simulator.replicas import SimulatedReplica
from inferencecluster.simulator.report import Interval, Report, RequestLatencies, Sizes
from inferencecluster.simulator.scenario import Scenario

_JOULES_PER_KILOWATT_HOUR = 3.6e6


@dataclass(slots=True)
class _Bin:
    """One interval of the timeline."""

    requests: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    missed: int = 0
    replica_seconds: dict[PoolName, float] = field(default_factory=lambda: dict.fromkeys(PoolName, 0.0))
    serving_seconds: dict[PoolName, float] = field(default_factory=lambda: dict.fromkeys(PoolName, 0.0))
    gpu_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Fleet:
    """What exists between two changes."""

    replicas: dict[PoolName, int]
    serving: dict[PoolName, int]
    gpus: dict[PoolName, int]
    dollars_per_hour: float
    watts: float


class Measures:
    """Collects one run. Requests that arrive before the warm-up is over, and costs until then, are left out."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._slo = scenario.slo
        self._start = scenario.warm_up_seconds
        self._until: float | None = None
        """When the counting of costs ended: with the last arrival."""
        self._ttft, self._tpot, self._e2e = array("d"), array("d"), array("d")
        self._outcomes: Counter[Outcome] = Counter()
        self._paths: Counter[Path] = Counter()
        self._met = 0
        self._too_large = 0
        self._largest_tokens = max(item.performance.kv_capacity_tokens for item in scenario.hardware.values())
        self._ttft_met = 0
        self._tpot_met = 0
        self._bins: list[_Bin] = []
        nothing = dict.fromkeys(PoolName, 0)
        self._fleet = _Fleet(nothing, nothing, nothing, 0.0, 0.0)
        self._counted_until = 0.0
        self._gpu_seconds = dict.fromkeys(PoolName, 0.0)
        self._dollars = 0.0
        self._joules = 0.0
        self._peak_gpus = 0
        self._activity = Activity(self._start)
        self._sizes: list[Sizes] = []
        self._decisions: list[DecisionRecord] = []
        self._conversions_before = 0
        self._conversions = 0
        self._alone = _prefill_hardware(scenario).times.prompt_seconds

    def arrived(self, journey: Journey) -> None:
        """A request came."""
        if journey.arrived_at >= self._start:
            item = self._bin(journey.arrived_at)
            item.requests += 1
            item.prompt_tokens += journey.prompt_tokens

    def ended(self, journey: Journey) -> None:
        """A request is over."""
        if journey.arrived_at < self._start:
            return
        self._outcomes[journey.outcome] += 1
        self._paths[journey.path] += 1
        item = self._bin(journey.arrived_at)
        if journey.outcome is not Outcome.COMPLETED:
            item.missed += 1
            tokens = journey.prompt_tokens + journey.output_tokens
            self._too_large += journey.outcome is Outcome.TOO_LARGE or tokens > self._largest_tokens
            return
        item.output_tokens += journey.output_tokens
        ttft, tpot = journey.ttft_seconds, journey.tpot_seconds
        self._ttft.append(ttft)
        self._e2e.append(journey.ended_at - journey.arrived_at)
        if journey.output_tokens > 1:
            self._tpot.append(tpot)
        is_prompt = ttft <= self._slo.ttft_seconds + self._alone(
            journey.prompt_tokens - journey.cached_tokens
        )
        is_fluent = tpot <= self._slo.itl_seconds
        self._ttft_met += is_prompt
        self._tpot_met += is_fluent
        if is_prompt and is_fluent:
            self._met += 1
        else:
            item.missed += 1

    def fleet_changed(self, now: float, replicas: Iterable[SimulatedReplica], conversions: int) -> None:
        """Replicas came, went or changed at `now`."""
        self._count_costs(now)
        existing, serving, gpus = (dict.fromkeys(PoolName, 0) for _ in range(3))
        dollars, watts = 0.0, 0.0
        for replica in replicas:
            hardware = replica.hardware
            existing[replica.home] += 1
            serving[replica.home] += replica.is_serving
            gpus[replica.home] += replica.gpus
            dollars += replica.gpus * hardware.dollars_per_gpu_hour
            watts += replica.gpus * hardware.watts_per_gpu * hardware.power_cap
        self._fleet = _Fleet(existing, serving, gpus, dollars, watts)
        if now < self._start:
            self._conversions_before = conversions
        elif self._until is None:
            self._conversions = conversions - self._conversions_before

    def looked(self, now: float, replicas: Iterable[SimulatedReplica]) -> None:
        """Engines were accounted up to `now`."""
        if self._until is None:
            self._activity.look(now, replicas)

    def decided(self, now: float, decision: Decision) -> None:
        """The operator chose sizes."""
        if self._until is not None:
            return
        prefill, decode, mixed = (decision.targets[name] for name in PoolName)
        last = self._sizes[-1] if self._sizes else None
        if last is None or (last.prefill, last.decode, last.mixed) != (prefill, decode, mixed):
            self._sizes.append(Sizes(now, prefill, decode, mixed))
        if now >= self._start:
            self._decisions += decision.records

    def close(self, now: float, replicas: Iterable[SimulatedReplica]) -> None:
        """The last request has arrived: from here on, nothing is charged."""
        self._count_costs(now)
        existing = tuple(replicas)
        for replica in existing:
            if replica.entry is not None:
                replica.entry.engine.account(now)
        self._activity.look(now, existing)
        self._until = now

    def report(self, *, policy: str, preemptions: int, failures: int) -> Report:
        """Everything, once all requests have ended."""
        until = self._until if self._until is not None else self._counted_until
        seconds = max(0.0, until - self._start)
        return Report(
            policy=policy,
            seconds=seconds,
            requests=self._outcomes.total(),
            completed=self._outcomes[Outcome.COMPLETED],
            failed=self._outcomes[Outcome.FAILED] + self._outcomes[Outcome.TOO_LARGE],
            too_large=self._too_large,
            refused=self._outcomes[Outcome.REFUSED],
            slo_met=self._met,
            ttft_met=self._ttft_met,
            tpot_met=self._tpot_met,
            latencies=RequestLatencies(self._ttft, self._tpot, self._e2e),
            paths={path: self._paths[path] for path in Path},
            utilization=self._activity.over(self._gpu_seconds),
            gpu_hours={name: self._gpu_seconds[name] / 3600 for name in PoolName},
            gpu_hours_static_peak=self._peak_gpus * seconds / 3600,
            dollars=self._dollars,
            kilowatt_hours=self._joules / _JOULES_PER_KILOWATT_HOUR,
            peak_gpus=self._peak_gpus,
            scale_events=sum(not record.message.startswith("recommended only") for record in self._decisions),
            conversions=self._conversions,
            preemptions=preemptions,
            failures=failures,
            sizes=tuple(self._sizes),
            decisions=tuple(self._decisions),
            timeline=tuple(self._interval(number, item) for number, item in enumerate(self._bins)),
        )

    def _interval(self, number: int, item: _Bin) -> Interval:
        width = self._scenario.timeline_seconds
        return Interval(
            start=number * width,
            requests=item.requests,
            prompt_tokens=item.prompt_tokens,
            output_tokens=item.output_tokens,
            slo_missed=item.missed,
            replicas={name: item.replica_seconds[name] / width for name in PoolName},
            serving={name: item.serving_seconds[name] / width for name in PoolName},
            gpus=item.gpu_seconds / width,
        )

    def _bin(self, time: float) -> _Bin:
        return self._bin_at(int((time - self._start) / self._scenario.timeline_seconds))

    def _bin_at(self, number: int) -> _Bin:
        while len(self._bins) <= number:
            self._bins.append(_Bin())
        return self._bins[number]

    def _count_costs(self, now: float) -> None:
        """Charge what has existed since the last change."""
        begin = max(self._counted_until, self._start)
        self._counted_until = now
        if self._until is not None or now <= begin:
            return
        fleet, seconds = self._fleet, now - begin
        for name in PoolName:
            self._gpu_seconds[name] += fleet.gpus[name] * seconds
        gpus = sum(fleet.gpus.values())
        self._dollars += fleet.dollars_per_hour * seconds / 3600
        self._joules += fleet.watts * seconds
        self._peak_gpus = max(self._peak_gpus, gpus)
        while begin < now:
            number = int((begin - self._start) / self._scenario.timeline_seconds)
            end = min(now, self._start + (number + 1) * self._scenario.timeline_seconds)
            if end <= begin:
                # On a border the quotient may round down into the bin that is full already.
                number += 1
                end = min(now, self._start + (number + 1) * self._scenario.timeline_seconds)
            item = self._bin_at(number)
            for name in PoolName:
                item.replica_seconds[name] += fleet.replicas[name] * (end - begin)
                item.serving_seconds[name] += fleet.serving[name] * (end - begin)
            item.gpu_seconds += gpus * (end - begin)
            begin = end


def _prefill_hardware(scenario: Scenario) -> Hardware:
    """What an unloaded prompt is computed on: the first pool of these that may exist."""
    for name in (PoolName.PREFILL, PoolName.MIXED, PoolName.DECODE):
        if scenario.spec.pool(name).max_replicas > 0:
            return scenario.hardware[name]
    raise SpecError(
        field="pools", value="all off", rule="at least one pool has replicas", advice="raise a maxReplicas"
    )

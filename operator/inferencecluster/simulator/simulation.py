"""One run: a workload through a cluster that is sized and routed by the product's own core.

report = simulate(scenario, read_trace(path))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Final

from inferencecluster.core.decision import Decision
from inferencecluster.core.errors import SpecError
from inferencecluster.core.observation import Observation
from inferencecluster.core.routing import RoutingPolicy
from inferencecluster.core.sleep import may_sleep
from inferencecluster.core.waiting import late_after
from inferencecluster.simulator.counters import Counters
from inferencecluster.simulator.events import EventQueue
from inferencecluster.simulator.frontend import Frontend, FrontendSettings
from inferencecluster.simulator.journeys import Journey
from inferencecluster.simulator.measures import Measures
from inferencecluster.simulator.observing import Observer
from inferencecluster.simulator.operating import Operator
from inferencecluster.simulator.replicas import Replicas
from inferencecluster.simulator.report import Report
from inferencecluster.simulator.scenario import Scenario
from inferencecluster.simulator.signals import SizingPolicy
from inferencecluster.simulator.workload import Request

Progress = Callable[[float | None, float, int], None]
"""Called now and then with the share of the work that is done (None when the length is not known), the simulated
seconds and the requests that have arrived."""

PROGRESS_REQUESTS: Final = 500
"""Between two calls: some ten a second."""
STALL_SECONDS: Final = 6 * 3600.0
"""Longer than any request takes: a run that ends nothing for so long has a defect and must not go on for ever."""


def simulate(
    scenario: Scenario,
    workload: Iterable[Request],
    policy: SizingPolicy | None = None,
    *,
    progress: Progress | None = None,
    record: Callable[[Journey], None] | None = None,
) -> Report:
    """Serve the whole workload, to the end of its last request.

    With a policy, it writes the sizes (mode External); without one, the spec's own mode decides: `Automatic` is the
    product. `record` gets every request when it has ended. Raises `SpecError` when arrivals go back in time.
    """
    run = Simulation(scenario, policy, record)
    run.serve(workload, progress)
    return run.report()


class Simulation:
    """The parts of one run, put together. Call `serve` once."""

    def __init__(
        self,
        scenario: Scenario,
        policy: SizingPolicy | None = None,
        record: Callable[[Journey], None] | None = None,
    ) -> None:
        spec = scenario.spec
        self.events = EventQueue()
        self.counters = Counters()
        self.measures = Measures(scenario)
        self.frontend = Frontend(
            FrontendSettings(
                routing=RoutingPolicy.of(spec),
                max_queue_seconds=scenario.max_queue_seconds,
                wake_queue_seconds=scenario.wake_queue_seconds,
                late_seconds=late_after(spec.slo.ttft_seconds)
                if scenario.late_seconds is None
                else scenario.late_seconds,
                network=scenario.network,
                prefill_answers=scenario.prefill_answers,
                knows_outputs=scenario.knows_outputs,
            ),
            self.events,
            self.counters,
            self._ended,
        )
        self.replicas = Replicas(scenario, self.events, self.frontend, self._fleet_changed)
        observer = Observer(
            self.frontend,
            self.replicas,
            self.counters,
            window_seconds=scenario.operations.metrics_window_seconds,
            faults=scenario.faults,
        )
        self.operator = Operator(scenario, self.events, self.replicas, observer, policy)
        self.operator.on_decision = self._decided
        if may_sleep(spec):
            self.frontend.on_unserved = self.operator.wake
        self.arrived = 0
        self.ended = 0
        self._policy_name = policy.name if policy is not None else spec.mode.value
        self._record = record
        self._ended_at = 0.0

    def serve(self, workload: Iterable[Request], progress: Progress | None = None) -> None:
        """Run until every request of the workload has ended."""
        self.replicas.start_initial()
        self.operator.start()
        total = len(workload) if isinstance(workload, Sized) else None
        arrivals = iter(workload)
        following = next(arrivals, None)
        events, run_next = self.events, self.events.run_next
        while following is not None:
            time = events.next_time()
            if time is not None and time <= following.arrival:
                run_next()
                continue
            self._arrive(following)
            following = self._next(arrivals, following)
            if progress is not None and self.arrived % PROGRESS_REQUESTS == 0:
                progress(self.arrived / total if total else None, events.now, self.arrived)
        self.measures.close(events.now, self.replicas)
        self._ended_at = events.now
        while self.ended < self.arrived:
            run_next()
            if events.now - self._ended_at > STALL_SECONDS:
                raise RuntimeError(
                    f"{self.arrived - self.ended} requests do not end: the simulator is at fault"
                )
        if progress is not None:
            progress(1.0, events.now, self.arrived)

    def report(self) -> Report:
        """What was measured."""
        return self.measures.report(
            policy=self._policy_name,
            preemptions=self.replicas.preemptions,
            failures=self.replicas.failures,
        )

    def _arrive(self, request: Request) -> None:
        now = self.events.now = max(self.events.now, request.arrival)
        self.arrived += 1
        journey = Journey(now, request.prompt_tokens, request.output_tokens)
        journey.cached_tokens = min(request.cached_tokens, request.prompt_tokens - 1)
        self.measures.arrived(journey)
        self.frontend.arrive(journey, now)

    @staticmethod
    def _next(arrivals: Iterator[Request], before: Request) -> Request | None:
        request = next(arrivals, None)
        if request is not None and not before.arrival <= request.arrival < math.inf:
            raise SpecError(
                field="workload arrival",
                value=request.arrival,
                rule=f"arrivals ascend, and the request before came at {before.arrival}",
                advice="sort the workload by arrival",
            )
        return request

    def _ended(self, journey: Journey) -> None:
        self.ended += 1
        self._ended_at = self.events.now
        self.measures.ended(journey)
        if self._record is not None:
            self._record(journey)

    def _fleet_changed(self, now: float) -> None:
        self.measures.fleet_changed(now, self.replicas, self.replicas.conversions)
        self.operator.wake(now)

    def _decided(self, observation: Observation, decision: Decision) -> None:
        self.measures.looked(observation.now, self.replicas)
        self.measures.decided(observation.now, decision)

"""`GET /metrics`: Prometheus text out of the router's own counters, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from inferencecluster.router.dispatcher import Dispatcher
from inferencecluster.router.ledger import Entry, Ledger, PathKind
from inferencecluster.router.traffic import Histogram, Outcome, Traffic

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX: Final = "inferencecluster_router_"


class RouterMetrics(Collector):
    """Reads the counters when Prometheus asks."""

    def __init__(
        self,
        traffic: Traffic,
        ledger: Ledger,
        dispatcher: Dispatcher,
        *,
        labels: Mapping[str, str],
        model: Callable[[], str],
    ) -> None:
        """`labels` (cluster, namespace) are on every series; `model` is the served name, empty until it is known."""
        self._traffic = traffic
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._names = list(labels)
        self._values = list(labels.values())
        self._model = model
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self, *, loop_time: float) -> bytes:
        """The text; `loop_time` is now on the stopwatch."""
        self._loop_time = loop_time
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing is read while registering."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All families."""
        yield from self._counters()
        yield from self._latencies()
        yield from self._queue()
        yield from self._replicas()

    def _counters(self) -> Iterable[Metric]:
        traffic = self._traffic
        plain = (
            ("arrivals", "Requests given to replicas or to the queue", traffic.requests),
            ("prompt_tokens", "Prompt tokens of arrivals", traffic.prompt_tokens),
            (
                "prompt_tokens_squared",
                "Sum of squared prompt lengths of arrivals",
                traffic.prompt_tokens_squared,
            ),
            ("output_tokens", "Output tokens of requests that ended", traffic.output_tokens),
            ("completed_requests", "Requests answered in full", traffic.completed),
            ("completed_output_tokens", "Output tokens of those", traffic.completed_output_tokens),
            (
                "prefilled_prompt_tokens",
                "Prompt tokens of prefills that ended",
                traffic.prefilled_prompt_tokens,
            ),
            ("cached_prompt_tokens", "Prompt tokens that engines had cached", traffic.cached_prompt_tokens),
            ("retries", "Attempts on another replica after one failed", traffic.retries),
        )
        for name, text, value in plain:
            family = CounterMetricFamily(_PREFIX + name, text, labels=self._names)
            family.add_metric(self._values, value)
            yield family
        yield self._requests()

    def _requests(self) -> Metric:
        """By outcome; the completed ones exist from the start, so that an idle router is not a missing one."""
        family = CounterMetricFamily(
            _PREFIX + "requests",
            "Requests that ended, by outcome and by the path that served them",
            labels=[*self._names, "model", "outcome", "path"],
        )
        counts = {(Outcome.COMPLETED, path.value): 0 for path in PathKind} | self._traffic.outcomes
        for (outcome, path), count in sorted(counts.items()):
            family.add_metric([*self._values, self._model(), outcome.value, path], count)
        return family

    def _latencies(self) -> Iterable[Metric]:
        traffic = self._traffic
        yield self._histogram("ttft_seconds", "Time to first token of streams", traffic.ttft)
        yield self._histogram("itl_seconds", "Time between tokens of streams", traffic.itl)
        yield self._histogram(
            "added_latency_seconds",
            "The router's own time until the first byte, without queue and engines",
            traffic.added_latency,
        )

    def _histogram(self, name: str, text: str, histogram: Histogram) -> Metric:
        family = HistogramMetricFamily(_PREFIX + name, text, labels=self._names)
        family.add_metric(self._values, histogram.buckets(), histogram.total)
        return family

    def _queue(self) -> Iterable[Metric]:
        gauges = (
            ("queue_requests", "Requests that wait for a replica", self._dispatcher.held_requests),
            ("queue_tokens", "Prompt tokens of those", self._dispatcher.held_tokens),
            (
                "queue_head_age_seconds",
                "Age of the oldest request without a first token, queued or sent",
                self._traffic.head_age_seconds(self._loop_time),
            ),
        )
        for name, text, value in gauges:
            family = GaugeMetricFamily(_PREFIX + name, text, labels=self._names)
            family.add_metric(self._values, value)
            yield family

    def _replicas(self) -> Iterable[Metric]:
        in_flight = GaugeMetricFamily(
            _PREFIX + "in_flight",
            "Requests on a replica or on their way to it",
            labels=[*self._names, "replica", "pool", "phase"],
        )
        transfers = GaugeMetricFamily(
            _PREFIX + "kv_transfers",
            "Prefills whose KV cache has not been pulled yet",
            labels=[*self._names, "replica"],
        )
        for entry in self._ledger:
            record = entry.record
            for phase, count in _phases(entry):
                in_flight.add_metric([*self._values, record.name, record.home.value, phase], count)
            transfers.add_metric([*self._values, record.name], entry.kv_transfers)
        yield in_flight
        yield transfers


def _phases(entry: Entry) -> tuple[tuple[str, int], ...]:
    return (
        ("prefill", entry.prefills),
        ("decode", entry.sequences - entry.mixed_requests),
        ("mixed", entry.mixed_requests),
    )

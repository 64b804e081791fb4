"""`/prometheus/metrics`: the names of each release.

TensorRT-LLM's pull requests #11243, #12545 and #12636 brought the prefixed set to 1.3; up to 1.2 there are five
metrics without prefix, whose labels say "undefined".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from emulated_engine.configuration import Configuration
from emulated_engine.iteration_statistics import IterationStatistics, kv_cache_blocks
from emulated_engine.sequences import Phase, Sequence

TTFT_BUCKETS: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
TPOT_BUCKETS: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
REQUEST_BUCKETS: Final = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0)
"""First bucket 0.3 s, as in the real engine: shorter queue times cannot be told apart."""

HISTOGRAMS: Final = {
    "e2e_request_latency_seconds": REQUEST_BUCKETS,
    "time_to_first_token_seconds": TTFT_BUCKETS,
    "time_per_output_token_seconds": TPOT_BUCKETS,
    "request_queue_time_seconds": REQUEST_BUCKETS,
}
HISTOGRAMS_1_3: Final = {
    "request_prefill_time_seconds": REQUEST_BUCKETS,
    "request_decode_time_seconds": REQUEST_BUCKETS,
    "request_inference_time_seconds": REQUEST_BUCKETS,
}


class _Gauges(Collector):
    """The gauges of 1.3: values of the last collected iteration, absent before the first request completes."""

    def __init__(
        self, configuration: Configuration, labels: dict[str, str], statistics: IterationStatistics
    ) -> None:
        self._configuration = configuration
        # prometheus_client's multiprocess mode, which the real engine uses, adds the process to gauges.
        self._labels = {**labels, "pid": str(os.getpid())}
        self._statistics = statistics

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, value in self._values().items():
            family = GaugeMetricFamily(f"trtllm_{name}", name.replace("_", " "), labels=list(self._labels))
            family.add_metric(list(self._labels.values()), value)
            yield family

    def _values(self) -> dict[str, float]:
        row = self._statistics.gauges
        if row is None:
            return {}
        done, settings = row.done, self._configuration
        blocks = kv_cache_blocks(settings, done.load.resident_tokens)
        return {
            "num_requests_running": done.load.active,
            "num_requests_waiting": done.load.queued,
            "max_num_active_requests": settings.max_batch_size,
            "iteration_latency_seconds": done.seconds / done.iterations,
            "max_batch_size_static": settings.max_batch_size,
            "max_batch_size_runtime": settings.max_batch_size,
            "max_num_tokens_runtime": settings.max_num_tokens,
            "kv_cache_utilization": blocks["usedNumBlocks"] / max(1, blocks["maxNumBlocks"]),
            "kv_cache_max_blocks": blocks["maxNumBlocks"],
            "kv_cache_free_blocks": blocks["freeNumBlocks"],
            "kv_cache_used_blocks": blocks["usedNumBlocks"],
            "kv_cache_tokens_per_block": blocks["tokensPerBlock"],
            "num_context_requests": done.context_requests,
            "num_generation_requests": done.generation_requests,
            "num_paused_requests": 0,
            "num_scheduled_requests": done.context_requests + done.generation_requests,
            "total_context_tokens": done.context_tokens,
        }


class PrometheusMetrics:
    """Counters and histograms of requests, gauges of iterations."""

    def __init__(
        self, configuration: Configuration, model_name: str, statistics: IterationStatistics
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._is_1_3 = configuration.is_1_3_or_newer
        known = self._is_1_3
        self._labels = {
            "model_name": model_name if known else "undefined",
            "engine_type": "pytorch" if known else "undefined",
        }
        prefix = "trtllm_" if known else ""
        wanted = HISTOGRAMS | HISTOGRAMS_1_3 if known else HISTOGRAMS
        self._histograms = {name: self._histogram(prefix + name, buckets) for name, buckets in wanted.items()}
        self._success = self._counter(f"{prefix}request_success", "finished_reason")
        if known:
            self._errors = self._counter("trtllm_request_error", "http_code")
            self._completed = self._counter("trtllm_num_requests_completed")
            self._prompt_tokens = self._counter("trtllm_prompt_tokens")
            self._output_tokens = self._counter("trtllm_generation_tokens")
            self._registry.register(_Gauges(configuration, self._labels, statistics))

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        family = Histogram(
            name, name.replace("_", " "), list(self._labels), buckets=buckets, registry=self._registry
        )
        return family.labels(**self._labels)

    def _counter(self, name: str, *labels: str) -> Counter:
        return Counter(name, name.replace("_", " "), [*self._labels, *labels], registry=self._registry)

    def request_ended(self, sequence: Sequence) -> None:
        """A sequence made its last token on this engine."""
        self._success.labels(**self._labels, finished_reason=sequence.finish_reason).inc()
        for name, seconds in durations(sequence).items():
            if name in self._histograms:
                self._histograms[name].observe(seconds)
        if self._is_1_3:
            self._completed.labels(**self._labels).inc()
            self._prompt_tokens.labels(**self._labels).inc(sequence.prompt_tokens)
            self._output_tokens.labels(**self._labels).inc(sequence.delivered)

    def request_failed(self, status: int) -> None:
        """A request was answered with an error."""
        if self._is_1_3:
            self._errors.labels(**self._labels, http_code=str(status)).inc()

    def exposition(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self._registry)


def durations(sequence: Sequence) -> dict[str, float]:
    """Seconds of each part of a request's life that took place here; parts that did not are absent."""
    scheduled, first, ended = sequence.scheduled_at, sequence.first_token_at, sequence.ended_at
    if scheduled is None or first is None or ended is None:
        return {}
    parts = {
        "e2e_request_latency_seconds": ended - sequence.arrived_at,
        "time_to_first_token_seconds": first - sequence.arrived_at,
        "request_queue_time_seconds": scheduled - sequence.arrived_at,
        "request_inference_time_seconds": ended - scheduled,
    }
    if sequence.phase is not Phase.GENERATION_ONLY:
        parts["request_prefill_time_seconds"] = first - scheduled
    if sequence.phase is not Phase.CONTEXT_ONLY:
        parts["request_decode_time_seconds"] = ended - first
        if sequence.delivered > 1:
            parts["time_per_output_token_seconds"] = (ended - first) / (sequence.delivered - 1)
    return parts

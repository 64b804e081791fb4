"""Prometheus: one grouped query for all clusters, its answer as one `MetricsSample` per cluster."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

import requests
from prometheus_api_client import PrometheusApiClientException, PrometheusConnect
from requests.adapters import Retry

from inferencecluster.adapters.clock import Clock
from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.adapters.promql import FLOWS, ROUTER_PREFIX, SIGNAL, labels_of, named
from inferencecluster.core.errors import MetricsUnavailable
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Flow, MetricsSample, PoolUtilization

QUERY_SECONDS: Final = 5.0
"""The query takes some ten milliseconds; a slower Prometheus is asked again at the next tick."""

_THREADS: Final = 8
"""`requests` blocks a thread per query; more than one only while an earlier one hangs."""

_LATENCIES: Final = {"ttft": "ttft_seconds_bucket", "itl": "itl_seconds_bucket"}
_UTILIZATIONS: Final = {
    "tensor_active": "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
    "dram_active": "DCGM_FI_PROF_DRAM_ACTIVE",
}


@dataclass(frozen=True, slots=True)
class Series:
    """One element of an instant vector."""

    labels: Mapping[str, str]
    value: float


class MetricSource(Protocol):
    """Answers PromQL."""

    async def query(self, expression: str, *, at: float) -> Sequence[Series]:
        """The instant vector at Unix time `at`. Raises `MetricsUnavailable`."""


class PrometheusSource:
    """`MetricSource` over prometheus-api-client, which blocks: it runs in threads of its own, with timeouts."""

    def __init__(self, url: str) -> None:
        self._url = url
        # Its defaults are no timeout and three retries; a retry here is the next tick.
        self._connection = PrometheusConnect(url=url, retry=Retry(0), timeout=QUERY_SECONDS, method="POST")
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="prometheus")

    async def query(self, expression: str, *, at: float) -> Sequence[Series]:
        """The instant vector at Unix time `at`. Raises `MetricsUnavailable`."""
        loop = asyncio.get_running_loop()
        try:
            # `requests` bounds connecting and each read, not the whole: twice that bounds the whole.
            async with asyncio.timeout(2 * QUERY_SECONDS):
                answer = await loop.run_in_executor(self._threads, self._ask, expression, at)
            return [_series(element) for element in answer]
        except (requests.RequestException, PrometheusApiClientException, TimeoutError) as error:
            detail = str(error) or type(error).__name__
            raise MetricsUnavailable(source=f"Prometheus {self._url}", detail=detail) from error
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise MetricsUnavailable(
                source=f"Prometheus {self._url}", detail=f"the answer is no instant vector: {error!r}"
            ) from error

    def close(self) -> None:
        """Let go of threads and connections; queries that hang are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._connection.close()

    def _ask(self, expression: str, at: float) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self._connection.custom_query(expression, params={"time": at})
        return answer


def _series(element: Mapping[str, Any]) -> Series:
    return Series(labels_of(element), float(element["value"][1]))


def build_query(percentiles: Collection[int], *, window_seconds: int) -> str:
    """One expression whose series carry what they are in the label `signal`.

    `percentiles` are those of all clusters' SLOs, 1-99. Each selector has the same window, so that series of
    something that is gone end with it instead of lingering for Prometheus' five minutes.
    """
    window = f"[{window_seconds}s]"
    parts = [
        named(name, f"sum by (namespace, cluster) (increase({ROUTER_PREFIX}{counter}{window}))")
        for name, counter in FLOWS.items()
    ]
    for name, buckets in _LATENCIES.items():
        rates = f"sum by (namespace, cluster, le) (rate({ROUTER_PREFIX}{buckets}{window}))"
        parts += [
            named(f"{name}_{percentile}", f"histogram_quantile({percentile / 100}, {rates})")
            for percentile in sorted(set(percentiles))
        ]
    parts += [
        named(name, f'avg by (namespace, cluster, pool) (avg_over_time({counter}{{cluster!=""}}{window}))')
        for name, counter in _UTILIZATIONS.items()
    ]
    return " or ".join(parts)


def read_samples(
    answer: Sequence[Series], percentiles: Mapping[ObjectKey, int], *, window_seconds: int
) -> dict[ObjectKey, MetricsSample | Missing]:
    """What the answer to `build_query` says about each cluster of `percentiles`."""
    values: defaultdict[ObjectKey, dict[str, float]] = defaultdict(dict)
    utilization: defaultdict[ObjectKey, dict[tuple[str, str], float]] = defaultdict(dict)
    for series in answer:
        labels = series.labels
        key = ObjectKey(labels.get("namespace", ""), labels.get("cluster", ""))
        # NaN is Prometheus' word for "nothing completed"; neither it nor an infinity is a number to decide on.
        if not math.isfinite(series.value):
            continue
        signal = labels.get(SIGNAL, "")
        if signal in _UTILIZATIONS:
            utilization[key][labels.get("pool", ""), signal] = series.value
        else:
            values[key][signal] = series.value
    return {
        key: _sample(values[key], _pools(utilization[key]), percentile, window_seconds)
        for key, percentile in percentiles.items()
    }


def _sample(
    values: Mapping[str, float],
    utilization: Mapping[PoolName, PoolUtilization],
    percentile: int,
    window_seconds: int,
) -> MetricsSample | Missing:
    absent = [name for name in FLOWS if name not in values]
    if absent:
        return Missing(
            "NoSeries",
            f"Prometheus has no {ROUTER_PREFIX}{FLOWS[absent[0]]} of this cluster in {window_seconds} s",
        )
    nothing = Missing("NothingCompleted", f"no request in {window_seconds} s")
    return MetricsSample(
        flow=Flow(seconds=float(window_seconds), **{name: values[name] for name in FLOWS}),
        ttft_seconds=values.get(f"ttft_{percentile}", nothing),
        itl_seconds=values.get(f"itl_{percentile}", nothing),
        utilization=utilization,
    )


def _pools(values: Mapping[tuple[str, str], float]) -> dict[PoolName, PoolUtilization]:
    """Pools of which both counters are known."""
    return {
        pool: PoolUtilization(values[pool.value, "tensor_active"], values[pool.value, "dram_active"])
        for pool in PoolName
        if (pool.value, "tensor_active") in values and (pool.value, "dram_active") in values
    }


class MetricsBoard:
    """The newest samples of all clusters, fetched when one of them asks and at most once per `fresh_seconds`.

    Clusters that tick together share one query and its answer, be it a failure; a cluster that comes within
    `fresh_seconds` of the answer reads what is there.
    """

    def __init__(
        self, source: MetricSource | Missing, clock: Clock, *, window_seconds: int, fresh_seconds: float
    ) -> None:
        """`source` Missing means that the operator was installed without Prometheus."""
        self._source = source
        self._clock = clock
        self._window_seconds = window_seconds
        self._fresh_seconds = fresh_seconds
        self._percentiles: dict[ObjectKey, int] = {}
        self._samples: dict[ObjectKey, MetricsSample | Missing] | Missing = {}
        self._answered_at = -math.inf
        """Monotonic seconds."""
        self._reading = asyncio.Lock()

    def follow(self, key: ObjectKey, percentile: int) -> None:
        """Include a cluster, with the percentile of its SLO."""
        self._percentiles[key] = percentile

    def forget(self, key: ObjectKey) -> None:
        """A cluster is gone."""
        self._percentiles.pop(key, None)

    async def sample(self, key: ObjectKey) -> MetricsSample | Missing:
        """The sample of a followed cluster, answered at most `fresh_seconds` ago.

        Waits for as long as Prometheus takes to answer or to fail, up to twice `QUERY_SECONDS`.
        """
        source = self._source
        if isinstance(source, Missing):
            return source
        async with self._reading:
            if self._clock.monotonic() - self._answered_at >= self._fresh_seconds:
                self._samples = await self._read(source, self._clock.now())
                # From the answer, not from the question: all who waited for a slow one, or for a failure, share it.
                self._answered_at = self._clock.monotonic()
        if isinstance(self._samples, Missing):
            return self._samples
        return self._samples.get(key, Missing("NotAskedYet", "the cluster is newer than the last query"))

    async def _read(
        self, source: MetricSource, at: float
    ) -> dict[ObjectKey, MetricsSample | Missing] | Missing:
        query = build_query(self._percentiles.values(), window_seconds=self._window_seconds)
        try:
            answer = await source.query(query, at=at)
        except MetricsUnavailable as error:
            return Missing("PrometheusUnavailable", str(error))
        return read_samples(answer, self._percentiles, window_seconds=self._window_seconds)

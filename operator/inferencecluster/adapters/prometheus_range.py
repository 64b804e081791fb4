"""The past of one cluster out of Prometheus: what arrived and ended in each step of a range.

Blocking, for commands; the operator's own queries are in `prometheus`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import requests
from prometheus_api_client import PrometheusApiClientException, PrometheusConnect
from requests.adapters import Retry

from inferencecluster.adapters.promql import FLOWS, ROUTER_PREFIX, SIGNAL, labels_of, named
from inferencecluster.core.errors import MetricsUnavailable
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Flow

QUERY_SECONDS: Final = 120.0
"""Prometheus gives up on a query by itself after two minutes (`query.timeout`)."""
MOST_POINTS: Final = 11_000
"""Of one series in one answer; Prometheus refuses more. Longer ranges take several queries."""
_SHOWN_DETAIL_CHARACTERS: Final = 300
"""An error page of a proxy is not shown whole."""

_OPTIONAL: Final = MappingProxyType(
    {
        "prefilled_prompt_tokens": "prefilled_prompt_tokens_total",
        "cached_prompt_tokens": "cached_prompt_tokens_total",
    }
)
"""Engines need not report cached tokens: without, nothing counts as cached."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Whole steps; Unix seconds."""

    start: int
    step_seconds: int
    steps: int

    @property
    def end(self) -> int:
        """When the last step ends."""
        return self.start + self.steps * self.step_seconds

    def time_of(self, step: int) -> int:
        """When a step begins."""
        return self.start + step * self.step_seconds


@dataclass(frozen=True, slots=True)
class RangeSeries:
    """One element of a matrix."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]
    """(Unix time, value), ascending."""


def read_flows(url: str, *, namespace: str, cluster: str, asked: TimeRange) -> tuple[Flow | Missing, ...]:
    """What the routers of a cluster counted in each step, in order. Raises `MetricsUnavailable`."""
    expression = build_range_query(namespace=namespace, cluster=cluster, step_seconds=asked.step_seconds)
    return flows_of(_query(url, expression, asked), asked)


def build_range_query(*, namespace: str, cluster: str, step_seconds: int) -> str:
    """One expression; evaluated at the end of a step it tells the growth of each counter in that step.

    `increase` bridges restarts of routers, whose counters begin again at 0.
    """
    selector = f'{{namespace="{namespace}",cluster="{cluster}"}}[{step_seconds}s]'
    return " or ".join(
        named(name, f"sum(increase({ROUTER_PREFIX}{counter}{selector}))")
        for name, counter in (FLOWS | _OPTIONAL).items()
    )


def flows_of(answer: Iterable[RangeSeries], asked: TimeRange) -> tuple[Flow | Missing, ...]:
    """One entry per step of the range; Missing where one of the counters has no point that is a number."""
    steps: defaultdict[int, dict[str, float]] = defaultdict(dict)
    for series in answer:
        for time, value in series.points:
            if math.isfinite(value) and value >= 0.0:
                # A point tells the step before it.
                number = round((time - asked.start) / asked.step_seconds) - 1
                steps[number][series.labels.get(SIGNAL, "")] = value
    return tuple(_flow(steps.get(number, {}), asked.step_seconds) for number in range(asked.steps))


def _flow(values: Mapping[str, float], seconds: int) -> Flow | Missing:
    absent = [counter for name, counter in FLOWS.items() if name not in values]
    if absent:
        return Missing("NoSeries", f"{ROUTER_PREFIX}{absent[0]}")
    known = {name: value for name, value in values.items() if name in FLOWS or name in _OPTIONAL}
    return Flow(seconds=float(seconds), **known)


def without_credentials(url: str) -> str:
    """The URL as it may be shown."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _query(url: str, expression: str, asked: TimeRange) -> list[RangeSeries]:
    found: list[RangeSeries] = []
    connection = PrometheusConnect(url=url, retry=Retry(0), timeout=QUERY_SECONDS)
    try:
        for first in range(0, asked.steps, MOST_POINTS):
            last = min(first + MOST_POINTS, asked.steps)
            answer = connection.custom_query_range(
                expression,
                start_time=datetime.fromtimestamp(asked.time_of(first + 1), UTC),
                end_time=datetime.fromtimestamp(asked.time_of(last), UTC),
                step=str(asked.step_seconds),
            )
            found += [_series(element) for element in answer]
    except requests.JSONDecodeError as error:
        raise _no_matrix(url) from error
    except (requests.RequestException, PrometheusApiClientException) as error:
        raise _unavailable(url, error) from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _no_matrix(url) from error
    finally:
        connection.close()
    return found


def _unavailable(url: str, error: Exception) -> MetricsUnavailable:
    """The cause by itself: around it `requests` shows the whole query, and credentials of the URL."""
    cause = error.args[0] if error.args else error
    detail = str(getattr(cause, "reason", None) or cause or type(error).__name__)
    return MetricsUnavailable(
        source=f"Prometheus {without_credentials(url)}", detail=detail[:_SHOWN_DETAIL_CHARACTERS]
    )


def _no_matrix(url: str) -> MetricsUnavailable:
    return MetricsUnavailable(
        source=f"Prometheus {without_credentials(url)}", detail="the answer is no matrix of query_range"
    )


def _series(element: Mapping[str, Any]) -> RangeSeries:
    """Raises `LookupError`, `TypeError`, `ValueError` and `AttributeError` where it is none."""
    points = [(float(time), float(value)) for time, value in element["values"]]
    if not all(math.isfinite(time) for time, _ in points):
        raise ValueError("a time is no number")
    return RangeSeries(labels_of(element), points)

"""`--prometheus URL --start TIME --end TIME --step SECONDS`: the past of a live cluster in place of a trace."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Final

from inferencecluster.adapters.environment import http_url
from inferencecluster.adapters.prometheus_range import TimeRange, read_flows, without_credentials
from inferencecluster.cli.trace_file import LARGEST_SECONDS, LONGEST_SECONDS, several, too_long
from inferencecluster.cli.workload import Workload
from inferencecluster.core.errors import MetricsUnavailable, SpecError
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Flow
from inferencecluster.simulator.observed import SMALLEST_COUNT, drawn
from inferencecluster.simulator.workload import Request

STEP_SECONDS: Final = 60
"""Four scrapes of 15 s: the window of the operator's own rates (IC_PROMETHEUS_WINDOW_SECONDS)."""
MAX_RATE: Final = 100_000.0
"""Requests per second: beyond any service, and so a slip of a counter; the run would not end."""
_SHOWN_GAPS: Final = 10
"""Enough to find an outage; more say that the range is the wrong one."""


@dataclass(frozen=True, slots=True)
class PrometheusRange:
    """What is asked, as far as it can be told without asking."""

    url: str
    times: TimeRange
    left_over_seconds: int
    """At the end: less than a step."""

    def __str__(self) -> str:
        """For people; credentials are left out."""
        return (
            f"{without_credentials(self.url)} from {_moment(self.times.start)} to {_moment(self.times.end)} "
            f"in steps of {self.times.step_seconds} s"
        )


def parse_range(url: str, *, start: str | None, end: str | None, step: int) -> PrometheusRange:
    """The range that was asked for. Raises `SpecError` that names the option."""
    checked = http_url(url.strip(), field="--prometheus")
    begins, ends = _time("--start", start), _time("--end", end)
    if begins >= ends:
        raise SpecError(
            field="--start",
            value=_moment(begins),
            rule=f"it must be before --end, {_moment(ends)}",
            advice="swap them if they are mixed up; times without a zone are UTC",
        )
    if not 1 <= step <= ends - begins:
        raise SpecError(
            field="--step",
            value=step,
            rule=f"it is a whole number of seconds from 1 to the {ends - begins} from --start to --end",
            advice=f"give four times the scrape interval or more, such as {STEP_SECONDS}",
        )
    if ends - begins > LONGEST_SECONDS:
        raise too_long(
            field="--end",
            value=f"{math.ceil((ends - begins) / 86_400):,} days after --start",
            advice="ask for a shorter range",
        )
    steps, left_over = divmod(ends - begins, step)
    return PrometheusRange(checked, TimeRange(begins, step, steps), left_over)


def observed_workload(
    asked: PrometheusRange, *, namespace: str, cluster: str, copies: float, seed: int
) -> tuple[Workload, list[str]]:
    """Requests as the cluster may have had them, and what is to be known about them. Raises `SpecError`."""
    try:
        flows = read_flows(asked.url, namespace=namespace, cluster=cluster, asked=asked.times)
    except MetricsUnavailable as error:
        raise _refused(
            asked,
            f"it could not be read: {error.detail}",
            "check the URL; http://USER:PASSWORD@HOST signs in",
        ) from error
    name = f"{namespace}/{cluster}"
    _refuse_what_cannot_be_served(flows, asked, name)

    def requests() -> Iterator[Request]:
        return several(drawn(flows, seed=seed), copies=copies, seed=seed)

    workload = Workload.of(requests)
    if not workload.requests:
        # A rate of less than one request in the whole range may draw none.
        raise _idle(asked, name)
    return workload, _notes(flows, asked)


def _refuse_what_cannot_be_served(flows: Sequence[Flow | Missing], asked: PrometheusRange, name: str) -> None:
    known = [flow for flow in flows if isinstance(flow, Flow)]
    if not known:
        (absent, *_) = [flow.message for flow in flows if isinstance(flow, Missing)]
        raise _refused(
            asked,
            f"it has no {absent} of {name} in that range",
            "check --start, --end, metadata.namespace and metadata.name of FILE, and that the routers are scraped four times in a --step",
        )
    fastest = max(flow.requests / flow.seconds for flow in known)
    if fastest > MAX_RATE:
        raise _refused(
            asked,
            f"it tells {fastest:,.0f} requests per second of {name}, and at most {MAX_RATE:,.0f} can be meant",
            "leave out the step where a counter is wrong",
        )
    if not any(flow.requests >= SMALLEST_COUNT for flow in known):
        raise _idle(asked, name)
    if not any(flow.completed >= SMALLEST_COUNT for flow in known):
        raise _refused(
            asked,
            f"no request of {name} was completed then, so that nobody knows how long answers are",
            "ask for a longer range",
        )


def _notes(flows: Sequence[Flow | Missing], asked: PrometheusRange) -> list[str]:
    times = asked.times
    drawing = (
        f"arrivals and lengths are drawn step by step ({times.steps} of {times.step_seconds} s): rates and means are those "
        "of the cluster, bursts within a step and the lengths of single requests are not"
    )
    notes = [drawing]
    if gaps := _gaps(flows, times):
        missing = sum(isinstance(flow, Missing) for flow in flows)
        more = f" and {len(gaps) - _SHOWN_GAPS} more" if len(gaps) > _SHOWN_GAPS else ""
        notes.append(
            f"{missing} of {times.steps} steps have no data and bring no request: {', '.join(gaps[:_SHOWN_GAPS])}{more}"
        )
    if asked.left_over_seconds:
        notes.append(f"the last {asked.left_over_seconds} s before --end are less than a step and left out")
    return notes


def _gaps(flows: Sequence[Flow | Missing], times: TimeRange) -> list[str]:
    """Steps without data, neighbours joined."""
    found = []
    for is_gap, group in groupby(enumerate(flows), key=lambda item: isinstance(item[1], Missing)):
        if is_gap:
            numbers = [number for number, _ in group]
            found.append(f"{_moment(times.time_of(numbers[0]))} to {_moment(times.time_of(numbers[-1] + 1))}")
    return found


def _idle(asked: PrometheusRange, name: str) -> SpecError:
    return _refused(asked, f"{name} had no request then", "ask for a busier range")


def _refused(asked: PrometheusRange, rule: str, advice: str) -> SpecError:
    return SpecError(field="--prometheus", value=asked, rule=rule, advice=advice)


def _time(option: str, text: str | None) -> int:
    """Unix seconds."""
    if text is None:
        raise SpecError(
            field=option,
            value="absent",
            rule="--prometheus needs a range",
            advice=f"give {option}, such as 2026-05-04T09:00:00Z",
        )
    try:
        seconds = float(text)
    except ValueError:
        seconds = _date_seconds(text.strip())
    if not 0 <= seconds <= LARGEST_SECONDS:
        raise SpecError(
            field=option,
            value=repr(text),
            rule="a time is a date (2026-05-04T09:00:00Z; without a zone it is UTC), or seconds since 1970",
            advice="correct it; milliseconds? divide by 1000",
        )
    return round(seconds)


def _date_seconds(text: str) -> float:
    """NaN where it is no date."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return math.nan


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

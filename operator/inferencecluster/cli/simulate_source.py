"""Where the requests of a simulation come from: a trace file, or what Prometheus knows of the live cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inferencecluster.api.inferencecluster import ObjectMeta
from inferencecluster.cli.cluster_file import STANDARD_INPUT
from inferencecluster.cli.prometheus_option import (
    STEP_SECONDS,
    PrometheusRange,
    observed_workload,
    parse_range,
)
from inferencecluster.cli.trace_file import open_trace
from inferencecluster.cli.workload import Workload
from inferencecluster.core.errors import SpecError


def source_of(
    file: Path,
    trace: Path | None,
    prometheus: str | None,
    times: tuple[str | None, str | None, int | None],
) -> Path | PrometheusRange:
    """Where requests come from. Raises `SpecError` unless exactly one is named."""
    start, end, step = times
    if prometheus is not None:
        if trace is not None:
            raise SpecError(
                field="--trace",
                value=trace,
                rule="the requests already come from --prometheus",
                advice="leave out one of the two",
            )
        return parse_range(prometheus, start=start, end=end, step=STEP_SECONDS if step is None else step)
    for option, value in (("--start", start), ("--end", end), ("--step", step)):
        if value is not None:
            raise SpecError(
                field=option,
                value=value,
                rule="it belongs to --prometheus, which is absent",
                advice="give --prometheus URL, or leave it out",
            )
    if trace is None:
        raise SpecError(
            field="--trace",
            value="absent",
            rule="a simulation needs requests",
            advice="give --trace FILE, or --prometheus URL with --start and --end",
        )
    if file == trace == STANDARD_INPUT:
        raise SpecError(
            field="--trace",
            value=trace,
            rule="standard input already holds the InferenceCluster, FILE",
            advice="name a file for one of the two",
        )
    return trace


@contextmanager
def requests_of(
    source: Path | PrometheusRange, live: ObjectMeta, *, copies: float, seed: int
) -> Iterator[tuple[Workload, list[str]]]:
    """The requests, and what is to be known about them; `live` names the cluster that Prometheus is asked for."""
    if isinstance(source, PrometheusRange):
        yield observed_workload(source, namespace=live.namespace, cluster=live.name, copies=copies, seed=seed)
        return
    with open_trace(source, copies=copies, seed=seed) as requests:
        yield requests, []

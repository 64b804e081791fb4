"""`kubectl-ic simulate`: what an InferenceCluster does under a trace, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from inferencecluster.cli.cluster_file import read_cluster
from inferencecluster.cli.numbers import LONGEST_BOOT_SECONDS, finite
from inferencecluster.cli.paper import answer_console
from inferencecluster.cli.policy_option import parse_policy
from inferencecluster.cli.prometheus_option import STEP_SECONDS
from inferencecluster.cli.render import EXIT_BAD_INPUT
from inferencecluster.cli.simulate_inputs import Cluster, cluster_of
from inferencecluster.cli.simulate_page import page
from inferencecluster.cli.simulate_source import requests_of, source_of
from inferencecluster.cli.simulate_tables import print_tables
from inferencecluster.cli.trace_file import MAX_COPIES
from inferencecluster.cli.workload import Workload
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.spec import ScalingMode
from inferencecluster.simulator.hardware import Hardware
from inferencecluster.simulator.policies.registry import POLICIES
from inferencecluster.simulator.report import Report
from inferencecluster.simulator.scenario import Boot, Faults, Scenario
from inferencecluster.simulator.signals import SizingPolicy
from inferencecluster.simulator.simulation import simulate

WARM_UP_SECONDS: Final = 600.0
"""The beginning of the trace, mirrored in front of it and not counted: the cluster is found at work, not newly made."""
SHORTEST_HOURS_TO_FAILURE: Final = 0.01
"""36 s: of replicas that live for less, hardly one ends a boot and serves."""
LEAST_POWER_CAP: Final = 0.5
"""GPUs can hardly be told to draw less; the effect was measured at 0.7 (`simulator.hardware`)."""
_OPERATOR: Final = "the operator, in the spec's mode"


class SimulationFormat(StrEnum):
    """How the outcome is printed."""

    TABLE = "table"
    JSON = "json"
    HTML = "html"


@dataclass(frozen=True, slots=True)
class Run:
    """One simulation and what it was asked."""

    cluster: Cluster
    trace: str
    seed: int
    boot_seconds: float
    report: Report

    def document(self) -> dict[str, Any]:
        """As JSON. Times are seconds after the warm-up; `sizes` are the wanted ones, `timeline` has the existing ones."""
        asked = {
            "cluster": self.cluster.name,
            "trace": self.trace,
            "seed": self.seed,
            "boot_seconds": self.boot_seconds,
            "slo": {
                "ttft_ms": self.cluster.spec.slo.ttft_seconds * 1000,
                "itl_ms": self.cluster.spec.slo.itl_seconds * 1000,
                "percentile": self.cluster.spec.slo.percentile,
            },
            "notes": list(self.cluster.notes),
        }
        return asked | self.report.document()


def simulate_command(
    file: Annotated[Path, typer.Argument(help="File with one InferenceCluster; - reads standard input.")],
    *,
    trace: Annotated[
        Path | None,
        typer.Option(help="CSV with TIMESTAMP, ContextTokens, GeneratedTokens; - reads standard input."),
    ] = None,
    prometheus: Annotated[
        str | None,
        typer.Option(help="Base URL; what it knows of the live cluster of FILE's name, in place of a trace."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="With --prometheus: date and time (UTC without a zone), or Unix seconds."),
    ] = None,
    end: Annotated[str | None, typer.Option(help="With --prometheus: as --start.")] = None,
    step: Annotated[
        int | None,
        typer.Option(
            help="With --prometheus: seconds over which rates are taken, at least four scrapes.",
            show_default=str(STEP_SECONDS),
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="Who sizes the pools instead of the operator: "
            + ", ".join(POLICIES)
            + ". POLICY@0.7 sets its knob.",
            show_default=_OPERATOR,
        ),
    ] = None,
    boot_seconds: Annotated[
        float | None,
        typer.Option(
            help="From a replica's creation to readiness.",
            min=0.0,
            max=LONGEST_BOOT_SECONDS,
            callback=finite,
            show_default="expectedBootSeconds",
        ),
    ] = None,
    boot_spread: Annotated[
        float,
        typer.Option(
            help="Standard deviation of the logarithm of each part of a boot.",
            min=0.0,
            max=2.0,
            callback=finite,
        ),
    ] = 0.0,
    hours_to_failure: Annotated[
        float | None,
        typer.Option(
            help="Mean time from a replica's readiness to its failure (exponential).",
            min=SHORTEST_HOURS_TO_FAILURE,
            callback=finite,
            show_default="none fails",
        ),
    ] = None,
    power_cap: Annotated[
        float,
        typer.Option(
            help="Share of the GPUs' full power: slows prompts.",
            min=LEAST_POWER_CAP,
            max=1.0,
            callback=finite,
        ),
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn: equal runs repeat exactly.")] = 0,
    copies: Annotated[
        float,
        typer.Option(
            help="How often each request comes, moved by up to 15 s.",
            min=0.001,
            max=MAX_COPIES,
            callback=finite,
        ),
    ] = 1.0,
    warm_up_seconds: Annotated[
        float,
        typer.Option(help="Beginning that is mirrored in front and not counted.", min=0.0, callback=finite),
    ] = WARM_UP_SECONDS,
    output: Annotated[
        SimulationFormat, typer.Option("--format", help="table, json, or one html page.")
    ] = SimulationFormat.TABLE,
) -> None:
    """Serve a trace with the cluster in FILE, on the simulator; needs no cluster and changes nothing.

    The operator's own decisions and the router's run unchanged; only engines and network are modelled.
    """
    try:
        chosen = parse_policy(policy) if policy is not None else None
        source = source_of(file, trace, prometheus, (start, end, step))
        manifest = read_cluster(file)
        cluster = cluster_of(manifest, boot_seconds=boot_seconds)
        with requests_of(source, manifest.metadata, copies=copies, seed=seed) as (requests, notes):
            warm_up = min(warm_up_seconds, requests.last_arrival)
            scenario = Scenario(
                cluster.spec,
                {name: replace(item, power_cap=power_cap) for name, item in cluster.hardware.items()},
                seed=seed,
                boot=Boot.of(cluster.spec.boot_seconds, spread=boot_spread),
                warm_up_seconds=warm_up,
                faults=Faults(mean_hours=hours_to_failure or 0.0),
            )
            workload = requests.with_warm_up(warm_up)
            built = chosen.build(cluster.spec, workload) if chosen is not None else None
            report = _simulate(scenario, workload, built)
    except SpecError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_BAD_INPUT) from None
    if chosen is None:
        notes += _nobody_sizes(cluster.spec.mode)
    else:
        report = replace(report, policy=str(chosen))
    notes += _too_large(report.too_large, cluster.hardware)
    cluster = replace(cluster, notes=(*cluster.notes, *notes))
    _print(Run(cluster, str(source), seed, cluster.spec.boot_seconds, report), output)


def _nobody_sizes(mode: ScalingMode) -> list[str]:
    """A note where the pools stand still although somebody would size them in a real cluster."""
    advice = {
        ScalingMode.EXTERNAL: "try --policy hpa-queue",
        ScalingMode.RECOMMEND: "try mode Automatic, or --policy hpa-queue",
    }
    if mode not in advice:
        return []
    return [f"mode {mode}: nobody sizes the pools here, they stay at minReplicas; {advice[mode]}"]


def _too_large(requests: int, hardware: Mapping[PoolName, Hardware]) -> list[str]:
    """A note where requests end without an answer whatever the sizes."""
    if not requests:
        return []
    held = {name: item.performance.kv_capacity_tokens for name, item in hardware.items()}
    largest = max(held, key=held.__getitem__)
    note = (
        f"{requests:,} {'request is' if requests == 1 else 'requests are'} larger than the KV memory of a replica, whatever "
        f"the sizes: the largest one ({largest}) holds {held[largest]:,} tokens, prompt and output together"
    )
    return [note]


def _simulate(scenario: Scenario, workload: Workload, policy: SizingPolicy | None) -> Report:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{len(workload):,} requests", total=1.0)

        def show(share: float | None, _seconds: float, _requests: int) -> None:
            bar.update(task, completed=share or 0.0)

        return simulate(scenario, workload, policy, progress=show)


def _print(run: Run, output: SimulationFormat) -> None:
    match output:
        case SimulationFormat.JSON:
            typer.echo(json.dumps(run.document(), indent=2, allow_nan=False))
        case SimulationFormat.HTML:
            typer.echo(page(run.document()), nl=False)
        case SimulationFormat.TABLE:
            print_tables(run.document(), answer_console())

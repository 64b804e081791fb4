"""`python -m benches.agreement.engines`: router and emulated engines as plain processes, beside the simulator.

No Kubernetes and no operator: the sizes stay. What differs is the error of the simulated engines and router by themselves, and
the time that HTTP takes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from e2e.demo.load import Answer, LoadPlan, read_answers, start
from e2e.demo.scenario import Scenario, cluster_manifest, compress
from e2e.demo.summary import Slo
from e2e.demo.trace import Request as PlayedRequest
from e2e.demo.trace import TraceError, read_trace, synthetic_trace

from benches.agreement.comparison import Figure, Side, figures
from benches.agreement.report import figure_table
from benches.agreement.simulated import answer_of
from benches.router.__main__ import await_port, free_port
from inferencecluster.api.inferencecluster import InferenceCluster, parse_cluster
from inferencecluster.cli.simulate_inputs import Cluster, cluster_of
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.routing import RoutingPolicy
from inferencecluster.core.spec import ScalingMode
from inferencecluster.render.context import Platform, pool_context
from inferencecluster.render.emulated import emulated_engine
from inferencecluster.simulator.journeys import Journey
from inferencecluster.simulator.scenario import Scenario as SimulatedScenario
from inferencecluster.simulator.simulation import simulate
from inferencecluster.simulator.workload import Request

ROOT: Final = Path(__file__).resolve().parents[2]
MODEL: Final = "llama-70b"
MINUTES_OF_TRACE: Final = 10.0
"""The trace is compressed as in a demo of ten minutes, and its first seconds are played."""
STOP_SECONDS: Final = 10.0
EXIT_BAD_INPUT: Final = 2


@dataclass(frozen=True, slots=True)
class Fleet:
    """The engines that run, and the cluster that they belong to."""

    manifest: InferenceCluster
    cluster: Cluster
    sizes: Mapping[PoolName, int]


def main(
    *,
    trace: Annotated[
        Path | None, typer.Option(help="CSV with TIMESTAMP,ContextTokens,GeneratedTokens")
    ] = None,
    sizes: Annotated[str, typer.Option(help="Prefill, decode and mixed replicas.")] = "6,4,1",
    seconds: Annotated[float, typer.Option(min=10.0, help="How much is played.")] = 90.0,
    seed: Annotated[int, typer.Option(help="Of the synthetic trace and of the sample.")] = 0,
) -> None:
    """Play the same requests through processes and through the simulator, and tell how far both are apart."""
    try:
        counts = dict(zip(PoolName, map(int, sizes.split(",")), strict=True))
        scenario = compress(
            read_trace(trace) if trace else synthetic_trace(seed), MINUTES_OF_TRACE, seed=seed
        )
    except (ValueError, TraceError) as error:
        sys.stderr.write(f"error: {error}; sizes are three whole numbers such as 6,4,1\n")
        raise typer.Exit(EXIT_BAD_INPUT) from error
    fleet = _fleet(scenario, counts)
    answers = play(fleet, tuple(request for request in scenario.requests if request.at < seconds))
    sys.stdout.write(
        f"{len(answers):,} requests in {seconds:.0f} s; prefill, decode, mixed: {sizes}\n\n"
        f"{figure_table(compare(fleet, answers))}\n"
    )


def _fleet(scenario: Scenario, sizes: Mapping[PoolName, int]) -> Fleet:
    document: Any = cluster_manifest(
        scenario,
        name=MODEL,
        namespace="agreement",
        engine_image="emulated-engine:local",
        gpu_resource="nvidia.com/gpu",
    )
    manifest = parse_cluster(document)
    return Fleet(manifest, cluster_of(manifest, boot_seconds=None), sizes)


def play(fleet: Fleet, requests: tuple[PlayedRequest, ...]) -> list[Answer]:
    """Start engines and router, send the requests, stop everything. Raises `RuntimeError` when a process does not start."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        replicas = [
            replica
            for pool, count in fleet.sizes.items()
            for replica in stack.enter_context(_engines(fleet, pool, count, folder))
        ]
        settings = fleet.cluster.spec
        routing = RoutingPolicy.of(settings)
        file = folder / "fleet.json"
        file.write_text(
            json.dumps(
                {
                    "model": MODEL,
                    "engineVersion": fleet.manifest.spec.engine.version,
                    "overflowTokens": dict(routing.queue_tokens),
                    "keepsStreams": routing.keeps_streams,
                    "maxQueueSeconds": fleet.manifest.spec.router.max_queue_seconds,
                    "ttftMilliseconds": round(settings.slo.ttft_seconds * 1000),
                    "replicas": replicas,
                }
            )
        )
        port = free_port()
        command = ("inferencecluster.router", "--host", "127.0.0.1", "--static-fleet", str(file))
        stack.enter_context(_process(command, port, IC_ROUTER_PORT=str(port)))
        plan = LoadPlan(f"http://127.0.0.1:{port}", MODEL, requests, folder / "requests.jsonl")
        start(plan).join()
        return sorted(read_answers(plan.results), key=lambda answer: answer.sent_at)


@contextmanager
def _engines(fleet: Fleet, pool: PoolName, count: int, folder: Path) -> Iterator[list[dict[str, Any]]]:
    """Engines of one pool, ready, as the router's file lists them."""
    platform = Platform(router_image="none", router_cluster_role="none")
    rendered = json.loads(emulated_engine(pool_context(fleet.manifest, pool, platform)).config_text)
    file = folder / f"{pool.value}.json"
    file.write_text(json.dumps(rendered | {"boot_seconds": 0.0}))
    ports = [free_port() for _ in range(count)]
    with ExitStack() as stack:
        for port in ports:
            command = ("emulated_engine", "serve", "--host", "127.0.0.1", "--port", str(port))
            stack.enter_context(_process((*command, "--model", MODEL, "--config", str(file)), port))
        yield [
            {
                "name": f"{pool.value}-{number}",
                "pool": pool.value,
                "url": f"http://127.0.0.1:{port}",
                "kvCapacityTokens": rendered["kv_capacity_tokens"],
                "maxBatchSize": rendered["max_batch_size"],
            }
            for number, port in enumerate(ports)
        ]


@contextmanager
def _process(module: tuple[str, ...], port: int, **variables: str) -> Iterator[None]:
    """`python -m MODULE ...`, listening, and ended with the block."""
    paths = [str(ROOT / "operator"), str(ROOT / "runtime_images" / "emulated" / "src")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "IC_NOTICE_SECONDS": "0"} | variables
    started = subprocess.Popen(
        [sys.executable, "-m", *module],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await_port(port, started)
        yield
    finally:
        started.terminate()
        try:
            started.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def compare(fleet: Fleet, answers: list[Answer]) -> tuple[Figure, ...]:
    """The figures of both, without those of pools: they do not change."""
    spec = fleet.cluster.spec
    pools = tuple(
        replace(pool, min_replicas=fleet.sizes[pool.name], max_replicas=fleet.sizes[pool.name])
        for pool in spec.pools
    )
    prefill, decode, mixed = pools
    fixed = replace(spec, mode=ScalingMode.FIXED, pools=(prefill, decode, mixed))
    scenario = SimulatedScenario(fixed, fleet.cluster.hardware)
    workload = sorted(
        Request(max(0.0, answer.at + answer.late), answer.prompt_tokens, answer.output_tokens)
        for answer in answers
    )
    journeys: list[Journey] = []
    simulate(scenario, workload, record=journeys.append)
    slo = Slo(
        spec.slo.ttft_seconds,
        spec.slo.itl_seconds,
        fleet.cluster.hardware[PoolName.PREFILL].performance.prefill.seconds,
    )
    measured = Side(answers, {}, {}, 0.0)
    simulated = Side([answer_of(journey, 0.0) for journey in journeys], {}, {}, 0.0)
    return tuple(figure for figure in figures(measured, [simulated], slo) if figure.name != "GPU-hours")


if __name__ == "__main__":
    typer.run(main)

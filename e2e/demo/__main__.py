"""`python -m e2e.demo`: set up, replay, show, judge."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from e2e import localkube
from e2e.demo import evidence, picture
from e2e.demo.load import Answer, LoadPlan, read_answers, start
from e2e.demo.monitor import Monitor, Sample
from e2e.demo.replayed import Replayed, nothing_recorded, replay_looks
from e2e.demo.scenario import (
    BUDGET_GPUS,
    GPUS_PER_REPLICA,
    ITL_MILLISECONDS,
    PROFILE,
    TTFT_MILLISECONDS,
    Scenario,
    cluster_manifest,
    compress,
)
from e2e.demo.screen import Screen
from e2e.demo.summary import Slo, render, summarise
from e2e.demo.trace import TraceError, read_trace, synthetic_trace
from e2e.localkube import LocalKubeError
from e2e.localkube.progress import step
from e2e.stack.install import (
    MONITORING_NAMESPACE,
    SYSTEM_NAMESPACE,
    explained,
    install_operator,
    install_prometheus,
    namespace,
    wait_for_prometheus,
)
from e2e.stack.preflight import check
from e2e.stack.reach import reach_router, reach_router_admin
from e2e.stack.recording import RECORDING_VALUES, read_recording
from e2e.stack.removal import RemovalError, remove_clusters, remove_everything
from e2e.stack.router_metrics import requests_by_path
from e2e.stack.target import StackError, Target, target_from_environment
from inferencecluster.core.errors import SpecError
from inferencecluster.core.profiles import profile

CLUSTER = "llama-70b"
NAMESPACE = "inferencecluster-demo"
NAMESPACES = (NAMESPACE, SYSTEM_NAMESPACE, MONITORING_NAMESPACE)
"""All that the demo makes, and all that it removes again from a user's Kubernetes."""
LEAST_GPUS = 2 * GPUS_PER_REPLICA
"""One prefill and one decode replica: the cluster is Ready with them."""
RESULTS = Path("build/demo")
READY_TIMEOUT_SECONDS = 180.0
SAMPLE_SECONDS = 1.0
DRAIN_TIMEOUT_SECONDS = 120.0
"""After the last arrival: the longest answer of the trace at a slow ITL, twice."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a finished replay left."""

    samples: Sequence[Sample]
    answers: Sequence[Answer]
    served: dict[str, int]
    sampling_began_at: float
    """Unix time of second 0 of the samples."""


@dataclass(frozen=True, slots=True)
class Demo:
    """What is played, and where."""

    target: Target
    scenario: Scenario
    gpu_resource: str

    def manifest(self, *, budget_gpus: int = BUDGET_GPUS) -> dict[str, Any]:
        """The InferenceCluster."""
        manifest: dict[str, Any] = cluster_manifest(
            self.scenario,
            name=CLUSTER,
            namespace=NAMESPACE,
            engine_image=self.target.images["emulated-engine"],
            gpu_resource=self.gpu_resource,
        )
        manifest["spec"]["budget"]["gpus"] = budget_gpus
        return manifest


@contextmanager
def prepared(target: Target, *, gpu_resource: str, keep: bool) -> Iterator[None]:
    """Images and room on the Kubernetes. A user's is checked first, and left as it was, unless `keep` is asked for."""
    if target.is_embedded:
        yield
        return
    with step("look at the Kubernetes of KUBECONFIG"):
        check(target, namespaces=NAMESPACES, gpu_resource=gpu_resource, least_gpus=LEAST_GPUS)
    with step("build and push the images"):
        localkube.push_images(target.registry)
    try:
        yield
    finally:
        if keep:
            print(f"demo: kept in the namespaces {', '.join(NAMESPACES)}; run again without --keep to remove")
        else:
            _leave(target)


def _leave(target: Target) -> None:
    """A removal that fails must not hide the fault that came before it."""
    with step("remove everything from the Kubernetes of KUBECONFIG"):
        try:
            remove_everything(target, namespace=NAMESPACE, made_namespaces=NAMESPACES)
        except RemovalError as error:
            if error.__context__ is None:
                raise
            print(f"demo: {error}", file=sys.stderr)


def set_up(demo: Demo) -> None:
    """Prometheus, operator, and a fresh cluster, waited for until it is Ready. Raises `StackError`."""
    target = demo.target
    with step("remove the previous demo"):
        remove_clusters(target, namespace=NAMESPACE)
    with step("Prometheus and the operator (helm install --wait)"):
        install_prometheus(target)
        install_operator(target, RECORDING_VALUES)
        wait_for_prometheus(target)
    with step("InferenceCluster applied -> Ready"):
        target.apply(namespace(NAMESPACE), demo.manifest())
        with explained(target, NAMESPACE):
            _wait_ready(target)


def _wait_ready(target: Target) -> None:
    """Raises `StackError` with the cluster's own words about what is wrong."""
    where = (f"inferencecluster/{CLUSTER}", "--namespace", NAMESPACE)
    try:
        target.control(
            *("wait", *where, "--for=condition=Ready", f"--timeout={READY_TIMEOUT_SECONDS:.0f}s"),
            timeout=READY_TIMEOUT_SECONDS + 30,
        )
    except StackError as error:
        conditions = target.get(*where).get("status", {}).get("conditions", [])
        told = [f"{item['type']} is {item['status']}: {item['message']}" for item in conditions]
        raise StackError("\n".join([str(error), *told])) from error


def replay(demo: Demo, *, urls: tuple[str, str], halve_budget: bool) -> Run:
    """Play the scenario while sampling; half-way the budget is halved by `kubectl apply` when asked for.

    `urls` are the router's: of its API, and of its admin port.
    """
    url, admin_url = urls
    target, scenario = demo.target, demo.scenario
    results = RESULTS / evidence.REQUESTS_FILE
    monitor = Monitor(
        target, cluster=CLUSTER, namespace=NAMESPACE, url=admin_url, gpu_resource=demo.gpu_resource
    )
    samples: list[Sample] = []
    answers: list[Answer] = []
    began_at = 0.0
    try:
        ready = monitor.wait_until(lambda sample: sample.budget > 0 and sample.gpus > 0, timeout=30)
        if not ready:
            raise StackError("the InferenceCluster or its Pods cannot be watched: see kubectl get ic,pods")
        clients = start(LoadPlan(url, CLUSTER, scenario.requests, results))
        started, began_at = time.monotonic(), time.time()
        with Screen(seconds=scenario.seconds, requests=len(scenario.requests)) as screen:
            while (
                clients.is_alive()
                and (at := time.monotonic() - started) < scenario.seconds + DRAIN_TIMEOUT_SECONDS
            ):
                if halve_budget and at > scenario.seconds / 2:
                    halve_budget = False
                    target.apply(demo.manifest(budget_gpus=BUDGET_GPUS // 2))
                samples.append(monitor.sample(at))
                answers.extend(read_answers(results, skip=len(answers)))
                screen.show(samples[-1], answers)
                time.sleep(max(0.0, started + len(samples) * SAMPLE_SECONDS - time.monotonic()))
        clients.terminate()
        answers.extend(read_answers(results, skip=len(answers)))
    finally:
        monitor.close()
    return Run(samples, answers, requests_by_path(admin_url), began_at)


def collect(demo: Demo, run: Run, *, halved_budget: bool) -> Replayed:
    """Write down what was seen, and decide again on what the operator saw."""
    scenario = demo.scenario
    facts = evidence.RunFacts(
        scenario.name,
        scenario.seconds,
        scenario.compression,
        scenario.share,
        run.sampling_began_at,
        halved_budget,
    )
    evidence.write_run(RESULTS, facts, run.samples)
    try:
        evidence.write_looks(RESULTS, read_recording(demo.target), cluster=f"{NAMESPACE}/{CLUSTER}")
        return replay_looks(evidence.read_looks(RESULTS))
    except (StackError, SpecError) as error:
        # The requests were played all the same: their figures are worth printing.
        return nothing_recorded(str(error))


def judge(run: Run, scenario: Scenario, replayed: Replayed) -> int:
    """Print the summary, draw the picture; 1 when a request failed, a pool never moved, or a recorded decision replays to
    another one, else 0.
    """
    slo = Slo(TTFT_MILLISECONDS / 1000, ITL_MILLISECONDS / 1000, profile(PROFILE).performance.prefill.seconds)
    summary = summarise(run.samples, run.answers, slo=slo, planned=len(scenario.requests))
    picture.draw(scenario, run.samples, RESULTS / "pools.svg")
    picture.draw(scenario, run.samples, RESULTS / "pools.png")
    print(
        f"\n{scenario.describe()}\n{render(summary, served=run.served)}\n"
        f"replayed         {replayed.describe()}\npicture          {RESULTS / 'pools.svg'}"
    )
    faults = (*summary.faults, *replayed.faults)
    for fault in faults:
        print(f"FAULT            {fault}", file=sys.stderr)
    return 1 if faults else 0


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does, so that its child processes end with it."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def run_demo(demo: Demo, *, halve_budget: bool) -> Run:
    """Set up and replay. Raises `StackError`."""
    began = time.monotonic()
    evidence.write_plan(RESULTS, demo.scenario, demo.manifest())
    set_up(demo)
    where = {"cluster": CLUSTER, "namespace": NAMESPACE}
    evidence.write_engines(RESULTS, demo.target, **where)
    with reach_router(demo.target, **where) as url, reach_router_admin(demo.target, **where) as admin_url:
        print(f"set-up took {time.monotonic() - began:.0f} s; traffic starts", flush=True)
        return replay(demo, urls=(url, admin_url), halve_budget=halve_budget)


def main(  # noqa: PLR0913  (each is an option of the command line)
    *,
    trace: Annotated[
        Path | None, typer.Option(help="CSV with TIMESTAMP,ContextTokens,GeneratedTokens")
    ] = None,
    minutes: Annotated[float, typer.Option(min=1.0, max=240.0, help="wall-clock length of the replay")] = 6.0,
    seed: Annotated[int, typer.Option(help="seed of the synthetic trace and of the sample")] = 0,
    halve_budget: Annotated[bool, typer.Option(help="apply half the GPU budget half-way")] = False,
    gpu_resource: Annotated[
        str, typer.Option(help="extended resource of the nodes that emulated engines hold")
    ] = "nvidia.com/gpu",
    keep: Annotated[
        bool, typer.Option(help="leave everything on the Kubernetes of KUBECONFIG, to look at")
    ] = False,
) -> None:
    """Replay a trace through an InferenceCluster on a real Kubernetes and show what its pools do."""
    try:
        scenario = compress(read_trace(trace) if trace else synthetic_trace(seed), minutes, seed=seed)
        print(scenario.describe(), flush=True)
        with interruptible():
            with step("Kubernetes and tools"):
                target = target_from_environment()
            with prepared(target, gpu_resource=gpu_resource, keep=keep):
                demo = Demo(target, scenario, gpu_resource)
                run = run_demo(demo, halve_budget=halve_budget)
                replayed = collect(demo, run, halved_budget=halve_budget)
        raise SystemExit(judge(run, scenario, replayed))
    except (TraceError, StackError, LocalKubeError, SpecError) as error:
        print(f"demo: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("demo: interrupted; `make clean-cluster` ends an embedded Kubernetes", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    typer.run(main)

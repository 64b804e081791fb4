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

from e2e.demo import evidence, picture
from e2e.demo.load import Answer, LoadPlan, read_answers, start
from e2e.demo.monitor import Monitor, Sample
from e2e.demo.replayed import Replayed, nothing_recorded, replay_looks
from e2e.demo.scenario import (
    BUDGET_GPUS,
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
from e2e.stack.install import install_operator, install_prometheus, namespace
from e2e.stack.reach import reach_router, reach_router_admin
from e2e.stack.recording import RECORDING_VALUES, read_recording
from e2e.stack.router_metrics import requests_by_path
from e2e.stack.target import StackError, Target, target_from_environment
from inferencecluster.core.errors import SpecError
from inferencecluster.core.profiles import profile

CLUSTER = "llama-70b"
NAMESPACE = "demo"
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


def set_up(target: Target, manifest: dict[str, Any]) -> None:
    """Prometheus, operator, and a fresh cluster, waited for until it is Ready."""
    with step("remove the previous demo"):
        # The cluster before its namespace: a namespace takes the routers away that its drain asks.
        if target.find("namespace", NAMESPACE):
            target.control("delete", "inferenceclusters.gpupools.dev", "--all", "-n", NAMESPACE, timeout=300)
            target.control("delete", "namespace", NAMESPACE, timeout=300)
    with step("Prometheus and the operator (helm install --wait)"):
        install_prometheus(target)
        install_operator(target, RECORDING_VALUES)
    with step("InferenceCluster applied -> Ready"):
        target.apply(namespace(NAMESPACE), manifest)
        target.control(
            *("wait", f"inferencecluster/{CLUSTER}", "--namespace", NAMESPACE, "--for=condition=Ready"),
            f"--timeout={READY_TIMEOUT_SECONDS:.0f}s",
            timeout=READY_TIMEOUT_SECONDS + 30,
        )


def replay(target: Target, scenario: Scenario, *, urls: tuple[str, str], halve_budget: bool) -> Run:
    """Play the scenario while sampling; half-way the budget is halved by `kubectl apply` when asked for.

    `urls` are the router's: of its API, and of its admin port.
    """
    url, admin_url = urls
    results = RESULTS / evidence.REQUESTS_FILE
    monitor = Monitor(target, cluster=CLUSTER, namespace=NAMESPACE, url=admin_url)
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
                    _apply_budget(target, scenario, BUDGET_GPUS // 2)
                samples.append(monitor.sample(at))
                answers.extend(read_answers(results, skip=len(answers)))
                screen.show(samples[-1], answers)
                time.sleep(max(0.0, started + len(samples) * SAMPLE_SECONDS - time.monotonic()))
        clients.terminate()
        answers.extend(read_answers(results, skip=len(answers)))
    finally:
        monitor.close()
    return Run(samples, answers, requests_by_path(admin_url), began_at)


def _apply_budget(target: Target, scenario: Scenario, gpus: int) -> None:
    manifest = _manifest(target, scenario)
    manifest["spec"]["budget"]["gpus"] = gpus
    target.apply(manifest)


def _manifest(target: Target, scenario: Scenario) -> dict[str, Any]:
    return dict(
        cluster_manifest(
            scenario, name=CLUSTER, namespace=NAMESPACE, engine_image=target.images["emulated-engine"]
        )
    )


def collect(target: Target, scenario: Scenario, run: Run, *, halved_budget: bool) -> Replayed:
    """Write down what was seen, and decide again on what the operator saw."""
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
        evidence.write_looks(RESULTS, read_recording(target), cluster=f"{NAMESPACE}/{CLUSTER}")
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


def main(
    *,
    trace: Annotated[
        Path | None, typer.Option(help="CSV with TIMESTAMP,ContextTokens,GeneratedTokens")
    ] = None,
    minutes: Annotated[float, typer.Option(min=1.0, max=240.0, help="wall-clock length of the replay")] = 6.0,
    seed: Annotated[int, typer.Option(help="seed of the synthetic trace and of the sample")] = 0,
    halve_budget: Annotated[bool, typer.Option(help="apply half the GPU budget half-way")] = False,
) -> None:
    """Replay a trace through an InferenceCluster on a real Kubernetes and show what its pools do."""
    began = time.monotonic()
    try:
        scenario = compress(read_trace(trace) if trace else synthetic_trace(seed), minutes, seed=seed)
        print(scenario.describe(), flush=True)
        with interruptible():
            with step("Kubernetes and images"):
                target = target_from_environment()
            evidence.write_plan(RESULTS, scenario, _manifest(target, scenario))
            set_up(target, _manifest(target, scenario))
            where = {"cluster": CLUSTER, "namespace": NAMESPACE}
            evidence.write_engines(RESULTS, target, **where)
            with reach_router(target, **where) as url, reach_router_admin(target, **where) as admin_url:
                print(f"set-up took {time.monotonic() - began:.0f} s; traffic starts", flush=True)
                run = replay(target, scenario, urls=(url, admin_url), halve_budget=halve_budget)
            replayed = collect(target, scenario, run, halved_budget=halve_budget)
        raise SystemExit(judge(run, scenario, replayed))
    except (TraceError, StackError, LocalKubeError, SpecError) as error:
        print(f"demo: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("demo: interrupted; `make clean-cluster` removes everything", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    typer.run(main)

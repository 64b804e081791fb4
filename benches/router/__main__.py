"""What the router costs: `python -m benches.router [--rate 1000] [--json FILE]`, about a minute.

Engines that cost almost nothing and this client share all cores but one; the router has that one for itself.

    added latency     time to first byte through the router, and of the same two engine calls made directly, at the
                      same moments; and the same for a relay on the router's core that thinks nothing (`relay`)
    highest rate      as many requests as the core takes, back to back
    streaming         server-sent events per second through the core

Other work on the router's core shows up in the percentiles of router and relay alike, and as "taken by others";
`chrt -r 1 python -m benches.router` (root) keeps it away. Latencies are measured in slices, router and relay in turn,
and each percentile is the median over the slices, so that a disturbed slice does not decide.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

import uvloop

from benches.router.client import (
    MODEL,
    Load,
    Pool,
    Samples,
    closed_loop,
    directly,
    open_loop,
    through_router,
)

ROOT: Final = Path(__file__).resolve().parents[2]
START_SECONDS: Final = 20.0
SATURATING_CLIENTS: Final = 32
"""Enough that the router never waits for a client, few enough that its queues stay short."""
STREAM_TOKENS: Final = 200
SLICE_SECONDS: Final = 2.0
"""At 1,000 requests/s twenty of a slice are above its 99th percentile."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds to the first byte: medians over slices."""

    direct_p50: float
    direct_p99: float
    p50: float
    p99: float
    added_p50: float
    added_p99: float
    """Difference of the percentiles of one slice."""
    added_p99_best: float
    """Of the slice in which it was lowest."""


@dataclass(frozen=True, slots=True)
class Result:
    """All figures. Processor time of the router in microseconds."""

    rate: float
    """Requests per second of the latency part."""
    router: Latency
    relay: Latency
    busy_share: float
    """Of the router's core at that rate."""
    waiting_share: float
    """Of that time the router was ready to run while something else had its core: above a per cent or two, the
    percentiles tell about the machine."""
    highest_rate: float
    """Requests per second on one core."""
    cpu_per_request: float
    streams: int
    chunks_per_second: float
    cpu_per_chunk: float
    chunks_per_core: float
    """What one core would take at that cost."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benches.router", description=__doc__)
    parser.add_argument("--rate", type=float, default=1000.0, help="requests per second of the latency part")
    parser.add_argument("--streams", type=int, default=300, help="streams at once of the streaming part")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of each measurement")
    parser.add_argument(
        "--chunk-milliseconds", type=float, default=20.0, help="between two chunks of a stream"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    result = run(options)
    sys.stdout.write(table(result))
    if options.json:
        options.json.write_text(json.dumps(asdict(result), indent=2) + "\n")


def run(options: argparse.Namespace) -> Result:
    """Start everything, measure, stop everything."""
    cores = sorted(os.sched_getaffinity(0))
    router_core, others = cores[0], set(cores[1:]) or {cores[0]}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine_port, router_port, relay_port = free_port(), free_port(), free_port()
        engine = [sys.executable, "-m", "benches.router.engine", "--port", str(engine_port)]
        stack.enter_context(
            process([*engine, "--chunk-milliseconds", str(options.chunk_milliseconds)], others, engine_port)
        )
        command = [sys.executable, "-m", "inferencecluster.router", "--host", "127.0.0.1", "--static-fleet"]
        fleet = fleet_file(folder, engine_port)
        pid = stack.enter_context(process([*command, str(fleet)], {router_core}, router_port))
        relay = [sys.executable, "-m", "benches.router.relay", "--engine-port", str(engine_port)]
        stack.enter_context(process([*relay, "--port", str(relay_port)], {router_core}, relay_port))
        os.sched_setaffinity(0, others)
        # Pauses of this process would count as the router's; what a run leaves behind fits into memory.
        gc.disable()
        try:
            return uvloop.run(measure(options, (engine_port, router_port, relay_port), pid))
        finally:
            gc.enable()
            os.sched_setaffinity(0, set(cores))


async def measure(options: argparse.Namespace, ports: tuple[int, int, int], pid: int) -> Result:
    """All parts, after a warm-up. `ports` are those of engine, router and relay; `pid` is the router's."""
    engines, router, relay = map(Pool, ports)
    short, long = through_router(router, 1), through_router(router, STREAM_TOKENS)

    def cpu() -> float:
        return cpu_seconds(pid)

    await closed_loop(router, short, clients=SATURATING_CLIENTS, seconds=1.0, cpu=cpu)
    await closed_loop(relay, through_router(relay, 1), clients=SATURATING_CLIENTS, seconds=1.0, cpu=cpu)
    asks = {"router": short, "relay": through_router(relay, 1)}
    slices: dict[str, list[Samples]] = {"router": [], "relay": []}
    busy = waited = 0.0
    for number in range(max(1, round(options.seconds / SLICE_SECONDS))):
        busy_before, waited_before = cpu(), waiting_seconds(pid)
        for name, ask in asks.items():
            load = Load(options.rate, SLICE_SECONDS, seed=options.seed + number)
            slices[name].append(await open_loop(directly(engines, 1), ask, load))
        busy, waited = busy + cpu() - busy_before, waited + waiting_seconds(pid) - waited_before
    measured = len(slices["router"]) * SLICE_SECONDS
    full = await closed_loop(router, short, clients=SATURATING_CLIENTS, seconds=options.seconds, cpu=cpu)
    cpu_per_request = full.cpu_seconds / full.requests
    streaming = await closed_loop(router, long, clients=options.streams, seconds=options.seconds, cpu=cpu)
    cpu_per_chunk = (streaming.cpu_seconds - streaming.requests * cpu_per_request) / streaming.chunks
    for pool in (engines, router, relay):
        pool.close()
    return Result(
        rate=options.rate,
        router=latency(slices["router"]),
        relay=latency(slices["relay"]),
        busy_share=busy / measured,
        waiting_share=waited / measured,
        highest_rate=full.requests / full.seconds,
        cpu_per_request=cpu_per_request * 1e6,
        streams=options.streams,
        chunks_per_second=streaming.chunks / streaming.seconds,
        cpu_per_chunk=cpu_per_chunk * 1e6,
        chunks_per_core=1.0 / cpu_per_chunk,
    )


def latency(slices: Sequence[Samples]) -> Latency:
    """Percentiles of each slice, and their medians."""
    direct = [[milliseconds(samples.direct, percent) for samples in slices] for percent in (50, 99)]
    passed = [[milliseconds(samples.passed, percent) for samples in slices] for percent in (50, 99)]
    added = [
        [through - beside for through, beside in zip(*pair, strict=True)]
        for pair in zip(passed, direct, strict=True)
    ]
    return Latency(
        direct_p50=median(direct[0]),
        direct_p99=median(direct[1]),
        p50=median(passed[0]),
        p99=median(passed[1]),
        added_p50=median(added[0]),
        added_p99=median(added[1]),
        added_p99_best=min(added[1]),
    )


def table(result: Result) -> str:
    """The figures for people."""
    router, relay = result.router, result.relay
    shares = f"core {result.busy_share:.0%} busy, {result.waiting_share:.1%} taken by others"
    latencies = (
        ("direct", router.direct_p50, router.direct_p99, "ms to first byte"),
        ("through the router", router.p50, router.p99, "ms to first byte"),
        (
            f"added at {result.rate:g} requests/s",
            router.added_p50,
            router.added_p99,
            f"ms ({router.added_p99_best:.2f} in the best slice), {shares}",
        ),
        (
            "added by a bare relay",
            relay.added_p50,
            relay.added_p99,
            f"ms ({relay.added_p99_best:.2f} in the best slice)",
        ),
    )
    lines = [f"{'':<28}{'p50':>8}{'p99':>8}"]
    lines += [f"{name:<28}{p50:>8.2f}{p99:>8.2f}  {unit}" for name, p50, p99, unit in latencies]
    each = f"{result.cpu_per_chunk:.1f} us each: {result.chunks_per_core:.0f} would fill the core"
    lines += [
        f"{'highest rate on one core':<28}{result.highest_rate:>16.0f}  requests/s, {result.cpu_per_request:.0f} us each",
        f"{f'{result.streams} streams':<28}{result.chunks_per_second:>16.0f}  chunks/s, {each}",
    ]
    return "\n".join(lines) + "\n"


def milliseconds(values: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile of seconds."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1000


def fleet_file(folder: Path, engine_port: int) -> Path:
    """One prefill and one decode replica that are never full."""
    url = f"http://127.0.0.1:{engine_port}"
    unlimited = {"url": url, "kvCapacityTokens": 10**12, "maxBatchSize": 10**6}
    fleet = {
        "model": MODEL,
        "engineVersion": "1.3.0rc29",
        "overflowTokens": 10**9,
        "replicas": [
            {"name": "p0", "pool": "prefill", **unlimited},
            {"name": "d0", "pool": "decode", **unlimited},
        ],
    }
    path = folder / "fleet.json"
    path.write_text(json.dumps(fleet))
    return path


@contextmanager
def process(command: Sequence[str], cores: set[int], port: int) -> Iterator[int]:
    """A process that listens on `port`; its id."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT / "operator"), str(ROOT))),
        "IC_ROUTER_PORT": str(port),
        "IC_NOTICE_SECONDS": "0",
        "IC_LOG_LEVEL": "warning",
    }
    started = subprocess.Popen(list(command), env=environment, cwd=ROOT)
    try:
        os.sched_setaffinity(started.pid, cores)
        await_port(port, started)
        yield started.pid
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def await_port(port: int, started: subprocess.Popen[bytes]) -> None:
    """Return once somebody listens. Raises `RuntimeError` when the process ends first, or takes too long."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and started.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"nobody listens on port {port} (exit status {started.poll()})")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def waiting_seconds(pid: int) -> float:
    """Time that a process has spent ready to run, without a core (scheduler statistics of Linux)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


if __name__ == "__main__":
    main()

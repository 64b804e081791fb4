"""What a simulated request costs: `python -m benches.simulator_speed --traces FOLDER [--table perf_model.csv]`, some minutes.

    the hour      the whole Azure conversation trace through a fleet that stays as it is, on one core
    tenfold       ten times the trace: ten hours of it, and the hour at ten times its rate
    splitwise-sim its clusters under its trace, with its physics, beside the seconds that it takes itself

Times are processor times of this process, so that other work on the machine counts little (it still shares caches and
clocks), and the least of several rounds; each round runs every case once, so that a slow minute touches all of them.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from rich.console import Console

from benches.policy.cluster import fixed
from benches.policy.traces import Traces
from benches.scenarios.markdown import table
from benches.splitwise.cluster import PEER, scenario
from benches.splitwise.designs import AA, BASE_H100, HA, HH, HHCAP, MODELS, Design
from benches.splitwise.table import Profiles, read_table
from benches.splitwise.traces import generate, lengths
from inferencecluster.core.errors import SpecError
from inferencecluster.simulator.scenario import Scenario
from inferencecluster.simulator.simulation import Simulation
from inferencecluster.simulator.workload import Request, copied

HOUR_SECONDS: Final = 2.0
"""For the hour, at most."""
PEER_RATIO: Final = 50.0
"""Requests per second over those of splitwise-sim, at least."""
TENFOLD_RATIO: Final = 11.0
"""Time of ten times the requests over that of the trace, at most."""
TIMES: Final = 10
HOUR: Final = 3600.0
ROUNDS: Final = 3
SMALL_FLEET: Final = (2, 1, 0)
"""Prefill, decode and mixed replicas of the policy benchmark's hardware that hold the hour inside the SLO."""
LARGE_FLEET: Final = (16, 8, 0)
"""The same for ten times the rate; both rates are run on it."""
JITTER_SECONDS: Final = 15.0
PEER_RATE: Final = 70.0
PEER_REQUESTS: Final = 8_500
"""Of two minutes at that rate, rounded. Its generator has no seed of its own, so that nobody has the identical requests."""
PEER_SECONDS: Final[Mapping[Design, float]] = MappingProxyType(
    {
        Design(BASE_H100, 40): 21.0,
        Design(HH, 25, 15): 45.0,
        Design(AA, 45, 25): 38.0,
        Design(HA, 25, 26): 30.0,
        Design(HHCAP, 25, 21): 26.0,
    }
)
"""Of splitwise-sim 8f99e7d, BLOOM-176B, conversation: wall time on two shared cores, measured once."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run that is timed."""

    name: str
    scenario: Scenario
    workload: Callable[[], Sequence[Request]]
    """Made anew for each run and not timed."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run."""

    requests: int
    events: int
    seconds: float
    """Processor time."""

    @property
    def requests_per_second(self) -> float:
        """Of processor time."""
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table."""

    name: str
    cost: Cost
    ratio: float | None = None
    """To what the aim compares with."""
    aim: str = ""
    holds: bool | None = None
    """None: nothing is aimed at."""


@dataclass(frozen=True, slots=True)
class Tenfold:
    """A trace, and ten times of it."""

    once: Case
    ten_times: Case


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 2 for bad arguments. An aim that is missed is told and is no error: times depend on the machine."""
    parser = argparse.ArgumentParser(prog="python -m benches.simulator_speed", description=__doc__)
    parser.add_argument("--traces", type=Path, required=True, help="folder of the Azure traces of 2023")
    parser.add_argument(
        "--table", type=Path, help="splitwise-sim's data/perf_model.csv; without it its clusters are left out"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}; the fastest counts")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    try:
        traces = Traces(options.traces)
        traces.check()
        tenfold = tenfold_cases(traces.read("conversation"))
        peers = peer_cases(options.traces, read_table(options.table)) if options.table else {}
    except (SpecError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", markup=False)
        return 2
    cases = [case for pair in tenfold for case in (pair.once, pair.ten_times)]
    costs = measure([*cases, *peers.values()], rounds=max(1, options.rounds))
    lines = [*tenfold_lines(tenfold, costs), *peer_lines(peers, costs)]
    sys.stdout.write(f"{markdown(lines)}\n")
    if options.json:
        options.json.write_text(json.dumps([asdict(line) for line in lines], indent=2) + "\n")
    return 0


def tenfold_cases(hour: Sequence[Request]) -> tuple[Tenfold, Tenfold]:
    """Ten times as long, and ten times as dense. The first case is the hour by itself."""
    small, large = fixed(SMALL_FLEET, seed=1), fixed(LARGE_FLEET, seed=1)
    return (
        Tenfold(
            Case("the hour", small, lambda: hour),
            Case("ten hours", small, lambda: list(repeated(hour, TIMES))),
        ),
        Tenfold(
            Case("the hour, 24 replicas", large, lambda: hour),
            Case(
                "the hour x10, 24 replicas",
                large,
                lambda: list(copied(hour, copies=TIMES, jitter_seconds=JITTER_SECONDS, seed=1)),
            ),
        ),
    )


def peer_cases(folder: Path, profiles: Profiles) -> dict[Design, Case]:
    """splitwise-sim's clusters under two minutes of its own kind of trace."""
    requests = generate(lengths(folder, "conv"), rate=PEER_RATE, seed=0)
    model = MODELS["bloom-176b"]
    return {
        design: Case(design.name, scenario(design, model, PEER, profiles), lambda: requests)
        for design in PEER_SECONDS
    }


def repeated(requests: Sequence[Request], times: int) -> Iterator[Request]:
    """The trace `times` times, one hour after another."""
    for number in range(times):
        for request in requests:
            yield request.moved(request.arrival + number * HOUR)


def run(case: Case) -> Cost:
    """Once. What earlier runs left is collected before."""
    requests = case.workload()
    simulation = Simulation(case.scenario)
    gc.collect()
    began = time.process_time()
    simulation.serve(requests)
    return Cost(len(requests), simulation.events.calls, time.process_time() - began)


def measure(cases: Sequence[Case], *, rounds: int) -> dict[str, Cost]:
    """The cheapest run of each case, by name."""
    best: dict[str, Cost] = {}
    for _ in range(rounds):
        for case in cases:
            found = run(case)
            best[case.name] = min(best.get(case.name, found), found, key=lambda cost: cost.seconds)
    return best


def tenfold_lines(pairs: Sequence[Tenfold], costs: Mapping[str, Cost]) -> Iterator[Line]:
    """The first case has an aim of its own."""
    for pair in pairs:
        once, ten_times = costs[pair.once.name], costs[pair.ten_times.name]
        if pair is pairs[0]:
            holds = once.seconds <= HOUR_SECONDS
            yield Line(pair.once.name, once, aim=f"at most {HOUR_SECONDS:g} s", holds=holds)
        else:
            yield Line(pair.once.name, once)
        ratio = ten_times.seconds / once.seconds
        aim = f"at most {TENFOLD_RATIO:g} times the time"
        yield Line(pair.ten_times.name, ten_times, ratio, aim, ratio <= TENFOLD_RATIO)


def peer_lines(peers: Mapping[Design, Case], costs: Mapping[str, Cost]) -> Iterator[Line]:
    """Requests per second over those of splitwise-sim."""
    for design, case in peers.items():
        cost = costs[case.name]
        ratio = cost.requests_per_second * PEER_SECONDS[design] / PEER_REQUESTS
        aim = f"at least {PEER_RATIO:g} times splitwise-sim's {PEER_REQUESTS / PEER_SECONDS[design]:.0f} requests/s"
        yield Line(case.name, cost, ratio, aim, ratio >= PEER_RATIO)


def markdown(lines: Sequence[Line]) -> str:
    """As docs/performance.md shows it."""
    header = ("", "requests", "CPU s", "requests/s", "events a request", "ratio", "aim", "")
    rows = [
        (
            line.name,
            f"{line.cost.requests:,}",
            f"{line.cost.seconds:.2f}",
            f"{line.cost.requests_per_second:,.0f}",
            f"{line.cost.events / line.cost.requests:.2f}",
            "" if line.ratio is None else f"{line.ratio:.1f}",
            line.aim,
            {True: "met", False: "missed", None: ""}[line.holds],
        )
        for line in lines
    ]
    return table(header, rows)


if __name__ == "__main__":
    sys.exit(main())

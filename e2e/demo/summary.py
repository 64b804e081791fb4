"""What the run showed: requests, SLO attainment, latencies, GPU-hours, and whether every pool moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from e2e.demo.load import Answer
from e2e.demo.monitor import POOLS, Sample


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Nearest-rank percentile of `values`; None when there are none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@dataclass(frozen=True, slots=True)
class Slo:
    """Per request: TTFT <= `ttft` + its own unloaded prefill time, mean time per output token <= `itl`."""

    ttft: float
    itl: float
    unloaded_prefill: Callable[[int], float]
    """Seconds that a prompt of so many tokens takes alone on one replica."""

    def holds(self, answer: Answer) -> bool:
        """Whether the answer came whole and inside both targets."""
        if answer.error or answer.ttft is None:
            return False
        inside_ttft = answer.ttft <= self.ttft + self.unloaded_prefill(answer.prompt_tokens)
        return inside_ttft and (answer.tpot is None or answer.tpot <= self.itl)


@dataclass(frozen=True, slots=True)
class Movement:
    """How a pool's ready replicas moved over the run."""

    smallest: int
    largest: int
    grew: int
    shrank: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of a run; `faults` is empty when the run shows what it should."""

    answers: Sequence[Answer]
    attainment: float
    gpu_hours: float
    static_peak_gpu_hours: float
    largest_gpus: int
    movements: dict[str, Movement]
    faults: tuple[str, ...]


def movement(sizes: Sequence[int]) -> Movement:
    """Smallest, largest, and how often a size was followed by a larger or a smaller one."""
    steps = list(pairwise(sizes))
    return Movement(
        smallest=min(sizes, default=0),
        largest=max(sizes, default=0),
        grew=sum(after > before for before, after in steps),
        shrank=sum(after < before for before, after in steps),
    )


def summarise(samples: Sequence[Sample], answers: Sequence[Answer], *, slo: Slo, planned: int) -> Summary:
    """Figures of the run. GPU-hours are wall-clock hours of GPUs that Pods held (booting and draining too)."""
    gpu_seconds = sum(before.gpus * (after.at - before.at) for before, after in pairwise(samples))
    peak = max((sample.gpus for sample in samples), default=0)
    seconds = samples[-1].at - samples[0].at if samples else 0.0
    movements = {name: movement([sample.pools[name].ready for sample in samples]) for name in POOLS}
    return Summary(
        answers=answers,
        attainment=sum(map(slo.holds, answers)) / max(1, planned),
        gpu_hours=gpu_seconds / 3600,
        static_peak_gpu_hours=peak * seconds / 3600,
        largest_gpus=peak,
        movements=movements,
        faults=tuple(_faults(samples, answers, movements, planned)),
    )


def _faults(
    samples: Sequence[Sample], answers: Sequence[Answer], movements: dict[str, Movement], planned: int
) -> list[str]:
    failed = [answer for answer in answers if answer.error]
    faults = [f"{len(failed)} requests failed, the first: {failed[0].error}"] if failed else []
    if len(answers) != planned:
        faults.append(f"{planned - len(answers)} of {planned} requests never ended")
    faults += [
        f"the {name} pool never moved" for name, moved in movements.items() if not moved.grew + moved.shrank
    ]
    return faults + [
        f"{sample.gpus} GPUs of {sample.budget} at {sample.at:.0f} s" for sample in _over_budget(samples)[:1]
    ]


def _over_budget(samples: Sequence[Sample]) -> list[Sample]:
    """Where the budget was broken. Below a budget that was lowered replicas end their work; none may come, and all must go.

    A budget of 0 was not seen yet.
    """
    grown = [
        after
        for before, after in pairwise(samples)
        if after.gpus > max(before.gpus, after.budget) and before.budget == after.budget != 0
    ]
    return grown + [last for last in samples[-1:] if last.gpus > last.budget != 0]


def render(summary: Summary, *, served: dict[str, int]) -> str:
    """The summary as text. `served` counts requests by the kind of path that the router chose."""
    answers = summary.answers
    ttft = [answer.ttft for answer in answers if answer.ttft is not None]
    tpot = [answer.tpot for answer in answers if answer.tpot is not None]
    failed = sum(bool(answer.error) for answer in answers)
    saved = 1 - summary.gpu_hours / summary.static_peak_gpu_hours if summary.static_peak_gpu_hours else 0.0
    gpu_hours = (
        f"{summary.gpu_hours:.2f}; static at the peak of {summary.largest_gpus} GPUs "
        f"{summary.static_peak_gpu_hours:.2f} ({saved:.0%} saved)"
    )
    lines = [
        f"requests         {len(answers):,} answered, {failed} failed",
        f"SLO attainment   {summary.attainment:.1%} (TTFT and time per output token, per request)",
        f"TTFT             {_latencies(ttft)}",
        f"ITL              {_latencies(tpot)}",
        f"GPU-hours        {gpu_hours}",
        f"client           late by {_latencies([answer.late for answer in answers])}",
        "served           " + (", ".join(f"{kind} {count:,}" for kind, count in served.items()) or "-"),
    ]
    for name, moved in summary.movements.items():
        lines.append(
            f"{name:<16} {moved.smallest} to {moved.largest} replicas, grew {moved.grew}x, shrank {moved.shrank}x"
        )
    return "\n".join(lines)


def _latencies(values: Sequence[float]) -> str:
    shown = ((percent, percentile(values, percent)) for percent in (50, 90, 99))
    return (
        "  ".join(f"p{percent} {value * 1000:,.0f} ms" for percent, value in shown if value is not None)
        or "-"
    )

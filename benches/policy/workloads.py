"""The workloads of the benchmark, each for any seed and any share of its full load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from heapq import merge
from types import MappingProxyType
from typing import Final

from benches.policy.traces import Traces
from inferencecluster.core.errors import SpecError
from inferencecluster.simulator.synthetic import DAY_SECONDS, Phase, Shape, alternating, diurnal
from inferencecluster.simulator.workload import (
    Request,
    copied,
    out_of_step,
    scaled_time,
    spliced,
    with_burst,
    with_mirrored_warm_up,
)

WARM_UP_SECONDS: Final = 600.0
"""Mirrored in front of each workload and not scored."""
JITTER_SECONDS: Final = 15.0
COPIES: Final = 20
SHIFT_SECONDS: Final = 300.0
BURST_COPIES: Final = 6
BURST_START: Final = 1800.0
BURST_SECONDS: Final = 60.0
BURST_FACTOR: Final = 10
HALF_WAY: Final = 1750.0
"""Of 58 minutes."""
PHASE_SECONDS: Final = 600.0
HOUR: Final = 3600.0
DAY_SPEED: Final = 6.0
"""The synthetic day passes in four hours: a whole day at 60 requests/s would be three million requests per run."""

WORKING_DAYS: Final = 3
"""Of real time, so that quarters of an hour are what they are: the operator learns the first day, judges the second, and has
believed the times of day for half a day when the third begins."""
_OPENS: Final = 9 * HOUR - WARM_UP_SECONDS
"""Nine o'clock on the cluster's clock, which the warm-up precedes."""
_CLOSES: Final = _OPENS + 3 * HOUR
"""Short days, few long documents: some 240,000 requests, and enough work that the mornings need several replicas."""
_OPENING_SECONDS: Final = 120.0
_CLOSING_SECONDS: Final = HOUR
_NIGHT_SHARE: Final = 0.1
_DOCUMENTS: Final = Phase(Shape(8000, 300, prompt_spread=0.6, output_spread=0.6), 4.0)
_MORNING_SECONDS: Final = 900.0
_MINUTE: Final = 60.0

_PROMPT_HEAVY: Final = Phase(Shape(2000, 40), 75.0)
_DECODE_HEAVY: Final = Phase(Shape(400, 500), 110.0)
"""Hindsight serves them with 15 + 1 and 4 + 9 prefill and decode replicas of the default hardware."""


@dataclass(frozen=True, slots=True)
class Spotlight:
    """A part of a workload that is also judged by itself; seconds after the warm-up."""

    name: str
    start: float
    end: float


Build = Callable[[Traces, float, int], Iterator[Request]]
"""Base traces, share of the full load, seed."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One workload."""

    name: str
    title: str
    build: Build
    spotlights: tuple[Spotlight, ...] = ()
    is_elastic_only: bool = False
    """Question (ii) leaves it out: where all GPUs are paid for, nobody boots, and nothing need be foreseen."""

    def requests(self, traces: Traces, *, load: float, seed: int) -> Iterator[Request]:
        """The warm-up and all that is scored; `load` 1 is the full load."""
        return with_mirrored_warm_up(self.build(traces, load, seed), WARM_UP_SECONDS)


def _same_step(trace: str, copies: int) -> Build:
    def build(traces: Traces, load: float, seed: int) -> Iterator[Request]:
        requests = traces.read(trace)
        return copied(requests, copies=copies * load, jitter_seconds=JITTER_SECONDS, seed=seed)

    return build


def _out_of_step(trace: str) -> Build:
    def build(traces: Traces, load: float, seed: int) -> Iterator[Request]:
        requests = traces.read(trace)
        tenants = int(COPIES * load)
        whole = out_of_step(requests, copies=tenants, shift_seconds=SHIFT_SECONDS, seed=seed)
        # One more tenant who sends a part of the trace makes any load possible.
        last = list(out_of_step(requests, copies=1, shift_seconds=SHIFT_SECONDS, seed=seed + 1_000_000))
        part = copied(last, copies=COPIES * load - tenants, jitter_seconds=0.0, seed=seed)
        return merge(whole, part)

    return build


def _burst(traces: Traces, load: float, seed: int) -> Iterator[Request]:
    plain = _same_step("conversation", BURST_COPIES)(traces, load, seed)
    return with_burst(plain, start=BURST_START, seconds=BURST_SECONDS, factor=BURST_FACTOR, seed=seed)


def _turning(traces: Traces, load: float, seed: int) -> Iterator[Request]:
    first = _same_step("conversation", COPIES)(traces, load, seed)
    second = _same_step("code", COPIES)(traces, load, seed)
    return spliced(first, second, at=HALF_WAY)


def _alternating(traces: Traces, load: float, seed: int) -> Iterator[Request]:  # noqa: ARG001 - `Build`: no trace
    phases = [
        Phase(phase.shape, phase.requests_per_second * load) for phase in (_PROMPT_HEAVY, _DECODE_HEAVY)
    ]
    return alternating(phases, phase_seconds=PHASE_SECONDS, duration_seconds=HOUR, seed=seed)


def _day(traces: Traces, load: float, seed: int) -> Iterator[Request]:  # noqa: ARG001 - `Build`: no trace
    requests = diurnal(
        Shape(1020, 129),
        peak_requests_per_second=60.0 * load / DAY_SPEED,
        trough_share=0.2,
        duration_seconds=DAY_SECONDS,
        seed=seed,
    )
    return scaled_time(requests, 1.0 / DAY_SPEED)


def _working_days(traces: Traces, load: float, seed: int) -> Iterator[Request]:  # noqa: ARG001 - `Build`: no trace
    minutes = range(int(WORKING_DAYS * DAY_SECONDS / _MINUTE))
    shares = (_share_of_peak((minute + 0.5) * _MINUTE % DAY_SECONDS) for minute in minutes)
    phases = [Phase(_DOCUMENTS.shape, _DOCUMENTS.requests_per_second * load * share) for share in shares]
    return alternating(phases, phase_seconds=_MINUTE, duration_seconds=WORKING_DAYS * DAY_SECONDS, seed=seed)


def _share_of_peak(time: float) -> float:
    """Of a working day, `time` seconds after its midnight: up within minutes, down within an hour."""
    opened = min(1.0, max(0.0, (time - _OPENS) / _OPENING_SECONDS))
    closed = min(1.0, max(0.0, (time - _CLOSES) / _CLOSING_SECONDS))
    return _NIGHT_SHARE + (1.0 - _NIGHT_SHARE) * (opened - closed)


def _morning(day: int) -> Spotlight:
    """The quarter of an hour in which a day opens."""
    start = day * DAY_SECONDS + _OPENS
    return Spotlight(f"morning {day + 1}", start, start + _MORNING_SECONDS)


WORKLOADS: Final[Mapping[str, Workload]] = MappingProxyType(
    {
        workload.name: workload
        for workload in (
            Workload(
                "conversation",
                f"Azure conversation x{COPIES}, copies moved by up to {JITTER_SECONDS:.0f} s",
                _same_step("conversation", COPIES),
            ),
            Workload(
                "code",
                f"Azure code x{COPIES}, copies moved by up to {JITTER_SECONDS:.0f} s",
                _same_step("code", COPIES),
            ),
            Workload(
                "conversation-tenants",
                f"Azure conversation, {COPIES} tenants out of step by up to {SHIFT_SECONDS / 60:.0f} min",
                _out_of_step("conversation"),
            ),
            Workload(
                "code-tenants",
                f"Azure code, {COPIES} tenants out of step by up to {SHIFT_SECONDS / 60:.0f} min",
                _out_of_step("code"),
            ),
            Workload(
                "conversation-burst",
                f"Azure conversation x{BURST_COPIES} with one minute of {BURST_FACTOR}x",
                _burst,
                (Spotlight("the minute", BURST_START, BURST_START + BURST_SECONDS),),
            ),
            Workload(
                "conversation-to-code", f"Azure conversation x{COPIES} turning into code half-way", _turning
            ),
            Workload(
                "alternating",
                "prompt-heavy (2,000/40 tokens) and decode-heavy (400/500) phases of 10 minutes in turn",
                _alternating,
                tuple(
                    Spotlight(f"phase {number + 1}", number * PHASE_SECONDS, (number + 1) * PHASE_SECONDS)
                    for number in range(int(HOUR / PHASE_SECONDS))
                ),
            ),
            Workload("day", "a day (1,020/129 tokens), a fifth of its peak at night, in four hours", _day),
            Workload(
                "working-days",
                f"{WORKING_DAYS} days of documents (8,000/300 tokens) that open at nine, tenfold within two minutes",
                _working_days,
                tuple(_morning(day) for day in range(1, WORKING_DAYS)),
                is_elastic_only=True,
            ),
        )
    }
)
"""In the order of tables."""


def workload(name: str) -> Workload:
    """Raises `SpecError` that lists the known names."""
    found = WORKLOADS.get(name)
    if found is None:
        raise SpecError(
            field="--workloads",
            value=repr(name),
            rule=f"the workloads are {', '.join(WORKLOADS)}",
            advice="name some of them, separated by commas",
        )
    return found

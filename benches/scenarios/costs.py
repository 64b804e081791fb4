"""Scenarios about money: load, seasons, objectives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from benches.scenarios.followed import (
    HOURS,
    WINDOWS,
    Followed,
    day,
    day_requests,
    follow,
    height,
    steady_requests,
)
from benches.scenarios.load import CONVERSATION, TARGET, highest_rate, price, shape, window
from benches.scenarios.markdown import table
from inferencecluster.planner.catalogue import PricedGpu
from inferencecluster.planner.designs import Design, Disaggregated, Mixed, PoolShape
from inferencecluster.planner.traffic import Traffic, Window
from inferencecluster.simulator.hardware import GPU_FACTS
from inferencecluster.simulator.workload import Request

REASONING: Final = (500, 4000)
"""Prompt and output tokens of a model that thinks aloud: some ten requests a second fill ten GPUs, so that a day is simulated in seconds."""
STEADY_SECONDS: Final = 600.0
"""Of an even load: some four lives of such a request, after as much warm-up."""
DAYS: Final = 24 / HOURS
"""Hours of a day over those that it is simulated in: dollars of the short day become those of a whole one."""
SMALL_GPU_DOLLARS: Final = 2.50
"""Of the first scenario's source."""
FLEET: Final = 10
TROUGH: Final = 0.25
"""Of the seasonal scenario: 500 queries an hour, 2,000 at the peak."""
OFFLOADED: Final = 0.5
"""Share of the requests that a small model answers, at the peak."""
PEAK_SHARE: Final = 0.5
"""Load over the highest one from which on it answers them."""
SPLITWISE_DOLLARS: Final = {"a100": 17.6 / 8, "h100": 38.0 / 8}
"""Per GPU-hour (Splitwise, table I)."""
SPLITWISE_GPUS: Final = 40 * 8
"""The paper's baseline has 40 machines of eight H100."""
CAPPED: Final = 0.7
"""Of a token machine's power (Splitwise, HHcap)."""


def load_costs() -> str:
    """Dollars per 1,000 requests of a fleet at several loads and over a day: static, ideal, and as the operator sizes it."""
    design = Mixed(shape("llama-3.1-8b-bf16/h100-tp1", SMALL_GPU_DOLLARS))
    full = highest_rate(design, TARGET, REASONING, budget=FLEET * SMALL_GPU_DOLLARS)
    whole_day = day(window(*REASONING, rate=full), trough_share=TROUGH)
    rows = []
    for share in (0.25, 0.5, 0.8, 1.0):
        rate = share * full
        one = replace(window(*REASONING), seconds=STEADY_SECONDS, requests=rate * STEADY_SECONDS)
        requests = steady_requests(REASONING, rate=rate, seconds=STEADY_SECONDS)
        found = follow(design, Traffic((one,), ""), requests, planned_for=whole_day)
        rows.append(_load_row(f"{share:.0%} of {full:.0f} requests/s", found))
    requests = day_requests(REASONING, peak_rate=full, trough_share=TROUGH)
    found = follow(design, whole_day, requests)
    rows.append(_load_row(f"a day between {TROUGH:.0%} and 100%", found))
    header = [
        "load",
        f"static, {FLEET} GPUs: $ per 1,000",
        "ideal: GPUs",
        "$ per 1,000",
        "saved",
        "operator, simulated: $ per 1,000",
        "saved",
        "in time",
    ]
    return table(header, rows)


def _load_row(name: str, found: Followed) -> list[str]:
    traffic, ideal = found.option.traffic, found.option.cost.autoscaled
    static = FLEET * SMALL_GPU_DOLLARS * traffic.hours
    thousands = traffic.requests / 1000
    return [
        name,
        f"{static / thousands:.3f}",
        f"{ideal.gpu_hours / traffic.hours:.1f}",
        f"{ideal.dollars / thousands:.3f}",
        _saved(ideal.dollars / static),
        f"{found.dollars / thousands:.3f}",
        _saved(found.dollars / static),
        f"{found.in_time:.1%}",
    ]


def _saved(share_paid: float) -> str:
    """Adding 0 turns -0 % into 0 %."""
    return f"{round(1 - share_paid, 2) + 0.0:.0%}"


def seasons() -> str:
    """A day whose peak needs four large replicas, with and without a small model beside it: ideal, and as the operator sizes it."""
    large = Mixed(shape("llama-3.1-70b-fp8/h200-tp2"))
    small = Mixed(shape("llama-3.1-8b-bf16/h100-tp1"))
    rate = highest_rate(large, TARGET, REASONING, budget=4 * large.shape.dollars_per_hour)
    traffic = day(window(*REASONING, rate=rate), trough_share=TROUGH)
    requests = day_requests(REASONING, peak_rate=rate, trough_share=TROUGH)
    kept = replace(traffic, windows=tuple(_kept(one, rate) for one in traffic.windows))
    away = replace(traffic, windows=tuple(_offloaded(one, rate) for one in traffic.windows))
    stay, leave = routed(requests)
    whole = [follow(large, traffic, requests)]
    parted = [follow(large, kept, stay), follow(small, away, leave)]
    static = whole[0].option.cost.static.dollars
    at_peak = 4 * large.shape.dollars_per_hour
    rows = [
        ["four large replicas all day", f"{at_peak:.2f}", f"{static * DAYS:.0f}", "-", "-", "-", "-"],
        _season_row("following the demand", whole, static),
        _season_row(
            f"following, {OFFLOADED:.0%} to a small model while the load is above half of the peak",
            parted,
            static,
        ),
    ]
    header = [
        "",
        "ideal: $/h at the peak",
        "$ a day",
        "saved",
        "operator, simulated: $ a day",
        "saved",
        "in time",
    ]
    return f"The peak is {rate:.1f} requests/s, the night {rate * TROUGH:.1f}.\n\n" + table(header, rows)


def _season_row(name: str, clusters: Sequence[Followed], static: float) -> list[str]:
    busiest = max(
        range(WINDOWS), key=lambda index: sum(one.option.traffic.windows[index].rate for one in clusters)
    )
    at_peak = sum(price(one.option.design, one.option.fitted.sizes[busiest]) for one in clusters)
    ideal = sum(one.option.cost.autoscaled.dollars for one in clusters)
    paid = sum(one.dollars for one in clusters)
    in_time = sum(one.in_time * one.requests for one in clusters) / sum(one.requests for one in clusters)
    return [
        name,
        f"{at_peak:.2f}",
        f"{ideal * DAYS:.0f}",
        _saved(ideal / static),
        f"{paid * DAYS:.0f}",
        _saved(paid / static),
        f"{in_time:.1%}",
    ]


def routed(requests: Iterable[Request]) -> tuple[list[Request], list[Request]]:
    """Those that stay with the large model and those that a gateway sends to the small one, evenly among the requests of the peak."""
    stay: list[Request] = []
    leave: list[Request] = []
    seen = 0
    for request in requests:
        load = height(request.arrival / (HOURS * 3600), trough_share=TROUGH)
        is_peak = load > PEAK_SHARE
        seen += is_peak
        leaves = is_peak and int(seen * OFFLOADED) > int((seen - 1) * OFFLOADED)
        (leave if leaves else stay).append(request)
    return stay, leave


def _kept(one: Window, peak_rate: float) -> Window:
    return one.scaled(1 - OFFLOADED) if one.rate > PEAK_SHARE * peak_rate else one


def _offloaded(one: Window, peak_rate: float) -> Window:
    return one.scaled(OFFLOADED if one.rate > PEAK_SHARE * peak_rate else 0.0)


def objectives() -> str:
    """Splitwise's designs at its own prices and powers, for Llama-3.1-8B, whose fits span both of its GPUs."""
    watts = {name: GPU_FACTS[name].watts for name in SPLITWISE_DOLLARS}
    powered = _designs(watts, token_watts=watts["h100"] * CAPPED)
    priced = _designs(SPLITWISE_DOLLARS, token_watts=SPLITWISE_DOLLARS["h100"])
    rates = {
        name: (
            highest_rate(powered[name], TARGET, CONVERSATION, budget=SPLITWISE_GPUS * watts["h100"]),
            highest_rate(
                priced[name], TARGET, CONVERSATION, budget=SPLITWISE_GPUS * SPLITWISE_DOLLARS["h100"]
            ),
        )
        for name in powered
    }
    base = rates["mixed H100"]
    rows = [
        [
            name,
            f"{power:.0f}",
            f"{power / base[0]:.2f}",
            f"{cost:.0f}",
            f"{cost / base[1]:.2f}",
            _PUBLISHED[name],
        ]
        for name, (power, cost) in rates.items()
    ]
    header = [
        "design",
        "requests/s at equal power",
        "x",
        "requests/s at equal cost",
        "x",
        "published x (power / cost)",
    ]
    return table(header, rows)


def _designs(prices: Mapping[str, float], *, token_watts: float) -> dict[str, Design]:
    """Replicas whose "price" is what the budget counts: watts or dollars."""

    def on(gpu: str, amount: float) -> PoolShape:
        one = shape(f"llama-3.1-8b-bf16/{gpu}-tp1")
        return replace(one, gpu=PricedGpu(gpu, amount))

    a100, h100 = on("a100", prices["a100"]), on("h100", prices["h100"])
    return {
        "mixed A100": Mixed(a100),
        "mixed H100": Mixed(h100),
        "AA": Disaggregated(a100, a100),
        "HH": Disaggregated(h100, h100),
        "HA": Disaggregated(h100, a100),
        "HHcap": Disaggregated(h100, on("h100", token_watts)),
    }


_PUBLISHED: Final = {
    "mixed A100": "0.45 / -",
    "mixed H100": "1 / 1",
    "AA": "1.0 / 1.4",
    "HH": "1.1 / -",
    "HA": "1.2 / -",
    "HHcap": "1.2 / -",
}
"""Equal power: 50, 110, 110, 120, 130 and 130 requests/s of splitwise-sim with BLOOM-176B, which reproduces the paper's
figures. Equal cost: the paper, section VI."""

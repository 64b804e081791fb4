"""Scenarios about money: load, seasons, objectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from benches.scenarios.load import (
    CONVERSATION,
    TARGET,
    day,
    highest_rate,
    price,
    shape,
    window,
)
from benches.scenarios.markdown import table
from inferencecluster.core.missing import Missing
from inferencecluster.planner.catalogue import PricedGpu
from inferencecluster.planner.cost import charge
from inferencecluster.planner.designs import Design, Disaggregated, Mixed, PoolShape
from inferencecluster.planner.search import Fitted, fit
from inferencecluster.planner.traffic import Traffic, Window
from inferencecluster.simulator.hardware import GPU_FACTS

BOOT_SECONDS: Final = 120.0
SMALL_GPU_DOLLARS: Final = 2.50
"""Of the first scenario's source."""
FLEET: Final = 10
TROUGH: Final = 0.25
"""Of the seasonal scenario: 500 queries an hour, 2,000 at the peak."""
OFFLOADED: Final = 0.5
"""Share of the requests that a small model answers, at the peak."""
SPLITWISE_DOLLARS: Final = {"a100": 17.6 / 8, "h100": 38.0 / 8}
"""Per GPU-hour (Splitwise, table I)."""
SPLITWISE_GPUS: Final = 40 * 8
"""The paper's baseline has 40 machines of eight H100."""
CAPPED: Final = 0.7
"""Of a token machine's power (Splitwise, HHcap)."""


def fitted(design: Design, traffic: Traffic) -> Fitted:
    """At the default target, which these scenarios' hardware can hold."""
    found = fit(design, traffic, TARGET)
    if isinstance(found, Missing):
        raise TypeError(found.message)
    return found


def load_costs() -> str:
    """Dollars per 1,000 requests of a fleet at several loads."""
    design = Mixed(shape("llama-3.1-8b-bf16/h100-tp1", SMALL_GPU_DOLLARS))
    static = FLEET * SMALL_GPU_DOLLARS
    full = highest_rate(design, TARGET, CONVERSATION, budget=static)
    rows = []
    for share in (0.25, 0.5, 0.8, 1.0):
        rate = share * full
        needed = fitted(design, Traffic((window(*CONVERSATION, rate=rate),), ""))
        followed = price(design, needed.peak)
        rows.append(
            [
                f"{share:.0%} of {full:.0f} requests/s",
                f"{static / rate / 3.6:.4f}",
                f"{needed.peak[0]}",
                f"{followed / rate / 3.6:.4f}",
                f"{1 - followed / static:.0%}",
            ]
        )
    traffic = day(window(*CONVERSATION, rate=full), trough_share=TROUGH)
    cost = charge(fitted(design, traffic), traffic, boot_seconds=BOOT_SECONDS)
    rows.append(
        [
            f"a day between {TROUGH:.0%} and 100%",
            f"{cost.static.dollars / traffic.requests * 1000:.4f}",
            f"{cost.autoscaled.gpu_hours / 24:.1f} on average",
            f"{cost.autoscaled.dollars / traffic.requests * 1000:.4f}",
            f"{cost.saving:.0%}",
        ]
    )
    header = [
        "load",
        f"$ per 1,000 on {FLEET} GPUs",
        "GPUs that hold the SLO",
        "$ per 1,000 on those",
        "saved",
    ]
    return table(header, rows)


def seasons() -> str:
    """A day whose peak needs four large replicas, with and without a small model beside it."""
    large = Mixed(shape("llama-3.1-70b-fp8/h200-tp2"))
    small = Mixed(shape("llama-3.1-8b-bf16/h100-tp1"))
    rate = highest_rate(large, TARGET, CONVERSATION, budget=4 * large.shape.dollars_per_hour)
    peak = window(*CONVERSATION, rate=rate)
    traffic = day(peak, trough_share=TROUGH)
    whole = charge(fitted(large, traffic), traffic, boot_seconds=BOOT_SECONDS)
    kept = replace(traffic, windows=tuple(_kept(one, rate) for one in traffic.windows))
    away = replace(traffic, windows=tuple(_offloaded(one, rate) for one in traffic.windows))
    bills = [
        charge(fitted(design, part), part, boot_seconds=BOOT_SECONDS)
        for design, part in ((large, kept), (small, away))
    ]
    at_peak = [
        price(design, fitted(design, Traffic((peak.scaled(share),), "")).peak)
        for design, share in ((large, 1.0), (large, 1 - OFFLOADED), (small, OFFLOADED))
    ]
    rows = [
        ["four large replicas all day", f"{at_peak[0]:.2f}", f"{whole.static.dollars:.0f}", "-"],
        [
            "following the demand",
            f"{at_peak[0]:.2f}",
            f"{whole.autoscaled.dollars:.0f}",
            f"{whole.saving:.0%}",
        ],
        _offload_row(at_peak, sum(bill.autoscaled.dollars for bill in bills), whole.static.dollars),
    ]
    return f"The peak is {rate:.1f} requests/s, the night {rate * TROUGH:.1f}.\n\n" + table(
        ["", "$/h at the peak", "$ a day", "saved"], rows
    )


def _offload_row(at_peak: list[float], dollars: float, static: float) -> list[str]:
    return [
        f"following, {OFFLOADED:.0%} to a small model while the load is above half of the peak",
        f"{at_peak[1] + at_peak[2]:.2f}",
        f"{dollars:.0f}",
        f"{1 - dollars / static:.0%}",
    ]


def _kept(one: Window, peak_rate: float) -> Window:
    return one.scaled(1 - OFFLOADED) if one.rate > peak_rate / 2 else one


def _offloaded(one: Window, peak_rate: float) -> Window:
    return one.scaled(OFFLOADED if one.rate > peak_rate / 2 else 0.0)


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

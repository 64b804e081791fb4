"""A plan as text for people and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from inferencecluster.cli.paper import compact_table, tell
from inferencecluster.cli.render import to_yaml
from inferencecluster.planner.answer import Objective, Option, Plan, verdict, why_it_loses
from inferencecluster.planner.catalogue import PRICES_AS_OF
from inferencecluster.planner.cost import Bill
from inferencecluster.planner.designs import Disaggregated, Mixed
from inferencecluster.planner.levers import COSTS, Lever, Speculation, Staircase, Surroundings
from inferencecluster.planner.reach import Reach, Way
from inferencecluster.planner.verify import Confirmed, Verified
from inferencecluster.render.manifest import Manifest

RUNNERS_UP: Final = 5
"""Shown beside the best one; the best mixed and the best disaggregated design are always among them."""

_VISIBLE_SHARE: Final = 0.005
"""Smaller ones round to 0 %."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything that is told."""

    plan: Plan
    confirmed: Confirmed | None
    """None when nobody asked the simulator."""
    manifest: Manifest
    staircase: Staircase
    surroundings: Surroundings
    """Of the staircase."""


def summary(answer: Answer) -> list[str]:
    """The answer in a few lines."""
    found, best = answer.plan, answer.plan.best
    target = found.question.target
    load = found.question.traffic.description
    if found.question.objective is Objective.THROUGHPUT:
        load = f"{best.scale:.2f} times {load}"
    slo = (
        f"{target.share:.0%} within {target.ttft_seconds * 1000:.0f} ms to the first token and "
        f"{target.itl_seconds * 1000:.0f} ms per token"
    )
    bills = (
        f"static peak {_bill(best.cost.static)}; following the demand (ideal) {_bill(best.cost.autoscaled)}, "
        f"{best.cost.saving:.0%} less, ${best.dollars_per_thousand:.3g} per 1,000 requests"
    )
    prices = ", ".join(f"{gpu.name} ${gpu.dollars_per_hour:g}" for gpu in found.question.gpus)
    return [
        f"{load}; {slo}",
        f"take {best.design.name}: {sizes_text(best)}, {best.fitted.peak_gpus} GPUs at the peak",
        verdict(found),
        bills,
        *_verification(answer),
        f"prices per GPU-hour: {prices} (defaults: {PRICES_AS_OF})",
    ]


def print_tables(answer: Answer, console: Console) -> None:
    """Answer, runners-up, staircase, and the object at the end."""
    for line in summary(answer):
        tell(console, line)
    console.print(_options_table(answer.plan))
    for option in shown(answer.plan)[1:]:
        tell(console, f"{option.design.name} {why_it_loses(answer.plan, option)}")
    for item in answer.plan.rejected:
        tell(console, f"{item.design.name} is out: {item.reason}")
    console.print(_staircase_table(answer))
    for stair in answer.staircase.stairs:
        if stair.price:
            tell(console, f"{stair.name} costs: {stair.price}")
    for name, reason in answer.staircase.left_out:
        tell(console, f"not on the stairs: {name}: {reason}")
    console.print(to_yaml([answer.manifest]), highlight=False, soft_wrap=True, markup=False, end="")


def document(answer: Answer) -> dict[str, Any]:
    """Everything, ready for JSON."""
    found = answer.plan
    question = found.question
    return {
        "verdict": verdict(found),
        "objective": question.objective.value,
        "traffic": question.traffic.description,
        "slo": {
            "percentile": round(question.target.share * 100),
            "ttft_ms": round(question.target.ttft_seconds * 1000),
            "itl_ms": round(question.target.itl_seconds * 1000),
        },
        "dollars_per_gpu_hour": {gpu.name: gpu.dollars_per_hour for gpu in question.gpus},
        "options": [_option(found, option) for option in found.options],
        "rejected": [{"design": item.design.name, "reason": item.reason} for item in found.rejected],
        "simulated": _simulated(answer),
        "staircase": {
            "profile": answer.surroundings.profile.name,
            "itl_ms": answer.surroundings.itl_seconds * 1000,
            "stairs": [asdict(stair) for stair in answer.staircase.stairs],
            "left_out": dict(answer.staircase.left_out),
        },
        "manifest": answer.manifest,
    }


def sizes_text(option: Option) -> str:
    """Replicas per pool at the peak, such as `11 prefill + 3 decode`."""
    pools = zip(option.design.pools, option.fitted.peak, strict=True)
    return " + ".join(f"{size} {name}" for (name, _), size in pools)


def shown(found: Plan) -> list[Option]:
    """The first options, and the best of each kind."""
    best = [found.best_of(Mixed), found.best_of(Disaggregated)]
    late = [option for option in best if option is not None and option not in found.options[: RUNNERS_UP + 1]]
    return [*found.options[: RUNNERS_UP + 1], *late]


def ways(found: Reach, speculation: Speculation) -> list[str]:
    """What follows a refusal: levers that would hold the SLO, what they would cost, and what they are worth."""
    if not found.ways:
        lines = ["no lever reaches it on these GPUs either, by the model's estimate"]
    else:
        lines = [
            "what would reach it, by the model's ESTIMATE (no fit, nothing simulated, accuracy untested):"
        ]
    lines += [f"  {_way(way, speculation)}" for way in found.ways]
    return [*lines, *(f"  {lever} is not known here: {reason}" for lever, reason in found.unknown)]


def _way(way: Way, speculation: Speculation) -> str:
    option = way.option
    names = (speculation.name if lever is Lever.SPECULATION else lever.value for lever in way.levers)
    scale = "" if option.scale == 1.0 else f"{option.scale:.2f} times the load, "
    return (
        f"{' + '.join(names)}: {way.token_milliseconds:.1f} ms per token alone; {option.design.name}: {sizes_text(option)}, "
        f"{option.fitted.peak_gpus} GPUs, {scale}${option.cost.static.dollars / option.traffic.hours:.2f} per hour at the peak, "
        f"${option.dollars_per_thousand:.3g} per 1,000 requests; the price beside money: "
        f"{'; '.join(COSTS[lever] for lever in way.levers)}"
    )


def _bill(bill: Bill) -> str:
    return f"{bill.gpu_hours:.1f} GPU-hours, ${bill.dollars:.2f}"


def _verification(answer: Answer) -> list[str]:
    confirmed = answer.confirmed
    if confirmed is None:
        return ["not simulated"]
    seen = confirmed.verified
    measured = (
        f"simulated: {seen.static_attainment:.1%} of {seen.requests} requests in time on {seen.static_gpus:.0f} GPUs; "
        f"{seen.autoscaled_attainment:.1%} on {seen.autoscaled_gpus:.1f} on average where the operator sizes the pools{_own_bill(answer.plan.best, seen)}"
    )
    lines = [measured]
    if not confirmed.holds:
        lines.append("THE SIMULATOR DOES NOT CONFIRM THIS PLAN, nor the next ones: do not rely on it")
    elif seen.autoscaled_attainment < answer.plan.question.target.share:
        lines.append("the operator is surprised by this load: raise minReplicas, or shorten the boot")
    return lines


def _own_bill(best: Option, seen: Verified) -> str:
    """What the operator itself paid in the simulator, over the time of the traffic, beside the static peak."""
    if seen.autoscaled_dollars_per_hour is None:
        return ""
    dollars = seen.autoscaled_dollars_per_hour * best.traffic.hours
    share = dollars / best.cost.static.dollars - 1.0
    if abs(share) < _VISIBLE_SHARE:
        return f", ${dollars:.2f}, about the static peak"
    if share > 0:
        return (
            f", ${dollars:.2f}, {share:.0%} more than the static peak: Fixed is cheaper here "
            f"(scaling.mode: Fixed, minReplicas: {sizes_text(best)}; the object is written for Automatic)"
        )
    return f", ${dollars:.2f}, {-share:.0%} less than the static peak"


def _simulated(answer: Answer) -> dict[str, Any] | None:
    if answer.confirmed is None:
        return None
    return {**asdict(answer.confirmed.verified), "holds": answer.confirmed.holds}


def _option(found: Plan, option: Option) -> dict[str, Any]:
    fitted = option.fitted
    pools = zip(option.design.pools, fitted.quietest, fitted.peak, strict=True)
    return {
        "design": option.design.name,
        "pools": {
            name.value: {
                "profile": shape.profile.name,
                "gpus_per_replica": shape.gpus,
                "replicas_quietest": least,
                "replicas_peak": most,
            }
            for (name, shape), least, most in pools
        },
        "peak_gpus": fitted.peak_gpus,
        "load_scale": option.scale,
        "expected_attainment": fitted.attainment,
        "static_peak": asdict(option.cost.static),
        "autoscaled": asdict(option.cost.autoscaled),
        "dollars_per_thousand_requests": option.dollars_per_thousand,
        "why": "best" if option is found.best else why_it_loses(found, option),
    }


def _options_table(found: Plan) -> Table:
    table = compact_table(title="designs that hold the SLO, replicas at their peak")
    table.add_column("design", no_wrap=True)
    table.add_column("replicas", no_wrap=True)
    columns = ["GPUs", "static $", "autoscaled $", "kWh"]
    if found.question.objective is Objective.THROUGHPUT:
        columns.append("load")
    for name in columns:
        table.add_column(name, justify="right")
    for option in shown(found):
        cells = (
            str(option.fitted.peak_gpus),
            f"{option.cost.static.dollars:.2f}",
            f"{option.cost.autoscaled.dollars:.2f}",
            f"{option.cost.autoscaled.kilowatt_hours:.1f}",
            f"x {option.scale:.2f}",
        )
        replicas = " + ".join(str(size) for size in option.fitted.peak)
        table.add_row(option.design.name, replicas, *cells[: len(columns)])
    return table


def _staircase_table(answer: Answer) -> Table:
    around = answer.surroundings
    table = compact_table(
        title=f"users per GPU on {around.profile.name}, one token per {around.itl_seconds * 1000:.0f} ms each"
    )
    table.add_column("lever, with those above", no_wrap=True)
    for name in ("users", "in flight", "req/s", "ms/token", "KV bytes"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("basis")
    for stair in answer.staircase.stairs:
        table.add_row(
            stair.name,
            f"{stair.users_per_gpu:.1f}",
            f"{stair.sequences_per_gpu:.1f}",
            f"{stair.requests_per_gpu:.2f}",
            f"{stair.token_milliseconds:.1f}",
            f"{stair.kv_bytes_per_token:,.0f}",
            stair.basis,
        )
    return table

"""The study as JSON, as Markdown tables, and as the generated part of docs/splitwise.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from benches.scenarios.markdown import filled, table
from benches.splitwise.cluster import ALONE, HONEST, PEER
from benches.splitwise.designs import CODE_OPTIMUM, CODE_RATE, ISO_COST, ISO_POWER, PEER_FRONTIER, Design
from benches.splitwise.pictures import Bars, draw_frontiers
from benches.splitwise.search import STEP, Budget, Purchase
from benches.splitwise.slos import LIMITS
from benches.splitwise.study import AS_A100, BASE_A100_70, BASE_H100_40, CHEAPER, Study, as_published
from inferencecluster.simulator.report import PERCENTILES

PEER_MODEL: Final = "bloom-176b"
"""What the published frontier was found with."""
ITS: Final = "its physics"
"""What tables call the peer's."""
BLOCK: Final = "bench-splitwise"
PICTURE: Final = "splitwise-frontiers.svg"


def write_json(path: Path, study: Study) -> None:
    """Every frontier and purchase."""
    document: dict[str, Any] = {
        "model": study.place.model,
        "seconds": study.place.seconds,
        "seeds": list(study.seeds),
        "step": STEP,
        "frontiers": [
            {
                "design": item.design.name,
                "physics": item.physics,
                "seed": item.seed,
                "rate": item.rate,
                "broken_one_step_above": list(item.broken),
            }
            for item in study.frontiers
        ],
        "purchases": [
            {
                "budget": item.budget.name,
                "kind": item.kind.name,
                "physics": item.physics,
                "design": item.design.name,
                "rate": item.rate,
                "holding": [design.name for design in item.holding],
            }
            for item in study.purchases
        ],
        "code": [{"run": point.name} | found.document() for point, found in study.code.items()],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def write_docs(folder: Path, study: Study) -> None:
    """Fill splitwise.md in `folder`, and draw its picture. Raises `KeyError` when the marks are not there."""
    page = folder / "splitwise.md"
    picture = folder / "pictures" / PICTURE
    draw_frontiers(picture, summary_rows(study))
    generated = f"{tables(study)}\n\n![frontiers](pictures/{PICTURE})"
    page.write_text(filled(page.read_text(encoding="utf-8"), {BLOCK: f"\n{generated}\n"}), encoding="utf-8")


def tables(study: Study) -> str:
    """All of them."""
    seeds = ", ".join(map(str, study.seeds))
    parts = [
        (
            f"{study.place.model}, traces of {study.place.seconds:g} s, seeds {seeds} (least to most where they differ), "
            f"{STEP:g} requests/s apart; searches with seed {study.seeds[0]}."
        ),
        "### Equal power: highest requests/s inside the nine SLOs (conversation)",
        _iso_power(study),
        "### What each correction does alone",
        _corrections(study),
        f"### {CODE_OPTIMUM.name} at {CODE_RATE:g} requests/s (code)",
        _code(study),
        "### The best split for the cost and power of each design",
        _resplits(study),
        "### Equal cost (conversation)",
        _iso_cost(study),
        "### The headlines",
        _headlines(study),
    ]
    return "\n\n".join(parts)


def _iso_power(study: Study) -> str:
    rows = []
    for design in ISO_POWER:
        published = PEER_FRONTIER[design] if study.place.model == PEER_MODEL else None
        above = next(
            item.broken for item in study.frontiers if item.design == design and item.physics == HONEST.name
        )
        rows.append(
            [
                design.name,
                "-" if published is None else f"{published:g}",
                _rates(study, design, PEER.name),
                "-" if published is None else _verdict(study, design, published),
                _rates(study, design, HONEST.name),
                ", ".join(above[:2]),
            ]
        )
    return table(("design", "splitwise-sim", f"{ITS}, here", "within a step", "honest", "breaks above"), rows)


def _verdict(study: Study, design: Design, published: float) -> str:
    inside = all(abs(rate - published) <= STEP for rate in study.rates(design, PEER.name))
    return "yes" if inside else "no"


def _rates(study: Study, design: Design, physics: str) -> str:
    rates = study.rates(design, physics)
    least, most = min(rates), max(rates)
    return f"{least:g}" if least == most else f"{least:g} to {most:g}"


def _corrections(study: Study) -> str:
    physics = (PEER, *ALONE, HONEST)
    rows = [
        [design.name, *(f"{study.rate(design, item.name):g}" for item in physics)] for design in ISO_POWER
    ]
    return table(("design", ITS, *(item.name for item in physics[1:])), rows)


def _code(study: Study) -> str:
    rows = []
    for point, found in study.code.items():
        values = [" / ".join(f"{value:.2f}" for value in found.slowdowns.values[name]) for name in LIMITS]
        verdict = "all nine hold" if found.holds else ", ".join(found.broken)
        rows.append(
            [
                ITS if point.physics == PEER.name else point.physics,
                str(point.place.seed),
                *values,
                str(found.whole),
                verdict,
            ]
        )
    percents = "/".join(map(str, PERCENTILES))
    return table(
        (
            "physics",
            "seed",
            *(f"{name.upper()} slowdown P{percents}" for name in LIMITS),
            f"borrowed, of {_requests(study)}",
            "SLOs",
        ),
        rows,
    )


def _requests(study: Study) -> str:
    counts = [found.requests for found in study.code.values()]
    return f"{min(counts):,} to {max(counts):,}"


def _resplits(study: Study) -> str:
    rows = []
    for design in ISO_POWER:
        if design.kind.is_baseline:
            continue
        row = [design.name]
        for physics in (PEER, HONEST):
            (best,) = study.bought(as_published(design), physics.name)
            row += [f"{study.rate(design, physics.name):g}", f"{best.rate:g}", _holding(best)]
        rows.append(row)
    return table(
        (
            "design",
            f"{ITS}: as published",
            "best split",
            "which",
            "honest: as published",
            "best split",
            "which",
        ),
        rows,
    )


def _holding(best: Purchase) -> str:
    """Every tried split that carries the best rate: near the end of a memory, neighbours need not."""
    return "; ".join(f"{design.prompts}P,{design.tokens}T" for design in best.holding) or "none"


def _iso_cost(study: Study) -> str:
    rows = [
        [
            design.name,
            f"{design.dollars_per_hour:,.0f}",
            f"{design.power:,.0f}",
            str(design.machines),
            _rates(study, design, PEER.name),
            _rates(study, design, HONEST.name),
        ]
        for design in ISO_COST
    ]
    return table(("design", "$/h", "power units", "machines", ITS, "honest"), rows)


def _headlines(study: Study) -> str:
    """Ratios of throughput, with the first seed."""
    by_name = {design.name: design for design in (*ISO_POWER, *ISO_COST)}
    pairs = (
        ("2.15x", by_name["AA(45P,25T)"], BASE_A100_70),
        ("1.18x", by_name["HA(25P,26T)"], BASE_H100_40),
        ("1.4x", by_name["AA(51P,35T)"], BASE_H100_40),
    )
    rows = [
        [
            f"{design.name} to {base.name}: {claim}",
            f"{design.dollars_per_hour / base.dollars_per_hour:.2f}",
            f"{design.power / base.power:.2f}",
            *(_ratio(study.rate(design, name), study.rate(base, name)) for name in (PEER.name, HONEST.name)),
        ]
        for claim, design, base in pairs
    ]
    cheaper, equal = "1.4x at 20 % lower cost", "2.35x at equal cost and power"
    rows += [
        _bought(study, CHEAPER, BASE_H100_40, f"any design to {BASE_H100_40.name}: {cheaper}"),
        _bought(study, CHEAPER, by_name["Base-A100(86)"], f"any design to Base-A100(86): {cheaper}"),
        _bought(study, AS_A100, BASE_A100_70, f"any design to {BASE_A100_70.name}: {equal}"),
        _bought(
            study,
            as_published(by_name["HH(25P,15T)"]),
            BASE_H100_40,
            f"HH, best split, to {BASE_H100_40.name}: -",
        ),
    ]
    return table(("published", "cost", "power", ITS, "honest"), rows)


def _bought(study: Study, budget: Budget, base: Design, claim: str) -> list[str]:
    """The best cluster that was found for a budget; cost and power are those of the honest one."""
    found = {
        name: max(study.bought(budget, name), key=lambda item: item.rate) for name in (PEER.name, HONEST.name)
    }
    best = found[HONEST.name].design
    return [
        claim,
        f"{best.dollars_per_hour / base.dollars_per_hour:.2f}",
        f"{best.power / base.power:.2f}",
        *(
            f"{_ratio(item.rate, study.rate(base, name))} ({item.design.name})"
            for name, item in found.items()
        ),
    ]


def _ratio(rate: float, base: float) -> str:
    return f"{rate / base:.2f}x" if base else "-"


def summary_rows(study: Study) -> tuple[Bars, ...]:
    """For the picture: one group of bars per design of equal power."""
    rows = []
    for design in ISO_POWER:
        honest = best = study.rate(design, HONEST.name)
        if not design.kind.is_baseline:
            (purchase,) = study.bought(as_published(design), HONEST.name)
            best = purchase.rate
        published = PEER_FRONTIER[design] if study.place.model == PEER_MODEL else None
        rows.append(Bars(design.name, published, study.rate(design, PEER.name), honest, best))
    return tuple(rows)

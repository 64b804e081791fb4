"""`python -m benches.agreement build/demo`: the demo's run beside the same run in the simulator (docs/agreement.md)."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median
from typing import Annotated, Final

import typer
from e2e.demo.replayed import replay_looks
from e2e.demo.summary import Slo

from benches.agreement import picture
from benches.agreement.comparison import (
    PoolDifference,
    Side,
    figures,
    pool_differences,
    side_of,
    side_of_demo,
)
from benches.agreement.recorded import Demo, read_demo
from benches.agreement.report import Outcome, markdown
from benches.agreement.simulated import PHASES, Setting, setting_of, simulate_demo
from benches.scenarios.markdown import filled
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "agreement.md"
BLOCK: Final = "agreement"
EXIT_BEYOND: Final = 1
EXIT_BAD_INPUT: Final = 2


def main(
    demo: Annotated[Path, typer.Argument(help="Folder that `make demo` left.")] = Path("build/demo"),
    *,
    output: Annotated[Path, typer.Option(help="Folder for table and picture.")] = Path("build/agreement"),
    write_docs: Annotated[bool, typer.Option(help="Also write the table into docs/agreement.md.")] = False,
    check: Annotated[bool, typer.Option(help="End with 1 where an aim is missed.")] = False,
) -> None:
    """Simulate what the demo played, and tell how far both are apart."""
    try:
        recorded = read_demo(demo)
        outcome = compare(recorded, output)
    except SpecError as error:
        sys.stderr.write(f"error: {error}\n")
        raise typer.Exit(EXIT_BAD_INPUT) from error
    text = markdown(recorded, outcome)
    (output / "agreement.md").write_text(text + "\n", encoding="utf-8")
    if write_docs:
        page = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(filled(page, {BLOCK: text}), encoding="utf-8")
    sys.stdout.write(f"{text}\n\npicture: {output / 'pools.svg'}\n")
    if check and not outcome.holds:
        raise typer.Exit(EXIT_BEYOND)


def compare(demo: Demo, output: Path) -> Outcome:
    """Run the simulator, draw the picture. Raises `SpecError`."""
    setting = setting_of(demo)
    measured = side_of_demo(demo)
    own = _sides(demo, setting, recorded_sizes=False)
    led = _sides(demo, setting, recorded_sizes=True)
    slo = _slo(demo, setting)
    for suffix in ("svg", "png"):
        picture.draw(output / f"pools.{suffix}", demo.facts.name, measured, own[0])
    replayed = replay_looks(demo.looks)
    return Outcome(
        setting=setting,
        figures=figures(measured, own, slo),
        with_recorded_sizes=figures(measured, led, slo),
        pools=_middle([pool_differences(measured, side) for side in own]),
        pools_with_recorded_sizes=_middle([pool_differences(measured, side) for side in led]),
        decisions=replayed.decisions,
        different=replayed.different,
    )


def _sides(demo: Demo, setting: Setting, *, recorded_sizes: bool) -> list[Side]:
    seconds = int(demo.seconds)
    return [
        side_of(simulate_demo(demo, setting, phase=number / PHASES, recorded_sizes=recorded_sizes), seconds)
        for number in range(PHASES)
    ]


def _slo(demo: Demo, setting: Setting) -> Slo:
    """As the demo judges: a prompt alone takes what a prefill replica needs for it."""
    targets = demo.cluster.spec.slo
    unloaded = setting.hardware[PoolName.PREFILL].performance.prefill.seconds
    return Slo(targets.ttft_milliseconds / 1000, targets.itl_milliseconds / 1000, unloaded)


def _middle(runs: list[tuple[PoolDifference, ...]]) -> tuple[PoolDifference, ...]:
    """Of each pool, the medians over the simulated runs."""
    return tuple(
        PoolDifference(
            name=of_pool[0].name,
            demo_minutes=of_pool[0].demo_minutes,
            simulated_minutes=median(item.simulated_minutes for item in of_pool),
            mean_difference=median(item.mean_difference for item in of_pool),
            difference_minutes=median(item.difference_minutes for item in of_pool),
        )
        for of_pool in zip(*runs, strict=True)
    )


if __name__ == "__main__":
    typer.run(main)

"""The demo's live table."""

from __future__ import annotations

from io import StringIO

from e2e.demo.monitor import PoolSample, Sample
from e2e.demo.screen import Screen
from rich.console import Console


def test_the_table_has_a_row_a_pool_and_what_happened_last() -> None:
    pools = {
        "prefill": PoolSample(desired=3, ready=2, starting=1),
        "decode": PoolSample(),
        "mixed": PoolSample(),
    }
    sample = Sample(61.4, pools, 6, 16, 900, 4, "prefill 2→3: prompts", ("ScalingLimited: BudgetExhausted",))
    page = StringIO()
    Console(file=page, width=200, color_system=None).print(Screen(seconds=360, requests=9)._table(sample, []))
    lines = [line.split() for line in page.getvalue().splitlines()]
    assert lines[0] == ["61", "of", "360", "s"]
    assert lines[1] == ["pool", "desired", "ready", "starting", "draining", "borrowed"]
    assert lines[2:5] == [["prefill", "3", "2", "1", "·", "·"], ["decode", *"·····"], ["mixed", *"·····"]]
    assert page.getvalue().splitlines()[6:] == [
        "last decision  prefill 2→3: prompts",
        "ScalingLimited: BudgetExhausted",
    ]

"""Rows as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from benches.policy.contenders import HINDSIGHT, PRODUCT
from benches.policy.fixed import SPLIT, SPLIT_WITHOUT_BORROWING
from benches.policy.summary import Compared, ElasticRow, FixedRow, by_place, compare
from benches.policy.workloads import WORKLOADS

BEGIN: Final = (
    "<!-- bench-policy: begin (generated; `make bench-policy` writes everything up to the end mark) -->"
)
END: Final = "<!-- bench-policy: end -->"
_NONE: Final = "-"


def write_between_marks(path: Path, generated: str, *, introduction: str) -> None:
    """Put the generated part into the file; what stands outside of the marks stays. A new file gets the introduction."""
    text = path.read_text(encoding="utf-8") if path.exists() else introduction
    if BEGIN not in text or END not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{before}{BEGIN}\n\n{generated.strip()}\n\n{END}{after}", encoding="utf-8")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; numbers to the right."""
    marks = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, marks, *rows))


def elastic_overview(rows: Sequence[ElasticRow]) -> str:
    """The product on every workload: the table to read first."""
    lines = []
    for (workload, boot), mine in by_place(rows).items():
        compared = {item.row.contender: item for item in compare(mine)}
        product = compared.get(PRODUCT)
        if product is None:
            continue
        lines.append(
            [
                workload,
                f"{boot:.0f}",
                share(product.row.attainment),
                f"{product.row.gpu_hours:.1f}",
                f"{product.row.to_scheduled:.2f}",
                f"{product.row.to_bootless:.2f}",
                f"{product.row.to_split:.2f}",
                *(
                    _beside(product.row, compared.get(name))
                    for name in ("static", "hpa-gpu-utilization", "hpa-queue")
                ),
                _beside(
                    product.row, next((item for item in compared.values() if "tuned" in item.title), None)
                ),
                _best(product),
            ]
        )
    header = ["workload", "boot s", "inside SLO", "GPU-hours", "/ oracle", "/ without boots", "/ split bound"]
    header += [
        "static peak",
        "GPU-utilisation HPA",
        "queue HPA",
        "busy HPA, tuned",
        "best baseline at equal attainment",
    ]
    return table(header, lines)


def _beside(product: ElasticRow, other: Compared | None) -> str:
    """The product's GPU-hours against another's, and that one's attainment."""
    if other is None:
        return _NONE
    change = product.gpu_hours / other.row.gpu_hours - 1.0
    return f"{change:+.0%} ({share(other.row.attainment)})"


def _best(item: Compared) -> str:
    if item.best is None or item.to_best is None:
        return "none reaches it"
    return f"{item.to_best:.2f}x {item.best.contender}"


def elastic_details(rows: Sequence[ElasticRow]) -> str:
    """Every contender on one workload at one boot time."""
    lines = []
    for item in compare(rows):
        row = item.row
        lines.append(
            [
                f"**{item.title}**" if row.contender == PRODUCT else item.title,
                share(row.attainment),
                _spread(row.attainments),
                _latencies(row, "ttft_ms"),
                _latencies(row, "tpot_ms"),
                f"{row.gpu_hours:.1f}",
                f"{row.to_scheduled:.2f}",
                f"{row.to_bootless:.2f}",
                f"{row.to_split:.2f}",
                _NONE if row.contender == HINDSIGHT else _best(item),
                f"{row.events_per_hour:.0f}",
                f"{row.mean(lambda result: result['conversions']) or 0:.0f}",
                *(share(value) for value in _parts(row).values()),
            ]
        )
    header = ["policy", "inside SLO", "over seeds", "TTFT p50/p90/p99 ms", "TPOT p50/p90/p99 ms", "GPU-hours"]
    header += ["/ oracle", "/ without boots", "/ split bound", "/ best baseline at equal attainment"]
    header += ["scale events/h", "conversions", *_parts(rows[0])]
    return table(header, lines)


def _parts(row: ElasticRow) -> dict[str, float]:
    """Parts of a workload that are no phases of equal rank: those are question (ii)'s."""
    parts = row.spotlights()
    return parts if len(parts) == 1 else {}


def _latencies(row: ElasticRow, kind: str) -> str:
    values = [row.mean(lambda result, key=percent: result[kind][key]) for percent in ("p50", "p90", "p99")]  # type: ignore[misc]  # the key is bound now
    return " / ".join(_NONE if value is None else f"{value:,.0f}" for value in values)


def _spread(values: Sequence[float]) -> str:
    return _NONE if len(values) == 1 else f"{share(min(values))} to {share(max(values))}"


def share(value: float) -> str:
    """Per cent; never rounded up to a whole that it is not."""
    return "100 %" if value == 1.0 else f"{min(value, 0.9999) * 100:.2f} %"


def fixed_tables(rows: Sequence[FixedRow]) -> str:
    """Question (ii), one table per workload."""
    parts = []
    for name, workload in WORKLOADS.items():
        mine = [row for row in rows if row.workload == name]
        if mine:
            parts.append(f"#### {name}: {workload.title}\n\n{_fixed_table(mine)}")
    return "\n\n".join(parts)


def _fixed_table(rows: Sequence[FixedRow]) -> str:
    lines = []
    criteria = rows[0].criteria
    for row in rows:
        cells = [f"**{row.name}**" if row.name == PRODUCT else row.name, _boot(row)]
        for criterion in criteria:
            cells += [
                f"{row.load(criterion):.3f}",
                _spread_of_loads(row.loads(criterion)),
                _to(rows, row, SPLIT_WITHOUT_BORROWING, criterion),
                _to(rows, row, SPLIT, criterion),
                row.splits(criterion) or _NONE,
                f"{row.conversions(criterion):.0f}",
            ]
        lines.append(cells)
    header = ["24 replicas", "boot s"]
    for criterion in criteria:
        header += [
            f"highest load ({criterion})",
            "over seeds",
            "/ best split",
            "/ best split + borrowing",
            "best split",
            "conversions",
        ]
    return table(header, lines)


def _boot(row: FixedRow) -> str:
    return f"{row.boot_seconds:.0f}" if row.boot_seconds else _NONE


def _spread_of_loads(values: Sequence[float]) -> str:
    return _NONE if len(values) == 1 else f"{min(values):.3f} to {max(values):.3f}"


def _to(rows: Sequence[FixedRow], row: FixedRow, name: str, criterion: str) -> str:
    base = next((item.load(criterion) for item in rows if item.name == name), 0.0)
    return f"{row.load(criterion) / base:.2f}" if base else _NONE

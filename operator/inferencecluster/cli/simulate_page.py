"""The outcome of a simulation as one HTML file: inline pictures, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from inferencecluster.cli.line_chart import Chart, Series, svg
from inferencecluster.cli.simulate_tables import (
    POOLS,
    costs,
    headline,
    milliseconds,
    percent_of,
    timeline,
)

DECISIONS: Final = 200
"""The page shows the latest ones."""
_MINUTE: Final = 60.0
_THOUSAND: Final = 1000.0

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d2433; --soft: #667085; --line: #d9dee7; --paper: #ffffff;
  --prefill: #2f6db3; --decode: #d0722a; --mixed: #5f8f3a; --missed: #b4342f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa4b5; --line: #39414f; --paper: #161a21;
  --prefill: #6ea8e6; --decode: #eb9a5c; --mixed: #93c06c; --missed: #e2736d; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: right; padding: .3rem .6rem;
  border-bottom: 1px solid var(--line); vertical-align: top; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child, td.text, th.text { text-align: left; } .soft { color: var(--soft); }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
.scroll { max-height: 24rem; overflow: auto; }
"""


def page(document: Mapping[str, Any]) -> str:
    """The whole page, for the document of a simulation."""
    name = escape(document["cluster"])
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{name}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{name}</h1>",
        _paragraph(headline(document)),
        *(_paragraph(line) for line in costs(document)),
        _latencies(document),
        *_charts(document),
        _decisions(document["decisions"]),
        *(_paragraph(f"Note: {note}", soft=True) for note in document["notes"]),
        _paragraph(
            f"Trace {document['trace']}, seed {document['seed']}. Requests count where they arrived.",
            soft=True,
        ),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _paragraph(text: str, *, soft: bool = False) -> str:
    return f'<p class="soft">{escape(text)}</p>' if soft else f"<p>{escape(text)}</p>"


def _latencies(document: Mapping[str, Any]) -> str:
    rows = []
    for name, kind, target in (
        ("Time to first token", "ttft", f"{milliseconds(document['slo']['ttft_ms'])} + own prefill"),
        ("Time per output token", "tpot", milliseconds(document["slo"]["itl_ms"])),
    ):
        values = document[f"{kind}_ms"]
        cells = [milliseconds(values[percent]) for percent in ("p50", "p90", "p99")]
        rows.append([name, *cells, target, percent_of(document[f"{kind}_attainment"])])
    return _table(["", "p50", "p90", "p99", "target", "inside"], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _charts(document: Mapping[str, Any]) -> list[str]:
    items = timeline(document)
    times = [item["start"] / _MINUTE for item in items]
    width = times[1] - times[0] if len(times) > 1 else 1.0
    seconds = width * _MINUTE

    def rate(name: str) -> list[float]:
        return [item[name] / seconds / _THOUSAND for item in items]

    missed = [100.0 * item["slo_missed"] / item["requests"] if item["requests"] else 0.0 for item in items]
    charts = [
        (
            "Demand",
            Chart(
                "1,000 tokens/s",
                (
                    Series("prompt", "prefill", rate("prompt_tokens")),
                    Series("output", "decode", rate("output_tokens")),
                ),
            ),
        ),
        (
            "Replicas that exist",
            Chart(
                "replicas",
                tuple(Series(pool, pool, [item["replicas"][pool] for item in items]) for pool in POOLS),
            ),
        ),
        (
            "Requests outside of the SLO",
            Chart("% of the requests of the interval", (Series("missed", "missed", missed),), filled=True),
        ),
    ]
    return [part for title, chart in charts for part in (f"<h2>{title}</h2>", svg(chart, times, width))]


def _decisions(decisions: Sequence[Mapping[str, Any]]) -> str:
    if not decisions:
        return "<h2>Changes of size</h2>\n<p>None.</p>"
    rows = "".join(
        f"<tr><td>{record['time'] / _MINUTE:.1f}</td><td class='text'>{escape(record['pool'])}</td>"
        f"<td>{record['from']} &rarr; {record['to']}</td><td class='text'>{escape(record['reason'])}</td>"
        f"<td class='text'>{escape(record['message'])}</td></tr>"
        for record in decisions[-DECISIONS:]
    )
    head = "<th>minute</th><th class='text'>pool</th><th>size</th><th class='text'>reason</th><th class='text'>why</th>"
    shown = f" (the last {DECISIONS} of {len(decisions)})" if len(decisions) > DECISIONS else ""
    return (
        f"<h2>Changes of size{shown}</h2>\n<div class='scroll'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )

"""Tables between markers of a Markdown file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [list(header), ["---", *("---:" for _ in header[1:])], *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def filled(text: str, blocks: Mapping[str, str]) -> str:
    """`text` with every block between its markers replaced. Raises `KeyError` for a marker without a block, and the reverse."""
    found: set[str] = set()

    def block(match: re.Match[str]) -> str:
        found.add(match["name"])
        return f"<!-- begin {match['name']} -->\n{blocks[match['name']]}\n<!-- end {match['name']} -->"

    result = re.sub(
        r"<!-- begin (?P<name>[a-z-]+) -->.*?<!-- end (?P=name) -->", block, text, flags=re.DOTALL
    )
    for name in blocks:
        if name not in found:
            raise KeyError(name)
    return result

"""Where answers are printed: words are wrapped for a person at a terminal, and lines stay whole for a program."""

from __future__ import annotations

import sys
from typing import Any, Final

from rich.console import Console
from rich.table import Table

PLAIN_COLUMNS: Final = 120
"""Width of tables that go into a file or a pipe; a terminal tells its own."""


def answer_console() -> Console:
    """Standard output."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else PLAIN_COLUMNS)


def tell(console: Console, line: str) -> None:
    """One sentence, as it is written."""
    console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def compact_table(*columns: Any, title: str | None = None) -> Table:
    """A table that spends no column on lines: the widest of ours have to fit 80."""
    return Table(*columns, title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))

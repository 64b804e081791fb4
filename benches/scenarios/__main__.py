"""The numbers of docs/scenarios.md: `python -m benches.scenarios [--write | --check]`, half a minute: days are simulated."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from benches.scenarios import costs, engines
from benches.scenarios.markdown import filled

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "scenarios.md"


def blocks() -> dict[str, str]:
    """Every table by the name of its markers."""
    return {
        "phases": engines.phases(),
        "users": engines.users(),
        "load": costs.load_costs(),
        "transcription": engines.transcription(),
        "long-context": engines.long_context(),
        "seasons": costs.seasons(),
        "fraud": engines.fraud(),
        "objectives": costs.objectives(),
        "aiconfigurator": engines.against_aiconfigurator(),
    }


def main() -> int:
    """Print the tables, write them into the document, or compare them with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="write the tables into docs/scenarios.md")
    action.add_argument("--check", action="store_true", help="end with 1 when docs/scenarios.md differs")
    arguments = parser.parse_args()
    tables = blocks()
    if not (arguments.write or arguments.check):
        for name, text in tables.items():
            sys.stdout.write(f"\n{name}\n\n{text}\n")
        return 0
    before = DOCUMENT.read_text(encoding="utf-8")
    after = filled(before, tables)
    if arguments.write:
        DOCUMENT.write_text(after, encoding="utf-8")
        return 0
    return int(before != after)


if __name__ == "__main__":
    sys.exit(main())

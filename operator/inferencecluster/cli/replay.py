"""`kubectl-ic replay`: what today's decision code would have done where a live cluster was recorded, and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from inferencecluster.api.recording import Begin, Decided, Entry, from_line
from inferencecluster.cli.cluster_file import STANDARD_INPUT
from inferencecluster.cli.paper import answer_console, tell
from inferencecluster.cli.render import EXIT_BAD_INPUT
from inferencecluster.core.allocation import Target
from inferencecluster.core.decision import Memory, decide
from inferencecluster.core.errors import SpecError
from inferencecluster.core.missing import Missing

EXIT_DIFFERENT = 1


class ReplayFormat(StrEnum):
    """How the outcome is printed."""

    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Replayed:
    """One look, decided again."""

    entry: Entry
    decided: Decided
    targets: tuple[Target, Target, Target]
    """With the reasons of today."""

    @property
    def is_same(self) -> bool:
        """Sizes and actions are the recorded ones."""
        return (
            self.decided.targets == self.entry.decided.targets
            and self.decided.actions == self.entry.decided.actions
        )


@dataclass(frozen=True, slots=True)
class Change:
    """A pool whose size changed, in the recording, today, or in both."""

    time: float
    cluster: str
    target: Target
    recorded: int
    was_recorded: int
    """Before this look."""
    was_replayed: int

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "time": self.time,
            "cluster": self.cluster,
            "pool": self.target.pool.value,
            "recorded": {"from": self.was_recorded, "to": self.recorded},
            "replayed": {"from": self.was_replayed, "to": self.target.replicas},
            "wanted": self.target.wanted,
            "limited_by": self.target.limited_by,
            "reason": self.target.reason,
            "message": self.target.message,
            "inputs": dict(self.target.inputs),
        }


def replay_command(
    files: Annotated[
        list[Path],
        typer.Argument(help="Recordings of one operator, the older first; - reads standard input."),
    ],
    *,
    cluster: Annotated[str | None, typer.Option(help="Only this one: NAMESPACE/NAME.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="End with 1 where any decision differs from the recorded one.")
    ] = False,
    output: Annotated[ReplayFormat, typer.Option("--format", help="table or json.")] = ReplayFormat.TABLE,
) -> None:
    """Decide again on what an operator saw (IC_RECORD_FILE); needs no cluster and changes nothing.

    Each decision is made on what was really there: what would have become of another decision is not known.
    """
    notes: list[str] = []
    try:
        replayed = _replayed(files, cluster, notes)
    except SpecError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_BAD_INPUT) from None
    document = _document(replayed, notes)
    if output is ReplayFormat.JSON:
        typer.echo(json.dumps(document, indent=2, allow_nan=False))
    else:
        _print(document, answer_console())
    if check and document["different"]:
        raise typer.Exit(EXIT_DIFFERENT)


def _replayed(files: list[Path], cluster: str | None, notes: list[str]) -> list[Replayed]:
    """At least one look."""
    held: set[str] = set()

    def chosen() -> Iterator[Entry]:
        for entry in _entries(files, notes):
            held.add(entry.cluster)
            if cluster in (None, entry.cluster):
                yield entry

    found = list(replay(chosen(), notes))
    if found:
        return found
    raise SpecError(
        field="FILE",
        value=", ".join(map(str, files)),
        rule="it holds no observation" + (f" of {cluster}" if cluster else ""),
        advice=f"it holds {', '.join(sorted(held))}" if held else "record one with IC_RECORD_FILE",
    )


def replay(entries: Iterable[Entry], notes: list[str]) -> Iterator[Replayed]:
    """Today's decision on each observation, in order. What could not be known is added to `notes`."""
    memories: dict[str, Memory] = {}
    for entry in entries:
        memory = memories.get(entry.cluster)
        if memory is None or entry.begin is Begin.PROCESS:
            if isinstance(entry.memory, Missing):
                notes.append(f"{entry.cluster}: begins without memory: {entry.memory.message}")
                memory = Memory.empty()
            else:
                memory = entry.memory
        decision = decide(entry.observation, memory)
        memories[entry.cluster] = decision.memory
        if decision.memory.targets is not None:
            yield Replayed(entry, Decided.of(decision), decision.memory.targets)


def _entries(files: Iterable[Path], notes: list[str]) -> Iterator[Entry]:
    for file in files:
        try:
            if file == STANDARD_INPUT:
                yield from _lines("standard input", sys.stdin, notes)
            else:
                with file.open(encoding="utf-8") as lines:
                    yield from _lines(file.name, lines, notes)
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(
                field="FILE", value=file, rule=f"it could not be read: {error}", advice="name a recording"
            ) from error


def _lines(name: str, lines: Iterable[str], notes: list[str]) -> Iterator[Entry]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if _is_cut_off(line):
            notes.append(f"{name}, line {number}: the last line is cut off and was left out")
            continue
        yield from_line(line, source=f"{name}, line {number}")


def _is_cut_off(line: str) -> bool:
    """The operator was writing the line when the file was copied, or the disk was full: no line break, half an object."""
    if line.endswith("\n"):
        return False
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return True
    return False


def _document(replayed: list[Replayed], notes: list[str]) -> dict[str, Any]:
    different = [item for item in replayed if not item.is_same]
    return {
        "observations": len(replayed),
        "clusters": sorted({item.entry.cluster for item in replayed}),
        "begin": replayed[0].entry.observation.now,
        "end": replayed[-1].entry.observation.now,
        "different": len(different),
        "changes": [change.document() for change in _changes(replayed)],
        "differences": [
            {
                "time": item.entry.observation.now,
                "cluster": item.entry.cluster,
                "recorded": _decided(item.entry.decided),
                "replayed": _decided(item.decided),
            }
            for item in different
        ],
        "notes": notes,
    }


def _decided(decided: Decided) -> dict[str, Any]:
    return {
        "targets": {pool.value: size for pool, size in decided.targets.items()},
        "actions": list(decided.actions),
    }


def _changes(replayed: Iterable[Replayed]) -> Iterator[Change]:
    """In the order of time; the first look of a cluster is compared with itself."""
    last: dict[str, Replayed] = {}
    for item in replayed:
        before = last.get(item.entry.cluster, item)
        last[item.entry.cluster] = item
        for target in item.targets:
            pool = target.pool
            change = Change(
                time=item.entry.observation.now,
                cluster=item.entry.cluster,
                target=target,
                recorded=item.entry.decided.targets[pool],
                was_recorded=before.entry.decided.targets[pool],
                was_replayed=before.decided.targets[pool],
            )
            if (change.recorded, target.replicas) != (change.was_recorded, change.was_replayed):
                yield change


def _print(document: dict[str, Any], console: Console) -> None:
    observations, different = document["observations"], document["different"]
    tell(
        console,
        f"{observations} observations of {', '.join(document['clusters'])}: {observations - different} decided as "
        f"recorded, {different} otherwise",
    )
    if not document["changes"]:
        tell(console, "no pool changed its size")
    for change in document["changes"]:
        tell(console, change_line(change))
        # Below and not beside: the sentence is as long as a line.
        limited = f" (limited by {change['limited_by']})" if change["limited_by"] else ""
        tell(console, f"  {change['message']}{limited}")
    for note in document["notes"]:
        tell(console, f"note: {note}")


def change_line(change: dict[str, Any]) -> str:
    """When, which pool, its sizes as recorded and today (`*` where they differ), and today's reason."""
    recorded, today = change["recorded"], change["replayed"]
    moment = datetime.fromtimestamp(change["time"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    differs = "" if recorded == today else " *"
    return (
        f"{moment} {change['cluster']} {change['pool']:7} recorded {recorded['from']} to {recorded['to']}, "
        f"today {today['from']} to {today['to']}{differs} {change['reason']}"
    )

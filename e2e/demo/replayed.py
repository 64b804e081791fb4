"""The operator's decisions of the run, decided again: the same code on the same observations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from inferencecluster.api.recording import Entry
from inferencecluster.cli.replay import replay


@dataclass(frozen=True, slots=True)
class Replayed:
    """How a recording replayed."""

    decisions: int
    different: int
    notes: tuple[str, ...]
    """What the recording did not tell."""

    @property
    def faults(self) -> tuple[str, ...]:
        """Why the run does not show what it should; empty where it does."""
        if not self.decisions:
            return (": ".join(("no decision was replayed", *self.notes)),)
        if self.different:
            return (f"{self.different} of {self.decisions} recorded decisions replay to others",)
        return ()

    def describe(self) -> str:
        """One line of the summary."""
        return ", ".join((f"{self.decisions:,} decisions", f"{self.different} differ", *self.notes))


def nothing_recorded(reason: str) -> Replayed:
    """The recording could not be read."""
    return Replayed(0, 0, (reason,))


def replay_looks(entries: Iterable[Entry]) -> Replayed:
    """Decide again on every look."""
    notes: list[str] = []
    found = list(replay(entries, notes))
    return Replayed(len(found), sum(not item.is_same for item in found), tuple(notes))

"""What is to be run, as small values that travel to worker processes, and where each result lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from benches.policy.contenders import contender
from benches.policy.elastic import run_elastic
from benches.policy.facts import Facts, gather
from benches.policy.fixed import (
    ALL_MIXED,
    FROM_WRONG_SPLIT,
    SPLIT,
    SPLIT_WITHOUT_BORROWING,
    Arena,
    Runner,
)
from benches.policy.loads import Load
from benches.policy.store import Cell, fingerprint

_WITHOUT_BOOTS: Final = (SPLIT, SPLIT_WITHOUT_BORROWING, ALL_MIXED)


class Job(Protocol):
    """Something to run once."""

    @property
    def load(self) -> Load:
        """What it serves."""
        ...

    @property
    def folder(self) -> Path:
        """Of all results."""
        ...

    @property
    def cell(self) -> Cell:
        """Where its result lies."""
        ...

    def run(self) -> dict[str, Any]:
        """The result."""
        ...


@dataclass(frozen=True, slots=True)
class FactsJob:
    """What is true of the load whoever serves it."""

    load: Load
    folder: Path

    @property
    def cell(self) -> Cell:
        """See `Job`."""
        return Cell(
            self.folder / "facts" / f"{self.load.name}.json",
            fingerprint(sizing=False, policies=True, modules=("facts",)),
        )

    def run(self) -> dict[str, Any]:
        """See `Job`."""
        return gather(self.load).document()


@dataclass(frozen=True, slots=True)
class ElasticJob:
    """Question (i): one contender at one boot time."""

    load: Load
    folder: Path
    contender: str
    boot_seconds: float

    @property
    def cell(self) -> Cell:
        """See `Job`."""
        return _cell(self, "elastic", f"{self.contender}-boot{self.boot_seconds:g}", self.contender)

    def run(self) -> dict[str, Any]:
        """See `Job`."""
        facts = read_facts(self)
        return run_elastic(self.load, facts, contender(self.contender), boot_seconds=self.boot_seconds)


@dataclass(frozen=True, slots=True)
class FixedJob:
    """Question (ii): one row at one boot time."""

    load: Load
    folder: Path
    row: str
    boot_seconds: float

    @property
    def cell(self) -> Cell:
        """See `Job`. Pools that never change do not boot."""
        boot = "" if self.row in _WITHOUT_BOOTS else f"-boot{self.boot_seconds:g}"
        return _cell(self, "fixed", f"{self.row}{boot}", self.row)

    def run(self) -> dict[str, Any]:
        """See `Job`."""
        runner = Runner(Arena(self.load), read_facts(self), self.boot_seconds, self.load.seed)
        return runner.run(self.row)


def read_facts(job: Job) -> Facts:
    """They were gathered before."""
    cell = FactsJob(job.load, job.folder).cell
    document = cell.read(stale=True)
    if document is None:
        raise FileNotFoundError(cell.path)
    return Facts.of_document(document)


def _cell(job: Job, question: str, name: str, row: str) -> Cell:
    """Where the result of one row lies, and what code it depends on."""
    if row in _WITHOUT_BOOTS:
        is_product, has_variant = False, False
    else:
        chosen = contender(row.removesuffix(FROM_WRONG_SPLIT))
        is_product, has_variant = chosen.is_product, chosen.variant is not None
    modules = (question, *(("variants",) if has_variant else ()))
    code = fingerprint(sizing=is_product, policies=not is_product, modules=modules)
    return Cell(job.folder / question / job.load.name / f"{name}.json", code)

"""Records every look at every cluster for `kubectl-ic replay`: off unless IC_RECORD_FILE names a file.

Two files at most, the one being written and the one before it (`FILE.1`), each up to the limit. A disk that fails ends the
recording and nothing else.
"""

from __future__ import annotations

import logging
from pathlib import Path

from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.api.recording import Begin, Decided, Entry, to_line
from inferencecluster.core.decision import Decision, Memory
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Observation

_logger = logging.getLogger(__name__)


class Recorder:
    """One process' recording. A line is written at once, so that a crash loses none."""

    def __init__(self, file: Path, *, limit_bytes: int) -> None:
        self._file = file
        self._limit_bytes = limit_bytes
        self._in_file: set[ObjectKey] = set()
        """Clusters that the file knows."""
        self._has_failed = False

    def record(self, key: ObjectKey, before: Memory, observation: Observation, decision: Decision) -> None:
        """One look: what was seen, what was known before, and what was decided. Never raises `OSError`."""
        if self._has_failed:
            return
        try:
            self._write(key, before, observation, decision)
        except OSError:
            self._has_failed = True
            _logger.exception("recording ends: the file cannot be written", extra={"file": str(self._file)})

    def _write(self, key: ObjectKey, before: Memory, observation: Observation, decision: Decision) -> None:
        line = self._line(key, before, observation, decision)
        # Opened for each line: whoever moves the file away, to look at it, loses nothing and breaks nothing.
        size = self._file.stat().st_size if self._file.exists() else 0
        if size == 0:
            self._begin_file()
        elif size + len(line) > self._limit_bytes:
            self._file.replace(self._file.with_name(f"{self._file.name}.1"))
            self._begin_file()
        if key not in self._in_file:
            line = self._line(key, before, observation, decision)
        with self._file.open("a", encoding="ascii") as stream:
            stream.write(line)
        self._in_file.add(key)

    def _begin_file(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._in_file.clear()

    def _line(self, key: ObjectKey, before: Memory, observation: Observation, decision: Decision) -> str:
        begin = Begin.FILE if key not in self._in_file else None
        if before.targets is None:
            begin = Begin.PROCESS
        return to_line(
            Entry(
                cluster=f"{key.namespace}/{key.name}",
                observation=observation,
                decided=Decided.of(decision),
                memory=Missing("NotRecorded") if begin is None else before,
                begin=begin,
            )
        )

"""The launcher's life: start the engine, watch it, and on a stop signal go through the stages of a safe stop.

    SERVING   -> DRAINING   the first SIGTERM or SIGINT: the engine still listens and answers everything
    DRAINING  -> STOPPING   `DrainRule` is satisfied, its deadline is over, or a second signal:
                            the engine gets SIGTERM, stops listening, and finishes its open responses
    STOPPING  -> KILLING    the deadline is over, or a further signal: everything gets SIGKILL

Only the engine's main process gets SIGTERM: its MPI workers must live until the last response is out.
"""

from __future__ import annotations

import enum
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Final

from trtllm_launcher import activity, processes
from trtllm_launcher.drain import DrainRule, Sighting, WorkHistory
from trtllm_launcher.settings import Settings

SERVING_LOOK_SECONDS: Final = 10.0
"""While nobody wants to stop, a look only keeps the time of the last work, which errs by this on the safe side."""
DRAINING_LOOK_SECONDS: Final = 0.5
SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})

logger = logging.getLogger(__name__)


class Stage(enum.IntEnum):
    """Stages, in order; none is ever left backwards."""

    SERVING = 0
    DRAINING = 1
    STOPPING = 2
    KILLING = 3


class Supervisor:
    """One engine process and the stage it is in."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._rule = DrainRule(settings.quiet_seconds, settings.kv_transfer_seconds)
        self._history = WorkHistory()
        self._stage = Stage.SERVING
        self._stopping_since = 0.0
        self._next_look = 0.0
        self._waits_for = ""
        self._engine = 0

    def run(self) -> int:
        """Start the engine and wait for its end; returns the exit code for the launcher.

        That is the engine's own (128 + N after signal N), except that an engine which ends by the SIGTERM it was
        sent has stopped as asked: 0. Raises `OSError` when the command cannot be started.
        """
        # Blocked signals wait until `sigtimedwait` takes them: no handler runs between two instructions.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        processes.adopt_orphans()
        self._engine = processes.start(self._settings.command, os.environ)
        logger.info("Started engine as process %d: %s", self._engine, " ".join(self._settings.command))
        try:
            status = self._watch()
        finally:
            processes.kill_everything(self._engine)
        code = self._exit_code(status)
        logger.info("Engine ended in stage %s, exit code %d", self._stage.name, code)
        return code

    def _watch(self) -> int:
        """Until the engine has ended; returns its exit status."""
        while True:
            received = signal.sigtimedwait(SIGNALS, self._wait_seconds())
            if received is not None and received.si_signo != signal.SIGCHLD:
                self._advance("signal", to=Stage(min(self._stage + 1, Stage.KILLING)))
            for process, status in processes.reap():
                if process == self._engine:
                    return status
            if self._clock() >= self._next_look:
                self._look()

    def _wait_seconds(self) -> float:
        return max(0.0, self._next_look - self._clock())

    def _exit_code(self, status: int) -> int:
        code = processes.exit_code(status)
        stopped_as_asked = self._stage is Stage.STOPPING and code == 128 + signal.SIGTERM
        return 0 if stopped_as_asked else code

    def _advance(self, reason: str, *, to: Stage) -> None:
        """Enter a later stage."""
        self._stage = to
        self._next_look = self._clock()
        logger.info("%s: %s", to.name, reason)
        if to is Stage.DRAINING:
            self._stopping_since = self._clock()
        elif to is Stage.STOPPING:
            processes.send(self._engine, signal.SIGTERM)
        elif to is Stage.KILLING:
            processes.send(self._engine, signal.SIGKILL)

    def _look(self) -> None:
        """Look at the engine, and enter the next stage when it is time."""
        now = self._clock()
        interval = SERVING_LOOK_SECONDS if self._stage is Stage.SERVING else DRAINING_LOOK_SECONDS
        self._next_look = now + interval
        waited = now - self._stopping_since
        if self._stage in (Stage.SERVING, Stage.DRAINING):
            sighting = self._see(now)
            if self._stage is Stage.DRAINING:
                self._drain(sighting, waited)
        elif self._stage is Stage.STOPPING and waited >= self._settings.deadline_seconds:
            self._advance("deadline", to=Stage.KILLING)

    def _see(self, now: float) -> Sighting:
        # Connections first: asking for metrics opens one.
        connections = activity.open_connections(self._settings.port)
        sighting = Sighting(
            now, connections, activity.completed_requests(self._settings.host, self._settings.port)
        )
        self._history.see(sighting)
        return sighting

    def _drain(self, sighting: Sighting, waited: float) -> None:
        waits_for = self._rule.waits_for(
            now=sighting.at,
            stopping_since=self._stopping_since,
            connections=sighting.connections,
            last_work_at=self._history.last_work_at,
        )
        if not waits_for:
            self._advance("drained", to=Stage.STOPPING)
        elif waited >= self._settings.deadline_seconds - self._settings.stop_seconds:
            self._advance("deadline of the drain", to=Stage.STOPPING)
        elif waits_for != self._waits_for:
            self._waits_for = waits_for
            logger.info("Waiting for %s", waits_for)

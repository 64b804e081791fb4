"""The life of the process: bind, boot, listen, serve, drain.

Stopping is uvicorn's order (without `timeout_graceful_shutdown`, as trtllm-serve runs it): the first SIGTERM or
SIGINT closes the listening socket at once and idle connections with it; open responses finish, however long they
take; then the process ends by the signal that it caught. Only SIGINT after that cuts open responses: uvicorn's
`handle_exit` forces on nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import socket
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from emulated_engine.configuration import Configuration
from emulated_engine.replica import Replica
from emulated_engine.server import Server

BACKLOG: Final = 2048
"""uvicorn's default."""
KEEP_ALIVE_SECONDS: Final = 5.0
"""trtllm-serve's TIMEOUT_KEEP_ALIVE."""
FOREVER_SECONDS: Final = 365.0 * 24 * 3600

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen; port 0 takes a free one."""

    host: str
    port: int


@dataclass(slots=True)
class _Signals:
    """Signals caught so far, in order."""

    caught: list[signal.Signals] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    force: asyncio.Event = field(default_factory=asyncio.Event)

    def install(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._handle, number)

    def _handle(self, number: signal.Signals) -> None:
        self.caught.append(number)
        if self.stop.is_set() and number is signal.SIGINT:
            self.force.set()
        self.stop.set()


async def serve(configuration: Configuration, model_name: str, listen: Listen, seed: int) -> signal.Signals:
    """Run until a signal; returns the signal that ended it. Raises `OSError` when the port cannot be bound."""
    signals = _Signals()
    signals.install()
    with _bind(listen) as listener:
        if await _boots(configuration, seed, signals):
            await _serve_until_stopped(Replica(configuration, model_name, seed), listener, signals)
    return signals.caught[0]


def _bind(listen: Listen) -> socket.socket:
    """Bound but not listening: until the engine has booted, connections are refused."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((listen.host, listen.port))
    listener.setblocking(False)
    return listener


async def _boots(configuration: Configuration, seed: int, signals: _Signals) -> bool:
    """Wait for the boot; False when a signal came first."""
    jitter = configuration.boot_jitter
    spread = random.Random(seed).uniform(-jitter, jitter)  # noqa: S311  -- jitter, no secrets
    seconds = configuration.boot_seconds * (1 + spread)
    logger.info("Booting for %.1f s", seconds)
    try:
        await asyncio.wait_for(signals.stop.wait(), timeout=seconds)
    except TimeoutError:
        return True
    return False


async def _serve_until_stopped(replica: Replica, listener: socket.socket, signals: _Signals) -> None:
    runner = web.AppRunner(
        Server(replica).application(),
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,
        keepalive_timeout=KEEP_ALIVE_SECONDS,
        shutdown_timeout=FOREVER_SECONDS,
    )
    await runner.setup()
    await web.SockSite(runner, listener, backlog=BACKLOG).start()
    host, port = listener.getsockname()[:2]
    logger.info("Serving on http://%s:%d", host, port)
    await signals.stop.wait()
    logger.info("Shutting down, %d requests open", replica.engine.open_requests)
    # `cleanup` closes the listening socket before it first waits.
    drain = asyncio.ensure_future(runner.cleanup())
    force = asyncio.ensure_future(signals.force.wait())
    await asyncio.wait({drain, force}, return_when=asyncio.FIRST_COMPLETED)
    for task in (drain, force):
        task.cancel()
    await asyncio.gather(drain, force, return_exceptions=True)
    await replica.puller.close()

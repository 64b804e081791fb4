"""One router process: its parts put together, its sources followed, and an end that cuts nothing."""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from inferencecluster.adapters.clock import Clock
from inferencecluster.router.application import Api, Standing, Surroundings
from inferencecluster.router.bodies import BodyReader
from inferencecluster.router.configuration import Configuration
from inferencecluster.router.disaggregation import RequestIds
from inferencecluster.router.dispatcher import Dispatcher
from inferencecluster.router.engine_client import EngineClient
from inferencecluster.router.estimates import Estimates
from inferencecluster.router.ledger import Ledger
from inferencecluster.router.metrics import RouterMetrics
from inferencecluster.router.services import Services
from inferencecluster.router.sources import FleetSource, ReplicaRecord, RouterSettings, SettingsSource
from inferencecluster.router.state_report import StateReport
from inferencecluster.router.traffic import Traffic
from inferencecluster.router.watchdog import Watchdog

_IDLE_LOOK_SECONDS: Final = 0.05
"""Between two looks at whether all requests have ended; nobody waits for the difference."""
_SHUTDOWN_SECONDS: Final = 1.0
"""For connections without a request; aiohttp would wait for a minute."""
_KEEP_ALIVE_SECONDS: Final = 75.0
"""nginx' own; shorter than the idle timeouts of cloud load balancers would cut their connections in use."""
_GARBAGE_THRESHOLD: Final = 50_000
"""Allocations between two collections of the youngest objects. The default, 700, collects several times per request;
what one request leaves behind in cycles is small."""

_logger: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where fleet and settings come from."""

    fleet: FleetSource
    settings: SettingsSource


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a router listens."""

    client: int
    admin: int


class RouterProcess:
    """Use `serving` to run it, and `leave` to end it."""

    def __init__(
        self,
        configuration: Configuration,
        sources: Sources,
        clock: Clock,
        *,
        stopwatch: Callable[[], float],
    ) -> None:
        """Call it on the event loop. `stopwatch` gives monotonic seconds; uvloop's own time has whole milliseconds."""
        loop = asyncio.get_running_loop()
        self._configuration = configuration
        self.sources = sources
        self._clock = clock
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self.standing = Standing(started_at=clock.now())
        instance = secrets.token_hex(8)
        ledger, traffic = Ledger(loop), Traffic()
        dispatcher = Dispatcher(ledger, configuration.queue, stopwatch)
        self.services = Services(
            ledger=ledger,
            dispatcher=dispatcher,
            engines=EngineClient(connect_seconds=configuration.patience.connect_seconds),
            estimates=Estimates(),
            traffic=traffic,
            watchdog=Watchdog(stopwatch, silence_seconds=configuration.patience.silence_seconds),
            patience=configuration.patience,
            request_id=RequestIds(node=int(instance, 16), now=clock.now).next,
            clock=stopwatch,
        )
        labels = {"cluster": configuration.cluster, "namespace": configuration.namespace}
        surroundings = Surroundings(
            standing=self.standing,
            state=StateReport(ledger, dispatcher, traffic, instance=instance),
            metrics=RouterMetrics(traffic, ledger, dispatcher, labels=labels, model=self._model),
            listed=lambda: sources.fleet.listed,
            synced=lambda: sources.fleet.synced,
            now=clock.now,
        )
        bodies = BodyReader(configuration.bodies)
        api = Api(self.services, surroundings, bodies, instance=instance)
        self._clients, self._admins = _runner(api.client_application()), _runner(api.admin_application())

    @asynccontextmanager
    async def serving(self, *, host: str) -> AsyncIterator[Ports]:
        """Serve on `host` while the context lasts; yields the ports."""
        work = (
            self.sources.fleet.run(self._fleet_changed),
            self.sources.settings.run(self._configure),
            self.services.watchdog.run(),
        )
        async with self.services.engines, _background(*work, on_end=self._background_ended):
            try:
                admin = await _listen(self._admins, host, self._configuration.admin_port)
                ports = Ports(await _listen(self._clients, host, self._configuration.port), admin)
                _logger.info(
                    "router serves", extra={"host": host, "port": ports.client, "admin_port": ports.admin}
                )
                yield ports
            finally:
                await self._clients.cleanup()
                await self._admins.cleanup()

    def stop(self) -> None:
        """End `stopped`."""
        self._stop.set()

    async def stopped(self) -> None:
        """Return when somebody asks the process to end, or when it cannot go on."""
        await self._stop.wait()

    def raise_failure(self) -> None:
        """Raise what made the process unable to go on, if anything did."""
        if self._failure is not None:
            raise self._failure

    async def leave(self) -> None:
        """Not ready from now on; accept for the notice; return once every request has been answered.

        `/state` is answered until the end of `serving`, since the operator waits for what this router holds.
        """
        standing = self.standing
        standing.leaving = True
        _logger.info("router leaves", extra={"active": standing.active})
        await self._clock.sleep(self._configuration.notice_seconds)
        standing.closed = True
        while standing.active:
            await self._clock.sleep(_IDLE_LOOK_SECONDS)
        await self._delivered()
        _logger.info("router has answered everything", extra={"requests": self.services.traffic.requests})

    async def _delivered(self) -> None:
        """Return once clients have taken what is left in the buffers, or have taken nothing for too long."""
        least, quiet_seconds = self._unsent_bytes(), 0.0
        while least and quiet_seconds < self.services.patience.silence_seconds:
            await self._clock.sleep(_IDLE_LOOK_SECONDS)
            left = self._unsent_bytes()
            quiet_seconds = 0.0 if left < least else quiet_seconds + _IDLE_LOOK_SECONDS
            least = min(least, left)

    def _unsent_bytes(self) -> int:
        server = self._clients.server
        transports = (connection.transport for connection in server.connections) if server else ()
        return sum(transport.get_write_buffer_size() for transport in transports if transport)

    def _background_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        self._failure = task.exception() or RuntimeError("a source ended by itself")
        _logger.error("source failed", exc_info=self._failure)
        self._stop.set()

    def _model(self) -> str:
        return self.standing.settings.model if self.standing.settings else ""

    def _fleet_changed(self, before: ReplicaRecord | None, after: ReplicaRecord | None) -> None:
        self.services.ledger.update(before, after)
        if before is not None and (after is None or after.url != before.url):
            self.services.engines.forget(before.url)

    def _configure(self, settings: RouterSettings) -> None:
        if settings != self.standing.settings:
            _logger.info(
                "settings changed",
                extra={
                    "model": settings.model,
                    "engine_version": str(settings.engine_version),
                    "queue_tokens": dict(settings.routing.queue_tokens),
                    "keeps_streams": settings.routing.keeps_streams,
                    "max_queue_seconds": settings.max_queue_seconds,
                    "ttft_seconds": settings.ttft_seconds,
                },
            )
        self.standing.settings = settings
        self.services.estimates.believe_prefill(settings.prefill_seconds_per_token)
        self.services.dispatcher.configure(settings)


def _runner(application: web.Application) -> web.AppRunner:
    return web.AppRunner(
        application,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=_KEEP_ALIVE_SECONDS,
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )


async def _listen(runner: web.AppRunner, host: str, port: int) -> int:
    """The port, which is a free one when `port` is 0."""
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return int(runner.addresses[0][1])


@asynccontextmanager
async def _background(
    *work: Coroutine[None, None, None], on_end: Callable[[asyncio.Task[None]], None]
) -> AsyncIterator[None]:
    """Runs `work` beside the body; `on_end` hears of whatever ends before the body does."""
    tasks = [asyncio.create_task(item) for item in work]
    for task in tasks:
        task.add_done_callback(on_end)
    try:
        yield
    finally:
        for task in tasks:
            task.remove_done_callback(on_end)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def run(process: RouterProcess, *, host: str) -> None:
    """Serve until SIGTERM or SIGINT, then leave in order. Raises what ended a source, which nothing should."""
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, process.stop)
    async with process.serving(host=host):
        gc.collect()
        # What exists by now lives as long as the process: no collection has to look at it again.
        gc.freeze()
        gc.set_threshold(_GARBAGE_THRESHOLD)
        await process.stopped()
        await process.leave()
    process.raise_failure()

"""The router's HTTP surface: OpenAI's API for clients; state and metrics, on a port of their own, for the platform."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from inferencecluster.api.router_state import HOLDING_PARAMETER, MAX_HOLDING_SECONDS
from inferencecluster.router.answers import error_response, json_response, models_document
from inferencecluster.router.bodies import BodyReader
from inferencecluster.router.completion_request import Endpoint, parse_request
from inferencecluster.router.delivery import deliver
from inferencecluster.router.errors import (
    CapacityError,
    ClientGone,
    RejectedByEngine,
    RequestError,
)
from inferencecluster.router.exchange import Exchange
from inferencecluster.router.metrics import CONTENT_TYPE, RouterMetrics
from inferencecluster.router.services import OwnTime, Services, Visit
from inferencecluster.router.sources import RouterSettings
from inferencecluster.router.state_report import StateReport
from inferencecluster.router.traffic import Journey, Outcome

_PASSED_ON: Final = ("traceparent", "tracestate")
"""W3C trace context: engines take part in a client's trace."""
_REQUEST_ID: Final = "X-Request-Id"
_REQUEST_ID_CHARACTERS: Final = 128

_logger: Final = logging.getLogger(__name__)


@dataclass(slots=True)
class Standing:
    """Where the process stands."""

    started_at: float
    """Unix seconds."""
    settings: RouterSettings | None = None
    """None until the InferenceCluster has been read."""
    leaving: bool = False
    """SIGTERM came: not ready, connections are not kept."""
    closed: bool = False
    """The notice is over: nothing new is accepted."""
    active: int = 0
    """Requests for tokens whose answers have not been sent yet."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the handlers ask beside the services."""

    standing: Standing
    state: StateReport
    metrics: RouterMetrics
    listed: Callable[[], bool]
    """Every replica has been told once."""
    synced: Callable[[], bool]
    now: Callable[[], float]
    """Unix seconds."""


class Api:
    """The handlers."""

    def __init__(
        self, services: Services, surroundings: Surroundings, bodies: BodyReader, *, instance: str
    ) -> None:
        self._services = services
        self._bodies = bodies
        self._surroundings = surroundings
        self._standing = surroundings.standing
        self._request_ids = (f"{instance}-{number}" for number in itertools.count(1))

    def client_application(self) -> web.Application:
        """What clients reach."""
        return self._application(
            web.post(Endpoint.COMPLETIONS.value, self._completions),
            web.post(Endpoint.CHAT.value, self._chat_completions),
            web.get("/v1/models", self._models),
        )

    def admin_application(self) -> web.Application:
        """What only the platform reaches."""
        return self._application(web.get("/state", self._state), web.get("/metrics", self._metrics))

    def _application(self, *routes: web.RouteDef) -> web.Application:
        application = web.Application(middlewares=[_openai_errors])
        health = (web.get("/healthz", self._healthz), web.get("/readyz", self._readyz))
        application.add_routes([*routes, *health])
        application.on_response_prepare.append(self._part)
        return application

    async def _part(self, _: web.Request, response: web.StreamResponse) -> None:
        """While leaving, keep no connection: its next request should meet another router."""
        if self._standing.leaving:
            response.force_close()
            response.headers["Connection"] = "close"

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, Endpoint.COMPLETIONS)

    async def _chat_completions(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, Endpoint.CHAT)

    async def _serve(self, http: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        try:
            visit, body_bytes = await self._receive(http, endpoint)
        except RequestError as error:
            self._services.traffic.ended(_outcome(error), "none", output_tokens=0)
            raise
        # From here on the router owes an answer; a client that never ends its body holds nobody up.
        self._standing.active += 1
        try:
            return await self._answer(visit, body_bytes)
        finally:
            self._standing.active -= 1

    async def _receive(self, http: web.Request, endpoint: Endpoint) -> tuple[Visit, int]:
        """The request, and the size of its body, which is dropped here. Raises `RequestError`."""
        self._open_settings()
        body = await self._bodies.read(http)
        arrived_at = self._services.clock()
        # They may have changed, or the router may have closed, while the body came.
        settings = self._open_settings()
        request = parse_request(body, endpoint, models=self._models_served(settings))
        own = OwnTime(self._services.clock, since=arrived_at)
        return Visit(self._services, settings, http, request, Journey(arrived_at), own), len(body)

    async def _answer(self, visit: Visit, body_bytes: int) -> web.StreamResponse:
        services, http = self._services, visit.http
        headers = self._engine_headers(http)
        try:
            response = await Exchange(visit, headers=headers, body_bytes=body_bytes).answer()
            if isinstance(response, web.Response):
                response.headers[_REQUEST_ID] = headers[_REQUEST_ID]
                await deliver(http, response, services.watchdog, services.clock)
        except RejectedByEngine as error:
            visit.outcome = Outcome.REJECTED
            return web.Response(body=error.body, status=error.status, content_type=error.content_type)
        except RequestError as error:
            visit.outcome = _outcome(error)
            raise
        except (ClientGone, asyncio.CancelledError) as error:
            visit.outcome = Outcome.CANCELLED
            if isinstance(error, ClientGone):
                # Nobody reads it; aiohttp wants a response.
                return web.Response(status=_CLIENT_CLOSED_REQUEST)
            raise
        else:
            return response
        finally:
            services.traffic.ended(visit.outcome, visit.path, output_tokens=visit.output_tokens)

    def _open_settings(self) -> RouterSettings:
        settings = self._standing.settings
        if self._standing.closed or settings is None:
            reason = "is shutting down" if self._standing.closed else "does not know its cluster yet"
            raise CapacityError(
                f"this router {reason}: try again",
                status=HTTPStatus.SERVICE_UNAVAILABLE,
                code="router_unavailable",
                retry_after_seconds=1,
            )
        return settings

    def _models_served(self, settings: RouterSettings) -> tuple[str, ...]:
        """The name of the present spec; during a rollout to another one, those of older replicas follow."""
        known = self._services.ledger.fleet.models
        return (settings.model, *sorted(known - {settings.model}))

    def _engine_headers(self, http: web.Request) -> Mapping[str, str]:
        given = http.headers.get(_REQUEST_ID, "")[:_REQUEST_ID_CHARACTERS]
        headers = {"Content-Type": "application/json", _REQUEST_ID: given or next(self._request_ids)}
        for name in _PASSED_ON:
            if name in http.headers:
                headers[name] = http.headers[name]
        return headers

    async def _models(self, _: web.Request) -> web.Response:
        created = int(self._standing.started_at)
        models = self._models_served(self._open_settings())
        return json_response(models_document(models, created=created))

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        standing = self._standing
        if standing.leaving:
            return web.Response(text="shutting down\n", status=HTTPStatus.SERVICE_UNAVAILABLE)
        if standing.settings is None or not self._surroundings.listed():
            return web.Response(text="not yet\n", status=HTTPStatus.SERVICE_UNAVAILABLE)
        return web.Response(text="ok\n")

    async def _state(self, request: web.Request) -> web.Response:
        """The state now; with `?holding=SECONDS`, as soon as a request is held, or after so many seconds."""
        around = self._surroundings
        if HOLDING_PARAMETER in request.query:
            with suppress(TimeoutError):
                async with asyncio.timeout(_holding_seconds(request.query[HOLDING_PARAMETER])):
                    await self._services.dispatcher.wait_until_holding()
        state = around.state.build(
            now=around.now(),
            started_at=self._standing.started_at,
            loop_time=self._services.clock(),
            synced=around.synced(),
        )
        return web.Response(text=state.model_dump_json(), content_type="application/json")

    async def _metrics(self, _: web.Request) -> web.Response:
        text = self._surroundings.metrics.render(loop_time=self._services.clock())
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})


def _holding_seconds(text: str) -> float:
    """Raises `RequestError`."""
    number = text if text.isascii() and text.isdecimal() else ""
    if not number or int(number) > MAX_HOLDING_SECONDS:
        raise RequestError(
            f"{HOLDING_PARAMETER} is {text!r}: it is a whole number of seconds up to {MAX_HOLDING_SECONDS}",
            param=HOLDING_PARAMETER,
        )
    return float(number)


_CLIENT_CLOSED_REQUEST: Final = 499
"""nginx' own word for it."""


def _outcome(error: RequestError) -> Outcome:
    if isinstance(error, CapacityError):
        return Outcome.REFUSED
    return Outcome.REJECTED if error.status < HTTPStatus.INTERNAL_SERVER_ERROR else Outcome.FAILED


@web.middleware
async def _openai_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as OpenAI's clients expect them, also those that aiohttp raises for paths, methods and sizes."""
    try:
        response = await handler(request)
    except RequestError as error:
        return error_response(error)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        return error_response(
            RequestError(error.reason, status=error.status, code=error.reason.lower().replace(" ", "_"))
        )
    return response

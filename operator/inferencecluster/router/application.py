"""The router's HTTP surface: OpenAI's API for clients; health, state and metrics for the platform."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from inferencecluster.router.answers import error_response, json_response, models_document
from inferencecluster.router.completion_request import CompletionRequest, Endpoint, parse_request
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
    """Requests for tokens that are being answered."""


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

    def __init__(self, services: Services, surroundings: Surroundings, *, instance: str) -> None:
        self._services = services
        self._surroundings = surroundings
        self._standing = surroundings.standing
        self._request_ids = (f"{instance}-{number}" for number in itertools.count(1))

    def application(self, *, max_body_bytes: int) -> web.Application:
        """All routes."""
        application = web.Application(client_max_size=max_body_bytes, middlewares=[_openai_errors])
        application.add_routes(
            [
                web.post(Endpoint.COMPLETIONS.value, self._completions),
                web.post(Endpoint.CHAT.value, self._chat_completions),
                web.get("/v1/models", self._models),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/state", self._state),
                web.get("/metrics", self._metrics),
            ]
        )
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
        self._standing.active += 1
        try:
            return await self._visit(http, endpoint)
        finally:
            self._standing.active -= 1

    async def _visit(self, http: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        traffic = self._services.traffic
        try:
            settings = self._open_settings()
            body = await http.read()
            arrived_at = self._services.clock()
            request = parse_request(body, endpoint, model=settings.model)
        except RequestError as error:
            traffic.ended(_outcome(error), "none", output_tokens=0)
            raise
        except web.HTTPRequestEntityTooLarge:
            traffic.ended(Outcome.REJECTED, "none", output_tokens=0)
            raise
        return await self._exchange(http, request, settings, arrived_at=arrived_at, body_bytes=len(body))

    async def _exchange(
        self,
        http: web.Request,
        request: CompletionRequest,
        settings: RouterSettings,
        *,
        arrived_at: float,
        body_bytes: int,
    ) -> web.StreamResponse:
        services = self._services
        own = OwnTime(services.clock, since=arrived_at)
        visit = Visit(services, settings, http, request, Journey(arrived_at), own)
        headers = self._engine_headers(http)
        try:
            response = await Exchange(visit, headers=headers, body_bytes=body_bytes).answer()
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
            if not response.prepared:
                response.headers[_REQUEST_ID] = headers[_REQUEST_ID]
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

    def _engine_headers(self, http: web.Request) -> Mapping[str, str]:
        given = http.headers.get(_REQUEST_ID, "")[:_REQUEST_ID_CHARACTERS]
        headers = {"Content-Type": "application/json", _REQUEST_ID: given or next(self._request_ids)}
        for name in _PASSED_ON:
            if name in http.headers:
                headers[name] = http.headers[name]
        return headers

    async def _models(self, _: web.Request) -> web.Response:
        created = int(self._standing.started_at)
        return json_response(models_document(self._open_settings().model, created=created))

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        standing = self._standing
        if standing.leaving:
            return web.Response(text="shutting down\n", status=HTTPStatus.SERVICE_UNAVAILABLE)
        if standing.settings is None or not self._surroundings.listed():
            return web.Response(text="not yet\n", status=HTTPStatus.SERVICE_UNAVAILABLE)
        return web.Response(text="ok\n")

    async def _state(self, _: web.Request) -> web.Response:
        around = self._surroundings
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

"""One request from its replicas to its answer, and to other replicas when an engine fails."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from aiohttp import web

from inferencecluster.core.routing import RoutingRequest
from inferencecluster.router.completion_request import Endpoint
from inferencecluster.router.disaggregation import (
    ContextAnswer,
    ProtocolError,
    context_request,
    generation_request,
    read_context_answer,
    whole_request,
)
from inferencecluster.router.engine_client import Call, broken, header_fields
from inferencecluster.router.errors import EngineError, EngineUnreachable, RequestError
from inferencecluster.router.ledger import Assignment, Entry, PathKind
from inferencecluster.router.lines import Ticket
from inferencecluster.router.services import Visit
from inferencecluster.router.token_phase import (
    answer_as_stream,
    answer_from_context,
    answer_in_one_piece,
)

MOST_CHARACTERS_PER_TOKEN: Final = 16
"""No natural text or code has so few tokens; an estimate must not refuse what would fit."""

_logger: Final = logging.getLogger(__name__)


class Exchange:
    """Call `answer` once."""

    def __init__(self, visit: Visit, *, headers: Mapping[str, str], body_bytes: int) -> None:
        """`headers` are those for the engines; `body_bytes` is the size of the client's body."""
        self._visit = visit
        self._fields = header_fields(headers)
        self._excluded: frozenset[str] = frozenset()
        traffic = visit.services.traffic
        self._ticket = Ticket(body_bytes, on_admitted=lambda: traffic.admitted(visit.prompt_tokens))

    async def answer(self) -> web.StreamResponse:
        """The response; a stream has been sent by then. Raises `RouterError`."""
        visit = self._visit
        estimates, journeys = visit.services.estimates, visit.services.traffic.journeys
        visit.prompt_tokens = tuple(
            size.tokens + (estimates.text_tokens(size.characters) if size.characters else 0)
            for size in visit.request.prompts
        )
        self._check_size()
        journeys[visit.journey] = None
        try:
            return await self._try_engines()
        finally:
            journeys.pop(visit.journey, None)

    def _check_size(self) -> None:
        """Raises `RequestError` for a prompt that no replica could ever hold: it would wait in vain."""
        request, ledger = self._visit.request, self._visit.services.ledger
        capacity = ledger.largest_capacity(request.model)
        least = max(size.tokens + size.characters // MOST_CHARACTERS_PER_TOKEN for size in request.prompts)
        if least > capacity and ledger.fleet.serves(frozenset(), request.model):
            raise RequestError(
                f"a prompt of at least {least} tokens fits into no engine, whose memory holds {capacity}: shorten it",
                param="prompt" if request.endpoint is Endpoint.COMPLETIONS else "messages",
                code="context_length_exceeded",
            )

    async def _try_engines(self) -> web.StreamResponse:
        visit = self._visit
        while True:
            visit.own.pause()
            assignment = await visit.services.dispatcher.acquire(self._routing_request(), self._ticket)
            visit.own.resume()
            visit.path = assignment.path
            try:
                return await self._attempt(assignment)
            except EngineError as error:
                self._blame(error)
                visit.own.resume()
            finally:
                assignment.release()

    def _routing_request(self) -> RoutingRequest:
        request = self._visit.request
        expected = self._visit.services.estimates.output_tokens(request.longest_output)
        return RoutingRequest(
            prompt_tokens=sum(self._visit.prompt_tokens),
            expected_output_tokens=expected * request.choices * len(request.prompts),
            excluded=self._excluded,
            whole=request.is_whole,
            model=request.model,
        )

    def _blame(self, error: EngineError) -> None:
        """Leave the replica out. Raises `RequestError` when nobody is left, or this has happened too often."""
        services, attempts = self._visit.services, self._ticket.attempts
        services.ledger.failed(error.replica, unreachable=isinstance(error, EngineUnreachable))
        self._excluded |= {error.replica}
        again = attempts < services.patience.attempts and services.ledger.fleet.serves(
            self._excluded, self._visit.request.model
        )
        _logger.warning(
            "engine failed a request",
            extra={
                "replica": error.replica,
                "phase": error.phase,
                "reason": error.reason,
                "attempt": attempts,
                "again": again,
            },
        )
        if again:
            services.traffic.retries += 1
            return
        words = f" ({error.words})" if error.words else ""
        raise RequestError(
            f"engines failed the request, last {error.replica} in its {error.phase} phase "
            f"(attempt {attempts}): {error.reason}{words}; try again",
            status=HTTPStatus.BAD_GATEWAY,
            kind="server_error",
            code="engine_failed",
        ) from error

    async def _attempt(self, assignment: Assignment) -> web.StreamResponse:
        request = self._visit.request
        if assignment.path is not PathKind.DISAGGREGATED:
            seconds = self._visit.services.patience.whole_seconds
            return await self._generate(assignment, whole_request(request), phase="whole", seconds=seconds)
        context = await self._prefill(assignment)
        if not request.stream:
            # The prefill engine made it; of a stream it counts when the client gets it.
            self._visit.first_token()
        if context.finished:
            return await answer_from_context(self._visit, context)
        seconds = self._visit.services.patience.first_token_seconds
        body = generation_request(request, context)
        return await self._generate(assignment, body, phase="decode", seconds=seconds)

    async def _prefill(self, assignment: Assignment) -> ContextAnswer:
        visit = self._visit
        services = visit.services
        # During a rollout replicas of two releases serve: each is spoken to in its own protocol.
        version = assignment.first.record.engine_version or visit.settings.engine_version
        body = context_request(visit.request, version, services.request_id)
        call = self._call(assignment.first, body, phase="prefill", seconds=services.patience.prefill_seconds)
        visit.own.pause()
        answered = await services.engines.ask(call)
        visit.own.resume()
        try:
            context = read_context_answer(answered, version)
        except ProtocolError as error:
            raise broken(call, str(error)) from error
        services.estimates.learn_prefill(
            seconds=visit.own.since - assignment.started_at, pending_tokens=assignment.pending_at_start
        )
        visit.learn_prompt(context.prompt_tokens)
        visit.prefilled(context.prompt_tokens, cached_tokens=context.cached_tokens)
        assignment.prefill_ended(context.prompt_tokens or sum(visit.prompt_tokens))
        return context

    async def _generate(
        self, assignment: Assignment, body: bytes, *, phase: str, seconds: float
    ) -> web.StreamResponse:
        """`seconds`: until the first event of a stream must be there."""
        if self._visit.request.stream:
            call = self._call(assignment.last, body, phase=phase, seconds=seconds)
            return await answer_as_stream(self._visit, assignment, call)
        answer_seconds = self._visit.services.patience.answer_seconds
        call = self._call(assignment.last, body, phase=phase, seconds=answer_seconds)
        return await answer_in_one_piece(self._visit, assignment, call)

    def _call(self, entry: Entry, body: bytes, *, phase: str, seconds: float) -> Call:
        return Call(
            entry=entry,
            path=self._visit.request.endpoint,
            body=body,
            fields=self._fields,
            phase=phase,
            seconds=seconds,
        )

"""The part of a request that ends in the client's hands: a stream of events, or an answer in one piece."""

from __future__ import annotations

import asyncio
import json
import logging
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from inferencecluster.router.answers import (
    STREAM_HEADERS,
    error_event,
    finished_stream,
    json_response,
)
from inferencecluster.router.disaggregation import ContextAnswer
from inferencecluster.router.engine_client import Call, broken
from inferencecluster.router.errors import ClientGone, RequestError
from inferencecluster.router.event_stream import Usage, usage_of
from inferencecluster.router.ledger import Assignment, PathKind
from inferencecluster.router.relay import Meter, Relay, RelayEnd
from inferencecluster.router.services import Visit
from inferencecluster.router.traffic import Outcome

_logger: Final = logging.getLogger(__name__)


class EventStreamResponse(web.StreamResponse):
    """The head leaves with the first event, which is there already: one packet and one wake-up of the client, not two.

    The attribute is aiohttp's own switch, for which it has no public name; without it the head goes ahead.
    """

    _send_headers_immediately = False


async def answer_as_stream(visit: Visit, assignment: Assignment, call: Call) -> web.StreamResponse:
    """Relay the engine's stream. Raises `EngineError` before its first event, and `ClientGone`.

    Whatever goes wrong later ends the stream with an error event, never short.
    """
    services = visit.services
    visit.own.pause()
    upstream = await services.engines.stream(call)
    try:
        visit.own.resume()
        if assignment.path is not PathKind.DISAGGREGATED:
            services.estimates.learn_prefill(
                seconds=visit.own.since - assignment.started_at, pending_tokens=assignment.pending_at_start
            )
        assignment.token_phase_began()
        visit.first_token()
        services.ledger.succeeded(call.entry)
        client, writer = await _begin_stream(visit)
        meter = Meter(services.clock, services.traffic.itl, services.estimates.tokens_per_event)
        relay = Relay(
            upstream,
            assignment,
            meter,
            keep_usage=visit.request.wants_usage,
            downstream=visit.http.transport,
        )
        services.watchdog.watch(relay)
        try:
            end = await relay.run(writer)
        finally:
            services.watchdog.forget(relay)
            visit.output_tokens = round(assignment.output_tokens)
    finally:
        upstream.release()
    if assignment.path is not PathKind.DISAGGREGATED:
        _learn_cached(visit, end.usage)
    await _end_stream(visit, writer, call, end)
    return client


async def answer_in_one_piece(visit: Visit, assignment: Assignment, call: Call) -> web.Response:
    """The engine's whole answer as it is. Raises `EngineError`."""
    services = visit.services
    visit.own.pause()
    services.traffic.added_latency.observe(visit.own.seconds)
    timer = _expect_first_token(visit, assignment)
    try:
        body = await services.engines.ask(call)
    finally:
        timer.cancel()
    document = _complete_answer(call, body)
    if assignment.path is not PathKind.DISAGGREGATED and not assignment.began:
        # It has ended before its prompt was believed to have: prompts are faster, by how much nobody tells.
        services.estimates.learn_prefill(
            seconds=services.clock() - assignment.started_at, pending_tokens=assignment.pending_at_start
        )
    services.ledger.succeeded(call.entry)
    usage = usage_of(document)
    if assignment.path is not PathKind.DISAGGREGATED:
        _learn_cached(visit, usage)
    if usage is not None:
        visit.learn_prompt(usage.prompt_tokens)
        services.estimates.learn_output(tokens=usage.completion_tokens, events=0)
        visit.output_tokens = usage.completion_tokens
    visit.outcome = Outcome.COMPLETED
    return web.Response(body=body, content_type="application/json")


async def answer_from_context(visit: Visit, context: ContextAnswer) -> web.StreamResponse:
    """The first token ended the answer: it comes from the prefill engine alone."""
    visit.first_token()
    visit.output_tokens = 1
    visit.services.estimates.learn_output(tokens=1, events=0)
    if not visit.request.stream:
        visit.own.pause()
        visit.services.traffic.added_latency.observe(visit.own.seconds)
        visit.outcome = Outcome.COMPLETED
        return json_response(context.document)
    client, writer = await _begin_stream(visit)
    await _write(writer, finished_stream(visit.request, context.document))
    visit.outcome = Outcome.COMPLETED
    return client


async def _begin_stream(visit: Visit) -> tuple[web.StreamResponse, AbstractStreamWriter]:
    """The response, its head on its way, and what its body is written to."""
    client = EventStreamResponse(headers=STREAM_HEADERS)
    try:
        writer = await client.prepare(visit.http)
    except ConnectionResetError as error:
        raise ClientGone("the client closed its connection") from error
    if writer is None:
        raise RuntimeError("a response was sent twice")
    visit.own.pause()
    traffic = visit.services.traffic
    traffic.added_latency.observe(visit.own.seconds)
    traffic.ttft.observe(visit.services.clock() - visit.journey.arrived_at)
    return client, writer


async def _end_stream(visit: Visit, client: AbstractStreamWriter, call: Call, end: RelayEnd) -> None:
    services = visit.services
    if end.usage is not None:
        visit.output_tokens = end.usage.completion_tokens
        visit.learn_prompt(end.usage.prompt_tokens)
        services.estimates.learn_output(tokens=end.usage.completion_tokens, events=end.events)
    elif end.complete:
        services.estimates.learn_output(tokens=visit.output_tokens, events=0)
    if end.complete:
        visit.outcome = Outcome.COMPLETED
        return
    reason = end.reason or "it ended without [DONE]"
    _logger.warning(
        "stream broke off",
        extra={"replica": call.entry.record.name, "phase": call.phase, "reason": reason},
    )
    # Broken connections are the replica's fault; an ended body may be the request's own (an error event came).
    services.ledger.failed(call.entry.record.name, unreachable=bool(end.reason))
    if not end.explained:
        message = (
            f"the engine broke off after {visit.output_tokens} tokens ({reason}): the answer is incomplete"
        )
        error = RequestError(
            message, status=HTTPStatus.BAD_GATEWAY, kind="server_error", code="stream_broken"
        )
        await _write(client, error_event(error))


def _learn_cached(visit: Visit, usage: Usage | None) -> None:
    """Of an engine that served the whole request; a decode engine has prefilled nothing."""
    if usage is None:
        visit.prefilled(0, cached_tokens=0)
    else:
        visit.prefilled(usage.prompt_tokens, cached_tokens=usage.cached_tokens)


def _expect_first_token(visit: Visit, assignment: Assignment) -> asyncio.TimerHandle:
    """Nobody tells when an answer in one piece gets its token phase, yet queues and drains wait for it.

    A KV transfer has ended by its own timeout; a prompt is done by the speed that others had.
    """
    seconds = visit.settings.kv_transfer_timeout_seconds
    if assignment.path is not PathKind.DISAGGREGATED:
        seconds = visit.services.estimates.prefill_seconds(assignment.pending_at_start)
    return asyncio.get_running_loop().call_later(seconds, _assume_first_token, visit, assignment)


def _assume_first_token(visit: Visit, assignment: Assignment) -> None:
    assignment.token_phase_began()
    visit.first_token()


def _complete_answer(call: Call, body: bytes) -> dict[str, Any]:
    """The answer's JSON. Raises `EngineError` unless each of its choices has ended."""
    try:
        document = json.loads(body)
    except ValueError as error:
        raise broken(call, "the answer is not JSON") from error
    choices = document.get("choices") if isinstance(document, dict) else None
    if not isinstance(choices, list) or not choices:
        raise broken(call, "the answer has no choices")
    if not all(isinstance(choice, dict) and choice.get("finish_reason") for choice in choices):
        raise broken(call, "a choice has no finish_reason")
    answer: dict[str, Any] = document
    return answer


async def _write(client: AbstractStreamWriter, data: bytes) -> None:
    try:
        await client.write(data)
    except ConnectionResetError as error:
        raise ClientGone("the client closed its connection") from error

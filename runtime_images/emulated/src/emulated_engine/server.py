"""trtllm-serve's HTTP surface."""

from __future__ import annotations

import itertools
import json
import logging
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from emulated_engine import utilisation
from emulated_engine.api_requests import Order, parse_order
from emulated_engine.api_responses import END_OF_STREAM, FIRST_TOKEN_ID, Answer, error_body, event, usage
from emulated_engine.engine import Delta, TokenStream
from emulated_engine.errors import RequestError
from emulated_engine.kv_transfer import PULL_PATH, KvLocation
from emulated_engine.replica import Replica
from emulated_engine.sequences import Phase, Sequence

LARGEST_BODY_BYTES: Final = 256 * 1024 * 1024
"""A prompt of a million token ids as JSON is 7 MB; base64 images in chats are larger."""

logger = logging.getLogger(__name__)


class Server:
    """Handlers over one replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._identifiers = itertools.count(1)

    def application(self) -> web.Application:
        """The routes; /faults exists only when the configuration allows faults."""
        application = web.Application(client_max_size=LARGEST_BODY_BYTES, middlewares=[self._errors])
        routes: list[web.RouteDef] = [
            web.get("/health", self._health),
            web.get("/version", self._version),
            web.get("/server_info", self._server_info),
            web.get("/v1/models", self._models),
            web.get("/metrics", self._metrics),
            web.get("/dcgm/metrics", self._dcgm_metrics),
            web.post("/v1/completions", self._completions),
            web.post("/v1/chat/completions", self._chat_completions),
            web.post(PULL_PATH, self._pull),
        ]
        if self._replica.configuration.return_perf_metrics:
            routes.append(web.get("/prometheus/metrics", self._prometheus_metrics))
            routes.append(web.get("/prometheus/metrics/", self._prometheus_metrics))
        if self._replica.configuration.allow_faults:
            routes.append(web.get("/faults", self._show_faults))
            routes.append(web.post("/faults", self._change_faults))
        application.add_routes(routes)
        return application

    @web.middleware
    async def _errors(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except RequestError as error:
            self._replica.metrics.request_failed(error.status)
            body = error_body(str(error), status=error.status, kind=error.kind)
            return web.json_response(body, status=error.status)

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if self._replica.faults.fail_health else 200)

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": self._replica.configuration.version})

    async def _server_info(self, _: web.Request) -> web.Response:
        return web.json_response(self._replica.describe())

    async def _models(self, _: web.Request) -> web.Response:
        model = {
            "id": self._replica.model_name,
            "object": "model",
            "created": int(self._replica.started_at),
            "owned_by": "tensorrt_llm",
        }
        return web.json_response({"object": "list", "data": [model]})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.json_response(self._replica.statistics.take())

    async def _prometheus_metrics(self, _: web.Request) -> web.Response:
        return _exposition(self._replica.metrics.exposition())

    async def _dcgm_metrics(self, _: web.Request) -> web.Response:
        shares = self._replica.utilisation.shares(self._replica.clock.now())
        return _exposition(utilisation.exposition(self._replica.gpus, shares))

    async def _show_faults(self, _: web.Request) -> web.Response:
        return web.json_response(self._replica.faults.as_json())

    async def _change_faults(self, request: web.Request) -> web.Response:
        self._replica.change_faults(await _json(request))
        if self._replica.faults.crash:
            logger.warning("Crashing on request")
            os._exit(1)
        return web.json_response(self._replica.faults.as_json())

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, is_chat=False)

    async def _chat_completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, is_chat=True)

    async def _generate(self, request: web.Request, *, is_chat: bool) -> web.StreamResponse:
        order = parse_order(await _json(request), is_chat=is_chat, configuration=self._replica.configuration)
        if order.location is not None:
            self._replica.check_origin(order.location)
        sequence = self._replica.sequence(order)
        if order.location is not None:
            self._replica.puller.expect(sequence, order.location)
        keeps_cache = False
        try:
            tokens = self._replica.engine.submit(sequence)
            if order.phase is Phase.CONTEXT_ONLY:
                await tokens.next()
                response = self._context_answer(request, order, sequence)
                keeps_cache = not _ends_at_first_token(order)
                return response
            if order.stream:
                return await self._stream(request, order, sequence, tokens)
            return web.json_response(await self._whole(order, sequence, tokens))
        finally:
            self._replica.engine.close(sequence, keep_cache=keeps_cache)
            self._replica.puller.forget(sequence)

    async def _whole(self, order: Order, sequence: Sequence, tokens: TokenStream) -> dict[str, Any]:
        received, finished = 0, False
        while not finished:
            delta = await tokens.next()
            received += delta.tokens
            finished = delta.finished
        used = usage(order.prompt.tokens, received, cached_tokens=sequence.cached_tokens)
        return self._answer(order).whole(received, order.finish_reason, used)

    async def _stream(
        self, request: web.Request, order: Order, sequence: Sequence, tokens: TokenStream
    ) -> web.StreamResponse:
        # Headers wait for the first token: until then a failure is still an HTTP status.
        delta = await tokens.next()
        answer = self._answer(order)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        received = 0
        while True:
            received += delta.tokens
            is_first = received == delta.tokens
            await response.write(_chunk(answer, order, delta, first=is_first))
            if delta.finished:
                break
            try:
                delta = await tokens.next()
            except RequestError as error:
                body = error_body(str(error), status=error.status, kind=error.kind)
                await response.write(event({"error": body}))
                return response
        if order.include_usage:
            used = usage(order.prompt.tokens, received, cached_tokens=sequence.cached_tokens)
            await response.write(answer.usage_chunk(used))
        await response.write(END_OF_STREAM)
        return response

    def _context_answer(self, request: web.Request, order: Order, sequence: Sequence) -> web.Response:
        """The answer of a context engine: one token, and where its KV cache lies unless the answer is complete."""
        configuration = self._replica.configuration
        used = usage(order.prompt.tokens, 1, cached_tokens=sequence.cached_tokens)
        document = self._answer(order).whole(1, order.finish_reason, used)
        document["prompt_token_ids"] = order.prompt.ids()
        if not _ends_at_first_token(order):
            identifier = next(self._identifiers)
            self._replica.caches.hold(identifier, sequence)
            location = KvLocation(
                url=self._replica.address(request.transport),
                identifier=identifier,
                tokens=order.prompt.tokens,
                engine=self._replica.engine_identity,
            )
            choice = document["choices"][0]
            choice["finish_reason"] = "not_finished" if configuration.is_1_3_or_newer else "length"
            choice["disaggregated_params"] = {
                **(order.disaggregated or {}),
                "request_type": Phase.CONTEXT_ONLY.value,
                "first_gen_tokens": [FIRST_TOKEN_ID],
                "ctx_request_id": identifier,
                "encoded_opaque_state": location.encode(),
                "draft_tokens": None,
            }
        return web.json_response(document)

    async def _pull(self, request: web.Request) -> web.Response:
        """A generation engine fetches a cache. Should it go away meanwhile, the cache is lost, as over RDMA."""
        faults = self._replica.faults
        await self._replica.running.wait()
        if faults.refuse_kv_transfer:
            raise RequestError("KV transfers are refused (fault)", status=503, kind="ServiceUnavailableError")
        try:
            identifier = int(request.match_info["identifier"])
        except ValueError:
            raise RequestError("the identifier of a KV cache is an integer") from None
        sequence = self._replica.caches.take(identifier)
        try:
            await self._replica.send_cache(sequence)
        finally:
            self._replica.engine.release(sequence)
        return web.json_response({"tokens": sequence.prompt_tokens})

    def _answer(self, order: Order) -> Answer:
        prefix = "chatcmpl" if order.is_chat else "cmpl"
        return Answer(
            identifier=f"{prefix}-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self._replica.model_name,
            is_chat=order.is_chat,
        )


def _chunk(answer: Answer, order: Order, delta: Delta, *, first: bool) -> bytes:
    return answer.chunk(delta.tokens, order.finish_reason if delta.finished else None, first=first)


def _ends_at_first_token(order: Order) -> bool:
    """The first token ended the text, so that no generation phase follows."""
    return order.ends_by_itself and order.output_tokens == 1


def _exposition(text: bytes) -> web.Response:
    return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def _json(request: web.Request) -> object:
    try:
        return json.loads(await request.read())
    except ValueError as error:
        raise RequestError(f"the request body is not JSON: {error}") from error

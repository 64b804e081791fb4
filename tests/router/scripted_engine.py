"""An engine that speaks TensorRT-LLM's protocol over real HTTP and fails on command."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from aiohttp import web

CONTEXT, GENERATION, WHOLE = "context_only", "generation_only", "whole"
PROMPT_IDS = [101, 102, 103, 104, 105]


class Waitable(Protocol):
    """An event, or what never comes."""

    async def wait(self) -> object: ...


class Never:
    """An event that nobody sets, on whatever event loop."""

    async def wait(self) -> object:
        return await asyncio.get_running_loop().create_future()


@dataclass(slots=True)
class Behaviour:
    """How one request is answered."""

    status: int = 200
    body: str | None = None
    """Instead of the usual answer."""
    gate: Waitable | None = None
    """Nothing is answered before it is set."""
    reset: bool = False
    """Cut the connection instead of answering."""
    tokens: int = 3
    cached_tokens: int | None = None
    """Reported in usage; None: this engine does not tell."""
    finish_reason: str = "length"
    parameters: dict[str, Any] = field(default_factory=dict)
    """Overrides fields of the context answer's disaggregated_params."""
    no_parameters: bool = False
    choices: int = 1
    pause: Waitable | None = None
    """A stream waits for it after its first token."""
    reset_after: int | None = None
    """Cut the connection after so many tokens of a stream."""
    ends_short: bool = False
    """End the body properly, but without [DONE]."""
    error_event: bool = False
    """Send an error event instead of the second token, and end."""
    tail: bytes = b""
    """Sent at the end of a stream that ends short."""
    error_first: bool = False
    """Send an error event and nothing else."""
    split: bool = False
    """Send every event in two pieces."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that arrived."""

    kind: str
    path: str
    document: dict[str, Any]
    headers: dict[str, str]


class ScriptedEngine:
    """Use it as an async context manager; `url` is valid inside."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.url = ""
        self.seen: list[Seen] = []
        self.cancelled: list[str] = []
        self.always: defaultdict[str, Behaviour] = defaultdict(Behaviour)
        self._next: defaultdict[str, deque[Behaviour]] = defaultdict(deque)
        self._runner: web.AppRunner | None = None

    def script(self, kind: str, *behaviours: Behaviour) -> None:
        """How the next requests of a kind are answered, before `always` applies again."""
        self._next[kind].extend(behaviours)

    def kinds(self) -> list[str]:
        """What arrived, in order."""
        return [seen.kind for seen in self.seen]

    async def __aenter__(self) -> Self:
        application = web.Application()
        for path in ("/v1/completions", "/v1/chat/completions"):
            application.router.add_post(path, self._handle)
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Refuse connections from now on."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        document = json.loads(await request.read())
        parameters = document.get("disaggregated_params") or {}
        kind = parameters.get("request_type", WHOLE)
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(kind, request.path, document, headers))
        queued = self._next[kind]
        behaviour = queued.popleft() if queued else self.always[kind]
        try:
            return await self._answer(request, document, kind, behaviour)
        except asyncio.CancelledError:
            self.cancelled.append(kind)
            raise

    async def _answer(
        self, request: web.Request, document: dict[str, Any], kind: str, behaviour: Behaviour
    ) -> web.StreamResponse:
        if behaviour.gate is not None:
            await behaviour.gate.wait()
        if behaviour.reset:
            _cut(request)
            return web.Response()
        if behaviour.body is not None or behaviour.status != 200:
            text = behaviour.body or json.dumps({"object": "error", "message": "scripted"})
            return web.Response(text=text, status=behaviour.status, content_type="application/json")
        is_chat = request.path.endswith("/chat/completions")
        if kind == CONTEXT:
            return web.json_response(_context_answer(document, behaviour, is_chat=is_chat))
        if document.get("stream"):
            return await _stream(request, document, behaviour, is_chat=is_chat)
        return web.json_response(_whole_answer(behaviour, is_chat=is_chat))


def _content(text: str, *, is_chat: bool, stream: bool) -> dict[str, Any]:
    if not is_chat:
        return {"text": text}
    return {"delta" if stream else "message": {"role": "assistant", "content": text}}


def _context_answer(document: dict[str, Any], behaviour: Behaviour, *, is_chat: bool) -> dict[str, Any]:
    sent = document["disaggregated_params"]
    parameters: dict[str, Any] | None = {
        **sent,
        "first_gen_tokens": [7],
        "ctx_request_id": 42,
        "encoded_opaque_state": "b3BhcXVl",
        **behaviour.parameters,
    }
    if behaviour.no_parameters:
        parameters = None
    choice = {
        "index": 0,
        **_content(' "]" a', is_chat=is_chat, stream=False),
        "finish_reason": behaviour.finish_reason,
        "disaggregated_params": parameters,
    }
    return {
        "id": "ctx-1",
        "created": 5,
        "model": "served",
        "object": "chat.completion" if is_chat else "text_completion",
        "choices": [choice] * behaviour.choices,
        "usage": {**_usage(behaviour), "completion_tokens": 1},
        "prompt_token_ids": PROMPT_IDS,
    }


def _whole_answer(behaviour: Behaviour, *, is_chat: bool) -> dict[str, Any]:
    choice = {
        "index": 0,
        **_content(" a" * behaviour.tokens, is_chat=is_chat, stream=False),
        "finish_reason": behaviour.finish_reason,
    }
    return {"id": "gen-1", "choices": [choice], "usage": _usage(behaviour)}


def _usage(behaviour: Behaviour) -> dict[str, Any]:
    counted: dict[str, Any] = {"prompt_tokens": len(PROMPT_IDS), "completion_tokens": behaviour.tokens}
    if behaviour.cached_tokens is not None:
        counted["prompt_tokens_details"] = {"cached_tokens": behaviour.cached_tokens}
    return counted


async def _stream(
    request: web.Request, document: dict[str, Any], behaviour: Behaviour, *, is_chat: bool
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    if behaviour.error_first:
        await _send(response, {"error": {"message": "scripted", "code": 500}}, split=False)
        return response
    for number in range(1, behaviour.tokens + 1):
        last = number == behaviour.tokens
        choice = {
            "index": 0,
            **_content(f" [DONE] {number}", is_chat=is_chat, stream=True),
            "finish_reason": behaviour.finish_reason if last else None,
        }
        await _send(response, {"id": "gen-1", "choices": [choice]}, split=behaviour.split)
        if behaviour.reset_after == number:
            _cut(request)
            return response
        if number == 1 and behaviour.error_event:
            # Apart from the first token: together with it, nothing would have been sent yet, and it is tried again.
            await asyncio.sleep(0.05)
            await _send(response, {"error": {"message": "scripted", "code": 500}}, split=False)
            return response
        if number == 1 and behaviour.pause is not None:
            await behaviour.pause.wait()
    if behaviour.ends_short:
        if behaviour.tail:
            await response.write(behaviour.tail)
        return response
    if (document.get("stream_options") or {}).get("include_usage"):
        await _send(response, {"id": "gen-1", "choices": [], "usage": _usage(behaviour)}, split=False)
    await response.write(b"data: [DONE]\n\n")
    return response


async def _send(response: web.StreamResponse, document: dict[str, Any], *, split: bool) -> None:
    event = b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"
    if not split:
        await response.write(event)
        return
    middle = len(event) // 2
    await response.write(event[:middle])
    await asyncio.sleep(0.01)
    await response.write(event[middle:])


def _cut(request: web.Request) -> None:
    transport = request.transport
    assert transport is not None
    transport.abort()

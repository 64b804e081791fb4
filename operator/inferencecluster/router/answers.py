"""Answers that the router writes itself: errors, the list of models, and answers that ended with their first token."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiohttp import web

from inferencecluster.router.completion_request import CompletionRequest, Endpoint
from inferencecluster.router.errors import CapacityError, RequestError

DONE: Final = b"data: [DONE]\n\n"
STREAM_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    # nginx in front of the router would otherwise collect tokens before it passes them on.
    "X-Accel-Buffering": "no",
}


_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
"""Made once: `json.dumps` makes an encoder for every call."""


def compact_json(document: Mapping[str, Any]) -> bytes:
    """`document` without blanks, in ASCII."""
    return _encode(document).encode()


def error_document(error: RequestError) -> dict[str, Any]:
    """OpenAI's error body."""
    return {
        "error": {
            "message": error.message,
            "type": error.kind,
            "param": error.param,
            "code": error.code,
        }
    }


def error_response(error: RequestError) -> web.Response:
    """The HTTP answer to a request that the router ends."""
    response = json_response(error_document(error), status=error.status)
    if isinstance(error, CapacityError):
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response


def error_event(error: RequestError) -> bytes:
    """The last event of a stream that cannot be completed; OpenAI's clients raise it."""
    return event(error_document(error))


def json_response(document: Mapping[str, Any], *, status: int = 200) -> web.Response:
    """`document` as a response."""
    return web.Response(body=compact_json(document), status=status, content_type="application/json")


def event(document: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + compact_json(document) + b"\n\n"


def models_document(models: Iterable[str], *, created: int) -> dict[str, Any]:
    """Answer of `/v1/models`; `created` is Unix seconds."""
    entries = [
        {"id": model, "object": "model", "created": created, "owned_by": "inferencecluster"}
        for model in models
    ]
    return {"object": "list", "data": entries}


def finished_stream(request: CompletionRequest, document: Mapping[str, Any]) -> bytes:
    """A context engine's complete answer as the events that the client's stream would have had."""
    head = {key: document[key] for key in ("id", "created", "model") if key in document}
    is_chat = request.endpoint is Endpoint.CHAT
    head["object"] = "chat.completion.chunk" if is_chat else "text_completion"
    choice = dict(document["choices"][0])
    if is_chat:
        choice["delta"] = choice.pop("message", {})
    events = [event({**head, "choices": [choice]})]
    if request.wants_usage and document.get("usage"):
        events.append(event({**head, "choices": [], "usage": document["usage"]}))
    return b"".join((*events, DONE))

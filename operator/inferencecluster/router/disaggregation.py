"""TensorRT-LLM's disaggregated protocol, context first (`openai_disagg_service.py`; fields by release).

    context_only      the client's request, not streamed, to the prefill engine: one token, where its KV cache lies,
                      and the prompt's token ids
    generation_only   the client's request with those two, to the decode engine, which pulls the cache and re-emits
                      the first token: the client's answer comes from there alone

The prompt's token ids are never parsed: an array of a hundred thousand integers is cut out of one body and put into
the next one as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from inferencecluster.render.trtllm.versions import EngineVersion
from inferencecluster.router.answers import compact_json
from inferencecluster.router.completion_request import CompletionRequest, Endpoint
from inferencecluster.router.event_stream import usage_of

SINCE_REQUEST_ID: Final = EngineVersion(1, 3, 0, candidate=0)
"""`disagg_request_id` is required from here on and unknown before (PR 10495)."""
SINCE_SCHEDULE_STYLE: Final = EngineVersion(1, 3, 0, candidate=3)
"""PR 11020."""
CONTEXT_FIRST: Final = 0

SMALLEST_REQUEST_ID: Final = 1 << 40
"""MIN_GLOBAL_ID: smaller ones are local to an engine."""
_LARGEST_INT64: Final = (1 << 63) - 1
_TIME_BITS: Final = 39
_NODE_BITS: Final = 14
_COUNTER_BITS: Final = 10

UNFINISHED: Final = frozenset({"length", "not_finished"})
"""Reasons with which a context engine ends when a token phase has to follow."""

_PROMPT_IDS: Final = b'"prompt_token_ids"'
_LIST_BEGINS: Final = re.compile(rb"\s*:\s*\[")
_LIST_BYTES: Final = b"0123456789, \t\r\n"


class ProtocolError(ValueError):
    """A context engine's answer breaks the protocol; the message says how. Never leaves the router."""


class RequestIds:
    """`disagg_request_id`s: unique over all routers of a cluster, as 0|milliseconds(39)|node(14)|counter(10)."""

    def __init__(self, *, node: int, now: Callable[[], float]) -> None:
        """`node` tells routers apart (its low 14 bits count); `now` gives Unix seconds."""
        self._node = node % (1 << _NODE_BITS)
        self._now = now
        self._counter = 0

    def next(self) -> int:
        """2**40 <= id < 2**63."""
        self._counter = (self._counter + 1) % (1 << _COUNTER_BITS)
        milliseconds = int(self._now() * 1000) % (1 << _TIME_BITS)
        raw = (((milliseconds << _NODE_BITS) | self._node) << _COUNTER_BITS) | self._counter
        return raw % (_LARGEST_INT64 - SMALLEST_REQUEST_ID) + SMALLEST_REQUEST_ID


@dataclass(frozen=True, slots=True)
class ContextAnswer:
    """What a context engine said."""

    document: Mapping[str, Any]
    """Its answer without the prompt's token ids."""
    finished: bool
    """The first token ended the answer: no token phase follows."""
    parameters: Mapping[str, Any]
    """`disaggregated_params`, opaque; empty when finished."""
    prompt_ids: bytes
    """The prompt's token ids as a JSON array; empty when absent."""
    prompt_tokens: int
    """0 when the engine did not tell."""
    cached_tokens: int
    """Of those, what it had in its prefix cache; 0 when it did not tell."""


def context_request(
    request: CompletionRequest, version: EngineVersion, request_id: Callable[[], int]
) -> bytes:
    """Body for the prefill engine."""
    parameters: dict[str, Any] = {"request_type": "context_only"}
    if version >= SINCE_REQUEST_ID:
        parameters["disagg_request_id"] = request_id()
    if version >= SINCE_SCHEDULE_STYLE:
        parameters["schedule_style"] = CONTEXT_FIRST
    return compact_json(
        {**request.document, "stream": False, "stream_options": None, "disaggregated_params": parameters}
    )


def read_context_answer(body: bytes, version: EngineVersion) -> ContextAnswer:
    """Check and take apart the answer to a `context_request`. Raises `ProtocolError`."""
    prompt_ids, body = _cut_prompt_ids(body)
    document = _read_object(body)
    choices = document.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        found = len(choices) if isinstance(choices, list) else "no list of"
        raise ProtocolError(f"a context_only answer has exactly one choice, not {found}")
    choice = choices[0]
    finished = choice.get("finish_reason") not in UNFINISHED
    document.pop("prompt_token_ids", None)
    parameters = choice.pop("disaggregated_params", None)
    usage = usage_of(document)
    if not finished:
        _check_parameters(parameters, version)
    return ContextAnswer(
        document=document,
        finished=finished,
        parameters=parameters if isinstance(parameters, dict) else {},
        prompt_ids=prompt_ids,
        cached_tokens=usage.cached_tokens if usage is not None else 0,
        prompt_tokens=prompt_ids.count(b",") + 1 if prompt_ids.strip(b"[] \n\t\r") else 0,
    )


def generation_request(request: CompletionRequest, answer: ContextAnswer) -> bytes:
    """Body for the decode engine: the client's request with the context engine's parameters and token ids."""
    document = {
        **_with_usage(request),
        "disaggregated_params": {**answer.parameters, "request_type": "generation_only"},
    }
    if not answer.prompt_ids:
        return compact_json(document)
    key = "prompt_token_ids" if request.endpoint is Endpoint.CHAT else "prompt"
    document.pop(key, None)
    return b"".join((compact_json(document)[:-1], f',"{key}":'.encode(), answer.prompt_ids, b"}"))


def whole_request(request: CompletionRequest) -> bytes:
    """Body for an engine that serves both phases: the client's own."""
    return compact_json(_with_usage(request))


def _with_usage(request: CompletionRequest) -> dict[str, Any]:
    """The client's request; a stream also gets its usage event, which tells exact token counts."""
    document = dict(request.document)
    if request.stream:
        document["stream_options"] = {**(document.get("stream_options") or {}), "include_usage": True}
    return document


def _check_parameters(parameters: object, version: EngineVersion) -> None:
    if not isinstance(parameters, dict):
        raise ProtocolError("a context_only answer carries disaggregated_params")
    required = ["ctx_request_id"]
    if version >= SINCE_REQUEST_ID:
        required.append("disagg_request_id")
    for name in required:
        if parameters.get(name) is None:
            raise ProtocolError(f"disaggregated_params of a context_only answer carries {name}")


def _cut_prompt_ids(body: bytes) -> tuple[bytes, bytes]:
    """The array of token ids (empty when there is none), and the body with null in its place."""
    start = _find_prompt_ids(body)
    if start < 0:
        return b"", body
    end = body.find(b"]", start) + 1
    found = body[start:end]
    if found[1:-1].translate(None, _LIST_BYTES):
        raise ProtocolError("prompt_token_ids of a context_only answer is a list of integers")
    return found, b"".join((body[:start], b"null", body[end:]))


def _find_prompt_ids(body: bytes) -> int:
    """Where the array begins; -1 when there is none."""
    position = body.find(_PROMPT_IDS)
    while position >= 0:
        value = position + len(_PROMPT_IDS)
        # A key cannot be text: inside of a JSON string each quote has a backslash before it.
        begins = None if body[position - 1 : position] == b"\\" else _LIST_BEGINS.match(body, value)
        if begins is not None:
            return begins.end() - 1
        position = body.find(_PROMPT_IDS, value)
    return -1


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(str(body, "utf-8"))
    except ValueError as error:
        raise ProtocolError(f"the answer is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ProtocolError("the answer is no JSON object")
    return document

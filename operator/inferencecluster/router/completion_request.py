"""OpenAI requests, read as far as the router needs them; everything else is the engine's to judge."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

from inferencecluster.router.errors import RequestError

TOKENS_PER_MESSAGE: Final = 4
"""Role and separators that a chat template adds to each message, in the usual templates."""
MOST_CHOICES: Final = 128
"""Answers to one prompt: OpenAI's own bound of `n`. Each takes a place in a batch."""
MOST_STRUCTURE: Final = 100_000
"""Objects, lists and fields of one body; long chats with tools have some thousands."""
_UNCHECKED_BYTES: Final = 256 << 10
"""Whatever a smaller body holds is read in some milliseconds."""
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
"""One that never ends matches, too: no byte is looked at twice."""
MOST_TOKENS: Final = 2**31 - 1
"""Of an answer: engines count in 32 bits."""


class Endpoint(StrEnum):
    """The two ways to ask for tokens; the value is the path."""

    COMPLETIONS = "/v1/completions"
    CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class PromptSize:
    """Length of one prompt: tokens as far as they are known, characters for the rest."""

    tokens: int
    characters: int = 0


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One request of a client."""

    endpoint: Endpoint
    document: Mapping[str, Any]
    """The body as the client sent it."""
    model: str
    """The name that it asks for."""
    prompts: tuple[PromptSize, ...]
    """At least one; chats have exactly one."""
    stream: bool
    wants_usage: bool
    """The client asked for the usage event at the end of the stream."""
    longest_output: int | None
    """`max_completion_tokens` or `max_tokens`; None when the client gave no (usable) limit."""
    choices: int
    """Answers per prompt."""

    @property
    def is_whole(self) -> bool:
        """The phases of several prompts or answers cannot go to different engines (TensorRT-LLM: one prompt, n=1)."""
        return self.choices > 1 or len(self.prompts) > 1


def parse_request(body: bytes, endpoint: Endpoint, *, models: Collection[str]) -> CompletionRequest:
    """Read a body; `models` are the names that are served. Raises `RequestError` that names field, value and rule."""
    document = _json_object(body)
    model = _served_model(document.get("model"), models)
    if document.get("disaggregated_params") is not None:
        raise RequestError(
            "disaggregated_params belongs to the router, which chooses the engines: remove it",
            param="disaggregated_params",
        )
    options = document.get("stream_options")
    if options is not None and not isinstance(options, Mapping):
        raise RequestError(f"stream_options is {_shown(options)}: must be an object", param="stream_options")
    if endpoint is Endpoint.CHAT:
        prompts: tuple[PromptSize, ...] = (_chat_size(document),)
    else:
        prompts = _completion_sizes(document.get("prompt"))
    return CompletionRequest(
        endpoint=endpoint,
        document=document,
        model=model,
        prompts=prompts,
        stream=_switch(document, "stream"),
        wants_usage=bool((options or {}).get("include_usage")),
        longest_output=_count(document, "max_completion_tokens") or _count(document, "max_tokens"),
        choices=max(_choices(document, "n"), _choices(document, "best_of")),
    )


def _json_object(body: bytes) -> dict[str, Any]:
    _check_structure(body)
    try:
        # Of bytes, `json` guesses the encoding first; JSON has one (RFC 8259, section 8.1).
        document = json.loads(str(body, "utf-8"))
    except (ValueError, RecursionError) as error:
        detail = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RequestError(f"the body is not JSON: {detail}", code="invalid_json") from error
    if not isinstance(document, dict):
        raise RequestError("the body must be a JSON object", code="invalid_json")
    return document


def _check_structure(body: bytes) -> None:
    """Refuse what would take the router's memory and time: a byte of JSON becomes up to a hundred bytes of objects."""
    if len(body) <= _UNCHECKED_BYTES or _structure(body) <= MOST_STRUCTURE:
        return
    # Text may hold as many braces as it likes, and is looked at only now.
    if _structure(_STRING.sub(b"", body)) > MOST_STRUCTURE:
        raise RequestError(
            f"the body has more than {MOST_STRUCTURE} JSON objects, lists and fields: send fewer",
            status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            code="request_too_complex",
        )


def _structure(body: bytes) -> int:
    return body.count(b"{") + body.count(b"[") + body.count(b":")


def _served_model(asked: object, served: Collection[str]) -> str:
    if not isinstance(asked, str):
        raise RequestError(f"model is {_shown(asked)}: must be the name of the served model", param="model")
    if asked not in served:
        raise RequestError(
            f"model {_shown(asked)} is not served here: ask for {' or '.join(served)}",
            status=404,
            param="model",
            code="model_not_found",
        )
    return asked


def _completion_sizes(prompt: object) -> tuple[PromptSize, ...]:
    if isinstance(prompt, str) and prompt:
        return (PromptSize(0, len(prompt)),)
    if isinstance(prompt, list) and prompt:
        if _are_token_ids(prompt):
            return (PromptSize(_check_token_ids(prompt, param="prompt")),)
        if all(isinstance(item, str) and item for item in prompt):
            return tuple(PromptSize(0, len(item)) for item in prompt)
        if all(isinstance(item, list) and item and _are_token_ids(item) for item in prompt):
            return tuple(PromptSize(_check_token_ids(item, param="prompt")) for item in prompt)
    raise RequestError(
        "prompt must be a non-empty string, a non-empty list of token ids, or a list of such", param="prompt"
    )


def _chat_size(document: Mapping[str, Any]) -> PromptSize:
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages must be a non-empty list", param="messages")
    identifiers = document.get("prompt_token_ids")
    if isinstance(identifiers, list) and identifiers and _are_token_ids(identifiers):
        return PromptSize(_check_token_ids(identifiers, param="prompt_token_ids"))
    characters = 0
    for position, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise RequestError(
                f"messages[{position}] is {_shown(message)}: must be an object with role and content",
                param="messages",
            )
        characters += _content_characters(message.get("content"))
    return PromptSize(TOKENS_PER_MESSAGE * len(messages), characters)


def _content_characters(content: object) -> int:
    """Characters of a message; parts that are not text (images) are the engine's to count."""
    if isinstance(content, str):
        return len(content)
    if isinstance(content, Sequence):
        return sum(_text_length(part) for part in content)
    return 0


def _text_length(part: object) -> int:
    text = part.get("text") if isinstance(part, Mapping) else None
    return len(text) if isinstance(text, str) else 0


def _are_token_ids(items: Iterable[object]) -> bool:
    # Passes in C: prompts of a hundred thousand ids are common.
    return set(map(type, items)) == {int}


def _check_token_ids(ids: Sequence[int], *, param: str) -> int:
    """How many there are. An id that cannot be would fail engine after engine, and each of them would be blamed."""
    for worst in (min(ids), max(ids)):
        if not 0 <= worst <= MOST_TOKENS:
            raise RequestError(
                f"{param} holds {_shown(worst)}: token ids are whole numbers from 0 to {MOST_TOKENS}",
                param=param,
            )
    return len(ids)


def _switch(document: Mapping[str, Any], name: str) -> bool:
    value = document.get(name)
    if value is not None and not isinstance(value, bool):
        raise RequestError(f"{name} is {_shown(value)}: must be true or false", param=name)
    return bool(value)


def _count(document: Mapping[str, Any], name: str) -> int | None:
    """A positive integer; None for anything else, which the engine refuses or not by its own rules."""
    value = document.get(name)
    if type(value) is not int or value <= 0:
        return None
    if value > MOST_TOKENS:
        raise RequestError(f"{name} is {_shown(value)}: must be at most {MOST_TOKENS}", param=name)
    return value


def _choices(document: Mapping[str, Any], name: str) -> int:
    """How many answers. Strict, unlike the rest: an engine that reads "2" as 2 would do work that nobody booked."""
    value = document.get(name)
    if value is None:
        return 1
    if type(value) is not int or not 1 <= value <= MOST_CHOICES:
        raise RequestError(
            f"{name} is {_shown(value)}: must be a whole number from 1 to {MOST_CHOICES}", param=name
        )
    return value


def _shown(value: object) -> str:
    """A value for an error message: short, and never a prompt."""
    if type(value) is int and value.bit_length() > _SHOWN_BITS:
        # Python writes out no integer of more than 4,300 digits, and takes its time for those below.
        return f"an integer of {value.bit_length()} bits"
    return repr(value)[:_SHOWN_CHARACTERS]


_SHOWN_CHARACTERS: Final = 80
_SHOWN_BITS: Final = 128

"""OpenAI requests as trtllm-serve reads them, reduced to what decides an emulated answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from emulated_engine.configuration import Configuration
from emulated_engine.errors import RequestError
from emulated_engine.kv_transfer import KvLocation
from emulated_engine.sequences import Phase

CHARACTERS_PER_TOKEN: Final = 4
"""Stands for a tokenizer: the usual rule of thumb for English text."""
TOKENS_PER_MESSAGE: Final = 4
"""Role and separators that a chat template adds to each message."""
DEFAULT_MAX_TOKENS: Final = 16
"""Of the OpenAI completions API."""
SMALLEST_DISAGG_ID: Final = 1 << 40
"""TensorRT-LLM's MIN_GLOBAL_ID: smaller ones are local to a worker."""
LARGEST_INT64: Final = (1 << 63) - 1

FIELDS_1_2: Final = frozenset(
    {"request_type", "first_gen_tokens", "ctx_request_id", "encoded_opaque_state", "draft_tokens"}
)
FIELDS_1_3: Final = FIELDS_1_2 | {
    "disagg_request_id",
    "ctx_dp_rank",
    "ctx_info_endpoint",
    "schedule_style",
    "first_gen_log_probs",
    "first_gen_logits",
    "conversation_id",
    "ctx_usage",
}
"""Fields of `disaggregated_params` by release; others are refused, as by the real model (extra="forbid")."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt: its length, and its tokens where the client sent tokens."""

    tokens: int
    sent_ids: list[int] | None = None

    def ids(self) -> list[int]:
        """Token ids; made up where the client sent text."""
        return self.sent_ids if self.sent_ids is not None else list(range(1, self.tokens + 1))


@dataclass(frozen=True, slots=True)
class Order:
    """What a request asks for."""

    phase: Phase
    is_chat: bool
    prompt: Prompt
    output_tokens: int
    """Tokens until it ends, over both phases."""
    ends_by_itself: bool
    """It ends with `stop` before max_tokens."""
    stream: bool
    include_usage: bool
    location: KvLocation | None = None
    disaggregated: Mapping[str, Any] | None = None

    @property
    def finish_reason(self) -> str:
        """OpenAI's `finish_reason` of the last token."""
        return "stop" if self.ends_by_itself else "length"


def parse_order(body: object, *, is_chat: bool, configuration: Configuration) -> Order:
    """Read a request body. Raises `RequestError` naming the field, its value and the rule."""
    if not isinstance(body, Mapping):
        raise RequestError("the request body must be a JSON object")
    if not isinstance(body.get("model"), str):
        raise RequestError(f"model is {body.get('model')!r}: must be the name of the served model")
    if body.get("n") not in (None, 1):
        raise RequestError(f"n is {body.get('n')!r}: this engine makes one choice per request")
    prompt = _chat_prompt(body) if is_chat else _completion_prompt(body.get("prompt"))
    output_tokens, ends_by_itself = _output(body, is_chat=is_chat)
    stream_options = body.get("stream_options") or {}
    if not isinstance(stream_options, Mapping):
        raise RequestError(f"stream_options is {stream_options!r}: must be an object")
    phase, parameters = _disaggregated(body.get("disaggregated_params"), configuration)
    stream = bool(body.get("stream", False))
    if phase is Phase.CONTEXT_ONLY and stream:
        raise RequestError("stream is true: a context_only request is answered in one piece, set it to false")
    return Order(
        phase=phase,
        is_chat=is_chat,
        prompt=prompt,
        output_tokens=output_tokens,
        ends_by_itself=ends_by_itself,
        stream=stream,
        include_usage=bool(stream_options.get("include_usage", False)),
        location=_location(parameters, prompt) if phase is Phase.GENERATION_ONLY else None,
        disaggregated=parameters,
    )


def _completion_prompt(value: object) -> Prompt:
    if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], int):
        value = value[0]
    if isinstance(value, str) and value:
        return Prompt(_token_count(value))
    if isinstance(value, list) and value and all(type(item) is int for item in value):
        return Prompt(len(value), value)
    raise RequestError("prompt must be a non-empty string or list of token ids; one prompt per request")


def _chat_prompt(body: Mapping[str, Any]) -> Prompt:
    if body.get("prompt_token_ids") is not None:
        return _completion_prompt(body["prompt_token_ids"])
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages must be a non-empty list")
    return Prompt(sum(TOKENS_PER_MESSAGE + _token_count(_message_text(message)) for message in messages))


def _message_text(message: object) -> str:
    if not isinstance(message, Mapping):
        raise RequestError(f"messages holds {message!r}: each message is an object with role and content")
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    raise RequestError(f"messages holds content {content!r}: must be a string or a list of parts")


def _token_count(text: str) -> int:
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def _output(body: Mapping[str, Any], *, is_chat: bool) -> tuple[int, bool]:
    """Output tokens, and whether they end by themselves before max_tokens."""
    name = (
        "max_completion_tokens" if is_chat and body.get("max_completion_tokens") is not None else "max_tokens"
    )
    longest = _positive(name, body.get(name), default=DEFAULT_MAX_TOKENS)
    shortest = _positive("min_tokens", body.get("min_tokens") or None, default=longest)
    # `ignore_eos` leaves only max_tokens to end an answer; what the client says of our own field always holds.
    natural = longest if body.get("ignore_eos") else shortest
    wanted = _positive("emulated_output_tokens", body.get("emulated_output_tokens"), default=natural)
    return min(wanted, longest), wanted < longest


def _positive(name: str, value: object, *, default: int) -> int:
    if value is None:
        return default
    if type(value) is not int or value < 1:
        raise RequestError(f"{name} is {value!r}: must be an integer of at least 1")
    return value


def _disaggregated(value: object, configuration: Configuration) -> tuple[Phase, Mapping[str, Any] | None]:
    if value is None:
        return Phase.WHOLE, None
    if not isinstance(value, Mapping):
        raise RequestError(f"disaggregated_params is {value!r}: must be an object")
    known = FIELDS_1_3 if configuration.is_1_3_or_newer else FIELDS_1_2
    if unknown := sorted(set(value) - known):
        raise RequestError(
            f"disaggregated_params.{unknown[0]}: extra inputs are not permitted by release {configuration.version}"
        )
    try:
        phase = Phase(value.get("request_type"))
    except ValueError:
        raise RequestError(
            f"disaggregated_params.request_type is {value.get('request_type')!r}: "
            f"must be one of {', '.join(option.value for option in Phase)}"
        ) from None
    if phase is not Phase.WHOLE and configuration.is_1_3_or_newer:
        identifier = value.get("disagg_request_id")
        if type(identifier) is not int or not SMALLEST_DISAGG_ID <= identifier <= LARGEST_INT64:
            raise RequestError(
                f"disaggregated_params.disagg_request_id is {identifier!r}: release {configuration.version} "
                f"needs an integer from 2^40 to 2^63 - 1, the same in both phases"
            )
    return phase, value


def _location(parameters: Mapping[str, Any] | None, prompt: Prompt) -> KvLocation:
    values = parameters or {}
    state = values.get("encoded_opaque_state")
    if (
        not isinstance(state, str)
        or values.get("ctx_request_id") is None
        or not values.get("first_gen_tokens")
    ):
        raise RequestError(
            "disaggregated_params of a generation_only request must carry encoded_opaque_state, ctx_request_id and "
            "first_gen_tokens: copy them from the context_only answer"
        )
    location = KvLocation.decode(state)
    if location.identifier != values["ctx_request_id"]:
        raise RequestError(
            f"ctx_request_id is {values['ctx_request_id']!r}, but encoded_opaque_state belongs to "
            f"{location.identifier}: copy both from the same answer"
        )
    if location.tokens != prompt.tokens:
        raise RequestError(
            f"the prompt has {prompt.tokens} tokens, but its KV cache {location.tokens}: "
            f"send the prompt_token_ids of the context_only answer as the prompt"
        )
    return location

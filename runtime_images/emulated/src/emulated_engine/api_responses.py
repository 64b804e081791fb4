"""OpenAI answers as trtllm-serve writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

WORD: Final = " la"
"""Each output token."""
FIRST_TOKEN_ID: Final = 1


def error_body(message: str, *, status: int, kind: str) -> dict[str, Any]:
    """trtllm-serve's error object."""
    return {"object": "error", "message": message, "type": kind, "param": None, "code": status}


def usage(prompt_tokens: int, completion_tokens: int, *, cached_tokens: int = 0) -> dict[str, Any]:
    """OpenAI's usage object; `cached_tokens` of the prompt were in the prefix cache."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


@dataclass(frozen=True, slots=True)
class Answer:
    """The parts that all chunks of one answer share. `created` is Unix seconds."""

    identifier: str
    created: int
    model: str
    is_chat: bool

    def whole(self, tokens: int, finish_reason: str, used: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request without `stream`."""
        text = WORD * tokens
        content = {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
        choice = {
            "index": 0,
            **content,
            "logprobs": None,
            "finish_reason": finish_reason,
            "stop_reason": None,
            "disaggregated_params": None,
        }
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": [choice], "usage": dict(used)}

    def chunk(self, tokens: int, finish_reason: str | None, *, first: bool) -> bytes:
        """A server-sent event with `tokens` more tokens."""
        text = WORD * tokens
        if self.is_chat:
            role = {"role": "assistant"} if first else {}
            content: dict[str, Any] = {"delta": {**role, "content": text}}
        else:
            content = {"text": text}
        choice = {
            "index": 0,
            **content,
            "logprobs": None,
            "finish_reason": finish_reason,
            "stop_reason": None,
        }
        return event({**self._head(self._chunk_kind), "choices": [choice]})

    def usage_chunk(self, used: Mapping[str, Any]) -> bytes:
        """The event that `stream_options.include_usage` asks for."""
        return event({**self._head(self._chunk_kind), "choices": [], "usage": dict(used)})

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.is_chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.identifier, "object": kind, "created": self.created, "model": self.model}


def event(document: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


END_OF_STREAM: Final = b"data: [DONE]\n\n"

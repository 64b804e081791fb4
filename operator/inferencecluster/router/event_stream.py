"""Server-sent events, forwarded as they come: only what has to be known is looked at.

Engines end each event with an empty line and escape line ends inside of JSON, so the two bytes at the end of an
event count events, whatever the text says; CRLF, which the standard of server-sent events allows, becomes LF. Only whole events are passed on, so that an event of the router's own
never lands in the middle of one.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from inferencecluster.router.completion_request import MOST_TOKENS

END: Final = b"\n\n"
LARGEST_EVENT_BYTES: Final = 8 << 20
"""An event carries some tokens, with log probabilities some kilobytes; whoever sends more sends no events."""
DONE_EVENT: Final = b"data: [DONE]"
_DONE_MARK: Final = b"[DONE]" + END
NO_CHOICES: Final = (b'"choices":[]', b'"choices": []')
"""The usage event, without and with blanks. Quotes inside of text are escaped, so that text cannot look like it."""
_ERROR_EVENTS: Final = (b'data: {"error"', b'data: {"object":"error"', b'data: {"object": "error"')


class OversizedEvent(ConnectionError):  # noqa: N818 - a ConnectionError, named like its siblings
    """What came is no stream of events: one of them does not end."""


class EventReader:
    """Whole events of a body, as many as have arrived."""

    __slots__ = ("_read", "_rest")

    def __init__(self, read: Callable[[], Awaitable[bytes]]) -> None:
        """`read` returns what has arrived, and nothing at the end (`StreamReader.readany`)."""
        self._read = read
        self._rest = b""

    async def next(self) -> bytes:
        """One or more whole events; empty at the end of the body, where half an event is dropped.

        Raises `OSError`, also for an event that is larger than `LARGEST_EVENT_BYTES`.
        """
        while True:
            data = await self._read()
            if not data:
                return b""
            if self._rest:
                data = self._rest + data
                self._rest = b""
            if b"\r" in data:
                # A CR at the very end waits for its LF: the data does not end an event then.
                data = data.replace(b"\r\n", b"\n")
            if data.endswith(END):
                return data
            cut = data.rfind(END) + len(END)
            if cut >= len(END):
                self._rest = data[cut:]
                return data[:cut]
            if len(data) > LARGEST_EVENT_BYTES:
                raise OversizedEvent(f"an event is larger than {LARGEST_EVENT_BYTES} bytes")
            self._rest = data


@dataclass(frozen=True, slots=True)
class Usage:
    """Exact token counts of one answer."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Prompt tokens that the engine had cached; 0 where it does not say."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Events near the end of a stream, taken apart."""

    data: bytes
    """What the client gets of them."""
    tokens: int
    """Events that carry tokens."""
    usage: Usage | None
    done: bool
    """The engine said that the answer is complete."""


def may_end(data: bytes) -> bool:
    """Whether `read_ending` has to look at these whole events; a false alarm costs time only."""
    return data.endswith(_DONE_MARK) or NO_CHOICES[0] in data or NO_CHOICES[1] in data


def read_ending(data: bytes, *, keep_usage: bool) -> Ending:
    """Take whole events apart; the usage event is dropped unless the client asked for it."""
    kept, tokens, usage, done = [], 0, None, False
    for item in data.split(END)[:-1]:
        stripped = item.strip()
        if stripped == DONE_EVENT:
            done = True
        elif NO_CHOICES[0] in item or NO_CHOICES[1] in item:
            usage = _usage_of_event(stripped) or usage
            if usage is not None and not keep_usage:
                continue
        else:
            tokens += 1
        kept.append(item + END)
    return Ending(b"".join(kept), tokens, usage, done)


def is_error(data: bytes) -> bool:
    """The last of these events is an engine's error."""
    last = data[: -len(END)].rpartition(END)[2]
    return last.startswith(_ERROR_EVENTS)


def usage_of(document: Any) -> Usage | None:
    """The usage object of an answer; None when it is absent or malformed."""
    usage = document.get("usage") if isinstance(document, dict) else None
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is not int or type(completion) is not int:
        return None
    if not (0 <= prompt <= MOST_TOKENS and 0 <= completion <= MOST_TOKENS):
        # Counters that go back, or leave what a float holds, would silence this router's /state.
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Usage(prompt, completion, min(cached, prompt) if type(cached) is int and cached > 0 else 0)


def _usage_of_event(item: bytes) -> Usage | None:
    try:
        return usage_of(json.loads(item.removeprefix(b"data:")))
    except ValueError:
        return None

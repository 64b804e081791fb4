"""An engine that costs almost nothing: TensorRT-LLM's answers from constants, over a bare asyncio protocol.

    python -m benches.router.engine --port 9000 [--chunk-milliseconds 20]

It answers `context_only` at once, and streams `max_tokens` chunks, one per interval for all streams together.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import re
from typing import Final, cast

import uvloop

PROMPT_TOKENS: Final = 1155
"""Mean prompt of the Azure conversation trace 2023; the ids travel to the decode engine as in reality."""

_LENGTH: Final = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
_MAX_TOKENS: Final = re.compile(rb'"max_tokens": *([0-9]+)')
_STREAMS: Final = re.compile(rb'"stream": *true')
_IDENTIFIER: Final = re.compile(rb'"disagg_request_id": *([0-9]+)')


def message_length(received: bytes) -> int:
    """Bytes of the HTTP message that `received` begins with, head and body; 0 while its head is not complete."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return 0
    length = _LENGTH.search(received, 0, end)
    return end + 4 + (int(length[1]) if length else 0)


def _json_answer(document: object) -> bytes:
    body = json.dumps(document, separators=(",", ":")).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _http_chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _event(text: str, finish_reason: str | None) -> bytes:
    choice = {
        "index": 0,
        "text": text,
        "logprobs": None,
        "finish_reason": finish_reason,
        "stop_reason": None,
    }
    document = {
        "id": "cmpl-0123456789abcdef0123456789abcdef",
        "object": "text_completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def _usage(tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": tokens,
        "total_tokens": PROMPT_TOKENS + tokens,
    }


def _last_chunks(tokens: int) -> bytes:
    usage = {
        "id": "cmpl-0",
        "object": "text_completion",
        "created": 1,
        "model": "m",
        "choices": [],
        "usage": _usage(tokens),
    }
    events = (
        _event(" la", "length"),
        b"data: " + json.dumps(usage, separators=(",", ":")).encode() + b"\n\n",
        b"data: [DONE]\n\n",
    )
    return b"".join(map(_http_chunk, events)) + b"0\r\n\r\n"


def _context_answer(identifier: bytes) -> bytes:
    parameters = {
        "request_type": "context_only",
        "first_gen_tokens": [1],
        "ctx_request_id": 7,
        "encoded_opaque_state": "c3RhdGU=" * 16,
        "draft_tokens": None,
    }
    if identifier:
        parameters["disagg_request_id"] = int(identifier)
    choice = {
        "index": 0,
        "text": " la",
        "logprobs": None,
        "finish_reason": "length",
        "stop_reason": None,
        "disaggregated_params": parameters,
    }
    return _json_answer(
        {
            "id": "cmpl-0",
            "object": "text_completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
            "usage": _usage(1),
            "prompt_token_ids": list(range(100_000, 100_000 + PROMPT_TOKENS)),
        }
    )


STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
CHUNK: Final = _http_chunk(_event(" la", None))


class Streams:
    """All open streams; one tick writes one chunk to each."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval = interval_seconds
        self._left: dict[Engine, int] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.call_later(self._interval, self._tick)

    def start(self, engine: Engine, tokens: int) -> None:
        """First chunk at once, the others one per tick."""
        if tokens == 1:
            engine.write(STREAM_HEAD + _last_chunks(tokens))
            return
        engine.write(STREAM_HEAD + CHUNK)
        self._left[engine] = tokens - 1

    def stop(self, engine: Engine) -> None:
        """The connection is gone."""
        self._left.pop(engine, None)

    def _tick(self) -> None:
        self._loop.call_later(self._interval, self._tick)
        for engine, left in list(self._left.items()):
            if left == 1:
                del self._left[engine]
                engine.write(_last_chunks(engine.tokens))
            else:
                self._left[engine] = left - 1
                engine.write(CHUNK)


class Engine(asyncio.Protocol):
    """One connection."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self.tokens = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports speak asyncio's protocol without inheriting from its classes.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        """Stop the stream."""
        self._transport = None
        self._streams.stop(self)

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._received += data
        while True:
            total = message_length(self._received)
            if not total or len(self._received) < total:
                return
            message, self._received = self._received[:total], self._received[total:]
            self._answer(message)

    def write(self, data: bytes) -> None:
        """To the router, while it is there."""
        if self._transport is not None:
            self._transport.write(data)

    def _answer(self, message: bytes) -> None:
        if b'"context_only"' in message:
            identifier = _IDENTIFIER.search(message)
            self.write(_context_answer(identifier[1]) if identifier else _CONTEXT_ANSWER)
            return
        found = _MAX_TOKENS.search(message)
        self.tokens = int(found[1]) if found else 16
        if _STREAMS.search(message):
            self._streams.start(self, self.tokens)
            return
        choice = {"index": 0, "text": " la", "logprobs": None, "finish_reason": "length"}
        self.write(_json_answer({"id": "cmpl-0", "choices": [choice], "usage": _usage(self.tokens)}))


_CONTEXT_ANSWER: Final = _context_answer(b"")


async def serve(port: int, interval_seconds: float) -> None:
    """Serve until the process is stopped."""
    streams = Streams(interval_seconds)
    server = await asyncio.get_running_loop().create_server(lambda: Engine(streams), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--chunk-milliseconds", type=float, default=20.0)
    options = parser.parse_args()
    # Pauses of the stand-in would count as the router's; it leaves no cycles behind.
    gc.disable()
    uvloop.run(serve(options.port, options.chunk_milliseconds / 1000))


if __name__ == "__main__":
    main()

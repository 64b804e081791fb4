"""How a stream reaches the client: few packets, since each is a system call here and a wake-up there."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast
from unittest.mock import Mock

import pytest
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from aiohttp.test_utils import make_mocked_request
from tests.router.test_router_ledger import RECORD

from inferencecluster.core.routing import Whole
from inferencecluster.router.answers import STREAM_HEADERS
from inferencecluster.router.connections import EngineConnection
from inferencecluster.router.engine_client import EngineStream
from inferencecluster.router.errors import ClientGone
from inferencecluster.router.event_stream import EventReader
from inferencecluster.router.ledger import Ledger
from inferencecluster.router.relay import Meter, Relay, RelayEnd
from inferencecluster.router.token_phase import EventStreamResponse
from inferencecluster.router.traffic import ITL_BOUNDS, Histogram

TOKEN = b'data: {"choices":[{"text":"a"}]}\n\n'
DONE = b"data: [DONE]\n\n"


class Recorder(AbstractStreamWriter):
    """Keeps what is written, and how; fails from the write numbered `gone` on."""

    def __init__(self, gone: int | None = None) -> None:
        self.calls: list[tuple[str, bytes]] = []
        self._gone = gone

    async def write(self, chunk: Any) -> None:
        self._record("write", chunk)

    async def write_eof(self, chunk: bytes = b"") -> None:
        self._record("end", chunk)

    def _record(self, name: str, chunk: bytes) -> None:
        if len(self.calls) == self._gone:
            raise ConnectionResetError
        self.calls.append((name, chunk))

    async def drain(self) -> None: ...

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None: ...

    def enable_chunking(self) -> None: ...

    async def write_headers(self, status_line: str, headers: Any) -> None: ...


class Connection:
    """An engine's connection as far as a relay needs one."""

    def __init__(self, *pieces: bytes, drained: bool) -> None:
        self._pieces = list(pieces)
        self._drained = drained

    @property
    def drained(self) -> bool:
        return self._drained and not self._pieces

    async def read(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


async def relayed(client: Recorder, first: bytes, *pieces: bytes, drained: bool) -> RelayEnd:
    ledger = Ledger(asyncio.get_running_loop())
    ledger.update(None, RECORD)
    assignment = ledger.assign(Whole("p0", borrowed=True), prompt_tokens=1, output_tokens=1)
    connection = Connection(*pieces, drained=drained)
    upstream = EngineStream(
        first, EventReader(connection.read), cast("EngineConnection", connection), lambda: None
    )
    meter = Meter(time.monotonic, Histogram(ITL_BOUNDS), 1.0)
    return await Relay(upstream, assignment, meter, keep_usage=False, downstream=None).run(client)


@pytest.mark.parametrize(
    ("pieces", "drained", "expected"),
    [
        pytest.param([TOKEN + DONE], True, [("end", TOKEN + DONE)], id="all at once"),
        pytest.param([TOKEN, DONE], True, [("write", TOKEN), ("end", DONE)], id="the end by itself"),
        pytest.param([TOKEN, DONE], False, [("write", TOKEN), ("write", DONE)], id="the body goes on"),
        pytest.param([TOKEN], True, [("write", TOKEN)], id="cut short"),
        pytest.param(
            [TOKEN, b'data: {"choices":[],"usage":null}\n\n', DONE],
            True,
            [("write", TOKEN), ("write", b'data: {"choices":[],"usage":null}\n\n'), ("end", DONE)],
            id="a usage event without usage",
        ),
    ],
)
async def test_the_last_events_leave_with_the_end_of_the_body(
    pieces: list[bytes], drained: bool, expected: list[tuple[str, bytes]]
) -> None:
    client = Recorder()

    end = await relayed(client, *pieces, drained=drained)

    assert client.calls == expected
    assert end.complete == (DONE in pieces[-1])
    assert end.events == 1


@pytest.mark.parametrize("gone", [0, 1], ids=["at the first event", "at the end"])
async def test_a_client_that_is_gone_is_noticed_at_any_write(gone: int) -> None:
    with pytest.raises(ClientGone):
        await relayed(Recorder(gone), TOKEN, DONE, drained=True)


async def test_the_head_of_a_stream_leaves_with_its_first_event() -> None:
    transport = Mock()
    transport.is_closing.return_value = False
    protocol = Mock(transport=transport, _paused=False)
    writer = StreamWriter(protocol, asyncio.get_running_loop())
    client = EventStreamResponse(headers=STREAM_HEADERS)

    await client.prepare(make_mocked_request("POST", "/", writer=writer))
    before = transport.write.call_count
    await writer.write(TOKEN)

    (packet,) = [call.args[0] for call in transport.write.call_args_list]
    assert before == 0
    assert packet.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream")
    assert packet.endswith(TOKEN + b"\r\n")

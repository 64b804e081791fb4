"""The least that a process between client and engine can do: the floor under the router's latency on a machine.

    python -m benches.router.relay --port 9001 --engine-port 9000

It makes the router's two calls with constant bodies and passes the second answer on as it comes, over bare asyncio
protocols: no JSON, no routing, no limits. What it adds are passages through sockets, and wake-ups across cores.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
from typing import Final, cast

import uvloop

from benches.router.client import context_call, generation_call
from benches.router.engine import message_length

_CONTEXT: Final = context_call(1)
_GENERATION: Final = generation_call(1)


class Upstream(asyncio.Protocol):
    """A connection to the engine, for one connection of the client."""

    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._prefilling = False
        self._context = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client has asked already."""
        self._transport = cast("asyncio.Transport", transport)
        self.ask()

    def data_received(self, data: bytes) -> None:
        """Await the whole first answer, pass on the second."""
        if not self._prefilling:
            self._client.write(data)
            return
        self._context += data
        length = message_length(self._context)
        if length and len(self._context) >= length:
            self._prefilling = False
            self._write(_GENERATION)

    def ask(self) -> None:
        """Make the first call."""
        self._prefilling, self._context = True, b""
        self._write(_CONTEXT)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


class Downstream(asyncio.Protocol):
    """A connection of the client."""

    def __init__(self, engine_port: int) -> None:
        self._engine_port = engine_port
        self._transport: asyncio.Transport | None = None
        self._upstream: Upstream | None = None
        self._connecting: asyncio.Task[object] | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Ask the engine once a request is complete."""
        self._received += data
        length = message_length(self._received)
        if not length or len(self._received) < length:
            return
        self._received = self._received[length:]
        if self._upstream is not None:
            self._upstream.ask()
        elif self._transport is not None:
            upstream = self._upstream = Upstream(self._transport)
            loop = asyncio.get_running_loop()
            self._connecting = loop.create_task(
                loop.create_connection(lambda: upstream, "127.0.0.1", self._engine_port)
            )


async def serve(port: int, engine_port: int) -> None:
    """Serve until the process is stopped."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Downstream(engine_port), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--engine-port", type=int, required=True)
    options = parser.parse_args()
    # Pauses would belong to Python, not to the machine; it leaves no cycles behind.
    gc.disable()
    uvloop.run(serve(options.port, options.engine_port))


if __name__ == "__main__":
    main()

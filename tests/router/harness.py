"""A router in this process, over real HTTP, with a fleet and settings that tests change."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
from tests.router.scripted_engine import ScriptedEngine

from inferencecluster.adapters.clock import SystemClock
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.routing import RoutingPolicy
from inferencecluster.render.trtllm.versions import parse_version
from inferencecluster.router.configuration import read_configuration
from inferencecluster.router.process import Ports, RouterProcess, Sources
from inferencecluster.router.sources import (
    ReplicaListener,
    ReplicaRecord,
    RouterSettings,
    SettingsListener,
)

SETTINGS = RouterSettings(
    model="served",
    engine_version=parse_version("1.2.1"),
    routing=RoutingPolicy.alike(8192),
    max_queue_seconds=30.0,
    ttft_seconds=30.0,
    kv_transfer_timeout_seconds=60.0,
)

ENVIRONMENT = {
    "IC_ROUTER_PORT": "0",
    "IC_NOTICE_SECONDS": "0",
    "IC_CLUSTER": "c",
    "IC_NAMESPACE": "n",
}
PAIR = {"p0": "prefill", "d0": "decode"}


class MemoryFleet:
    """`FleetSource` that a test changes."""

    def __init__(self) -> None:
        self.listed = True
        self.synced = True
        self.records: dict[str, ReplicaRecord] = {}
        self._listener: ReplicaListener | None = None

    async def run(self, listener: ReplicaListener) -> None:
        self._listener = listener
        for record in self.records.values():
            listener(None, record)
        await asyncio.Event().wait()

    def put(self, record: ReplicaRecord) -> None:
        before = self.records.get(record.name)
        self.records[record.name] = record
        if self._listener is not None:
            self._listener(before, record)

    def change(self, name: str, **fields: Any) -> None:
        self.put(replace(self.records[name], **fields))

    def remove(self, name: str) -> None:
        before = self.records.pop(name)
        if self._listener is not None:
            self._listener(before, None)


class MemorySettings:
    """`SettingsSource` that a test changes."""

    def __init__(self, settings: RouterSettings | None) -> None:
        self._settings = settings
        self._listener: SettingsListener | None = None

    async def run(self, listener: SettingsListener) -> None:
        self._listener = listener
        if self._settings is not None:
            listener(self._settings)
        await asyncio.Event().wait()

    def put(self, settings: RouterSettings) -> None:
        self._settings = settings
        if self._listener is not None:
            self._listener(settings)


@dataclass(slots=True)
class Reply:
    """A whole answer, streamed or not."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The stream's events; `[DONE]` as that text."""
        found = []
        for item in self.body.split(b"\n\n"):
            if item:
                data = item.removeprefix(b"data: ")
                found.append("[DONE]" if data == b"[DONE]" else json.loads(data))
        return found


@dataclass(slots=True)
class RouterUnderTest:
    """A running router and its client."""

    fleet: MemoryFleet
    settings: MemorySettings
    process: RouterProcess
    client: aiohttp.ClientSession
    admin: aiohttp.ClientSession
    """/state and /metrics."""
    ports: Ports
    engines: dict[str, ScriptedEngine] = field(default_factory=dict)

    async def complete(self, path: str = "/v1/completions", **fields: Any) -> Reply:
        """POST a completion (or chat) and read everything."""
        async with self.client.post(path, json=request_document(path, **fields)) as response:
            return Reply(response.status, dict(response.headers), await response.read())

    async def get(self, path: str) -> Reply:
        """From the port that serves it."""
        session = self.admin if path.partition("?")[0] in ("/state", "/metrics") else self.client
        async with session.get(path) as response:
            return Reply(response.status, dict(response.headers), await response.read())

    async def state(self) -> Any:
        return (await self.get("/state")).document

    async def replica(self, name: str) -> Any:
        """One replica of `/state`."""
        found = [entry for entry in (await self.state())["replicas"] if entry["name"] == name]
        assert found, f"{name} is not in /state"
        return found[0]


def request_document(path: str = "/v1/completions", **fields: Any) -> dict[str, Any]:
    """A request of 5 tokens for 16."""
    prompt = (
        {"messages": [{"role": "user", "content": "hello"}]}
        if "chat" in path
        else {"prompt": [1, 2, 3, 4, 5]}
    )
    return {"model": "served", "max_tokens": 16, **prompt, **fields}


async def eventually(check: Callable[[], Any], *, seconds: float = 5.0) -> None:
    """Wait until `check`, plain or async, holds."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, f"it never came true: {check}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def running_router(
    pools: dict[str, str],
    *,
    settings: RouterSettings | None = SETTINGS,
    environment: dict[str, str] | None = None,
    **fields: Any,
) -> AsyncIterator[RouterUnderTest]:
    """A router over one scripted engine per entry of `pools` (name -> pool); `fields` of every replica's record."""
    async with AsyncExitStack() as stack:
        fleet = MemoryFleet()
        engines = {}
        for name, pool in pools.items():
            engines[name] = await stack.enter_async_context(ScriptedEngine(name))
            record = ReplicaRecord(
                name=name,
                uid=f"uid-{name}",
                home=PoolName(pool),
                revision="r1",
                url=engines[name].url,
                ready=True,
                fenced=False,
                kv_capacity_tokens=10_000,
                max_batch_size=64,
            )
            fleet.put(replace(record, **fields))
        memory_settings = MemorySettings(settings)
        process = RouterProcess(
            read_configuration({**ENVIRONMENT, **(environment or {})}),
            Sources(fleet, memory_settings),
            SystemClock(),
            stopwatch=time.monotonic,
        )
        ports = await stack.enter_async_context(process.serving(host="127.0.0.1"))
        client, admin = [
            await stack.enter_async_context(
                aiohttp.ClientSession(
                    base_url=f"http://127.0.0.1:{port}", connector=aiohttp.TCPConnector(force_close=True)
                )
            )
            for port in (ports.client, ports.admin)
        ]
        router = RouterUnderTest(fleet, memory_settings, process, client, admin, ports, engines)
        if settings is not None:
            await eventually(lambda: process.standing.settings is not None)
        yield router

"""The KV cache's way from the context engine, which holds it, to the generation engine, which fetches it.

The opaque state of a `context_only` answer says where the cache lies. The generation engine asks for it over HTTP;
the context engine answers when its link has carried the bytes, and then frees the memory. No bytes travel: only the
request, the answer and the time are real. Each engine's link carries one cache after the other, so transfers that
meet on either side wait for each other.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

import aiohttp

from emulated_engine.engine import Engine
from emulated_engine.errors import KvTransferError, RequestError
from emulated_engine.sequences import Sequence

PULL_PATH: Final = "/v1/internal/kv/{identifier}/pull"


@dataclass(frozen=True, slots=True)
class KvLocation:
    """Where a KV cache lies; the content of `encoded_opaque_state`."""

    url: str
    """Of the context engine, without a path."""
    identifier: int
    """The context engine's `ctx_request_id`."""
    tokens: int
    engine: str
    """Model and version of the context engine; the generation engine must be the same."""

    def encode(self) -> str:
        """As base64, like the real state."""
        return base64.b64encode(json.dumps(asdict(self)).encode()).decode()

    @classmethod
    def decode(cls, text: str) -> KvLocation:
        """Raises `RequestError` for a state that no emulated context engine made."""
        try:
            values = json.loads(base64.b64decode(text, validate=True))
            return cls(
                url=str(values["url"]),
                identifier=int(values["identifier"]),
                tokens=int(values["tokens"]),
                engine=str(values["engine"]),
            )
        except (binascii.Error, ValueError, KeyError, TypeError) as error:
            raise RequestError(
                "encoded_opaque_state cannot be read: copy it unchanged from the context_only answer"
            ) from error


class Link:
    """A network link that carries one transfer after the other at `bytes_per_second`."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._free_at = 0.0

    def reserve(self, size: float, now: float) -> float:
        """When `size` bytes that start to wait at `now` are through."""
        self._free_at = max(now, self._free_at) + size / self._bytes_per_second
        return self._free_at


@dataclass(slots=True)
class _Held:
    sequence: Sequence
    expiry: asyncio.TimerHandle


class HeldCaches:
    """The context engine's side: caches that wait to be fetched, each freed after a timeout."""

    def __init__(self, release: Callable[[Sequence], None], *, timeout_seconds: float) -> None:
        self._release = release
        self._timeout_seconds = timeout_seconds
        self._held: dict[int, _Held] = {}
        self.expired_total = 0
        """Caches that nobody fetched in time."""

    def hold(self, identifier: int, sequence: Sequence) -> None:
        """Keep the cache of `sequence` until it is fetched or the timeout ends."""
        expiry = asyncio.get_running_loop().call_later(self._timeout_seconds, self._expire, identifier)
        self._held[identifier] = _Held(sequence, expiry)

    def take(self, identifier: int) -> Sequence:
        """Begin a transfer: the cache no longer expires and cannot be taken twice. Raises `RequestError` (404)."""
        held = self._held.pop(identifier, None)
        if held is None:
            raise RequestError(
                f"no KV cache {identifier} is held: it was fetched already, or not within "
                f"{self._timeout_seconds:g} s",
                status=404,
                kind="NotFoundError",
            )
        held.expiry.cancel()
        return held.sequence

    def _expire(self, identifier: int) -> None:
        self.expired_total += 1
        self._release(self._held.pop(identifier).sequence)


class KvPuller:
    """The generation engine's side: fetches the caches of admitted sequences."""

    def __init__(
        self, clock: Callable[[], float], *, bytes_per_token: int, link: Link, timeout_seconds: float
    ) -> None:
        self._clock = clock
        self._bytes_per_token = bytes_per_token
        self._link = link
        self._timeout_seconds = timeout_seconds
        self._locations: dict[Sequence, KvLocation] = {}
        self._tasks: dict[Sequence, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._engine: Engine | None = None

    def attach(self, engine: Engine) -> None:
        """The engine to tell of arrived caches; engine and puller know each other."""
        self._engine = engine

    def expect(self, sequence: Sequence, location: KvLocation) -> None:
        """The cache of `sequence` lies at `location`: to be fetched once there is room for it."""
        self._locations[sequence] = location

    def start(self, sequence: Sequence) -> None:
        """Begin to fetch."""
        self._tasks[sequence] = asyncio.get_running_loop().create_task(self._fetch(sequence))

    def forget(self, sequence: Sequence) -> None:
        """The request is over: a fetch under way is given up."""
        self._locations.pop(sequence, None)
        task = self._tasks.pop(sequence, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Close the connections to context engines."""
        if self._session is not None:
            await self._session.close()

    async def _fetch(self, sequence: Sequence) -> None:
        assert self._engine is not None  # noqa: S101  -- attached before the first request
        location = self._locations[sequence]
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._pull(location)
        except KvTransferError as error:
            self._engine.fail(sequence, error)
        except TimeoutError:
            self._engine.fail(
                sequence,
                KvTransferError(f"KV transfer from {location.url} took over {self._timeout_seconds:g} s"),
            )
        else:
            self._engine.transfer_done(sequence)

    async def _pull(self, location: KvLocation) -> None:
        arrives_at = self._link.reserve(location.tokens * self._bytes_per_token, self._clock())
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        url = location.url + PULL_PATH.format(identifier=location.identifier)
        try:
            async with self._session.post(url) as response:
                if response.status != 200:
                    text = (await response.text())[:300]
                    raise KvTransferError(f"KV transfer refused by {location.url}: {response.status} {text}")
        except aiohttp.ClientError as error:
            raise KvTransferError(f"KV transfer from {location.url} failed: {error}") from error
        left = arrives_at - self._clock()
        if left > 0:
            await asyncio.sleep(left)

"""Replicas and settings from a file, for benchmarks, tests and engines outside Kubernetes.

{"model": "llama", "engineVersion": "1.2.1", "overflowTokens": 8192, "maxQueueSeconds": 30, "ttftMilliseconds": 1000,
 "replicas": [{"name": "p0", "pool": "prefill", "url": "http://127.0.0.1:9000", "kvCapacityTokens": 500000}]}
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.routing import RoutingPolicy
from inferencecluster.render.trtllm.versions import parse_version
from inferencecluster.router.sources import (
    ReplicaListener,
    ReplicaRecord,
    RouterSettings,
    SettingsListener,
)

_LOOK_SECONDS: Final = 0.5
"""Between two looks at the file's time; a person who edits it does not notice half a second."""

_logger: Final = logging.getLogger(__name__)


_Tokens = Annotated[int, Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class StaticReplica(_Model):
    """One engine of the file."""

    name: str
    pool: PoolName
    url: Annotated[str, Field(pattern=r"^http://[^/]+$")]
    revision: str = "static"
    ready: bool = True
    fenced: bool = False
    kv_capacity_tokens: Annotated[int, Field(ge=1)] = 1_000_000
    max_batch_size: Annotated[int, Field(ge=1)] = 256

    def record(self) -> ReplicaRecord:
        """As the router keeps it; the name is its identity."""
        return ReplicaRecord(
            name=self.name,
            uid=self.name,
            home=self.pool,
            revision=self.revision,
            url=self.url,
            ready=self.ready,
            fenced=self.fenced,
            kv_capacity_tokens=self.kv_capacity_tokens,
            max_batch_size=self.max_batch_size,
        )


class StaticQueues(_Model):
    """Prompt tokens above which a replica's queue is too long, by its pool."""

    prefill: _Tokens
    decode: _Tokens
    mixed: _Tokens

    def by_pool(self) -> dict[PoolName, int]:
        """As routing asks for them."""
        return {PoolName.PREFILL: self.prefill, PoolName.DECODE: self.decode, PoolName.MIXED: self.mixed}


def _of_every_pool(tokens: object) -> object:
    """One number counts for all pools."""
    return tokens if isinstance(tokens, dict | StaticQueues) else dict.fromkeys(PoolName, tokens)


class StaticFleetFile(_Model):
    """The whole file."""

    model: str
    engine_version: str = "1.2.1"
    overflow_tokens: Annotated[StaticQueues, BeforeValidator(_of_every_pool)] = StaticQueues(
        prefill=8192, decode=8192, mixed=8192
    )
    """One number for all pools, or one for each of them."""
    keeps_streams: bool = False
    """Decode replicas with streams are not borrowed (`RoutingPolicy`)."""
    max_queue_seconds: Annotated[float, Field(gt=0)] = 30.0
    ttft_milliseconds: Annotated[int, Field(ge=1)] = 60_000
    """Nobody is late before the default of `max_queue_seconds`: requests are served in the order in which they came."""
    kv_transfer_timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    replicas: tuple[StaticReplica, ...] = ()

    def settings(self) -> RouterSettings:
        """The part that is the cluster's. Raises `SpecError` for a malformed version."""
        return RouterSettings(
            model=self.model,
            engine_version=parse_version(self.engine_version),
            routing=RoutingPolicy(self.overflow_tokens.by_pool(), self.keeps_streams),
            max_queue_seconds=self.max_queue_seconds,
            ttft_seconds=self.ttft_milliseconds / 1000,
            kv_transfer_timeout_seconds=self.kv_transfer_timeout_seconds,
        )


def read_fleet_file(path: Path) -> StaticFleetFile:
    """The file's content. Raises `SpecError`."""
    try:
        found = StaticFleetFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SpecError(
            field="--static-fleet",
            value=path,
            rule=f"it cannot be read ({error.strerror})",
            advice="name a file",
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SpecError(
            field=f"{path}: {where}", value=repr(first["input"]), rule=first["msg"], advice="correct it"
        ) from error
    found.settings()
    return found


class StaticSource:
    """`FleetSource` and `SettingsSource` over one file, which is read again when it changes."""

    def __init__(self, path: Path) -> None:
        """Raises `SpecError` when the file cannot be used."""
        self._path = path
        self._modified = _modified(path)
        self._content = read_fleet_file(path)
        self.fleet = _StaticFleet(self)
        self.settings = _StaticSettings(self)

    @property
    def content(self) -> StaticFleetFile:
        """What the file held when it was last in order."""
        return self._content

    async def changed(self, known: StaticFleetFile) -> StaticFleetFile:
        """The file's content once it is another than `known`."""
        while self._content == known:
            await asyncio.sleep(_LOOK_SECONDS)
            self._look()
        return self._content

    def _look(self) -> None:
        modified = _modified(self._path)
        if modified == self._modified:
            return
        self._modified = modified
        try:
            self._content = read_fleet_file(self._path)
        except SpecError as error:
            _logger.warning("fleet file is not in order, the last one stays", extra={"error": str(error)})


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


class _StaticFleet:
    listed = True
    synced = True

    def __init__(self, source: StaticSource) -> None:
        self._source = source

    async def run(self, listener: ReplicaListener) -> None:
        known: dict[str, ReplicaRecord] = {}
        content = self._source.content
        while True:
            found = {replica.name: replica.record() for replica in content.replicas}
            for name in sorted(known.keys() | found.keys()):
                if known.get(name) != found.get(name):
                    listener(known.get(name), found.get(name))
            known = found
            content = await self._source.changed(content)


class _StaticSettings:
    def __init__(self, source: StaticSource) -> None:
        self._source = source

    async def run(self, listener: SettingsListener) -> None:
        content = self._source.content
        while True:
            listener(content.settings())
            content = await self._source.changed(content)

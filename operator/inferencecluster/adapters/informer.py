"""A narrow informer: the projected objects of one selection, kept current by a paged list and a watch.

It keeps only what `project` returns, which is what makes 10,000 Pods fit; the whole objects are never held.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from inferencecluster.adapters.clock import Backoff, Clock, SystemClock
from inferencecluster.adapters.kube import KubeClient, Selection
from inferencecluster.adapters.kube_errors import Throttled, VersionExpired
from inferencecluster.adapters.kube_resources import Manifest, Resource
from inferencecluster.core.errors import ApplyError, ObservationError

T = TypeVar("T")

FIRST_RETRY_SECONDS: Final = 0.5
LONGEST_RETRY_SECONDS: Final = 30.0
"""After an outage of the API server everything is current again within half a minute."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """Namespace (empty for cluster-scoped kinds) and name."""

    namespace: str
    name: str


Listener = Callable[[T | None, T | None], None]
"""Called with the projections before and after a change; None where the object did not or does not exist."""


class Informer(Generic[T]):
    """Keeps `items` current while `run` runs. `project` may return None for objects that do not matter."""

    def __init__(  # noqa: PLR0913 - the selectors of a Kubernetes list, by their own names
        self,
        client: KubeClient,
        resource: Resource,
        project: Callable[[Manifest], T | None],
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        on_change: Listener[T] | None = None,
        clock: Clock | None = None,
        seed: int | None = None,
    ) -> None:
        """`on_change` is called on the event loop and must not block; `seed` makes the retry times repeatable."""
        self._client = client
        self._selection = Selection(resource, namespace, label_selector, field_selector)
        self._project = project
        self._on_change = on_change
        self._clock = clock or SystemClock()
        self._backoff = Backoff(
            first=FIRST_RETRY_SECONDS,
            longest=LONGEST_RETRY_SECONDS,
            jitter=random.Random(seed),  # noqa: S311 - spreads retries, protects nothing
        )
        self._items: dict[ObjectKey, T] = {}
        self._listed = asyncio.Event()
        self._streaming = False
        self._resource_version = ""

    @property
    def items(self) -> Mapping[ObjectKey, T]:
        """A live view of the projections; it is empty until `listed`."""
        return MappingProxyType(self._items)

    @property
    def listed(self) -> bool:
        """The first complete list has arrived: absence means absence, though it may be old."""
        return self._listed.is_set()

    @property
    def synced(self) -> bool:
        """Listed, and connected to the watch: `items` lags by no more than the network."""
        return self._listed.is_set() and self._streaming

    async def wait_listed(self) -> None:
        """Return once `listed`."""
        await self._listed.wait()

    async def run(self) -> None:
        """List and watch until cancelled; every failure of the API server is survived."""
        while True:
            wait = 0.0
            try:
                if not self._resource_version:
                    await self._list()
                if not await self._watch():
                    # A stream that ends without an event may end again at once: never spin.
                    wait = FIRST_RETRY_SECONDS
            except VersionExpired:
                # The items stay as they are until the new list replaces them: old is better than empty.
                self._streaming = False
                self._resource_version = ""
                wait = self._backoff.fail()
                _logger.info("resource version expired, listing again", extra=self._about())
            except (ObservationError, ApplyError) as error:
                self._streaming = False
                wait = self._backoff.fail(error.retry_after_seconds if isinstance(error, Throttled) else 0.0)
                _logger.warning(
                    "watch failed, retrying",
                    extra=self._about() | {"error": str(error), "retry_seconds": wait},
                )
            await self._clock.sleep(wait)

    async def _list(self) -> None:
        """Replace all items by a complete list."""
        found: dict[ObjectKey, T] = {}
        token = ""
        while True:
            page = await self._client.list_page(self._selection, continue_token=token)
            for manifest in page.items:
                projected = self._project(manifest)
                if projected is not None:
                    found[_key(manifest)] = projected
            token = page.continue_token
            if not token:
                break
        for key in [key for key in self._items if key not in found]:
            self._set(key, None)
        for key, projected in found.items():
            self._set(key, projected)
        self._resource_version = page.resource_version
        self._listed.set()

    async def _watch(self) -> int:
        """Follow changes until the server ends the stream; the number of events it brought."""
        count = 0
        async with self._client.watch(self._selection, resource_version=self._resource_version) as events:
            self._streaming = True
            async for event in events:
                count += 1
                # Only a change proves that the stream works: a proxy may accept it and end it at once.
                self._backoff.succeed()
                self._resource_version = event.object["metadata"]["resourceVersion"]
                if event.type in ("ADDED", "MODIFIED"):
                    self._set(_key(event.object), self._project(event.object))
                elif event.type == "DELETED":
                    self._set(_key(event.object), None)
        return count

    def _set(self, key: ObjectKey, after: T | None) -> None:
        before = self._items.get(key)
        if before == after:
            return
        if after is None:
            del self._items[key]
        else:
            self._items[key] = after
        if self._on_change is not None:
            self._on_change(before, after)

    def _about(self) -> dict[str, object]:
        return {
            "resource": self._selection.resource.plural,
            "watched_namespace": self._selection.namespace or "*",
        }


def all_listed(informers: Iterable[Informer[T]]) -> bool:
    """Every one of `informers` has its first list."""
    return all(informer.listed for informer in informers)


def _key(manifest: Manifest) -> ObjectKey:
    metadata = manifest["metadata"]
    return ObjectKey(metadata.get("namespace", ""), metadata["name"])

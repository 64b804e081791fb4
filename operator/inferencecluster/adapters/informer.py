"""A narrow informer: the projected objects of one selection, kept current by a paged list and a watch.

It keeps only what `project` returns, which is what makes 10,000 Pods fit; the whole objects are never held.

A watch may lag by as long as a dead connection stays unnoticed. Whoever writes therefore hands the answers in (`take`,
`take_deletion`): of two views of an object the one with the newer resource version stays, wherever it came from.

An object that `project` cannot read, by a defect of ours or because somebody made it odd, must not end the watch of all
others: `_projected` and `_tell` are boundaries that log it and go on with what was known before.
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
from inferencecluster.adapters.kube import KubeClient, Selection, WatchEvent
from inferencecluster.adapters.kube_errors import Throttled, VersionExpired
from inferencecluster.adapters.kube_resources import Manifest
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

    def __init__(  # noqa: PLR0913 - `clock` and `seed` are what time and chance are to others
        self,
        client: KubeClient,
        selection: Selection,
        project: Callable[[Manifest], T | None],
        *,
        on_change: Listener[T] | None = None,
        clock: Clock | None = None,
        seed: int | None = None,
    ) -> None:
        """`on_change` is called on the event loop and must not block; `seed` makes the retry times repeatable."""
        self._client = client
        self._selection = selection
        self._project = project
        self._on_change = on_change
        self._clock = clock or SystemClock()
        self._backoff = Backoff(
            first=FIRST_RETRY_SECONDS,
            longest=LONGEST_RETRY_SECONDS,
            jitter=random.Random(seed),  # noqa: S311 - spreads retries, protects nothing
        )
        self._items: dict[ObjectKey, T] = {}
        self._versions: dict[ObjectKey, str] = {}
        self._listed = asyncio.Event()
        self._streaming = False
        self._resource_version = ""
        self._is_expired = True

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

    def version(self, key: ObjectKey) -> str:
        """Resource version that the item is from; empty when there is none."""
        return self._versions.get(key, "")

    def take(self, manifest: Manifest) -> None:
        """An object of the selection as the API server just answered it: kept unless as new a view of it is known."""
        key, version = _key(manifest), manifest["metadata"]["resourceVersion"]
        if self.listed and not _is_as_new(self._known(key), version):
            self._set(key, self._projected(manifest), version)

    def take_deletion(self, manifest: Manifest) -> None:
        """An object whose deletion was just accepted, as it was before, but marked as terminating.

        The answer tells no version: this view gives way to every one that is newer than `manifest`.
        """
        key, version = _key(manifest), manifest["metadata"]["resourceVersion"]
        if self.listed and not _is_newer(self._known(key), version):
            self._set(key, self._projected(manifest), version)

    def replace(self, manifests: Iterable[Manifest], version: str, *, among: Iterable[ObjectKey]) -> None:
        """A complete list as of `version`: of the items `among`, those that it lacks are gone."""
        self._replace({_key(manifest): self._narrow(manifest) for manifest in manifests}, version, among)

    async def run(self) -> None:
        """List and watch until cancelled; every failure of the API server is survived."""
        while True:
            wait = 0.0
            try:
                if self._is_expired:
                    await self._list()
                if not await self._watch():
                    # A stream that ends without an event may end again at once: never spin.
                    wait = FIRST_RETRY_SECONDS
            except VersionExpired:
                # The items stay as they are until the new list replaces them: old is better than empty.
                self._streaming = False
                self._is_expired = True
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
        found: dict[ObjectKey, tuple[str, T | None]] = {}
        token = ""
        while True:
            page = await self._client.list_page(self._selection, continue_token=token)
            found |= {_key(manifest): self._narrow(manifest) for manifest in page.items}
            token = page.continue_token
            if not token:
                break
        self._replace(found, page.resource_version, tuple(self._items))
        self._resource_version = page.resource_version
        self._is_expired = False
        self._listed.set()

    def _replace(
        self, found: Mapping[ObjectKey, tuple[str, T | None]], version: str, among: Iterable[ObjectKey]
    ) -> None:
        for key in [key for key in among if key in self._items and key not in found]:
            # An item that is newer than the list was created meanwhile.
            if not _is_newer(self._versions[key], version):
                self._set(key, None, "")
        for key, (of_object, projected) in found.items():
            if not _is_as_new(self._versions.get(key, ""), of_object):
                self._set(key, projected, of_object)

    def _narrow(self, manifest: Manifest) -> tuple[str, T | None]:
        """What is kept of an item of a list."""
        return manifest["metadata"]["resourceVersion"], self._projected(manifest)

    async def _watch(self) -> int:
        """Follow changes until the server ends the stream; the number of events it brought."""
        count = 0
        async with self._client.watch(self._selection, resource_version=self._resource_version) as events:
            self._streaming = True
            async for event in events:
                count += 1
                # Only a change proves that the stream works: a proxy may accept it and end it at once.
                self._backoff.succeed()
                self._see(event)
                self._resource_version = event.object["metadata"]["resourceVersion"]
        return count

    def _see(self, event: WatchEvent) -> None:
        version = event.object["metadata"]["resourceVersion"]
        if event.type in ("ADDED", "MODIFIED"):
            key = _key(event.object)
            if not _is_as_new(self._versions.get(key, ""), version):
                self._set(key, self._projected(event.object), version)
        elif event.type == "DELETED":
            key = _key(event.object)
            # Not what was made anew under the name since.
            if not _is_newer(self._versions.get(key, ""), version):
                self._set(key, None, version)

    def _known(self, key: ObjectKey) -> str:
        """The newest version that says anything about the object: its own, or the watch's, which shows that it is gone."""
        return self._versions.get(key) or self._resource_version

    def _projected(self, manifest: Manifest) -> T | None:
        """Boundary: what cannot be read stays as it was last read."""
        try:
            return self._project(manifest)
        except Exception:
            key = _key(manifest)
            _logger.exception(
                "object cannot be read, going on with its last state",
                extra=self._about() | {"object": f"{key.namespace}/{key.name}"},
            )
            return self._items.get(key)

    def _set(self, key: ObjectKey, after: T | None, version: str) -> None:
        before = self._items.get(key)
        if after is None:
            self._versions.pop(key, None)
        else:
            self._versions[key] = version
        if before == after:
            return
        if after is None:
            del self._items[key]
        else:
            self._items[key] = after
        if self._on_change is not None:
            self._tell(self._on_change, before, after)

    def _tell(self, listener: Listener[T], before: T | None, after: T | None) -> None:
        """Boundary: one listener's defect in one change must not keep all later ones from it."""
        try:
            listener(before, after)
        except Exception:
            _logger.exception("a change was not taken in", extra=self._about())

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


def _is_newer(one: str, other: str) -> bool:
    """Resource versions of one kind are ordered integers (Kubernetes 1.35, KEP-5504, and every release before)."""
    return one.isdecimal() and other.isdecimal() and int(one) > int(other)


def _is_as_new(one: str, other: str) -> bool:
    return one == other or _is_newer(one, other)

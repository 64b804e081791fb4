"""The informer's promise: `items` are what the API server has, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from tests.fakes.apiserver import ApiError, Call, FakeApiServer, Manifest
from tests.fakes.client import FakeClient
from tests.fakes.virtualtime import VirtualClock, run_virtual

from inferencecluster.adapters.informer import Informer, ObjectKey
from inferencecluster.adapters.kube import Selection, WatchEvent
from inferencecluster.adapters.kube_resources import CONFIG_MAPS


def config(name: str, value: str = "1", labels: dict[str, str] | None = None) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "labels": labels or {}},
        "data": {"value": value},
    }


def value_of(manifest: Manifest) -> str | None:
    found: str = manifest["data"]["value"]
    return None if found == "ignored" else found


class Watched:
    """An informer over ConfigMaps and everything it said."""

    def __init__(self, server: FakeApiServer, *, label_selector: str = "") -> None:
        self.server = server
        self.changes: list[tuple[str | None, str | None]] = []
        self.informer = Informer(
            FakeClient(server),
            Selection(CONFIG_MAPS, "default", label_selector),
            value_of,
            on_change=lambda before, after: self.changes.append((before, after)),
            clock=VirtualClock(),
            seed=1,
        )

    @property
    def seen(self) -> dict[str, str]:
        return {key.name: value for key, value in self.informer.items.items()}

    @property
    def lists(self) -> int:
        return sum(call.verb == "list" for call in self.server.calls)


@asynccontextmanager
async def watching(server: FakeApiServer, *, label_selector: str = "") -> AsyncIterator[Watched]:
    watched = Watched(server, label_selector=label_selector)
    task = asyncio.create_task(watched.informer.run())
    await watched.informer.wait_listed()
    await asyncio.sleep(0.01)
    try:
        yield watched
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def test_it_holds_what_was_there_and_what_comes_changes_and_goes() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        server.put(config("old"))
        async with watching(server) as watched:
            assert watched.seen == {"old": "1"}
            server.put(config("new", "2"))
            server.put(config("old", "3"))
            await asyncio.sleep(0.01)
            assert watched.seen == {"old": "3", "new": "2"}
            server.remove("configmaps", "default", "new")
            await asyncio.sleep(0.01)
            assert watched.seen == {"old": "3"}
            assert watched.changes == [(None, "1"), (None, "2"), ("1", "3"), ("2", None)]

    run_virtual(scenario())


def test_a_change_that_the_projection_does_not_show_is_no_change() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        server.put(config("one"))
        async with watching(server) as watched:
            server.put(config("one", labels={"new": "label"}))
            server.put(config("hidden", "ignored"))
            await asyncio.sleep(0.01)
            assert watched.changes == [(None, "1")]
            assert ObjectKey("default", "hidden") not in watched.informer.items

    run_virtual(scenario())


def test_a_list_of_several_pages_is_one_list() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        for number in range(1201):
            server.put(config(f"c{number:04}"))
        async with watching(server) as watched:
            assert len(watched.seen) == 1201
            assert watched.lists == 3

    run_virtual(scenario())


def test_only_selected_objects_are_seen() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        server.put(config("mine", labels={"app": "mine"}))
        server.put(config("other"))
        async with watching(server, label_selector="app") as watched:
            assert set(watched.seen) == {"mine"}

    run_virtual(scenario())


def test_an_expired_version_lists_again_and_tells_only_the_difference() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        for name in ("stays", "goes", "changes"):
            server.put(config(name))
        async with watching(server) as watched:
            watched.changes.clear()
            # Both happen in the same moment as the compaction: the watch never shows them.
            server.remove("configmaps", "default", "goes")
            server.put(config("changes", "2"))
            server.expire()
            await asyncio.sleep(5)
            assert watched.seen == {"stays": "1", "changes": "2"}
            assert sorted(watched.changes, key=str) == [("1", "2"), ("1", None)]
            assert watched.lists == 2
            assert watched.informer.synced

    run_virtual(scenario())


def test_items_stay_while_the_api_server_is_away_and_are_current_soon_after() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        server.put(config("one"))
        async with watching(server) as watched:
            server.fault = lambda _: ApiError(503, "down")
            server.end_watches()
            await asyncio.sleep(300)
            assert watched.seen == {"one": "1"}
            assert watched.informer.listed
            assert not watched.informer.synced
            server.put(config("two"))
            server.fault = lambda _: None
            await asyncio.sleep(30)
            assert set(watched.seen) == {"one", "two"}
            assert watched.informer.synced
            # Half a minute between attempts at most, and no hammering: ten in five minutes and the first quick ones.
            assert 10 <= sum(call.verb == "watch" for call in server.calls) <= 30

    run_virtual(scenario())


def test_it_waits_as_long_as_a_throttling_server_asks() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        attempts: list[float] = []

        def throttle(_: Call) -> ApiError | None:
            attempts.append(asyncio.get_running_loop().time())
            return ApiError(429, "too many", retry_after=60) if len(attempts) == 1 else None

        server.fault = throttle
        async with watching(server):
            assert attempts[1] - attempts[0] >= 60

    run_virtual(scenario())


def test_a_watch_that_ends_by_itself_goes_on_without_a_list() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        async with watching(server) as watched:
            await asyncio.sleep(700)
            server.put(config("late"))
            await asyncio.sleep(1)
            assert set(watched.seen) == {"late"}
            assert watched.lists == 1
            assert sum(call.verb == "watch" for call in server.calls) == 3

    run_virtual(scenario())


def test_a_server_that_ends_every_watch_at_once_is_not_hammered() -> None:
    async def scenario() -> None:
        server = FakeApiServer()

        class Ending(FakeClient):
            opened = 0

            @asynccontextmanager
            async def watch(
                self, selection: Selection, *, resource_version: str
            ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
                Ending.opened += 1

                async def nothing() -> AsyncIterator[WatchEvent]:
                    return
                    yield

                yield nothing()

        informer = Informer(Ending(server), Selection(CONFIG_MAPS), value_of, clock=VirtualClock())
        task = asyncio.create_task(informer.run())
        await asyncio.sleep(60)
        task.cancel()
        assert Ending.opened <= 121

    run_virtual(scenario())


def test_a_forbidden_list_is_tried_again_until_somebody_allows_it() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        server.put(config("one"))
        server.fault = lambda _: ApiError(403, "no")
        watched = Watched(server)
        task = asyncio.create_task(watched.informer.run())
        await asyncio.sleep(120)
        assert not watched.informer.listed
        server.fault = lambda _: None
        await asyncio.sleep(31)
        assert watched.seen == {"one": "1"}
        task.cancel()

    run_virtual(scenario())


def test_an_object_that_cannot_be_read_keeps_its_last_state_and_holds_up_no_other() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        server.put(config("one"))
        async with watching(server) as watched:
            odd = config("one")
            del odd["data"]
            server.put(odd)
            server.put(config("two", "2"))
            new = config("three")
            del new["data"]
            server.put(new)
            await asyncio.sleep(0.01)
            assert watched.seen == {"one": "1", "two": "2"}
            server.expire()
            await asyncio.sleep(5)
            assert watched.seen == {"one": "1", "two": "2"}
            server.put(config("one", "3"))
            await asyncio.sleep(0.01)
            assert watched.seen == {"one": "3", "two": "2"}

    run_virtual(scenario())


def test_a_listener_that_fails_is_told_of_the_next_change() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        told: list[str | None] = []

        def listen(_: str | None, after: str | None) -> None:
            told.append(after)
            raise KeyError(after)

        informer = Informer(
            FakeClient(server),
            Selection(CONFIG_MAPS),
            value_of,
            on_change=listen,
            clock=VirtualClock(),
            seed=1,
        )
        task = asyncio.create_task(informer.run())
        await informer.wait_listed()
        server.put(config("one"))
        server.put(config("two", "2"))
        await asyncio.sleep(0.01)
        assert told == ["1", "2"]
        task.cancel()

    run_virtual(scenario())


def test_an_answer_is_known_before_the_watch_shows_it_and_never_goes_back() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        first = server.put(config("one"))
        async with watching(server) as watched:
            second = server.put(config("one", "2"))
            created = server.put(config("two"))
            watched.informer.take(second)
            watched.informer.take(created)
            assert watched.seen == {"one": "2", "two": "1"}
            watched.informer.take(first)
            assert watched.seen == {"one": "2", "two": "1"}
            await asyncio.sleep(0.01)
            # Each change was told once, whichever way it came first.
            assert watched.changes == [(None, "1"), ("1", "2"), (None, "1")]

    run_virtual(scenario())


def test_an_answer_that_comes_after_the_end_of_its_object_brings_nothing_back() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        async with watching(server) as watched:
            created = server.put(config("one"))
            server.remove("configmaps", "default", "one")
            await asyncio.sleep(0.01)
            watched.informer.take(created)
            watched.informer.take_deletion(created)
            assert watched.seen == {}

    run_virtual(scenario())


def test_an_accepted_deletion_stays_until_something_newer_is_seen() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        server.put(config("one"))
        async with watching(server) as watched:
            second = server.put(config("one", "2"))
            ending = {**second, "data": {"value": "ending"}}
            watched.informer.take_deletion(ending)
            await asyncio.sleep(0.01)
            assert watched.seen == {"one": "ending"}, "the watch's own view of it is not newer"
            server.remove("configmaps", "default", "one")
            await asyncio.sleep(0.01)
            assert watched.seen == {}

    run_virtual(scenario())


def test_what_was_created_after_a_list_is_not_missing_from_it() -> None:
    async def scenario() -> None:
        server = FakeApiServer()
        server.put(config("gone"))
        async with watching(server) as watched:
            key = ObjectKey("default", "gone")
            version = server.put(config("other"))["metadata"]["resourceVersion"]
            created = server.put(config("new"))
            watched.informer.take(created)
            watched.informer.replace([], version, among=(key, ObjectKey("default", "new")))
            assert watched.seen == {"new": "1"}

    run_virtual(scenario())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_equal_seeds_retry_at_equal_times(seed: int) -> None:
    async def scenario() -> list[float]:
        server = FakeApiServer()
        times: list[float] = []

        def refuse(_: Call) -> ApiError:
            times.append(asyncio.get_running_loop().time())
            return ApiError(500, "no")

        server.fault = refuse
        informer = Informer(
            FakeClient(server), Selection(CONFIG_MAPS), value_of, clock=VirtualClock(), seed=seed
        )
        task = asyncio.create_task(informer.run())
        await asyncio.sleep(100)
        task.cancel()
        return times

    first, second = run_virtual(scenario()), run_virtual(scenario())
    assert first == second
    assert all(later > earlier for earlier, later in itertools.pairwise(first))

"""kopf itself, against the fake API server over HTTP: clusters are seen, and kopf writes nothing to them."""

from __future__ import annotations

import asyncio
from typing import Any

import kopf
from tests.fakes.apiserver import FakeApiServer, Manifest
from tests.fakes.http import FakeCredentials, serving
from tests.fakes.virtualtime import VirtualClock
from tests.fakes.world import NAME, cluster

from inferencecluster.adapters.credentials import Access
from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.api.names import FINALIZER
from inferencecluster.controller.clusters import ClusterStore
from inferencecluster.controller.loop import Loops, NextLook, Pace
from inferencecluster.controller.metrics import OperatorMetrics
from inferencecluster.controller.wakeups import Wakeups
from inferencecluster.controller.wiring import KOPF_FINALIZER, build_registry, build_settings, connection_info
from inferencecluster.controller.workers import Workers

KEY = ObjectKey("default", NAME)


class Running:
    """kopf with our registry, over one server."""

    def __init__(self, url: str, *tokens: str) -> None:
        self.clusters = ClusterStore()
        self.looks: asyncio.Queue[tuple[ObjectKey, bool]] = asyncio.Queue()
        loops = Loops(self._look, Wakeups(), OperatorMetrics(), VirtualClock(), Pace(Workers(4), 0.0))
        credentials: Any = FakeCredentials(url, list(tokens))
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(
            kopf.operator(
                registry=build_registry(self.clusters, loops, credentials),
                settings=build_settings(),
                standalone=True,
                clusterwide=True,
                stop_flag=self._stop,
            )
        )

    async def _look(self, key: ObjectKey) -> NextLook:
        view = self.clusters.get(key)
        self.looks.put_nowait((key, view is not None))
        return NextLook(3600.0, finished=view is None)

    async def look(self) -> tuple[ObjectKey, bool]:
        """The next look: which cluster, and whether it exists."""
        return await asyncio.wait_for(self.looks.get(), 20)

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.wait_for(self._task, 20)


async def test_kopf_shows_each_cluster_its_changes_and_its_end_and_writes_nothing() -> None:
    server = FakeApiServer()
    held = cluster()
    held["metadata"]["finalizers"] = [FINALIZER]
    server.put(held)
    async with serving(server) as url:
        running = Running(url, "good")
        assert await running.look() == (KEY, True)

        def grow(manifest: Manifest) -> None:
            manifest["spec"]["budget"]["gpus"] = 32

        server.change("inferenceclusters", "default", NAME, grow)
        assert await running.look() == (KEY, True)

        def end(manifest: Manifest) -> None:
            manifest["metadata"]["deletionTimestamp"] = "2026-11-21T08:00:00Z"

        # A deletion that begins, and whose object kopf finds already being deleted: it must not let it go.
        server.change("inferenceclusters", "default", NAME, end)
        assert await running.look() == (KEY, True)
        await running.stop()
        again = Running(url, "good")
        assert await again.look() == (KEY, True)
        await asyncio.sleep(0.2)
        assert server.of_kind("inferenceclusters")[NAME]["metadata"]["finalizers"] == [FINALIZER]
        server.remove("inferenceclusters", "default", NAME)
        assert await again.look() == (KEY, False)
        await again.stop()
    assert server.writes == []


async def test_kopf_gets_new_credentials_when_the_old_ones_expire() -> None:
    server = FakeApiServer()
    server.put(cluster())
    async with serving(server) as url:
        running = Running(url, "expired", "good", "never")
        assert await running.look() == (KEY, True)
        await running.stop()


def test_our_finalizer_is_unknown_to_kopf() -> None:
    assert build_settings().persistence.finalizer == KOPF_FINALIZER != FINALIZER


def test_every_way_in_is_told_to_kopf() -> None:
    info = connection_info(
        Access("https://api", "bearer secret\n", "/ca", "/crt", "/key", verify_tls=False, proxy="http://p")
    )
    assert (info.server, info.scheme, info.token) == ("https://api", "Bearer", "secret")
    assert (info.ca_path, info.certificate_path, info.private_key_path) == ("/ca", "/crt", "/key")
    assert (info.insecure, info.proxy_url) == (True, "http://p")
    assert connection_info(Access("http://api")).token is None

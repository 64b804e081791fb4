"""`kubectl-ic top`: pools, queue and last decisions of living InferenceClusters, once or again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from inferencecluster.adapters.clock import Clock, SystemClock
from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.adapters.kube_resources import Manifest
from inferencecluster.cli.cluster_reading import reading_of
from inferencecluster.cli.live_objects import (
    Kubernetes,
    cluster_pods,
    connected,
    find_cluster,
    list_clusters,
    traffic,
)
from inferencecluster.cli.paper import answer_console, tell
from inferencecluster.cli.surroundings import ClusterPods
from inferencecluster.cli.top_view import ClusterLook, view
from inferencecluster.core.errors import SpecError
from inferencecluster.core.missing import Missing

Parts = Sequence[str | Table]


class Show(Protocol):
    """Shows one look in place of, or below, the one before."""

    def __call__(self, parts: Parts) -> None:
        """Lines and tables, in order."""


def show_clusters(
    name: str | None,
    *,
    namespace: str | None,
    everywhere: bool,
    context: str | None,
    watch: float | None,
) -> None:
    """On standard output; with `watch` every so many seconds until interrupted, which is a quiet end.

    Raises `SpecError` when the first look fails.
    """
    run = _run(
        name, namespace=namespace, everywhere=everywhere, context=context, watch=watch, clock=SystemClock()
    )
    with suppress(KeyboardInterrupt):
        asyncio.run(run)


async def _run(
    name: str | None,
    *,
    namespace: str | None,
    everywhere: bool,
    context: str | None,
    watch: float | None,
    clock: Clock,
) -> None:
    """Raises `SpecError` when the first look fails; what goes wrong later is shown, and looked at again."""
    async with connected(context=context, namespace=namespace, everywhere=everywhere) as kubernetes:
        parts = await _look(kubernetes, name, clock)
        with _screen(answer_console(), redraws=watch is not None) as show:
            show(parts)
            while watch is not None:
                await clock.sleep(watch)
                try:
                    parts = await _look(kubernetes, name, clock)
                except SpecError as error:
                    parts = [f"error: {error}"]
                show(parts)


async def _look(kubernetes: Kubernetes, name: str | None, clock: Clock) -> Parts:
    """Raises `SpecError`."""
    clusters = [await find_cluster(kubernetes, name)] if name is not None else await list_clusters(kubernetes)
    if not clusters:
        return [f"no InferenceCluster in {_where(kubernetes)} of {kubernetes.server}"]
    pods = await cluster_pods(kubernetes, name)
    looks = await asyncio.gather(*(_cluster(kubernetes, cluster, pods) for cluster in clusters))
    return view(looks, now=clock.now(), detailed=name is not None)


def _where(kubernetes: Kubernetes) -> str:
    return "any namespace" if kubernetes.namespace is None else f"namespace {kubernetes.namespace}"


async def _cluster(
    kubernetes: Kubernetes, cluster: Manifest, pods: Mapping[ObjectKey, ClusterPods] | Missing
) -> ClusterLook:
    reading = reading_of(cluster)
    key = ObjectKey(reading.namespace, reading.name)
    mine = pods if isinstance(pods, Missing) else pods.get(key, ClusterPods())
    return ClusterLook(reading, await traffic(kubernetes, mine))


@contextmanager
def _screen(console: Console, *, redraws: bool) -> Iterator[Show]:
    """A terminal is drawn anew with each look; a file or a pipe gets every look below the one before."""
    if redraws and console.is_terminal:
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            yield lambda parts: live.update(Group(*map(_renderable, parts)), refresh=True)
        return

    def show(parts: Parts) -> None:
        for part in parts:
            if isinstance(part, str):
                tell(console, part)
            else:
                console.print(part)

    yield show


def _renderable(part: str | Table) -> Text | Table:
    return Text(part) if isinstance(part, str) else part

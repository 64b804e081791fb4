"""`kubectl-ic explain`: why each pool of a living InferenceCluster has the size it has."""

from __future__ import annotations

import asyncio
import json

import typer

from inferencecluster.adapters.clock import SystemClock
from inferencecluster.cli.cluster_reading import reading_of
from inferencecluster.cli.explanation import Explanation, explain
from inferencecluster.cli.explanation_text import document, render
from inferencecluster.cli.live_objects import connected, find_cluster, surroundings
from inferencecluster.cli.paper import answer_console


def print_explanation(name: str, *, namespace: str | None, context: str | None, as_json: bool) -> None:
    """Of one cluster, to standard output. Raises `SpecError` when it cannot be read."""
    now = SystemClock().now()
    explanation = asyncio.run(_explained(name, namespace=namespace, context=context, now=now))
    if as_json:
        typer.echo(json.dumps(document(explanation), indent=2, allow_nan=False))
        return
    console = answer_console()
    typer.echo(render(explanation, now=now, width=console.width if console.is_terminal else None), nl=False)


async def _explained(name: str, *, namespace: str | None, context: str | None, now: float) -> Explanation:
    async with connected(context=context, namespace=namespace) as kubernetes:
        cluster = await find_cluster(kubernetes, name)
        around = await surroundings(kubernetes, cluster)
        return explain(reading_of(cluster), around, now=now)

"""`kubectl-ic explain` and `top` as the command line has them.

What they do is imported when they are called: an API client costs half a second, which `plan` and `simulate` do not need.
"""
# ruff: noqa: PLC0415 - as said above

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import typer

from inferencecluster.cli.numbers import finite
from inferencecluster.cli.render import EXIT_BAD_INPUT
from inferencecluster.core.errors import SpecError

Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Where to look.", show_default="the context's"),
]
Context = Annotated[
    str | None,
    typer.Option(help="Context of the kubeconfig.", show_default="the current one; in a Pod its own account"),
]


class ExplainFormat(StrEnum):
    """How the explanation is printed."""

    TEXT = "text"
    JSON = "json"


def explain_command(
    name: Annotated[str, typer.Argument(help="An InferenceCluster.")],
    *,
    namespace: Namespace = None,
    context: Context = None,
    output: Annotated[ExplainFormat, typer.Option("--format", help="text or json.")] = ExplainFormat.TEXT,
) -> None:
    """Why each pool of a living InferenceCluster has its size, what holds it, and what would change it.

    Reads the InferenceCluster, its EnginePools, Pods and Events, and changes nothing.
    """
    from inferencecluster.cli.explain import print_explanation

    with _one_line_errors():
        print_explanation(name, namespace=namespace, context=context, as_json=output is ExplainFormat.JSON)


def top_command(
    name: Annotated[
        str | None, typer.Argument(help="An InferenceCluster.", show_default="all of the namespace")
    ] = None,
    *,
    namespace: Namespace = None,
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="All namespaces.")] = False,
    context: Context = None,
    watch: Annotated[
        float | None,
        typer.Option(help="Look again after so many seconds, until interrupted.", min=1.0, callback=finite),
    ] = None,
) -> None:
    """Sizes, GPUs, queue, requests in flight and the last decisions of living InferenceClusters; changes nothing.

    Queue, requests in flight and KV use come from the routers, through the API server: that needs `get` on pods/proxy.
    """
    from inferencecluster.cli.top import show_clusters

    with _one_line_errors():
        _refuse_contradiction(name, namespace, everywhere=everywhere)
        show_clusters(name, namespace=namespace, everywhere=everywhere, context=context, watch=watch)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except SpecError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_BAD_INPUT) from None


def _refuse_contradiction(name: str | None, namespace: str | None, *, everywhere: bool) -> None:
    if not everywhere or (name is None and namespace is None):
        return
    field, value = ("NAME", name) if name is not None else ("--namespace", namespace)
    raise SpecError(
        field=field,
        value=value,
        rule="--all-namespaces shows every InferenceCluster",
        advice="leave one of the two out",
    )

"""`kubectl-ic render`: the objects of one replica, before anything exists."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import yaml

from inferencecluster.cli.cluster_file import read_cluster
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.render.context import Platform, PoolContext, pool_context
from inferencecluster.render.manifest import Manifest
from inferencecluster.render.replica import render_engine_config, render_replica
from inferencecluster.render.trtllm.shape import configured_version

EXIT_BAD_INPUT: Final = 2

_PLATFORM: Final = Platform(router_image="inferencecluster-operator", router_cluster_role="router")
"""Of an installation that is not asked; nothing of it shows in a replica."""


class OutputFormat(StrEnum):
    """How objects are printed."""

    YAML = "yaml"
    JSON = "json"


def render(
    file: Annotated[Path, typer.Argument(help="File with one InferenceCluster; - reads standard input.")],
    *,
    pool: Annotated[PoolName, typer.Option(help="Pool whose replica is shown.")],
    output: Annotated[
        OutputFormat, typer.Option("--format", help="yaml, or one List in json.")
    ] = OutputFormat.YAML,
) -> None:
    """Print the ConfigMap and the Pod of a replica that FILE asks for; needs no cluster and changes nothing."""
    try:
        context = pool_context(read_cluster(file), pool, _PLATFORM)
        objects = [render_engine_config(context), render_replica(context, ordinal=0)]
    except SpecError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_BAD_INPUT) from None
    if output is OutputFormat.JSON:
        typer.echo(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=2))
    else:
        typer.echo(_header(context) + to_yaml(objects), nl=False)


def _header(context: PoolContext) -> str:
    """What is shown, as YAML comments for the reader."""
    metadata, spec = context.cluster.metadata, context.cluster.spec
    pool = context.pool_spec
    return (
        f"# InferenceCluster {metadata.namespace}/{metadata.name}, pool {context.pool}, revision {context.revision}\n"
        f"# {spec.engine.backend} {configured_version(spec.engine)}, model {spec.model.source}\n"
        f"# {pool.gpus_per_replica} x {pool.gpu_resource_name} per replica: "
        f"tensor {pool.tensor_parallelism}, pipeline {pool.pipeline_stages}\n"
        f"# KV capacity {context.performance.kv_capacity_tokens} tokens, "
        f"batch up to {context.performance.max_batch_size}\n"
        "# Rendered offline: only the API server checks all of the CRD's rules (kubectl apply --dry-run=server).\n"
    )


class _ReadableDumper(yaml.SafeDumper):
    """Texts of several lines stay readable, and repeated objects are written out."""

    def ignore_aliases(self, _data: Any) -> bool:
        """Never an alias."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_ReadableDumper.add_representer(str, _represent_text)


def to_yaml(objects: list[Manifest]) -> str:
    """The objects as documents of one YAML stream."""
    return yaml.dump_all(objects, Dumper=_ReadableDumper, sort_keys=False, explicit_start=True, width=10_000)

"""The InferenceCluster of a file, held to what the API server would refuse as well."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import yaml
from pydantic import ValidationError

from inferencecluster.api.inferencecluster import InferenceCluster, InferenceClusterSpec, parse_cluster
from inferencecluster.api.names import (
    API_VERSION,
    CLUSTER_KIND,
    CLUSTER_NAME_PATTERN,
    MAX_CLUSTER_NAME_LENGTH,
)
from inferencecluster.api.pools import Pool
from inferencecluster.api.schema import ApiModel
from inferencecluster.core.errors import SpecError

STANDARD_INPUT: Final = Path("-")

_UID: Final = "00000000-0000-0000-0000-000000000000"
"""Stands for the uid that the API server will give; only shown."""
_SHOWN_VALUE_CHARACTERS: Final = 80
"""Enough to recognise the value in one line."""


def read_cluster(file: Path) -> InferenceCluster:
    """The only InferenceCluster in a YAML or JSON file that may hold other objects.

    Raises `SpecError` for a file that cannot be read, holds none or several, or a cluster that is malformed.
    """
    documents = [document for document in _documents(file) if isinstance(document, Mapping)]
    clusters = [document for document in documents if document.get("kind") == CLUSTER_KIND]
    if len(clusters) != 1:
        raise SpecError(
            field="FILE",
            value=file,
            rule=f"it holds {len(clusters)} objects of kind {CLUSTER_KIND}",
            advice="name a file with exactly one",
        )
    (manifest,) = clusters
    if manifest.get("apiVersion") != API_VERSION:
        raise SpecError(
            field="apiVersion",
            value=manifest.get("apiVersion", "absent"),
            rule=f"this release knows {CLUSTER_KIND} in {API_VERSION} only",
            advice=f"write apiVersion: {API_VERSION}",
        )
    _refuse_unknown_fields(InferenceClusterSpec, manifest.get("spec"), "spec")
    cluster = _parse(_as_created(manifest))
    _refuse_impossible_name(cluster.metadata.name)
    _refuse_impossible_bounds(cluster)
    return cluster


def _documents(file: Path) -> list[Any]:
    """Raises `SpecError` in one line, with the place where the YAML breaks."""
    advice = f"name a YAML file with one {CLUSTER_KIND}"
    try:
        text = sys.stdin.read() if file == STANDARD_INPUT else file.read_text(encoding="utf-8")
        return list(yaml.safe_load_all(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        cause = place + (error.problem or error.context or "it is no YAML")
        advice = "correct the YAML there"
    # ValueError: bytes that are no UTF-8, and dates that do not exist.
    except (OSError, yaml.YAMLError, ValueError) as error:
        cause = str(error)
    raise SpecError(
        field="FILE", value=file, rule=f"it could not be read: {' '.join(cause.split())}", advice=advice
    )


def _as_created(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object with what the API server would add."""
    metadata = manifest.get("metadata")
    if not isinstance(metadata, Mapping):
        return manifest
    return {**manifest, "metadata": {"namespace": "default", "uid": _UID, **metadata}}


def _parse(manifest: Mapping[str, Any]) -> InferenceCluster:
    """As `parse_cluster`, with advice for the author of a file rather than for who installed the CRDs."""
    try:
        return parse_cluster(manifest)
    except SpecError as error:
        cause = error.__cause__
        if isinstance(cause, ValidationError) and cause.errors()[0]["type"] == "missing":
            raise SpecError(
                field=error.field, value="absent", rule="it is required", advice="add it"
            ) from error
        raise SpecError(
            field=error.field, value=error.value, rule=error.rule, advice="correct the field"
        ) from error


def _refuse_unknown_fields(model: type[ApiModel], value: object, path: str) -> None:
    """The API server drops them when it is asked to be lax; here they are most likely mistyped."""
    if not isinstance(value, Mapping):
        return
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    for name, item in value.items():
        if name not in fields:
            likely = get_close_matches(str(name), fields, n=1)
            raise SpecError(
                field=f"{path}.{name}",
                value=str(item)[:_SHOWN_VALUE_CHARACTERS],
                rule="no such field exists",
                advice=f"did you mean {likely[0]}?"
                if likely
                else f"remove it; known are {', '.join(fields)}",
            )
        for inner in _models(fields[name].annotation):
            for place, part in _parts(item, f"{path}.{name}"):
                _refuse_unknown_fields(inner, part, place)


def _models(annotation: Any) -> Iterator[type[ApiModel]]:
    """The models within unions and lists; contents of free-form mappings have no model."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        if issubclass(annotation, ApiModel):
            yield annotation
        return
    for argument in get_args(annotation):
        yield from _models(argument)


def _parts(item: object, path: str) -> list[tuple[str, object]]:
    """A value by itself, or each of a list."""
    if isinstance(item, Sequence) and not isinstance(item, str):
        return [(f"{path}.{index}", part) for index, part in enumerate(item)]
    return [(path, item)]


def _refuse_impossible_name(name: str) -> None:
    """The CRD's rule without which nothing that is rendered could be created."""
    if len(name) > MAX_CLUSTER_NAME_LENGTH or not re.fullmatch(CLUSTER_NAME_PATTERN, name):
        raise SpecError(
            field="metadata.name",
            value=name[:_SHOWN_VALUE_CHARACTERS],
            rule=f"it must be a DNS label of at most {MAX_CLUSTER_NAME_LENGTH} characters that starts with a letter, "
            "because the names of its Pods and Services continue it",
            advice="choose another name",
        )


def _refuse_impossible_shape(name: str, pool: Pool) -> None:
    """Such a replica would be told to have the speed of other GPUs than it has."""
    ranks = pool.parallelism
    if ranks is None or ranks.tensor * (ranks.pipeline or 1) == pool.gpus_per_replica:
        return
    raise SpecError(
        field=f"spec.pools.{name}.parallelism",
        value=f"tensor {ranks.tensor} x pipeline {ranks.pipeline or 1}",
        rule=f"it must equal gpusPerReplica, {pool.gpus_per_replica}",
        advice="change one of them",
    )


def _refuse_impossible_bounds(cluster: InferenceCluster) -> None:
    """The CRD's rules over several fields without which sizes make no sense."""
    pools, budget = cluster.spec.pools, cluster.spec.budget.gpus
    chosen = {"prefill": pools.prefill, "decode": pools.decode, "mixed": pools.mixed}
    needed = 0
    for name, pool in chosen.items():
        if pool is None:
            continue
        needed += pool.min_replicas * pool.gpus_per_replica
        if pool.min_replicas > pool.max_replicas:
            raise SpecError(
                field=f"spec.pools.{name}.minReplicas",
                value=pool.min_replicas,
                rule=f"it must be at most maxReplicas, {pool.max_replicas}",
                advice="lower it, or raise maxReplicas",
            )
        _refuse_impossible_shape(name, pool)
    if needed > budget:
        raise SpecError(
            field="spec.budget.gpus",
            value=budget,
            rule=f"the pools' minReplicas need {needed} GPUs",
            advice="raise it, or lower a minReplicas",
        )

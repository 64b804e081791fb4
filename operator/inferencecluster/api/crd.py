"""Writes the CustomResourceDefinitions out of the models: `python -m inferencecluster.api.crd [--check] FOLDER...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel

from inferencecluster.api.crd_schema import structural_schema
from inferencecluster.api.enginepool import EnginePool
from inferencecluster.api.inferencecluster import InferenceCluster
from inferencecluster.api.names import (
    CLUSTER_KIND,
    CLUSTER_PLURAL,
    CLUSTER_SHORT_NAME,
    GROUP,
    POOL_KIND,
    POOL_PLURAL,
    POOL_SHORT_NAME,
    VERSION,
)

Manifest = dict[str, Any]

_HEADER: Final = (
    "# Generated from operator/inferencecluster/api by `python -m inferencecluster.api.crd`; do not edit.\n"
)

_AGE: Final[Mapping[str, Any]] = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}


def _column(name: str, json_path: str, *, kind: str = "string", wide: bool = False) -> Manifest:
    column: Manifest = {"name": name, "type": kind, "jsonPath": json_path}
    return {**column, "priority": 1} if wide else column


_CLUSTER_COLUMNS: Final = (
    _column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
    _column("Prefill", ".status.summary.prefill"),
    _column("Decode", ".status.summary.decode"),
    _column("Mixed", ".status.summary.mixed"),
    _column("GPUs", ".status.summary.gpus"),
    _column("Mode", ".spec.scaling.mode"),
    _AGE,
    _column("Model", ".spec.model.source", wide=True),
    _column("Revision", ".status.revision", wide=True),
    _column("Reason", '.status.conditions[?(@.type=="Ready")].reason', wide=True),
)
"""Seven, as many as fit a terminal; the rest shows with `-o wide`."""

_POOL_COLUMNS: Final = (
    _column("Cluster", ".spec.clusterRef.name"),
    _column("Pool", ".spec.pool"),
    _column("Wished", ".spec.replicas", kind="integer"),
    _column("Replicas", ".status.replicas", kind="integer"),
    _column("Ready", ".status.readyReplicas", kind="integer"),
    _AGE,
)


def cluster_crd() -> Manifest:
    """The CustomResourceDefinition of InferenceCluster."""
    return _definition(
        InferenceCluster,
        names={"kind": CLUSTER_KIND, "plural": CLUSTER_PLURAL, "short": CLUSTER_SHORT_NAME},
        columns=_CLUSTER_COLUMNS,
        subresources={"status": {}},
    )


def pool_crd() -> Manifest:
    """The CustomResourceDefinition of EnginePool, with the scale subresource."""
    return _definition(
        EnginePool,
        names={"kind": POOL_KIND, "plural": POOL_PLURAL, "short": POOL_SHORT_NAME},
        columns=_POOL_COLUMNS,
        subresources={
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
    )


def _definition(
    model: type[BaseModel],
    *,
    names: Mapping[str, str],
    columns: Sequence[Mapping[str, Any]],
    subresources: Mapping[str, Any],
) -> Manifest:
    """One namespaced resource with the single stored version `VERSION`."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names['plural']}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": names["kind"],
                "listKind": f"{names['kind']}List",
                "plural": names["plural"],
                "singular": names["kind"].lower(),
                "shortNames": [names["short"]],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [dict(column) for column in columns],
                    "schema": {"openAPIV3Schema": structural_schema(model)},
                    "subresources": dict(subresources),
                }
            ],
        },
    }


class _PlainDumper(yaml.SafeDumper):
    """YAML without anchors: equal sub-schemas are written out, as people and diffs expect."""

    def ignore_aliases(self, _data: Any) -> bool:
        """Never an alias."""
        return True


def documents() -> dict[str, str]:
    """File name to content of every CRD, byte for byte the same for the same models."""
    return {
        f"{crd['metadata']['name'].removesuffix(f'.{GROUP}')}.yaml": _HEADER
        + yaml.dump(crd, Dumper=_PlainDumper, sort_keys=False, width=10_000, allow_unicode=True)
        for crd in (cluster_crd(), pool_crd())
    }


def outdated(folder: Path) -> list[Path]:
    """Files under `folder` that differ from the models, are missing, or have no model."""
    wanted = documents()
    existing = {path.name for path in folder.glob("*.yaml")}
    return [
        folder / name
        for name in sorted(existing | set(wanted))
        if name not in existing or wanted.get(name) != (folder / name).read_text(encoding="utf-8")
    ]


def write(folder: Path) -> None:
    """Write every CRD into `folder`, and remove what has no model any more."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in outdated(folder):
        content = documents().get(path.name)
        if content is None:
            path.unlink()
        else:
            path.write_text(content, encoding="utf-8")


def main(argv: Sequence[str]) -> int:
    """Exit status 0, or 1 when `--check` finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m inferencecluster.api.crd", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail on a difference")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    if not arguments.check:
        for folder in arguments.folders:
            write(folder)
        return 0
    different = [path for folder in arguments.folders for path in outdated(folder)]
    for path in different:
        print(f"{path} differs from the models: run `make generate`", file=sys.stderr)  # noqa: T201  (its output)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

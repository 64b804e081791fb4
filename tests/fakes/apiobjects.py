"""Objects of the API as data: paths, selectors, merge patches and the leaves that server-side apply owns."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]
Leaf = tuple[str, ...]
Key = tuple[str, str, str]
"""Collection path without the namespace, namespace, name."""

PATH = re.compile(
    r"^/(?:api|apis/(?P<group>[^/]+))/(?P<version>v[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<subresource>[^/]+))?$"
)
KINDS = {
    "configmaps": "ConfigMap",
    "deployments": "Deployment",
    "enginepools": "EnginePool",
    "events": "Event",
    "inferenceclusters": "InferenceCluster",
    "leases": "Lease",
    "nodes": "Node",
    "poddisruptionbudgets": "PodDisruptionBudget",
    "pods": "Pod",
    "rolebindings": "RoleBinding",
    "serviceaccounts": "ServiceAccount",
    "services": "Service",
}


@dataclass
class Target:
    """Which object or collection a path means."""

    group: str
    version: str
    plural: str
    namespace: str
    name: str
    subresource: str

    @property
    def key(self) -> Key:
        return (self.plural, self.namespace, self.name)

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> Target:
        group, _, version = manifest["apiVersion"].rpartition("/")
        plural = next(plural for plural, kind in KINDS.items() if kind == manifest["kind"])
        metadata = manifest["metadata"]
        return cls(group, version, plural, metadata.get("namespace", ""), metadata["name"], "")


def parse_path(path: str) -> Target | None:
    """What a path means; None where nothing is served."""
    match = PATH.match(path)
    if match is None or match["plural"] not in KINDS:
        return None
    return Target(
        match["group"] or "",
        match["version"],
        match["plural"],
        match["namespace"] or "",
        match["name"] or "",
        match["subresource"] or "",
    )


def requirements(selector: str) -> list[str]:
    """Requirements of a selector; commas inside parentheses do not part."""
    return [part.strip() for part in re.split(r",(?![^(]*\))", selector) if part.strip()]


def label_holds(part: str, labels: dict[str, str]) -> bool:
    among = re.match(r"^(\S+) in \(([^)]*)\)$", part)
    if among:
        return labels.get(among[1]) in among[2].split(",")
    name, equals, value = part.partition("=")
    return labels.get(name) == value if equals else name in labels


def field_holds(part: str, manifest: Manifest) -> bool:
    path, _, value = part.partition("=")
    is_negated = path.endswith("!")
    found: Any = manifest
    for step in path.rstrip("!").split("."):
        found = found.get(step, "") if isinstance(found, dict) else ""
    return (found == value) is not is_negated


def merged(existing: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = copy.deepcopy(existing) if isinstance(existing, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def overlaid(existing: Any, applied: Any) -> Any:
    if not isinstance(applied, dict):
        return copy.deepcopy(applied)
    result = copy.deepcopy(existing) if isinstance(existing, dict) else {}
    for key, value in applied.items():
        result[key] = overlaid(result.get(key), value)
    return result


def leaves_of(value: Any, path: Leaf = ()) -> Iterator[Leaf]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves_of(inner, (*path, key))
    else:
        yield path


def remove_leaf(manifest: Manifest, leaf: Leaf) -> None:
    holder: Any = manifest
    for step in leaf[:-1]:
        holder = holder.get(step) if isinstance(holder, dict) else None
    if isinstance(holder, dict):
        holder.pop(leaf[-1], None)

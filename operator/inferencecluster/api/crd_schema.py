"""Pydantic's JSON schema turned into the structural OpenAPI v3 schema that a CRD needs.

What cannot be expressed, is unbounded or undescribed raises `SchemaError`, so that a careless
field fails the build and not an API server. Rules of structural schemas:
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from inferencecluster.api.schema import EMIT_DEFAULT

Schema = dict[str, Any]

_INT32_MAXIMUM: Final = 2**31 - 1
_REFERENCE_PREFIX: Final = "#/$defs/"

_DROPPED: Final = frozenset({"title", "$defs", "default", "additionalProperties", EMIT_DEFAULT})
"""Handled before, or without meaning in a CRD. `additionalProperties: false` is legal only without properties."""

_KEPT: Final = (
    "description",
    "type",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxProperties",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
    "required",
)
"""Keywords that pass as they are, in the order in which they are written."""


_STRING_KEYWORDS: Final = frozenset({"type", "pattern", "minLength", "maxLength"})
"""An int-or-string has no type, and without a type the API server ignores the others (seen on 1.36): it needs CEL."""


class SchemaError(TypeError):
    """A model says something that a CRD cannot, or leaves out a bound or a description."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        super().__init__(f"{path or 'the model'}: {problem}")


def structural_schema(model: type[BaseModel]) -> Schema:
    """Structural schema of a custom resource's model: `apiVersion`, `kind` and `metadata` are the API server's.

    Raises `SchemaError` for a construct without a structural form, a missing bound or a missing description.
    """
    document = model.model_json_schema(by_alias=True, mode="validation")
    properties = document["properties"]
    owned = {name: value for name, value in properties.items() if name not in _SERVER_PROPERTIES}
    trimmed = {
        **document,
        "properties": owned,
        "required": [name for name in document.get("required", []) if name in owned],
    }
    schema = _Converter(document.get("$defs", {})).convert(trimmed, path="")
    schema["properties"] = {**_SERVER_PROPERTIES, **schema["properties"]}
    return schema


_SERVER_PROPERTIES: Final[Mapping[str, Schema]] = {
    "apiVersion": {"type": "string", "description": "Version of the schema of this object."},
    "kind": {"type": "string", "description": "Kind of this object."},
    "metadata": {"type": "object"},
}


class _Converter:
    """Walks one document; `definitions` are its `$defs`."""

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions

    def convert(self, source: Schema, *, path: str) -> Schema:
        """The structural form of `source`, which stands at `path`."""
        source = self._resolved(source, path=path)
        if source.get("x-kubernetes-int-or-string"):
            source = {key: value for key, value in source.items() if key not in _STRING_KEYWORDS}
        result = self._kept_keywords(source, path=path)
        if "properties" in source:
            result["properties"] = self._properties(source["properties"], path=path)
        elif isinstance(source.get("additionalProperties"), dict) and source["additionalProperties"]:
            result["additionalProperties"] = self.convert(source["additionalProperties"], path=f"{path}[*]")
        if "items" in source:
            result["items"] = self.convert(source["items"], path=f"{path}[]")
        if source.get(EMIT_DEFAULT):
            result["default"] = _object_default(result) if "properties" in result else source["default"]
        _require_bounds(result, path=path)
        return result

    def _properties(self, properties: Mapping[str, Schema], *, path: str) -> Schema:
        converted = {}
        for name, value in properties.items():
            child = f"{path}.{name}"
            converted[name] = self.convert(value, path=child)
            if not converted[name].get("description"):
                raise SchemaError(child, "has no description: put a docstring under the field")
        return converted

    def _resolved(self, source: Schema, *, path: str) -> Schema:
        """`source` with references inlined and `X | None` reduced to X: absent is how CRDs say None."""
        if "anyOf" in source:
            options = [option for option in source["anyOf"] if option.get("type") != "null"]
            if len(options) != 1:
                raise SchemaError(path, "is a union: use one struct per alternative, and CEL")
            siblings = {key: value for key, value in source.items() if key not in ("anyOf", "default")}
            return self._resolved(_merged(options[0], siblings), path=path)
        if "$ref" in source:
            name = source["$ref"].removeprefix(_REFERENCE_PREFIX)
            siblings = {key: value for key, value in source.items() if key != "$ref"}
            return self._resolved(_merged(self._definitions[name], siblings), path=path)
        return source

    @staticmethod
    def _kept_keywords(source: Schema, *, path: str) -> Schema:
        unknown = set(source) - set(_KEPT) - _DROPPED - {"properties", "items"}
        if unknown:
            raise SchemaError(
                path, f"uses {', '.join(sorted(unknown))}, which a structural schema does not have"
            )
        kept: Schema = {key: source[key] for key in _KEPT if key in source}
        if "description" in kept:
            kept["description"] = " ".join(kept["description"].split())
        if not kept.get("required", True):
            del kept["required"]
        if kept.get("type") == "integer":
            kept["format"] = "int32" if kept.get("maximum", 2**63) <= _INT32_MAXIMUM else "int64"
        return kept


def _object_default(schema: Schema) -> Schema:
    """Default of a struct: those of its members, because the API server's check of a default sees nothing else."""
    return {name: value["default"] for name, value in schema["properties"].items() if "default" in value}


def _merged(base: Schema, siblings: Schema) -> Schema:
    """`base` with `siblings` over it; rules of both hold."""
    rules = [*base.get("x-kubernetes-validations", ()), *siblings.get("x-kubernetes-validations", ())]
    merged = {**base, **siblings}
    if rules:
        merged["x-kubernetes-validations"] = rules
    return merged


def _require_bounds(schema: Schema, *, path: str) -> None:
    """Unbounded data makes the cost of CEL rules unbounded, and the object's size the user's choice."""
    if schema.get("x-kubernetes-int-or-string"):
        needed = ["x-kubernetes-validations"]
    else:
        needed = _NEEDED_BOUNDS.get(schema.get("type", ""), [])
    if "enum" in schema or schema.get("format") == "date-time":
        needed = []
    if schema.get("type") == "object" and (
        "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    ):
        needed = ["maxProperties"]
    for keyword in needed:
        if keyword not in schema:
            raise SchemaError(path, f"has no {keyword}")
    if schema.get("type") == "array" and "x-kubernetes-list-type" not in schema:
        raise SchemaError(path, "has no list type: mark it atomic or give its map keys")
    if "type" not in schema and not schema.get("x-kubernetes-int-or-string"):
        raise SchemaError(path, "has no type")
    if schema.get("type") == "number":
        raise SchemaError(path, "is a float: use an integer with a unit in its name, or a quantity")


_NEEDED_BOUNDS: Final[Mapping[str, list[str]]] = {
    "string": ["maxLength"],
    "integer": ["minimum", "maximum"],
    "array": ["maxItems"],
}

"""Base of the API models and the markers that carry into the CRD what JSON schema cannot say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema

EMIT_DEFAULT: Final = "emit-default"
"""Keyword between the models and the generator; it never reaches a CRD."""


class ApiModel(BaseModel):
    """camelCase on the wire, immutable, and tolerant of fields that a newer CRD may have.

    The docstring under each field is its description in the CRD, and so in `kubectl explain`.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Keywords:
    """Annotation that adds keywords to the schema of the annotated type.

    Compared by identity: typing hashes annotations, and keywords hold lists.
    """

    keywords: Mapping[str, Any]

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Schema of the annotated type plus `keywords`; of a `$ref`, siblings of the reference."""
        return {**handler(core_schema), **self.keywords}


@dataclass(frozen=True, slots=True)
class Rule:
    """One CEL rule. `message` names the field, the rule and what to do; it follows the object's path."""

    rule: str
    message: str
    path: str = ""
    """The field to blame, relative to where the rule stands, such as `.minReplicas`."""
    detail: str = ""
    """The message with `%d` for each of `values`; it wins over `message` unless evaluating it fails."""
    values: tuple[str, ...] = ()
    """CEL expressions of integers, in the order of `detail`."""

    def as_keyword(self) -> dict[str, str]:
        """The entry of `x-kubernetes-validations`."""
        entry = {"rule": self.rule, "message": self.message}
        if self.detail:
            # One format call: the API server's cost estimate of a concatenation with string(int) is unbounded.
            entry["messageExpression"] = f"'{self.detail}'.format([{', '.join(self.values)}])"
        if self.path:
            entry["fieldPath"] = self.path
        return entry


def rules(*entries: Rule) -> dict[str, Any]:
    """`json_schema_extra` of a model that holds the rules."""
    return {"x-kubernetes-validations": [entry.as_keyword() for entry in entries]}


def checked(*entries: Rule) -> Keywords:
    """Annotation that puts rules on one field."""
    return Keywords(rules(*entries))


def list_map(*keys: str) -> Keywords:
    """Annotation: the list is merged by these keys of its items (server-side apply, kubectl)."""
    return Keywords({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)})


DEFAULTED: Final = Keywords({EMIT_DEFAULT: True})
"""The API server writes this default into stored objects. Other defaults live in the operator only."""

INT_OR_STRING: Final = Keywords({"x-kubernetes-int-or-string": True})
PRESERVE_UNKNOWN: Final = Keywords({"x-kubernetes-preserve-unknown-fields": True})
ATOMIC: Final = Keywords({"x-kubernetes-list-type": "atomic"})

"""Tables of the handbook that are written from the product itself: fields of the custom resource, environment variables, metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.metrics_core import Metric

from inferencecluster.adapters.environment import Variable

Schema = Mapping[str, Any]

POOLS = ("prefill", "decode", "mixed")


def fields(schema: Schema, path: str = "", optional: str = "") -> Iterator[tuple[str, Schema, str]]:
    """Path, schema and when it is required ("" for never), of every field below an object, in the order of the CRD.

    `optional` is the nearest object above that may be absent; its fields are required only where it is present.

    The pools are one, as their fields are the same. Elements of lists are left to `kubectl explain`.
    """
    required = set(schema.get("required", ()))
    for name, field in schema["properties"].items():
        here = f"{path}.{name}".lstrip(".")
        if path == "pools":
            if name != POOLS[0]:
                continue
            here = "pools.<pool>"
        is_sure = name in required or path == "pools"
        if "properties" in field:
            yield from fields(field, here, optional if is_sure or "default" in field else here)
        elif name in required and "default" not in field:
            yield here, field, f"required with `{optional.rpartition('.')[2]}`" if optional else "required"
        else:
            yield here, field, ""


def field_table(schema: Schema) -> str:
    """Markdown: one row a field of `spec`."""
    rows = (
        (f"`{path}`", kind(field), required or default(field), one_line(field["description"]))
        for path, field, required in fields(schema)
    )
    return _table(("field", "type and bounds", "default", "effect"), rows)


def kind(field: Schema) -> str:
    """What may be written there."""
    if "enum" in field:
        return ", ".join(field["enum"])
    if field.get("x-kubernetes-int-or-string"):
        return "integer or quantity"
    name: str = field.get("type", "any")
    if name == "integer":
        return f"integer {field['minimum']} to {field['maximum']}"
    if name == "array":
        return f"list of {field['items']['type']}s"
    return "map" if name == "object" else name


def default(field: Schema) -> str:
    """What holds where the field is absent; empty where the effect tells it."""
    value = field.get("default")
    return "" if value in (None, [], {}) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def variable_table(variables: Iterable[Variable]) -> str:
    """Markdown: one row a variable."""
    rows = (
        (
            f"`{variable.name}`",
            f"`{variable.default_text}`" if variable.default_text else "",
            one_line(variable.meaning),
        )
        for variable in variables
    )
    return _table(("variable", "default", "effect"), rows)


def metric_table(families: Iterable[Metric]) -> str:
    """Markdown: one row a metric, as it is named in a query."""
    rows = (
        (
            f"`{family.name}_total`" if family.type == "counter" else f"`{family.name}`",
            family.type,
            ", ".join(f"`{label}`" for label in _labels(family)),
            one_line(family.documentation),
        )
        for family in families
    )
    return _table(("metric", "type", "labels", "meaning"), rows)


def _labels(family: Metric) -> list[str]:
    found = dict.fromkeys(label for sample in family.samples for label in sample.labels)
    return [label for label in found if label != "le"]


def one_line(text: str) -> str:
    """Text for a cell."""
    return " ".join(text.split()).replace("|", "\\|")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)

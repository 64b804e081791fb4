"""Bounded scalar types of the API. Every bound also keeps the estimated cost of the CEL rules finite."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BeforeValidator, Field

from inferencecluster.api.schema import INT_OR_STRING, Rule, checked

MAX_REPLICAS: Final = 1000
"""Per pool; ten times the largest published phase-split deployment, and 10,000 Pods is what one operator carries."""

MAX_GPUS_PER_REPLICA: Final = 72
"""A replica never leaves its NVLink domain; the largest today joins 72 GPUs (GB200 NVL72)."""

MAX_BUDGET_GPUS: Final = 100_000
DAY_SECONDS: Final = 86_400

MAX_TEXT: Final = 1024
Text = Annotated[str, Field(max_length=MAX_TEXT)]
ShortText = Annotated[str, Field(max_length=128)]

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""Name of a Kubernetes object that others made (RFC 1123 subdomain)."""

SecretKey = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]

Image = Annotated[
    str,
    Field(min_length=1, max_length=512, pattern=r"^[a-zA-Z0-9][-a-zA-Z0-9._:/@]*$"),
]
"""Image reference; the first character keeps it from ever being read as an option."""

LabelKey = Annotated[
    str,
    Field(
        min_length=1,
        max_length=317,
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[a-zA-Z0-9]([-a-zA-Z0-9_.]*[a-zA-Z0-9])?$",
    ),
]
"""Label or taint key: optional DNS prefix (253), slash, name (63)."""

LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([a-zA-Z0-9]([-a-zA-Z0-9_.]*[a-zA-Z0-9])?)?$")]

ResourceName = Annotated[
    str,
    Field(
        min_length=3, max_length=317, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[a-zA-Z0-9][-a-zA-Z0-9_.]*$"
    ),
]
"""Extended resource, which always has a vendor's prefix, such as `nvidia.com/gpu`."""

_QUANTITY_LENGTH: Final = 32

Quantity = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
    Field(min_length=1, max_length=_QUANTITY_LENGTH),
    INT_OR_STRING,
    checked(
        Rule(
            # isQuantity instead of a regular expression: an int-or-string counts with the size of a whole request.
            rule=(
                "type(self) == int ? int(self) >= 0 : "
                f"string(self).size() <= {_QUANTITY_LENGTH} && isQuantity(string(self)) && !quantity(string(self)).isLessThan(quantity('0'))"
            ),
            message="a quantity is a number that is not negative with one of the units "
            "m, k, M, G, T, P, Ki, Mi, Gi, Ti, Pi or none, such as 500m or 64Gi: correct number or unit",
        )
    ),
]
"""Kubernetes quantity that is not negative, kept as it was written; bare numbers are bytes or cores."""

_RESERVED = Rule(
    rule="self.all(key, !key.startsWith('gpupools.dev/'))",
    message="keys that start with gpupools.dev/ belong to the operator: choose another prefix",
)
_KEY_SYNTAX = Rule(
    rule=(
        "self.all(key, key.size() <= 317 && "
        "key.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[a-zA-Z0-9]([-a-zA-Z0-9_.]*[a-zA-Z0-9])?$'))"
    ),
    message="a key is [prefix/]name of letters, digits, '-', '_' and '.': correct the key",
)

NodeLabels = Annotated[dict[str, LabelValue], Field(max_length=32), checked(_KEY_SYNTAX)]
Labels = Annotated[dict[str, LabelValue], Field(max_length=32), checked(_RESERVED, _KEY_SYNTAX)]
Annotations = Annotated[
    dict[str, Annotated[str, Field(max_length=4096)]],
    Field(max_length=32),
    checked(_RESERVED, _KEY_SYNTAX),
]

"""Would applying a manifest change the object? Every leaf that we render, compared with what is there."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

_QUANTITY: Final = re.compile(r"^(\d+(?:\.\d+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")
_FACTORS: Final = {
    "m": Decimal("0.001"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
}


def is_as_rendered(rendered: Any, observed: Any) -> bool:
    """`observed` holds everything in `rendered`; what others and defaults added beside it does not count.

    Lists are compared item by item: an item that somebody adds to one of ours shows as a difference.
    """
    if isinstance(rendered, dict):
        return isinstance(observed, dict) and all(
            is_as_rendered(value, observed.get(key)) for key, value in rendered.items()
        )
    if isinstance(rendered, list):
        return (
            isinstance(observed, list)
            and len(rendered) == len(observed)
            and all(map(is_as_rendered, rendered, observed))
        )
    if _is_empty(rendered) and _is_empty(observed):
        return True
    return bool(rendered == observed) or _is_same_quantity(rendered, observed)


def _is_empty(value: Any) -> bool:
    """The API server drops empty values, and answers without them."""
    return value is None or value == "" or value is False


def _is_same_quantity(one: Any, other: Any) -> bool:
    """The API server writes quantities in their canonical form: 1000m becomes 1."""
    if not isinstance(one, str) or not isinstance(other, str):
        return False
    values = [_quantity(text) for text in (one, other)]
    return values[0] is not None and values[0] == values[1]


def _quantity(text: str) -> Decimal | None:
    match = _QUANTITY.match(text)
    if match is None:
        return None
    return Decimal(match[1]) * (_FACTORS[match[2]] if match[2] else 1)

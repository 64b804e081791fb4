"""Would applying a manifest change the object? Every leaf that we render, compared with what is there."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

_QUANTITY: Final = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))"
    r"(?:[eE](?P<exponent>[+-]?[0-9]{1,3})|(?P<unit>[numkMGTPE]|[KMGTPE]i))?",
    re.ASCII,
)
"""apimachinery `resource.ParseQuantity`: a signed number, then an exponent, a decimal or a binary unit, or nothing."""
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


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
    """Its value, exactly; None for what is no quantity."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    number, unit = Decimal(match["number"]), match["unit"] or ""
    if unit in _BINARY:
        return number * Decimal(2 ** _BINARY[unit])
    exponent = match["exponent"]
    return number.scaleb(int(exponent) if exponent else _DECIMAL.get(unit, 0))

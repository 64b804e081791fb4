"""Expressions over the routers' metrics, several signals in one query."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

ROUTER_PREFIX: Final = "inferencecluster_router_"
"""Of every metric that routers export."""
SIGNAL: Final = "signal"
"""Label that says what a series of an answer is."""
FLOWS: Final = MappingProxyType(
    {
        "requests": "arrivals_total",
        "prompt_tokens": "prompt_tokens_total",
        "prompt_tokens_squared": "prompt_tokens_squared_total",
        "completed": "completed_requests_total",
        "completed_output_tokens": "completed_output_tokens_total",
    }
)
"""Field of `Flow` -> counter of the routers, without `ROUTER_PREFIX`. What was refused or wrong never arrived."""


def named(name: str, expression: str) -> str:
    """The expression, its series labelled with what they are."""
    return f'label_replace({expression}, "{SIGNAL}", "{name}", "", "")'


def labels_of(element: Mapping[str, Any]) -> Mapping[str, str]:
    """Labels of one element of an answer; raises `LookupError` and `AttributeError` where it has none."""
    return {str(name): str(value) for name, value in element["metric"].items()}

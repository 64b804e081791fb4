"""The LLM-API file of one engine: the profile of its pool, then the user's keys, checked by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final

from inferencecluster.core.errors import SpecError
from inferencecluster.render.trtllm.keys import NEVER_NULL, OWNED, SECTIONS, TOP_LEVEL, known
from inferencecluster.render.trtllm.profiles import EngineShape, profile
from inferencecluster.render.trtllm.versions import EngineVersion, Span

CONFIG_FIELD: Final = "spec.engine.config"
_CUDA_GRAPHS: Final = "cuda_graph_config"
_SHOWN_VALUE_CHARACTERS: Final = 80
"""Enough to recognise the value; conditions are read in a terminal."""


def engine_config(shape: EngineShape, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Keys and values of the file, for `shape` with the user's `overrides` merged last.

    A section merges key by key, anything else is replaced. Raises `SpecError` for a key of `overrides` that the
    release does not know or that the operator owns, and for a token limit that is below the batch.
    """
    check_overrides(overrides, shape.version)
    merged = dict(profile(shape))
    for key, value in overrides.items():
        default = merged.get(key)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            merged[key] = {**_kept_defaults(key, default, value), **value}
        else:
            merged[key] = value
    _check_token_limit(merged["max_num_tokens"], shape.max_batch_size)
    return merged


def _kept_defaults(key: str, default: Mapping[str, Any], value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Defaults of a section that may stand beside the user's keys.

    The engine refuses a cuda_graph_config whose max_batch_size is not the largest of its batch_sizes.
    """
    if key == _CUDA_GRAPHS and "batch_sizes" in value:
        return {name: entry for name, entry in default.items() if name != "max_batch_size"}
    return default


def _check_token_limit(limit: object, max_batch_size: int) -> None:
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < max_batch_size:
        raise SpecError(
            field=f"{CONFIG_FIELD}.max_num_tokens",
            value=_shown(limit),
            rule=f"every sequence of a batch of {max_batch_size} takes one token of an iteration",
            advice=f"set an integer of at least {max_batch_size}, or remove the key",
        )


def check_overrides(overrides: Mapping[str, Any], version: EngineVersion) -> None:
    """Raises `SpecError` for the first key, in alphabetical order, that `version` must not be given."""
    for key in sorted(overrides):
        value = overrides[key]
        _check_name(key, value, names=TOP_LEVEL, section="", version=version)
        _check_owned(key, value)
        if key in SECTIONS:
            _check_section(key, value, version=version)


def _check_section(section: str, value: object, *, version: EngineVersion) -> None:
    if value is None and section not in NEVER_NULL:
        return
    if not isinstance(value, Mapping):
        raise SpecError(
            field=f"{CONFIG_FIELD}.{section}",
            value=_shown(value),
            rule=NEVER_NULL[section] if value is None else "the key holds a section of further keys",
            advice=f"set keys of the section, such as {known(SECTIONS[section], version)[0]}, or remove it",
        )
    entries = {str(key): entry for key, entry in value.items()}
    for key in sorted(entries):
        _check_name(key, entries[key], names=SECTIONS[section], section=section, version=version)
        _check_owned(f"{section}.{key}", entries[key])


def _check_owned(path: str, value: object) -> None:
    owner = OWNED.get(path)
    if owner is not None:
        raise SpecError(
            field=f"{CONFIG_FIELD}.{path}",
            value=_shown(value),
            rule=f"the operator sets this key: {owner.rule}",
            advice=owner.advice,
        )


def _check_name(
    key: str, value: object, *, names: Mapping[str, Span], section: str, version: EngineVersion
) -> None:
    span = names.get(key)
    if span is not None and version in span:
        return
    path = f"{section}.{key}" if section else key
    rule = f"TensorRT-LLM {version} does not know the key"
    if span is not None:
        rule += f", which exists {span}"
    raise SpecError(
        field=f"{CONFIG_FIELD}.{path}",
        value=_shown(value),
        rule=rule,
        advice=_suggestion(key, section=section, version=version),
    )


def _suggestion(key: str, *, section: str, version: EngineVersion) -> str:
    """What to do instead: use the key where it belongs, or the legal key that is spelled most alike."""
    top_level = known(TOP_LEVEL, version)
    homes = [f"{home}.{key}" for home in top_level if key in known(SECTIONS.get(home, {}), version)]
    if section and key in top_level:
        homes.insert(0, key)
    if homes:
        owner = OWNED.get(homes[0])
        return owner.advice if owner is not None else f"did you mean {homes[0]}?"
    legal = known(SECTIONS[section], version) if section else top_level
    nearest = difflib.get_close_matches(key, legal, n=1)
    if nearest:
        return f"did you mean {f'{section}.' if section else ''}{nearest[0]}?"
    return "remove the key"


def _shown(value: object) -> str:
    """The value as the user would recognise it, cut where it is long."""
    text = "null" if value is None else str(value)
    return text if len(text) <= _SHOWN_VALUE_CHARACTERS else f"{text[:_SHOWN_VALUE_CHARACTERS]}..."

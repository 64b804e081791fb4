"""Observations as JSON lines: what the operator records and `kubectl-ic replay` reads.

One line is one look at one cluster: the observation, what was decided on it, and, where the reader could not know it, the
memory that the decision began with (after a start of the process, and at the beginning of each file).

The codec follows the types of the core's dataclasses, so that a field that is added there is recorded without a change
here. `Missing` is `{"missing": reason, "message": message}`; mappings whose keys are no strings are lists of pairs; numbers
beyond all bounds are strings.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum, StrEnum
from functools import cache
from types import MappingProxyType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from inferencecluster.core.decision import Decision, Memory
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName, Replica
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Observation
from inferencecluster.core.spec import ClusterSpec

FORMAT: Final = 1
"""Changes when lines of before cannot be read any more."""
_MISSING: Final = "missing"
_HIDDEN: Final = {"Mapping": Mapping, "PoolName": PoolName, "Replica": Replica, "ClusterSpec": ClusterSpec}
"""What `core.observation` imports for type checkers only."""


class Begin(StrEnum):
    """Why a line carries the memory."""

    PROCESS = "process"
    """The operator started: what it had known before is lost, but for what status tells."""
    FILE = "file"
    """The file is new; the operator has gone on."""


@dataclass(frozen=True, slots=True)
class Decided:
    """What was decided, as far as it is compared."""

    targets: Mapping[PoolName, int]
    actions: tuple[Mapping[str, Any], ...]
    """Fields of each action, and its name as `action`."""

    @classmethod
    def of(cls, decision: Decision) -> Decided:
        """The part of a decision."""
        actions = ({"action": type(action).__name__, **encode(action)} for action in decision.actions)
        return cls(decision.targets, tuple(actions))


@dataclass(frozen=True, slots=True)
class Entry:
    """One line."""

    cluster: str
    """Namespace and name, as `namespace/name`."""
    observation: Observation
    decided: Decided
    memory: Memory | Missing
    """What the decision began with; Missing where the line before tells, or where another release remembered otherwise."""
    begin: Begin | None
    """None: the line before it is the look before."""


def to_line(entry: Entry) -> str:
    """One line of JSON, with its line break."""
    document = {
        "format": FORMAT,
        "cluster": entry.cluster,
        "observation": encode(entry.observation),
        "decided": {"targets": encode(entry.decided.targets), "actions": list(entry.decided.actions)},
    }
    if entry.begin is not None:
        document |= {"begin": entry.begin.value, "memory": encode(entry.memory)}
    return json.dumps(document, separators=(",", ":"), allow_nan=False) + "\n"


def _no_number(constant: str) -> None:
    """NaN and the infinities: they are no JSON, and nothing can be decided on them."""
    raise ValueError(constant)


def from_line(line: str, *, source: str) -> Entry:
    """The inverse; `source` is what errors call the line. Raises `SpecError`.

    Fields that this release does not have are ignored, absent ones take their default. A memory that it cannot read is
    Missing: a decision can always do without.
    """
    try:
        document = json.loads(line, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise _error(source, line[:40], f"a line is one JSON object ({error.msg})") from None
    except (ValueError, RecursionError):
        # More digits than Python reads, an infinity, or nested too deeply.
        raise _error(source, line[:40], "a line is one JSON object that can be read") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise _error(source, line[:40], f"a line is an object of format {FORMAT}")
    decided = document.get("decided")
    if not isinstance(decided, dict) or not isinstance(decided.get("actions"), list):
        raise _error(f"{source}: decided", decided, "it is an object with targets and actions")
    return Entry(
        cluster=decode(str, document.get("cluster"), f"{source}: cluster"),
        observation=decode(Observation, document.get("observation"), f"{source}: observation"),
        decided=Decided(
            decode(Mapping[PoolName, int], decided.get("targets"), f"{source}: decided.targets"),
            tuple(decided["actions"]),
        ),
        memory=_memory(document.get("memory"), source),
        begin=decode(Begin | None, document.get("begin"), f"{source}: begin"),
    )


def _memory(value: Any, source: str) -> Memory | Missing:
    if value is None:
        return Missing("NotRecorded", "the line before tells")
    try:
        found: Memory | Missing = decode(Memory | Missing, value, f"{source}: memory")
    except SpecError as error:
        return Missing("OtherRelease", f"the memory was recorded by another release: {error}")
    return found


def encode(value: Any) -> Any:  # noqa: PLR0911 - one for each kind of value
    """What `json` can write. Raises `TypeError` for types that the core does not use."""
    match value:
        case Enum():
            return value.value
        case float() if not math.isfinite(value):
            return str(value)
        case None | bool() | int() | float() | str():
            return value
        case Missing():
            return {_MISSING: value.reason, "message": value.message}
        case Mapping():
            if all(isinstance(key, str) for key in value):
                return {str(key): encode(item) for key, item in value.items()}
            return [[encode(key), encode(item)] for key, item in value.items()]
        case frozenset():
            return sorted(encode(item) for item in value)
        case tuple():
            return [encode(item) for item in value]
    if is_dataclass(value):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    raise TypeError(f"{type(value).__name__} cannot be recorded")


def decode(hint: Any, value: Any, path: str) -> Any:
    """A value of the type that `hint` describes. Raises `SpecError` that names the path."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(hint), value, path)
    if origin is not None and issubclass(origin, Mapping):
        return _decode_mapping(get_args(hint), value, path)
    if origin in (tuple, frozenset):
        return _decode_items(origin, get_args(hint), value, path)
    if is_dataclass(hint) and isinstance(hint, type):
        return _decode_dataclass(hint, value, path)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _decode_enum(hint, value, path)
    return _decode_plain(hint, value, path)


def _decode_union(members: tuple[Any, ...], value: Any, path: str) -> Any:
    """The core's unions are of one type with `Missing`, with None, or with both."""
    if value is None and types.NoneType in members:
        return None
    if Missing in members and isinstance(value, dict) and _MISSING in value:
        return Missing(
            decode(str, value[_MISSING], f"{path}.{_MISSING}"),
            decode(str, value.get("message", ""), f"{path}.message"),
        )
    (member,) = (member for member in members if member not in (Missing, types.NoneType))
    return decode(member, value, path)


def _decode_mapping(arguments: tuple[Any, ...], value: Any, path: str) -> Mapping[Any, Any]:
    key_hint, item_hint = arguments
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        pairs = [(key, item) for key, item in value]
    else:
        raise _error(path, value, "it is an object or a list of pairs")
    return MappingProxyType(
        {decode(key_hint, key, path): decode(item_hint, item, f"{path}.{key}") for key, item in pairs}
    )


def _decode_items(origin: type, arguments: tuple[Any, ...], value: Any, path: str) -> Any:
    if not isinstance(value, list):
        raise _error(path, value, "it is a list")
    is_uniform = origin is frozenset or arguments[1:] == (...,)
    hints = (arguments[0],) * len(value) if is_uniform else arguments
    if len(hints) != len(value):
        raise _error(path, value, f"it is a list of {len(hints)}")
    return origin(
        decode(hint, item, f"{path}[{index}]")
        for index, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _decode_dataclass(hint: type, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise _error(path, value, "it is an object")
    known = _hints(hint)
    found = {
        name: decode(known[name], item, f"{path}.{name}") for name, item in value.items() if name in known
    }
    for field in fields(hint):
        is_required = field.default is MISSING and field.default_factory is MISSING
        if is_required and field.name not in found:
            raise _error(f"{path}.{field.name}", "absent", "this release needs it")
    return hint(**found)


@cache
def _hints(hint: type) -> Mapping[str, Any]:
    return get_type_hints(hint, localns=_HIDDEN)


def _decode_enum(hint: type[Enum], value: Any, path: str) -> Enum:
    try:
        return hint(value)
    except ValueError:
        known = ", ".join(str(member.value) for member in hint)
        raise _error(path, value, f"it is one of {known}") from None


def _decode_plain(hint: Any, value: Any, path: str) -> Any:
    if hint is float and not isinstance(value, bool):
        if isinstance(value, int | float) or value in ("inf", "-inf", "nan"):
            return float(value)
    elif hint in (bool, int, str) and type(value) is hint:
        return value
    raise _error(path, value, f"it is of type {getattr(hint, '__name__', hint)}")


def _error(path: str, value: object, rule: str) -> SpecError:
    return SpecError(
        field=path, value=repr(value)[:80], rule=rule, advice="give a file that the operator recorded"
    )

"""Observations and memories survive their way through a line of JSON, whatever fields the core gives them."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies import make_fleet, make_observation, make_spec

from inferencecluster.api.recording import Begin, Decided, Entry, decode, encode, from_line, to_line
from inferencecluster.core.decision import Memory, decide
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName, Replica
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Observation
from inferencecluster.core.spec import ClusterSpec

HIDDEN = {"Mapping": Mapping, "PoolName": PoolName, "Replica": Replica, "ClusterSpec": ClusterSpec}
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=5),
    int: st.integers(-(10**9), 10**9),
    bool: st.booleans(),
    float: st.floats(allow_nan=False),
    types.NoneType: st.none(),
    Missing: st.builds(Missing, st.text(max_size=5), st.text(max_size=5)),
}


@cache
def values_of(hint: Any) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - one for each kind of type
    """Anything of a type, as the type itself tells: the codec is not asked."""
    if hint in PLAIN:
        return PLAIN[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return st.one_of(*(values_of(member) for member in arguments))
    if origin is frozenset:
        return st.frozensets(values_of(arguments[0]), max_size=2)
    if origin is tuple and arguments[1:] == (...,):
        return st.lists(values_of(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*(values_of(item) for item in arguments))
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(values_of(arguments[0]), values_of(arguments[1]), max_size=2).map(
            MappingProxyType
        )
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)
    assert is_dataclass(hint), hint
    hints = get_type_hints(hint, localns=HIDDEN)
    return st.builds(hint, **{field.name: values_of(hints[field.name]) for field in fields(hint)})  # type: ignore[arg-type]  # a dataclass is callable


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(encode(value), allow_nan=False))


@settings(max_examples=150, deadline=None)
@given(st.data())
@pytest.mark.parametrize("kind", [Observation, Memory])
def test_every_observation_and_memory_comes_back_as_it_was(kind: type, data: st.DataObject) -> None:
    value = data.draw(values_of(kind))
    assert decode(kind, through_json(value), "it") == value


def entry(*, begin: Begin | None = None) -> Entry:
    observation = make_observation(make_spec(minimum=1), make_fleet(prefill=1, decode=2))
    memory = decide(observation, Memory.empty()).memory
    decided = Decided.of(decide(observation, memory))
    return Entry(
        "team/demo",
        observation,
        decided,
        memory if begin else Missing("NotRecorded", "the line before tells"),
        begin,
    )


@pytest.mark.parametrize("begin", [None, Begin.PROCESS, Begin.FILE])
def test_a_line_comes_back_as_it_was_and_is_decided_alike(begin: Begin | None) -> None:
    before = entry(begin=begin)
    line = to_line(before)
    assert line.count("\n") == 1
    assert line.isascii()
    after = from_line(line, source="line")
    assert after == before
    memory = after.memory if isinstance(after.memory, Memory) else Memory.empty()
    original = before.memory if isinstance(before.memory, Memory) else Memory.empty()
    assert decide(after.observation, memory) == decide(before.observation, original)


def changed(line: str, *path: str, to: object) -> str:
    """The line with another value at a path."""
    document = json.loads(line)
    place = document
    for name in path[:-1]:
        place = place[name]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return json.dumps(document)


def test_fields_of_other_releases_do_no_harm() -> None:
    line = changed(to_line(entry()), "observation", "colour", to="blue")
    assert from_line(line, source="line") == entry()
    without_default = changed(line, "observation", "sizing_due", to=None)
    assert from_line(without_default, source="line").observation.sizing_due is True


def test_a_memory_of_another_release_is_missing_and_says_so() -> None:
    line = changed(to_line(entry(begin=Begin.PROCESS)), "memory", "generation", to="newest")
    memory = from_line(line, source="line").memory
    assert isinstance(memory, Missing)
    assert memory.reason == "OtherRelease"
    assert "line: memory.generation" in memory.message


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param(("format",), 7, "an object of format 1", id="format"),
        pytest.param(("cluster",), 7, "line: cluster is 7, but it is of type str", id="text"),
        pytest.param(("begin",), "dawn", "line: begin is 'dawn', but it is one of process, file", id="enum"),
        pytest.param(
            ("observation", "now"),
            "noon",
            "line: observation.now is 'noon', but it is of type float",
            id="number",
        ),
        pytest.param(("observation", "now"), True, "it is of type float", id="a truth is no number"),
        pytest.param(
            ("observation", "replicas"), 3, "observation.replicas is 3, but it is a list", id="list"
        ),
        pytest.param(("observation", "spec"), 3, "observation.spec is 3, but it is an object", id="object"),
        pytest.param(
            ("observation", "spec", "pools"),
            [],
            "observation.spec.pools is [], but it is a list of 3",
            id="length",
        ),
        pytest.param(("observation", "spec", "budget_gpus"), 1.5, "it is of type int", id="whole number"),
        pytest.param(
            ("observation", "spec", "slo"),
            None,
            "observation.spec.slo is 'absent', but this release needs it",
            id="absent",
        ),
        pytest.param(
            ("decided", "targets"),
            3,
            "decided.targets is 3, but it is an object or a list of pairs",
            id="mapping",
        ),
        pytest.param(
            ("decided",),
            [],
            "line: decided is [], but it is an object with targets and actions",
            id="decided",
        ),
    ],
)
def test_what_cannot_be_read_is_named(path: tuple[str, ...], value: object, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        from_line(changed(to_line(entry()), *path, to=value), source="line")
    assert message in str(caught.value)


def test_text_that_is_no_json_is_named() -> None:
    with pytest.raises(SpecError, match="a line is one JSON object"):
        from_line("{", source="line")


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1" + 5000 * "0", 100_000 * "["])
def test_what_json_readers_choke_on_is_named(number: str) -> None:
    with pytest.raises(SpecError, match="a line is one JSON object that can be read"):
        from_line(f'{{"format": 1, "now": {number}}}\n', source="line 1")


def test_only_what_the_core_is_made_of_is_recorded() -> None:
    with pytest.raises(TypeError, match="object cannot be recorded"):
        encode(object())

"""A careless field fails the generator, not an API server."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, create_model

from inferencecluster.api.crd_schema import SchemaError, structural_schema
from inferencecluster.api.schema import ATOMIC, DEFAULTED, PRESERVE_UNKNOWN, ApiModel, Rule, checked, rules


def model(kind: Any, *, described: bool = True, default: Any = ...) -> type[BaseModel]:
    """A resource whose only field has this type."""
    field = Field(default, description="A field." if described else None)
    return create_model("Resource", __base__=ApiModel, value=(kind, field))


def converted(kind: Any, **options: Any) -> dict[str, Any]:
    schema: dict[str, Any] = structural_schema(model(kind, **options))["properties"]["value"]
    return schema


class Inner(ApiModel):
    """A struct."""

    model_config = ConfigDict(json_schema_extra=rules(Rule(rule="self.size > 1", message="small: grow")))

    size: Annotated[int, Field(ge=1, le=9), DEFAULTED] = 3
    """Its size."""


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        pytest.param(str, "has no maxLength", id="unbounded string"),
        pytest.param(int, "has no minimum", id="unbounded integer"),
        pytest.param(Annotated[int, Field(ge=0)], "has no maximum", id="integer without a maximum"),
        pytest.param(Annotated[float, Field(ge=0, le=1)], "is a float", id="float"),
        pytest.param(Annotated[tuple[bool, ...], ATOMIC], "has no maxItems", id="unbounded list"),
        pytest.param(
            Annotated[tuple[bool, ...], Field(max_length=2)], "has no list type", id="list without a type"
        ),
        pytest.param(dict[str, bool], "has no maxProperties", id="unbounded map"),
        pytest.param(bool | Annotated[str, Field(max_length=2)], "is a union", id="union"),
        pytest.param(
            Annotated[dict[str, Any], PRESERVE_UNKNOWN], "has no maxProperties", id="unbounded data"
        ),
        pytest.param(Any, "has no type", id="anything"),
        pytest.param(tuple[bool, bool], "prefixItems", id="tuple"),
        pytest.param(Literal["a"], "const", id="constant"),
        pytest.param(Annotated[int, Field(gt=0, le=9)], "exclusiveMinimum", id="exclusive bound"),
    ],
)
def test_what_a_crd_cannot_hold_is_refused_with_its_path(kind: Any, problem: str) -> None:
    with pytest.raises(SchemaError, match=rf"\.value.*: .*{problem}"):
        converted(kind)


def test_a_field_without_a_description_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"\.value: has no description"):
        converted(bool, described=False)


def test_an_optional_field_is_absent_and_never_null() -> None:
    assert converted(Annotated[str, Field(max_length=3)] | None, default=None) == {
        "description": "A field.",
        "type": "string",
        "maxLength": 3,
    }


def test_a_default_reaches_the_crd_only_when_it_is_marked() -> None:
    assert "default" not in converted(Annotated[int, Field(ge=0, le=9)], default=3)
    assert converted(Annotated[int, Field(ge=0, le=9), DEFAULTED], default=3)["default"] == 3


def test_the_default_of_a_struct_is_made_of_its_members() -> None:
    assert converted(Annotated[Inner, DEFAULTED], default=Inner())["default"] == {"size": 3}


def test_a_struct_is_inlined_with_the_description_of_its_field() -> None:
    schema = converted(Inner)
    assert schema["description"] == "A field."
    assert schema["properties"]["size"]["maximum"] == 9


def test_rules_of_a_struct_and_of_its_field_both_hold() -> None:
    outer = checked(Rule(rule="self == oldSelf", message="fixed: recreate", path=".size"))
    assert [rule["rule"] for rule in converted(Annotated[Inner, outer])["x-kubernetes-validations"]] == [
        "self.size > 1",
        "self == oldSelf",
    ]


def test_integers_carry_the_narrowest_format() -> None:
    assert converted(Annotated[int, Field(ge=0, le=2**31 - 1)])["format"] == "int32"
    assert converted(Annotated[int, Field(ge=0, le=2**31)])["format"] == "int64"


def test_a_rule_with_values_carries_a_message_expression() -> None:
    rule = Rule(
        rule="self.a < self.b", message="a below b: lower a", detail="a is %d: lower", values=("self.a",)
    )
    assert rule.as_keyword()["messageExpression"] == "'a is %d: lower'.format([self.a])"

"""What a process takes from its environment: a value, the default for nothing, and a clear word against anything else."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from inferencecluster.adapters.environment import LogLevel, Names, Number, Switch, Text, Url, WholeNumber
from inferencecluster.core.errors import SpecError

NAME = "IC_TRIED"
TEXT = Text(NAME, "a text", default="absent")
NAMES = Names(NAME, "a list")
SWITCH = Switch(NAME, "a switch", default=True)
NUMBER = Number(NAME, "a number", default=2.5, least=0.5, most=10)
WHOLE = WholeNumber(NAME, "a count", default=4, least=1, most=10)
URL = Url(NAME, "an address")
LEVEL = LogLevel(NAME)


@pytest.mark.parametrize(
    ("variable", "value", "read"),
    [
        pytest.param(TEXT, " word ", "word", id="blanks around a text"),
        pytest.param(TEXT, "  ", "absent", id="blanks alone"),
        pytest.param(NAMES, "a, b ,,c", ("a", "b", "c"), id="names"),
        pytest.param(NAMES, "", (), id="no names"),
        pytest.param(SWITCH, "OFF", False, id="off"),
        pytest.param(SWITCH, "", True, id="a switch that nobody set"),
        pytest.param(NUMBER, "0.5", 0.5, id="the least"),
        pytest.param(NUMBER, "10", 10.0, id="the most"),
        pytest.param(NUMBER, "", 2.5, id="no number"),
        pytest.param(WHOLE, "7", 7, id="a whole number"),
        pytest.param(WHOLE, "", 4, id="no whole number"),
        pytest.param(URL, "http://host:9090/", "http://host:9090", id="a URL with a slash"),
        pytest.param(URL, "", "", id="no URL"),
        pytest.param(LEVEL, "Warning", logging.WARNING, id="a level"),
        pytest.param(LEVEL, "", logging.INFO, id="no level"),
    ],
)
def test_a_value_is_read_and_nothing_means_the_default(variable: Any, value: str, read: object) -> None:
    assert variable.read({NAME: value}) == read
    if not value.strip():
        assert variable.read({}) == read


@pytest.mark.parametrize(
    ("variable", "value", "advice"),
    [
        pytest.param(SWITCH, "Maybe", "set true or false", id="no switch"),
        pytest.param(NUMBER, "0.4", "from 0.5 to 10: correct it, or remove it for 2.5", id="too small"),
        pytest.param(NUMBER, "inf", "from 0.5 to 10", id="infinite"),
        pytest.param(NUMBER, "nan", "from 0.5 to 10", id="not a number"),
        pytest.param(NUMBER, "many", "from 0.5 to 10", id="a word"),
        pytest.param(WHOLE, "1.5", "a whole number from 1 to 10: correct it, or remove it for 4", id="half"),
        pytest.param(WHOLE, "11", "a whole number from 1 to 10", id="too large"),
        pytest.param(URL, "host:9090", "write http://host:port", id="no scheme"),
        pytest.param(URL, "http://", "write http://host:port", id="no host"),
        pytest.param(LEVEL, "loud", "set debug, info, warning or error", id="no level"),
    ],
)
def test_a_wrong_value_is_told_as_it_was_written(variable: Any, value: str, advice: str) -> None:
    with pytest.raises(SpecError) as caught:
        variable.read({NAME: value})
    assert f"{NAME} is {value}" in str(caught.value)
    assert advice in str(caught.value)

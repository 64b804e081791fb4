"""Settings of a process from environment variables: each is declared once; reading, `--help` and the handbook follow."""

from __future__ import annotations

import argparse
import logging
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from inferencecluster.core.errors import SpecError

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})
_HELP_COLUMNS: Final = 80


@dataclass(frozen=True, slots=True)
class Variable:
    """What all have in common. An empty value counts as absent."""

    name: str
    meaning: str
    """For users: what it sets, with its unit."""

    @property
    def default_text(self) -> str:
        """The default, as one would write it; empty where there is none."""
        return ""

    def text(self, environment: Mapping[str, str]) -> str:
        """The value, without blanks around it."""
        return environment.get(self.name, "").strip()


@dataclass(frozen=True, slots=True)
class Text(Variable):
    """Any text."""

    default: str = ""

    @property
    def default_text(self) -> str:
        """The default."""
        return self.default

    def read(self, environment: Mapping[str, str]) -> str:
        """The value, or the default."""
        return self.text(environment) or self.default


@dataclass(frozen=True, slots=True)
class Names(Variable):
    """A list, separated by commas."""

    def read(self, environment: Mapping[str, str]) -> tuple[str, ...]:
        """The names in their order."""
        return tuple(name.strip() for name in self.text(environment).split(",") if name.strip())


@dataclass(frozen=True, slots=True)
class Switch(Variable):
    """true or false."""

    default: bool

    @property
    def default_text(self) -> str:
        """The default."""
        return str(self.default).lower()

    def read(self, environment: Mapping[str, str]) -> bool:
        """The value, or the default. Raises `SpecError`."""
        value = self.text(environment)
        if value.lower() not in _TRUE | _FALSE | {""}:
            raise SpecError(field=self.name, value=value, rule="it is a switch", advice="set true or false")
        return value.lower() in _TRUE if value else self.default


@dataclass(frozen=True, slots=True)
class Number(Variable):
    """A number between two bounds, both allowed."""

    default: float
    least: float = 0.01
    most: float = 86_400.0
    """A day, as most numbers are seconds."""

    @property
    def default_text(self) -> str:
        """The default."""
        return f"{self.default:g}"

    def read(self, environment: Mapping[str, str]) -> float:
        """The value, or the default. Raises `SpecError`."""
        value = self.text(environment)
        try:
            number = float(value) if value else self.default
        except ValueError:
            number = float("nan")
        if not self.least <= number <= self.most:
            rule = f"it is a number from {self.least:g} to {self.most:g}"
            advice = f"correct it, or remove it for {self.default_text}"
            raise SpecError(field=self.name, value=value, rule=rule, advice=advice)
        return number


@dataclass(frozen=True, slots=True)
class WholeNumber(Variable):
    """A whole number between two bounds, both allowed."""

    default: int
    least: int
    most: int

    @property
    def default_text(self) -> str:
        """The default."""
        return str(self.default)

    def read(self, environment: Mapping[str, str]) -> int:
        """The value, or the default. Raises `SpecError`."""
        value = self.text(environment)
        try:
            number = int(value) if value else self.default
        except ValueError:
            number = self.least - 1
        if not self.least <= number <= self.most:
            rule = f"it is a whole number from {self.least} to {self.most}"
            advice = f"correct it, or remove it for {self.default}"
            raise SpecError(field=self.name, value=value, rule=rule, advice=advice)
        return number


@dataclass(frozen=True, slots=True)
class Url(Variable):
    """An http or https URL, or none."""

    def read(self, environment: Mapping[str, str]) -> str:
        """The URL without a slash at its end; empty where there is none. Raises `SpecError`."""
        value = self.text(environment)
        return http_url(value, field=self.name) if value else ""


def http_url(text: str, *, field: str) -> str:
    """The URL without a slash at its end. Raises `SpecError` that names the field where it is none."""
    try:
        parts = urlsplit(text)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_http = False
    if not is_http:
        rule = "it is no http or https URL"
        raise SpecError(field=field, value=text, rule=rule, advice="write http://host:port")
    return text.rstrip("/")


@dataclass(frozen=True, slots=True)
class LogLevel(Variable):
    """A level of the logging module."""

    name: str = "IC_LOG_LEVEL"
    meaning: str = "debug, info, warning or error"

    @property
    def default_text(self) -> str:
        """The default."""
        return "info"

    def read(self, environment: Mapping[str, str]) -> int:
        """The level's number. Raises `SpecError`."""
        value = self.text(environment) or self.default_text
        level = logging.getLevelNamesMapping().get(value.upper())
        if level is None:
            rule = "there is no such level"
            raise SpecError(field=self.name, value=value, rule=rule, advice=f"set {self.meaning}")
        return level


def argument_parser(program: str, description: str, variables: Iterable[Variable]) -> argparse.ArgumentParser:
    """A parser whose `--help` lists the environment variables, too."""
    lines = ["environment variables:"]
    for variable in variables:
        default = f" (default: {variable.default_text})" if variable.default_text else ""
        lines.append(f"  {variable.name}{default}")
        lines += textwrap.wrap(
            variable.meaning, _HELP_COLUMNS, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

"""TensorRT-LLM releases: how they are written, how they are ordered, and which of them the operator can configure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from inferencecluster.core.errors import SpecError

_PATTERN: Final = re.compile(
    r"(?P<major>[0-9]+)\.(?P<minor>[0-9]+)\.(?P<patch>[0-9]+)"
    r"(rc(?P<candidate>[0-9]+))?(\.post(?P<post>[0-9]+))?",
    re.ASCII,
)
_FINAL: Final = 2**31
"""Stands for "not a candidate": a final release is newer than each of its candidates."""

VERSION_FIELD: Final = "spec.engine.version"


@dataclass(frozen=True, slots=True, order=True)
class EngineVersion:
    """One release, such as 1.2.1, 1.3.0rc29 or 1.2.0rc6.post2, in the order in which they came out."""

    major: int
    minor: int
    patch: int
    candidate: int = _FINAL
    post: int = 0

    def __str__(self) -> str:
        candidate = "" if self.candidate == _FINAL else f"rc{self.candidate}"
        post = f".post{self.post}" if self.post else ""
        return f"{self.major}.{self.minor}.{self.patch}{candidate}{post}"


def parse_version(text: str) -> EngineVersion:
    """The release called `text`. Raises `SpecError` when it is not written as TensorRT-LLM writes its releases."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise SpecError(
            field=VERSION_FIELD,
            value=text,
            rule="TensorRT-LLM releases are called X.Y.Z, X.Y.ZrcN or X.Y.ZrcN.postN",
            advice="set it to the release inside the image, such as 1.2.1",
        )
    parts = match.groupdict()
    return EngineVersion(
        major=int(parts["major"]),
        minor=int(parts["minor"]),
        patch=int(parts["patch"]),
        candidate=_FINAL if parts["candidate"] is None else int(parts["candidate"]),
        post=int(parts["post"] or 0),
    )


@dataclass(frozen=True, slots=True)
class Span:
    """Releases from `since` (included) up to `before` (excluded); an absent bound is open."""

    since: EngineVersion | None = None
    before: EngineVersion | None = None

    def __contains__(self, version: EngineVersion) -> bool:
        return (self.since is None or self.since <= version) and (
            self.before is None or version < self.before
        )

    def __str__(self) -> str:
        since = f"from {self.since} on" if self.since else ""
        before = f"before {self.before}" if self.before else ""
        return " and ".join(part for part in (since, before) if part)


SUPPORTED: Final = (
    ("1.2.x", Span(EngineVersion(1, 2, 0), EngineVersion(1, 3, 0, candidate=0))),
    ("1.3.0rcN", Span(EngineVersion(1, 3, 0, candidate=0), EngineVersion(1, 3, 0))),
)
"""Lines whose keys and protocol are known. 1.1 lacks the transfer timeout; 1.3.0 was never released, and 1.4 is
a pre-release whose engines may refuse unsigned transfers (PR 16002)."""


def require_supported(version: EngineVersion) -> None:
    """Raises `SpecError` for a release that the operator cannot configure."""
    if not any(version in span for _, span in SUPPORTED):
        raise SpecError(
            field=VERSION_FIELD,
            value=version,
            rule=f"the operator knows the configuration of {' and '.join(name for name, _ in SUPPORTED)} only",
            advice="use an image of one of these lines, or an operator that supports this release",
        )

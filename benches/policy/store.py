"""Finished cells on disk: one small JSON each, with a fingerprint of the code that made it."""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import inferencecluster.core.spec
import inferencecluster.simulator.simulation

_SIZING: Final = frozenset({"demand", "sizing", "needs", "arrivals", "trend", "headroom"})
"""Modules of the core that only size by demand: nothing that sizes otherwise depends on them. A module that is not
named here is taken to concern everybody, which at worst runs too much again."""
_SHARED: Final = frozenset({"traces", "workloads", "loads", "cluster"})
"""Modules of the benchmark that every result depends on."""
_HERE: Final = Path(__file__).parent
_CORE: Final = Path(inferencecluster.core.spec.__file__).parent
_SIMULATOR: Final = Path(inferencecluster.simulator.simulation.__file__).parent
_POLICIES: Final = _SIMULATOR / "policies"


@dataclass(frozen=True, slots=True)
class Cell:
    """Where one result lies."""

    path: Path
    code: str

    def read(self, *, stale: bool) -> dict[str, Any] | None:
        """The result; None when there is none, or other code made it and `stale` results do not count."""
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        if document.get("code") != self.code and not stale:
            return None
        result: dict[str, Any] = document["result"]
        return result

    def write(self, result: dict[str, Any]) -> None:
        """At once and whole: an interrupted run leaves no half cell."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"code": self.code, "result": result}, allow_nan=False)
        draft = self.path.with_suffix(f".{os.getpid()}")
        draft.write_text(text, encoding="utf-8")
        draft.replace(self.path)


def fingerprint(*, sizing: bool, policies: bool, modules: tuple[str, ...]) -> str:
    """Of the code that a result depends on; comments, docstrings and formatting do not count.

    `sizing`: it depends on the product's own sizing; `policies`: on the baselines; `modules`: on these of the benchmark.
    """
    mine = _SHARED | set(modules)
    wanted: dict[Path, Callable[[str], bool]] = {
        _HERE: lambda stem: stem in mine,
        _CORE: lambda stem: sizing or stem not in _SIZING,
        _SIMULATOR: lambda _stem: True,
        _POLICIES: lambda _stem: policies,
    }
    digest = hashlib.sha256()
    for path, text in remembered_sources().items():
        if wanted[path.parent](path.stem):
            digest.update(text.encode())
    return digest.hexdigest()[:12]


@cache
def remembered_sources() -> Mapping[Path, str]:
    """A digest of each module, as it was when this process first asked: ask before sources can change."""
    folders = (_HERE, _CORE, _SIMULATOR, _POLICIES)
    return MappingProxyType(
        {path: _digest(path) for folder in folders for path in sorted(folder.glob("*.py"))}
    )


def _digest(module: Path) -> str:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        match node:
            case ast.Module(body=body) | ast.ClassDef(body=body) | ast.FunctionDef(body=body):
                node.body = [item for item in body if not _is_text(item)]
            case _:
                pass
    return hashlib.sha256(module.stem.encode() + ast.dump(tree).encode()).hexdigest()


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )

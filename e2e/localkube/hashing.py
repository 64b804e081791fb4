"""Content hashes: the keys of every cache entry."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

KEY_LENGTH = 16
"""Hexadecimal digits of a key: 64 bits, no collision to fear among the few hundred entries of a cache."""

IGNORED_NAMES = frozenset({"__pycache__", ".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache"})
"""Folders that tools write beside sources; their content never changes what a build makes."""


def hash_texts(*parts: str) -> str:
    """Key of a sequence of strings; `("ab", "c")` and `("a", "bc")` differ."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()[:KEY_LENGTH]


def files_below(root: Path) -> list[Path]:
    """Every file below `root` (or `root` itself, if it is a file), sorted, without `IGNORED_NAMES`."""
    if root.is_file():
        return [root]
    found: list[Path] = []
    for entry in sorted(root.iterdir()):
        if entry.name in IGNORED_NAMES or entry.suffix == ".pyc":
            continue
        if entry.is_dir() and not entry.is_symlink():
            found.extend(files_below(entry))
        else:
            found.append(entry)
    return found


def hash_files(root: Path, paths: Iterable[Path]) -> str:
    """Key of the names (relative to `root`), executable bits and bytes of `paths`; directories are walked.

    Raises `FileNotFoundError` for a path that does not exist.
    """
    digest = hashlib.sha256()
    for file in sorted({file for path in paths for file in files_below(path)}):
        mode = file.lstat().st_mode & 0o111
        content = str(file.readlink()).encode() if file.is_symlink() else file.read_bytes()
        header = f"{file.relative_to(root)}\0{mode:o}\0{len(content)}\0"
        digest.update(header.encode())
        digest.update(content)
    return digest.hexdigest()[:KEY_LENGTH]

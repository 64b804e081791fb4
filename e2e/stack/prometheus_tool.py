"""`promtool`, from the Debian package whose `prometheus` runs in the tests: the judge of everything in PromQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from e2e.localkube.paths import default_cache
from e2e.localkube.rootfs import debian_file
from e2e.localkube.shell import run
from e2e.localkube.workspace import building


def find_promtool() -> Path:
    """The program, downloaded into the cache if it is not there. Raises `BuildError`, `CommandError`."""
    cache = default_cache()
    with building(cache):
        return debian_file(cache, "prometheus", "usr/bin/promtool")


def check_rules(promtool: Path, groups: Sequence[Any], folder: Path) -> Path:
    """The file with `groups`, parsed without a fault. Raises `CommandError` with what promtool says."""
    file = folder / "rules.json"
    # JSON is YAML. The file is read again by `run_rule_tests`.
    file.write_text(json.dumps({"groups": groups}), encoding="utf-8")
    run([str(promtool), "check", "rules", "--lint=all", "--lint-fatal", str(file)])
    return file


def run_rule_tests(promtool: Path, rules: Path, tests: Sequence[Any]) -> None:
    """Evaluate `rules` once a minute over the series of `tests`. Raises `CommandError` with every difference."""
    file = rules.with_name("tests.json")
    suite = {"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests}
    file.write_text(json.dumps(suite), encoding="utf-8")
    run([str(promtool), "test", "rules", str(file)])

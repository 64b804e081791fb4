"""The one option of the suite (golden files change only when somebody asks for it), and hypothesis without a clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine must not fail a property: how long an example takes is for the benches.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


SIMULATIONS = (
    "benches",
    "planner",
    "simulator",
    "test_kill_points.py",
    "test_decision_machine.py",
    "test_cli_simulate.py",
    "test_defects.py",
    "test_plan_command.py",
    "test_transition_safety.py",
)
"""Folders and files whose tests repeat the same code thousands of times: under the coverage tracer they take three times as long."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Simulations run by themselves, unmeasured; what they run has tests of its own, which are measured (Makefile)."""
    for item in items:
        if any(part in SIMULATIONS for part in item.path.parts):
            item.add_marker(pytest.mark.simulation)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite golden files instead of comparing with them"
    )


@pytest.fixture
def matches_golden(request: pytest.FixtureRequest) -> Callable[[str, Path], None]:
    """Asserts that a text equals the file, or writes the file under `--update-golden`."""
    update = bool(request.config.getoption("--update-golden"))

    def check(text: str, path: Path) -> None:
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path.name} does not exist: run pytest --update-golden and read it"
        assert text == path.read_text(encoding="utf-8"), (
            f"{path.name} differs: if that is meant, run pytest --update-golden and read the diff"
        )

    return check

"""At a terminal of 80 columns every answer can be read: no cell is cut, no line is longer."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from tests.cli.test_replay_command import line_of
from typer.testing import CliRunner

from inferencecluster.cli import plan, replay, simulate
from inferencecluster.cli.__main__ import application
from inferencecluster.cli.paper import tell

COLUMNS = 80
SAMPLES = Path(__file__).resolve().parents[2] / "docs" / "samples"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """What a person sees whose terminal is narrow."""
    screen = StringIO()
    console = Console(file=screen, width=COLUMNS, force_terminal=True, color_system=None)
    for command in (plan, simulate, replay):
        monkeypatch.setattr(command, "answer_console", lambda: console)
    return screen


def run(*arguments: str, standard_input: str | None = None) -> None:
    result = CliRunner().invoke(application, list(arguments), input=standard_input)
    assert result.exit_code == 0, result.output


def assert_readable(text: str) -> None:
    assert text
    for line in text.splitlines():
        assert len(line) <= COLUMNS, line
        assert "…" not in line, line


def test_a_plan_fits(terminal: StringIO) -> None:
    traffic = ("--rate", "40", "--prompt-tokens", "1155", "--output-tokens", "211")
    run("plan", "--model", "llama-3.1-70b-fp8", *traffic, "--no-verify")
    answer, manifest = terminal.getvalue().split("---\n")
    assert_readable(answer)
    assert yaml.safe_load(manifest)["kind"] == "InferenceCluster"
    # One row a lever: names and bases stand whole on their line.
    assert "speculation, 3 drafts at 70%" in answer
    assert answer.count("estimate") == 5


@pytest.mark.parametrize("command", ["plan", "simulate"])
def test_help_names_the_columns_of_a_trace(command: str) -> None:
    text = CliRunner().invoke(application, [command, "--help"], terminal_width=COLUMNS).output
    for column in ("TIMESTAMP", "ContextTokens", "GeneratedTokens"):
        assert column in text


def test_a_simulation_fits(terminal: StringIO, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:{minute:02}:00.0,1000,100" for minute in range(59)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows, ""]))
    run("simulate", str(SAMPLES / "llama-70b.yaml"), "--trace", str(trace))
    assert_readable(terminal.getvalue())
    assert "over time" in terminal.getvalue()


def test_a_replayed_change_is_a_line_with_its_sentence_below(terminal: StringIO) -> None:
    later = json.loads(line_of("team/demo"))
    later["decided"]["targets"] = {pool: size + 1 for pool, size in later["decided"]["targets"].items()}
    run("replay", "-", standard_input=f"{line_of('team/demo')}{json.dumps(later)}\n")
    assert_readable(terminal.getvalue())
    assert " *" in terminal.getvalue()


def test_into_a_pipe_a_sentence_is_one_line() -> None:
    pipe = StringIO()
    tell(Console(file=pipe, width=COLUMNS), "word " * 40)
    assert pipe.getvalue().count("\n") == 1

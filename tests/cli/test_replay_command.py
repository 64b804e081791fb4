"""What `kubectl-ic replay` makes of recordings that are not whole, or not of the cluster that was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.strategies import make_fleet, make_observation, make_spec
from typer.testing import CliRunner, Result

from inferencecluster.api.recording import Begin, Decided, Entry, to_line
from inferencecluster.cli.__main__ import application
from inferencecluster.core.decision import Memory, decide


def line_of(cluster: str) -> str:
    observation = make_observation(make_spec(minimum=1), make_fleet(prefill=1, decode=1))
    decision = decide(observation, Memory.empty())
    return to_line(Entry(cluster, observation, Decided.of(decision), Memory.empty(), Begin.PROCESS))


def run(*arguments: str, standard_input: str | None = None) -> Result:
    return CliRunner().invoke(application, ["replay", *arguments], input=standard_input)


@pytest.mark.parametrize("kept", [1, 100, -2])
def test_a_last_line_that_is_cut_off_is_left_out_with_a_note(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "looks.jsonl"
    whole = line_of("team/demo")
    file.write_text(whole + whole[:kept])
    result = run(str(file), "--check", "--format", "json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["observations"] == 1
    assert document["notes"] == ["looks.jsonl, line 2: the last line is cut off and was left out"]


def test_each_of_several_files_may_end_in_half_a_line(tmp_path: Path) -> None:
    whole = line_of("team/demo")
    files = [tmp_path / name for name in ("looks.jsonl.1", "looks.jsonl")]
    for file in files:
        file.write_text(whole + whole[:50])
    document = json.loads(run(*map(str, files), "--format", "json").stdout)
    assert document["observations"] == 2
    assert len(document["notes"]) == 2


def test_a_whole_last_line_needs_no_line_break() -> None:
    document = json.loads(
        run("-", "--format", "json", standard_input=line_of("team/demo").rstrip("\n")).stdout
    )
    assert (document["observations"], document["notes"]) == (1, [])


def test_half_a_line_in_the_middle_is_refused() -> None:
    whole = line_of("team/demo")
    result = run("-", standard_input=f"{whole}{whole[:50]}\n{whole}")
    assert result.exit_code == 2
    assert "standard input, line 2 is " in result.stderr


def test_a_cluster_that_was_not_recorded_is_answered_with_those_that_were() -> None:
    lines = line_of("team/other") + line_of("team/demo")
    result = run("-", "--cluster", "team/tiny", standard_input=lines)
    assert result.exit_code == 2
    assert result.stderr == (
        "error: FILE is -, but it holds no observation of team/tiny: it holds team/demo, team/other\n"
    )

"""A recording of the operator, from the first look to the replay."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest
import typer
from tests.fakes import world as fakes
from tests.fakes.virtualtime import run_virtual
from tests.fakes.world import World, cluster, node, operating
from tests.strategies import make_fleet, make_observation, make_spec
from typer.testing import CliRunner, Result

from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.api.recording import Begin, from_line
from inferencecluster.cli.replay import replay_command
from inferencecluster.controller.recorder import Recorder
from inferencecluster.controller.settings import read_settings
from inferencecluster.core.decision import Memory, decide

KEY = ObjectKey("team", "demo")

application = typer.Typer()
application.command()(replay_command)


def replayed(*arguments: object, standard_input: str | None = None) -> Result:
    return CliRunner().invoke(application, [str(argument) for argument in arguments], input=standard_input)


def looks(recorder: Recorder, count: int, *, memory: Memory | None = None, key: ObjectKey = KEY) -> Memory:
    """So many looks at a cluster at rest."""
    memory = memory or Memory.empty()
    observation = make_observation(make_spec(minimum=1), make_fleet(prefill=1, decode=1))
    for _ in range(count):
        decision = decide(observation, memory)
        recorder.record(key, memory, observation, decision)
        memory = decision.memory
    return memory


def begins(file: Path) -> list[tuple[str, Begin | None]]:
    entries = [from_line(line, source="line") for line in file.read_text().splitlines()]
    return [(entry.cluster, entry.begin) for entry in entries]


def test_the_memory_is_recorded_at_the_start_only(tmp_path: Path) -> None:
    file = tmp_path / "new" / "looks.jsonl"
    recorder = Recorder(file, limit_bytes=10**6)
    looks(recorder, 2)
    looks(recorder, 1, key=ObjectKey("team", "other"))
    assert begins(file) == [
        ("team/demo", Begin.PROCESS),
        ("team/demo", None),
        ("team/other", Begin.PROCESS),
    ]


def test_a_restart_goes_on_in_the_same_file(tmp_path: Path) -> None:
    file = tmp_path / "looks.jsonl"
    first = Recorder(file, limit_bytes=10**6)
    looks(first, 1)
    looks(Recorder(file, limit_bytes=10**6), 2)
    assert [begin for _, begin in begins(file)] == [Begin.PROCESS, Begin.PROCESS, None]


def test_two_files_at_most_are_kept_within_the_limit_and_each_can_be_read_alone(tmp_path: Path) -> None:
    file = tmp_path / "looks.jsonl"
    recorder = Recorder(file, limit_bytes=90_000)
    looks(recorder, 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["looks.jsonl", "looks.jsonl.1"]
    for path in (file, tmp_path / "looks.jsonl.1"):
        assert 0 < path.stat().st_size <= 90_000
        found = [begin for _, begin in begins(path)]
        assert found[0] is Begin.FILE
        assert set(found[1:]) == {None}
        assert replayed(path, "--check").exit_code == 0


def test_a_look_that_is_larger_than_the_limit_is_recorded_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "looks.jsonl"
    looks(Recorder(file, limit_bytes=1), 3)
    assert len(begins(file)) == 1


def test_a_disk_that_fails_ends_the_recording_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    recorder = Recorder(tmp_path / "file" / "looks.jsonl", limit_bytes=10**6)
    with caplog.at_level(logging.ERROR):
        looks(recorder, 3)
    assert [record.message for record in caplog.records] == ["recording ends: the file cannot be written"]


def test_a_file_that_somebody_moves_away_is_begun_anew(tmp_path: Path) -> None:
    file = tmp_path / "looks.jsonl"
    recorder = Recorder(file, limit_bytes=10**6)
    memory = looks(recorder, 2)
    file.rename(tmp_path / "moved.jsonl")
    looks(recorder, 2, memory=memory)
    assert [begin for _, begin in begins(file)] == [Begin.FILE, None]


def record_a_run(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Demand comes and goes, and the operator is restarted in between."""
    recording = read_settings({"IC_RECORD_FILE": str(file), "IC_RECORD_MEGABYTES": "64"})
    monkeypatch.setattr(fakes, "read_settings", lambda _environment: recording)

    async def scenario() -> None:
        world = World()
        world.server.put(node())
        world.server.put(cluster(behavior={"scaleDown": {"stabilizationWindowSeconds": 30}}))
        world.add_router()
        async with operating(world):
            await asyncio.sleep(60)
            world.routers.arrive(60)
            await asyncio.sleep(90)
        async with operating(world):
            await asyncio.sleep(60)
            world.routers.arrive(0.0)
            await asyncio.sleep(900)

    run_virtual(scenario())


def test_a_recorded_run_replays_to_the_same_decisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "looks.jsonl"
    record_a_run(file, monkeypatch)
    assert sum(begin is Begin.PROCESS for _, begin in begins(file)) == 2
    result = replayed(file, "--check", "--format", "json")
    assert result.exit_code == 0, result.stdout
    document = json.loads(result.stdout)
    assert document["different"] == 0
    assert document["observations"] == len(file.read_text().splitlines()) > 50
    assert document["notes"] == []
    sizes = [change["replayed"]["to"] for change in document["changes"] if change["pool"] == "prefill"]
    assert max(sizes) > 1
    assert sizes[-1] == 1
    for change in document["changes"]:
        assert change["recorded"] == change["replayed"]
        assert change["reason"]
        assert change["message"]
        assert change["inputs"]


def test_a_decision_that_today_would_be_another_is_shown_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "looks.jsonl"
    record_a_run(file, monkeypatch)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[-1]["decided"]["targets"]["prefill"] = 7
    file.write_text("\n".join(map(json.dumps, lines)))
    table = replayed(file)
    assert table.exit_code == 0
    assert "1 otherwise" in table.stdout
    assert "1 to 7" in table.stdout
    assert "1 to 1 *" in table.stdout
    result = replayed(file, "--check", "--format", "json")
    assert result.exit_code == 1
    (difference,) = json.loads(result.stdout)["differences"]
    assert difference["recorded"]["targets"]["prefill"] == 7
    assert difference["replayed"]["targets"]["prefill"] == 1


def test_a_recording_without_its_beginning_is_replayed_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "looks.jsonl"
    looks(Recorder(file, limit_bytes=10**6), 3)
    rest = "\n".join(file.read_text().splitlines()[1:])
    result = replayed("-", "--format", "json", standard_input=rest)
    document = json.loads(result.stdout)
    assert document["observations"] == 2
    assert document["notes"] == ["team/demo: begins without memory: the line before tells"]


def test_one_cluster_of_several_can_be_chosen(tmp_path: Path) -> None:
    file = tmp_path / "looks.jsonl"
    recorder = Recorder(file, limit_bytes=10**6)
    looks(recorder, 2)
    looks(recorder, 3, key=ObjectKey("team", "other"))
    document = json.loads(replayed(file, "--cluster", "team/other", "--format", "json").stdout)
    assert (document["clusters"], document["observations"]) == (["team/other"], 3)


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        pytest.param(None, (), "FILE is ", id="no such file"),
        pytest.param("", (), "it holds no observation", id="empty"),
        pytest.param("{}\n", (), "looks.jsonl, line 1 is '{}", id="not a line of ours"),
        pytest.param(
            "", ("--cluster", "a/b"), "it holds no observation of a/b", id="nothing of that cluster"
        ),
    ],
)
def test_bad_input_is_told_in_one_line_and_ends_with_2(
    tmp_path: Path, text: str | None, arguments: tuple[str, ...], message: str
) -> None:
    file = tmp_path / "looks.jsonl"
    if text is not None:
        file.write_text(text)
    result = replayed(file, *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1

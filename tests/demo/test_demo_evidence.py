"""What the demo leaves behind: the operator's own recording of this run, and whether it replays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from e2e.demo import evidence
from e2e.demo.monitor import PoolSample, Sample
from e2e.demo.replayed import nothing_recorded, replay_looks
from e2e.stack.recording import read_recording
from e2e.stack.target import Target
from tests.strategies import make_fleet, make_observation, make_spec

from inferencecluster.api.recording import Begin, Decided, Entry, to_line
from inferencecluster.core.decision import Memory, decide
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing

CLUSTER = "demo/llama-70b"


def looks(count: int, *, now: float = 1000.0, cluster: str = CLUSTER) -> list[Entry]:
    """The first looks at a new cluster, as the operator records them."""
    found: list[Entry] = []
    memory = Memory.empty()
    observation = make_observation(make_spec(minimum=1), make_fleet(prefill=1, decode=1))
    for number in range(count):
        decision = decide(replace(observation, now=now + number), memory)
        known = Missing("NotRecorded") if number else memory
        begin = None if number else Begin.PROCESS
        seen = replace(observation, now=now + number)
        found.append(Entry(cluster, seen, Decided.of(decision), known, begin))
        memory = decision.memory
    return found


def lines(*entries: Entry) -> list[str]:
    return [to_line(entry).rstrip("\n") for entry in entries]


def test_only_the_looks_at_this_runs_cluster_are_kept(tmp_path: Path) -> None:
    earlier, mine = looks(3, now=1000.0), looks(2, now=2000.0)
    other = looks(2, now=2000.5, cluster="demo/other")
    evidence.write_looks(tmp_path, lines(*earlier, *mine, *other), cluster=CLUSTER)
    kept = evidence.read_looks(tmp_path)
    assert [(entry.cluster, entry.observation.now) for entry in kept] == [
        (CLUSTER, 2000.0),
        (CLUSTER, 2001.0),
    ]
    assert replay_looks(kept).faults == ()


def test_a_restart_of_the_operator_begins_no_other_run(tmp_path: Path) -> None:
    first = looks(2)
    restarted = Memory.restored({PoolName.PREFILL: 1, PoolName.DECODE: 1, PoolName.MIXED: 0}, (), 1002.0)
    seen = replace(first[0].observation, now=1002.0)
    after = Entry(CLUSTER, seen, Decided.of(decide(seen, restarted)), restarted, Begin.PROCESS)
    evidence.write_looks(tmp_path, lines(*first, after), cluster=CLUSTER)
    replayed = replay_looks(evidence.read_looks(tmp_path))
    assert (replayed.decisions, replayed.different) == (3, 0)
    assert replayed.describe() == "3 decisions, 0 differ"


def test_a_decision_that_replays_to_another_fails_the_run() -> None:
    first, second = looks(2)
    wrong = replace(second, decided=Decided({**second.decided.targets, PoolName.PREFILL: 9}, ()))
    replayed = replay_looks([first, wrong])
    assert replayed.describe() == "2 decisions, 1 differ"
    assert replayed.faults == ("1 of 2 recorded decisions replay to others",)


def test_a_run_without_a_recording_fails_with_the_cause() -> None:
    assert replay_looks([]).faults == ("no decision was replayed",)
    assert nothing_recorded("exec was refused").faults == ("no decision was replayed: exec was refused",)


def test_the_recording_of_the_leader_is_read_without_a_line_that_is_being_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, ...]] = []

    def control(_target: Target, *arguments: str, **_: Any) -> str:
        asked.append(arguments)
        if arguments[0] == "get":
            return json.dumps({"spec": {"holderIdentity": "operator-7d9-abc_1f2e"}})
        return '{"a":1}\n{"b":2}\n{"c":'

    monkeypatch.setattr(Target, "control", control)
    target = Target(Path("config"), Path("kubectl"), Path("helm"), {}, None)
    assert read_recording(target) == ['{"a":1}', '{"b":2}']
    assert asked[1][:2] == ("exec", "operator-7d9-abc")


def test_samples_are_read_back_as_they_were(tmp_path: Path) -> None:
    pools = {"prefill": PoolSample(3, 2, 1, 0, 0), "decode": PoolSample(1, 1), "mixed": PoolSample()}
    samples = [Sample(0.0, pools, 12, 64, 500, 3, "prefill 2→3: more", ("Ready: Starting",))]
    facts = evidence.RunFacts("conv", 600.0, 6.0, 0.4, 1.5e9, halved_budget=False)
    evidence.write_run(tmp_path, facts, samples)
    assert evidence.read_samples(tmp_path) == samples
    assert evidence.read_run(tmp_path) == facts
    assert evidence.moved(samples[0], 0.5).at == 0.5

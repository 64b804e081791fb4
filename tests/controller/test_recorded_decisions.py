"""Operator and simulator decide alike: a recording of the operator, decided again and passed through the simulator's operator.

`golden/looks.jsonl` is a recording that the operator made of itself (tests/controller/recorded_run.py). When decisions change on
purpose, look at the differences (`kubectl-ic replay tests/controller/golden/looks.jsonl`), then renew it: `make golden-recording`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.controller.recorded_run import record
from tests.simulator.simulator_builders import scenario

from inferencecluster.api.recording import Begin, Decided, Entry, from_line
from inferencecluster.cli.replay import replay
from inferencecluster.core.decision import Memory
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import Observation
from inferencecluster.simulator.events import EventQueue
from inferencecluster.simulator.observing import Observer
from inferencecluster.simulator.operating import Operator
from inferencecluster.simulator.replicas import Replicas

GOLDEN = Path(__file__).parent / "golden" / "looks.jsonl"
LARGEST_BYTES = 200_000


def entries_of(file: Path) -> list[Entry]:
    return [from_line(line, source="golden") for line in file.read_text(encoding="ascii").splitlines()]


@pytest.fixture(scope="module")
def golden() -> list[Entry]:
    return entries_of(GOLDEN)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """What the operator of this very code records."""
    file = tmp_path_factory.mktemp("fresh") / "looks.jsonl"
    record(file)
    return entries_of(file)


def test_the_golden_recording_holds_what_decisions_are_made_of(golden: list[Entry]) -> None:
    actions = Counter(action["action"] for entry in golden for action in entry.decided.actions)
    assert actions.keys() == {"Create", "Fence", "Unfence", "Delete"}
    assert sum(entry.begin is Begin.PROCESS for entry in golden) == 2
    assert any(isinstance(entry.observation.routers, Missing) for entry in golden)
    assert any(isinstance(entry.observation.metrics, Missing) for entry in golden)
    assert any(not entry.observation.sizing_due for entry in golden)
    assert GOLDEN.stat().st_size <= LARGEST_BYTES


def test_the_same_observations_lead_to_exactly_the_recorded_decisions(golden: list[Entry]) -> None:
    notes: list[str] = []
    replayed = list(replay(golden, notes))
    assert len(replayed) == len(golden)
    assert notes == []
    for item in replayed:
        assert item.decided == item.entry.decided, f"at {item.entry.observation.now}: make golden-recording"


def test_another_observation_leads_to_another_decision(golden: list[Entry]) -> None:
    """The comparison can fail: without its sizing tick, a change of size does not happen."""
    changes = [
        number
        for number, entry in enumerate(golden)
        if number and entry.observation.sizing_due and entry.decided.actions
    ]
    for number in changes:
        changed = list(golden)
        changed[number] = replace(
            golden[number], observation=replace(golden[number].observation, sizing_due=False)
        )
        assert not list(replay(changed, []))[number].is_same


@dataclass
class RecordedEyes:
    """Stands in for the simulator's `Observer`: shows what the operator saw, look by look."""

    observations: Iterator[Observation]

    def observe(self, *_: Any, **__: Any) -> Observation:
        return next(self.observations)


@dataclass
class WatchedHands:
    """Stands in for the simulator's `Replicas`: writes down what it is asked for."""

    asked: list[dict[str, Any]] = field(default_factory=list)

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def create(self, ordinal: int, pool: str) -> None:
        self.asked.append({"action": "Create", "ordinal": ordinal, "pool": pool})

    def fence(self, name: str, uid: str, reason: str) -> None:
        self.asked.append({"action": "Fence", "replica": name, "uid": uid, "reason": reason})

    def unfence(self, name: str, uid: str) -> None:
        self.asked.append({"action": "Unfence", "replica": name, "uid": uid})

    def delete(self, name: str, uid: str) -> None:
        self.asked.append({"action": "Delete", "replica": name, "uid": uid})


def processes_of(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The looks of each operator process."""
    found: list[list[Entry]] = []
    for entry in entries:
        if entry.begin is Begin.PROCESS:
            found.append([])
        found[-1].append(entry)
    return found


@dataclass
class Shown:
    """What the simulator's operator decided on recorded observations, and what it did."""

    decided: list[Decided]
    asked: list[dict[str, Any]]


def show(entries: Sequence[Entry]) -> Shown:
    """Pass the looks of one process through the simulator's operator."""
    events, hands, decided = EventQueue(), WatchedHands(), list[Decided]()
    eyes = RecordedEyes(entry.observation for entry in entries)
    operator = Operator(scenario(), events, cast("Replicas", hands), cast("Observer", eyes), None)
    operator.on_decision = lambda _observation, decision: decided.append(Decided.of(decision))
    first = entries[0].memory
    assert isinstance(first, Memory)
    # A simulated operator is never restarted, and begins with the memory of a new cluster.
    operator._memory = first
    operator.start()
    while len(decided) < len(entries):
        events.run_next()
    return Shown(decided, hands.asked)


@pytest.mark.parametrize("recording", ["golden", "fresh"])
def test_the_simulators_operator_does_what_the_controller_did_on_the_same_observations(
    recording: str, request: pytest.FixtureRequest
) -> None:
    entries: list[Entry] = request.getfixturevalue(recording)
    for process in processes_of(entries):
        shown = show(process)
        assert shown.decided == [entry.decided for entry in process]
        wanted = [action for entry in process for action in entry.decided.actions]
        assert len(shown.asked) == len(wanted)
        for asked, action in zip(shown.asked, wanted, strict=True):
            assert asked == {name: action[name] for name in asked}
    assert len(processes_of(entries)) == 2

"""Who is next in the line of waiting requests."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferencecluster.core.waiting import GRANTS_PAST_OLDEST, WaitingLine

TARGET = 10.0


def line_of(
    *waiting: tuple[str, float], late_seconds: float = TARGET, refused_seconds: float = inf
) -> WaitingLine[str]:
    line: WaitingLine[str] = WaitingLine(late_seconds, refused_seconds)
    for name, since in waiting:
        line.add(name, since)
    return line


def grant(line: WaitingLine[str], now: float) -> str:
    item = line.first(now)
    assert item is not None
    line.granted(item)
    return item


@pytest.mark.parametrize(
    ("now", "late_seconds", "refused_seconds", "expected"),
    [
        pytest.param(2.0, TARGET, inf, "abcdefghijklmnopqrst", id="nobody is late: oldest first"),
        pytest.param(9.999, TARGET, inf, "abcdefghijklmnopqrst", id="just before: oldest first"),
        pytest.param(
            10.0, TARGET, inf, "tsrqponmlkjihgfabcde", id="one is late: newest first until its turn"
        ),
        pytest.param(
            1e9, TARGET, inf, "tsrqponmlkjihgfaedcb", id="all are late: newest first, one in 16 is oldest"
        ),
        pytest.param(
            20.0, TARGET, 40.0, "tsraqponmlkjihgfedcb", id="one is urgent: one in 4, and then one in 16"
        ),
        pytest.param(30.0, TARGET, 40.0, "tsraqpobnmlckjidhgfe", id="all are urgent: one in 4 is oldest"),
        pytest.param(1e9, inf, 40.0, "abcdefghijklmnopqrst", id="no target: oldest first"),
        pytest.param(6.0, 0.0, inf, "tsrqponmlkjihgfaedcb", id="target zero: always late"),
    ],
)
def test_the_order_of_grants(now: float, late_seconds: float, refused_seconds: float, expected: str) -> None:
    names = "abcdefghijklmnopqrst"
    waiting = ((name, place / 10) for place, name in enumerate(names))
    line = line_of(*waiting, late_seconds=late_seconds, refused_seconds=refused_seconds)

    assert "".join(grant(line, now) for _ in names) == expected


def test_a_newcomer_passes_those_who_are_late_already() -> None:
    line = line_of(("old", 0.0), ("late", 5.0))

    line.add("new", 20.0)

    assert [grant(line, 20.0) for _ in range(3)] == ["new", "late", "old"]


def test_oldest_first_again_once_the_late_ones_are_out() -> None:
    line = line_of(("late", 0.0), ("a", 15.0), ("b", 16.0), ("c", 17.0))
    assert grant(line, 18.0) == "c"

    line.discard("late")

    assert [grant(line, 18.0), grant(line, 18.0)] == ["a", "b"]


def test_the_turn_of_the_oldest_passes_to_the_next_oldest_when_it_leaves() -> None:
    line = line_of(*((str(place), 0.0) for place in range(GRANTS_PAST_OLDEST + 3)))
    assert "0" not in [grant(line, TARGET) for _ in range(GRANTS_PAST_OLDEST)]

    line.discard("0")

    assert grant(line, TARGET) == "1"


def test_asking_who_is_next_does_not_use_up_a_turn() -> None:
    line = line_of(*((name, 0.0) for name in "abcdef"))

    assert {line.first(TARGET) for _ in range(10)} == {"f"}


def test_a_changed_target_counts_for_those_who_wait_already() -> None:
    line = line_of(("a", 0.0), ("b", 1.0))
    assert line.first(5.0) == "a"

    line.late_seconds = 5.0

    assert line.first(5.0) == "b"


def test_who_waits_and_since_when() -> None:
    line = line_of(("a", 1.0), ("b", 2.0), ("c", 3.0))

    line.discard("a")
    line.discard("a")

    assert (list(line), len(line), line.oldest_since) == (["b", "c"], 2, 2.0)
    assert "a" not in line
    assert "b" in line


def test_an_empty_line_has_nobody_first() -> None:
    line = line_of()

    assert (line.first(0.0), line.oldest_since, len(line)) == (None, None, 0)


def test_only_who_waits_can_be_granted() -> None:
    with pytest.raises(KeyError):
        line_of(("a", 0.0)).granted("b")


steps = st.lists(
    st.tuples(st.sampled_from(["add", "grant", "discard"]), st.floats(0.0, 5.0)),
    max_size=60,
)


def play(line: WaitingLine[int], script: list[tuple[str, float]]) -> tuple[list[int], list[int], float]:
    """Those granted and those discarded, in order, and the time at the end. Items are numbered as they come."""
    now, added = 0.0, 0
    granted: list[int] = []
    discarded: list[int] = []
    for verb, pause in script:
        now += pause
        first = line.first(now)
        if verb == "add":
            line.add(added, now)
            added += 1
        elif first is not None and verb == "grant":
            line.granted(first)
            granted.append(first)
        elif first is not None:
            discarded.append(list(line)[len(line) // 2])
            line.discard(discarded[-1])
    return granted, discarded, now


@given(steps, st.floats(0.0, 20.0))
def test_everybody_leaves_exactly_once(script: list[tuple[str, float]], late_seconds: float) -> None:
    line: WaitingLine[int] = WaitingLine(late_seconds, inf)
    granted, discarded, now = play(line, script)

    while (item := line.first(now)) is not None:
        line.granted(item)
        granted.append(item)

    added = sum(verb == "add" for verb, _ in script)
    assert sorted(granted + discarded) == list(range(added))


@given(steps)
def test_while_nobody_is_late_grants_follow_arrivals(script: list[tuple[str, float]]) -> None:
    granted, _, _ = play(WaitingLine(inf, inf), script)

    assert granted == sorted(granted)


@given(steps, st.floats(0.0, 20.0), st.integers(0, 3))
def test_nobody_starves_however_many_come_behind(
    script: list[tuple[str, float]], late_seconds: float, newcomers_per_grant: int
) -> None:
    line: WaitingLine[int] = WaitingLine(late_seconds, inf)
    _, _, now = play(line, script)
    bound = {item: (GRANTS_PAST_OLDEST + 1) * (ahead + 1) for ahead, item in enumerate(line)}
    newcomer = len(script)

    for grants in range(1, max(bound.values(), default=0) + 1):
        for _ in range(newcomers_per_grant):
            line.add(newcomer, now)
            newcomer += 1
        if (item := line.first(now)) is None:
            break
        line.granted(item)
        if item in bound:
            assert grants <= bound.pop(item)
    assert not bound


@given(steps, st.floats(0.0, 20.0))
def test_most_grants_go_to_the_newest_while_the_oldest_is_late(
    script: list[tuple[str, float]], late_seconds: float
) -> None:
    line: WaitingLine[int] = WaitingLine(late_seconds, inf)
    _, _, now = play(line, script)
    now += late_seconds

    passed = 0
    while len(line) > 1 and now - (line.oldest_since or 0.0) >= late_seconds:
        oldest, newest = next(iter(line)), list(line)[-1]
        item = line.first(now)
        assert item in {oldest, newest}
        assert passed < GRANTS_PAST_OLDEST or item == oldest
        passed = 0 if item == oldest else passed + 1
        line.granted(item)

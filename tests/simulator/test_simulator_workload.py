"""Traces as they are read, and what can be made of them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulator.simulator_builders import requests, steady

from inferencecluster.core.errors import SpecError
from inferencecluster.simulator.synthetic import DAY_SECONDS, Phase, Shape, alternating, diurnal
from inferencecluster.simulator.workload import (
    Request,
    between,
    copied,
    out_of_step,
    parse_trace,
    read_trace,
    scaled_time,
    spliced,
    with_burst,
    with_mirrored_warm_up,
)

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"

workloads = st.lists(
    st.builds(Request, st.floats(0, 1000), st.integers(1, 9), st.integers(1, 9)), max_size=30
).map(sorted)


def is_ordered(found: list[Request]) -> bool:
    return all(before.arrival <= after.arrival for before, after in itertools.pairwise(found))


def lengths(found: list[Request]) -> Counter[tuple[int, int]]:
    return Counter((request.prompt_tokens, request.output_tokens) for request in found)


def test_a_trace_begins_at_zero_and_keeps_fractions_of_a_second(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    lines = ["2023-11-16 18:17:03.9799600,4808,10\n", "2023-11-16 18:17:04.0319600,3180,8\n", "\n"]
    path.write_text(HEADER + "".join(lines), encoding="utf-8")
    first, second = read_trace(path)
    assert first == Request(0.0, 4808, 10)
    assert second.arrival == pytest.approx(0.052)
    assert (second.prompt_tokens, second.output_tokens) == (3180, 8)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param("100,5,6\n101.5,7,8\n", id="seconds"),
        pytest.param("2024-05-01T00:00:00Z,5,6\n2024-05-01T00:00:01.5+00:00,7,8\n", id="time zones"),
    ],
)
def test_other_timestamps_are_read_too(rows: str) -> None:
    found = list(parse_trace((HEADER + rows).splitlines(), source="trace"))
    assert found == requests((0.0, 5, 6), (1.5, 7, 8))


def test_columns_are_found_by_their_names() -> None:
    text = "\ufeffGeneratedTokens, Model, TIMESTAMP ,ContextTokens\n6,x,0,5\n"
    assert list(parse_trace(text.splitlines(), source="trace")) == requests((0.0, 5, 6))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "t.csv, line 1 is empty, but the header names", id="empty"),
        pytest.param("TIMESTAMP,ContextTokens\n", "GeneratedTokens is absent", id="a column is missing"),
        pytest.param(HEADER + "0,1,1\n1,0,1\n", "t.csv, line 3, ContextTokens is '0'", id="no prompt"),
        pytest.param(HEADER + "0,1,-1\n", "line 2, GeneratedTokens is '-1'", id="negative"),
        pytest.param(HEADER + "0,1.5,1\n", "line 2, ContextTokens is '1.5'", id="a fraction"),
        pytest.param(HEADER + "0,1,999999999\n", "a whole number from 1 to 100000000", id="absurd"),
        pytest.param(HEADER + f"0,1,{'9' * 5000}\n", "a whole number from 1 to 100000000", id="beyond any"),
        pytest.param(HEADER + "0,1\n", "line 2, GeneratedTokens is absent", id="a short line"),
        pytest.param(HEADER + "yesterday,1,1\n", "line 2, TIMESTAMP is 'yesterday'", id="no time"),
        pytest.param(HEADER + "nan,1,1\n", "line 2, TIMESTAMP is 'nan'", id="not a number"),
        pytest.param(HEADER + "5,1,1\n4,1,1\n", "line 3, TIMESTAMP is '4'", id="back in time"),
        pytest.param(HEADER + "5,1,1\n2024-01-01,1,1\n", "one form", id="two forms"),
        pytest.param(
            HEADER + "2024-01-01 00:00:00,1,1\n2024-01-01T00:00:01Z,1,1\n", "one form", id="a zone and none"
        ),
    ],
)
def test_a_wrong_trace_is_refused_by_line_field_value_and_rule(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message.replace(".", r"\.")):
        list(parse_trace(text.splitlines(), source="t.csv"))


def test_a_trace_is_read_as_it_is_asked_for() -> None:
    def lines() -> Iterator[str]:
        yield HEADER
        for number in itertools.count():
            yield f"{number},1,1\n"

    endless = parse_trace(lines(), source="endless")
    assert list(itertools.islice(endless, 3)) == requests((0.0, 1, 1), (1.0, 1, 1), (2.0, 1, 1))


def test_a_part_begins_at_zero_again() -> None:
    assert list(between(steady(1.0, 10.0), 2.5, 5.0)) == [Request(float(n) - 2.5, 1000, 100) for n in (3, 4)]


def test_half_the_time_is_twice_the_rate() -> None:
    assert [item.arrival for item in scaled_time(steady(1.0, 3.0), 0.5)] == [0.0, 0.5, 1.0]


@given(workloads, st.integers(1, 4), st.floats(0, 50), st.integers(0, 5))
def test_copies_keep_lengths_and_stay_within_the_jitter(
    workload: list[Request], copies: int, jitter: float, seed: int
) -> None:
    found = list(copied(workload, copies=copies, jitter_seconds=jitter, seed=seed))
    assert is_ordered(found)
    assert lengths(found) == Counter({key: count * copies for key, count in lengths(workload).items()})
    assert all(request.arrival >= 0 for request in found)
    latest = max((request.arrival for request in workload), default=0.0)
    assert all(request.arrival <= latest + jitter for request in found)
    assert found == list(copied(workload, copies=copies, jitter_seconds=jitter, seed=seed))


def test_a_fraction_of_a_copy_is_a_matter_of_chance() -> None:
    found = list(copied(steady(10.0, 1000.0), copies=1.3, jitter_seconds=0.0, seed=1))
    assert 12_700 < len(found) < 13_300


def test_copies_are_as_dense_at_the_beginning_as_later() -> None:
    found = list(copied(steady(10.0, 200.0), copies=20, jitter_seconds=15.0, seed=1))
    early = sum(request.arrival < 5 for request in found)
    later = sum(100 <= request.arrival < 105 for request in found)
    assert 0.85 < early / later < 1.15


def test_copying_holds_only_what_the_jitter_mixes() -> None:
    endless = (Request(float(number), 1, 1) for number in itertools.count())
    found = list(itertools.islice(copied(endless, copies=2, jitter_seconds=5.0, seed=3), 100))
    assert is_ordered(found)


@given(workloads, st.integers(1, 4), st.floats(0, 300), st.integers(0, 5))
def test_tenants_out_of_step_send_the_whole_trace_each(
    workload: list[Request], copies: int, shift: float, seed: int
) -> None:
    found = list(out_of_step(workload, copies=copies, shift_seconds=shift, seed=seed))
    assert is_ordered(found)
    assert lengths(found) == Counter({key: count * copies for key, count in lengths(workload).items()})
    assert all(request.arrival >= 0 for request in found)


def test_what_is_moved_beyond_an_end_comes_in_at_the_other() -> None:
    found = list(out_of_step(steady(1.0, 100.0), copies=1, shift_seconds=30.0, seed=2))
    gaps = [after.arrival - before.arrival for before, after in itertools.pairwise(found)]
    assert gaps == pytest.approx([1.0] * 99)


@given(workloads, st.integers(1, 10))
def test_a_burst_multiplies_its_own_minute_only(workload: list[Request], factor: int) -> None:
    found = list(with_burst(workload, start=300.0, seconds=60.0, factor=factor, seed=1))
    assert is_ordered(found)
    inside = [request for request in workload if 300 <= request.arrival < 360]
    assert len(found) == len(workload) + (factor - 1) * len(inside)
    assert sum(300 <= request.arrival < 360 for request in found) == factor * len(inside)


def test_one_service_turns_into_another() -> None:
    first, second = steady(1.0, 10.0, prompt=5), steady(1.0, 10.0, prompt=7)
    found = list(spliced(first, second, at=4.5))
    assert [request.prompt_tokens for request in found] == [5] * 5 + [7] * 5
    assert [request.arrival for request in found] == [float(number) for number in range(10)]


@given(workloads, st.sampled_from([0.5, 100.0, 600.0, 2000.0]))
def test_a_mirrored_warm_up_comes_before_the_whole_workload(workload: list[Request], seconds: float) -> None:
    found = list(with_mirrored_warm_up(workload, seconds))
    assert is_ordered(found)
    early = [request for request in workload if 0 <= seconds - request.arrival < seconds]
    assert len(found) == len(workload) + len(early)
    rest = found[len(early) :]
    assert [request.arrival for request in rest] == [seconds + request.arrival for request in workload]
    assert lengths(found[: len(early)]) == lengths(early)
    assert all(request.arrival < seconds for request in found[: len(early)])


def test_phases_alternate() -> None:
    prompts = Phase(Shape(4000, 20, prompt_spread=0.0, output_spread=0.0), 4.0)
    tokens = Phase(Shape(200, 500, prompt_spread=0.0, output_spread=0.0), 2.0)
    found = list(alternating([prompts, tokens], phase_seconds=100.0, duration_seconds=400.0, seed=1))
    assert is_ordered(found)
    assert {item.prompt_tokens for item in found if int(item.arrival / 100) % 2 == 0} == {4000}
    assert {item.output_tokens for item in found if int(item.arrival / 100) % 2 == 1} == {500}
    assert 650 < sum(item.prompt_tokens == 4000 for item in found) < 950
    assert 300 < sum(item.prompt_tokens == 200 for item in found) < 500


def test_a_day_has_its_trough_at_midnight_and_its_peak_at_noon() -> None:
    shape = Shape(1000, 200, longest=5000)
    found = list(diurnal(shape, peak_requests_per_second=0.2, trough_share=0.25, seed=4))
    hours = Counter(int(request.arrival / 3600) for request in found)
    assert is_ordered(found)
    assert found[-1].arrival < DAY_SECONDS
    assert 0.15 < hours[0] / hours[12] < 0.4
    assert max(item.prompt_tokens for item in found) <= 5000
    medians = sorted(item.prompt_tokens for item in found)
    assert medians[len(medians) // 2] == pytest.approx(1000, rel=0.1)

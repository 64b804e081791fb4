"""The status: what goes in, what is kept from before, and when there is something new to say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inferencecluster.api.status import MAX_DECISIONS, MAX_DRAINING, InferenceClusterStatus
from inferencecluster.controller.events import EventType
from inferencecluster.controller.report import (
    Report,
    build_stalled_status,
    build_status,
    events_of,
    invalid_spec_conditions,
    is_news,
    override_conditions,
    records_of,
    settled_generation_of,
    status_manifest,
    targets_of,
)
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import PoolCapacity
from inferencecluster.core.status import (
    ClusterStatus,
    Condition,
    ConditionStatus,
    ConditionType,
    DecisionRecord,
    DrainStatus,
    PoolStatus,
)

NOW = 1_800_000_000.0
SPEC_ERROR = SpecError(field="spec.engine.env", value="X", rule="it is reserved", advice="remove it")


def pool(name: PoolName, **changes: object) -> PoolStatus:
    base = PoolStatus(name, 2, 2, 2, 0, 0, 0, 4, Missing("NodesNotRead"))
    return replace(base, **changes)  # type: ignore[arg-type]  # the test names existing fields


def core_status(
    *conditions: Condition, prefill: PoolStatus | None = None, draining: tuple[DrainStatus, ...] = ()
) -> ClusterStatus:
    return ClusterStatus(
        pools=(prefill or pool(PoolName.PREFILL), pool(PoolName.DECODE), pool(PoolName.MIXED)),
        conditions=conditions or (condition(ConditionType.READY, ConditionStatus.TRUE),),
        gpus=12,
        budget_gpus=16,
        draining=draining,
    )


def condition(kind: ConditionType, status: ConditionStatus, reason: str = "Because") -> Condition:
    return Condition(kind, status, reason, "in words")


def record(before: int = 1, after: int = 2, at: float = NOW) -> DecisionRecord:
    return DecisionRecord(
        at, PoolName.PREFILL, before, after, "PrefillWork", "busy", (("busy", 1.5),), "budget"
    )


def build(
    core: ClusterStatus | None = None,
    previous: InferenceClusterStatus | None = None,
    *records: DecisionRecord,
    now: float = NOW,
) -> InferenceClusterStatus:
    report = Report(3, "abc", "http://demo.team.svc", core or core_status(), records)
    return build_status(report, previous, now=now)


def test_a_status_says_everything_that_the_columns_show() -> None:
    status = build()
    assert (status.observed_generation, status.revision, status.endpoint) == (
        3,
        "abc",
        "http://demo.team.svc",
    )
    assert status.summary is not None
    assert (status.summary.prefill, status.summary.gpus) == ("2/2", "12/16")
    assert targets_of(status) == {PoolName.PREFILL: 2, PoolName.DECODE: 2, PoolName.MIXED: 2}


@pytest.mark.parametrize(
    ("reconciling", "settled"),
    [
        pytest.param(ConditionStatus.FALSE, True, id="rolled out"),
        pytest.param(ConditionStatus.TRUE, False, id="still rolling out"),
    ],
)
def test_a_restart_knows_whether_the_generation_was_rolled_out(
    reconciling: ConditionStatus, settled: bool
) -> None:
    status = build(core_status(condition(ConditionType.RECONCILING, reconciling)))
    assert settled_generation_of(status) == (status.observed_generation if settled else -1)


def test_a_condition_keeps_its_time_until_its_status_flips() -> None:
    first = build()
    ready = condition(ConditionType.READY, ConditionStatus.TRUE, "OtherReason")
    same = build(core_status(ready), first, now=NOW + 100)
    assert same.conditions[0].reason == "OtherReason"
    assert same.conditions[0].last_transition_time == first.conditions[0].last_transition_time
    unready = condition(ConditionType.READY, ConditionStatus.FALSE)
    flipped = build(core_status(unready), same, now=NOW + 200)
    assert flipped.conditions[0].last_transition_time.timestamp() == NOW + 200


def test_the_newest_decisions_come_first_and_old_ones_fall_off() -> None:
    status = build(None, None, *(record(number, number + 1, NOW + number) for number in range(8)))
    status = build(None, status, *(record(number, number + 1, NOW + number) for number in range(8, 13)))
    assert [entry.to for entry in status.decisions] == list(range(13, 13 - MAX_DECISIONS, -1))


def test_decisions_come_back_from_the_status_as_they_went_in() -> None:
    records = (record(1, 2), replace(record(2, 3, NOW + 5), limited_by=""))
    assert records_of(build(None, None, *records)) == tuple(reversed(records))


def test_a_message_that_is_too_long_for_the_api_is_cut() -> None:
    status = build(None, None, replace(record(), message="x" * 5000))
    assert len(status.decisions[0].message) == 1024


def test_a_long_line_of_drains_is_cut_after_the_oldest() -> None:
    drains = tuple(
        DrainStatus(f"demo-engine-{number}", PoolName.DECODE, NOW - number, NOW + 60, "2 requests")
        for number in range(MAX_DRAINING + 10)
    )
    told = build(core_status(draining=drains)).draining
    assert len(told) == MAX_DRAINING
    assert told[0].replica == f"demo-engine-{MAX_DRAINING + 9}"


def test_an_equal_status_is_no_news() -> None:
    first = build()
    assert not is_news(build(None, first, now=NOW + 3600), first, thorough=True)


@pytest.mark.parametrize(
    ("changes", "always"),
    [
        pytest.param({"ready": 1}, True, id="a replica was lost"),
        pytest.param({"desired": 3}, True, id="another size"),
        pytest.param({"borrowed": 1}, False, id="borrowing, which lasts milliseconds"),
        pytest.param({"capacity": PoolCapacity(PoolName.PREFILL, 1, 8, 4, 4, 4)}, True, id="nodes were seen"),
    ],
)
def test_what_moves_all_the_time_is_told_at_sizing_ticks_only(
    changes: dict[str, object], always: bool
) -> None:
    before = build()
    after = build(core_status(prefill=pool(PoolName.PREFILL, **changes)), before)
    assert is_news(after, before, thorough=True)
    assert is_news(after, before, thorough=False) is always


def test_what_a_drain_waits_for_is_told_at_sizing_ticks_only() -> None:
    def draining(waiting_for: str) -> InferenceClusterStatus:
        drain = DrainStatus("demo-engine-0", PoolName.DECODE, NOW, NOW + 60, waiting_for)
        return build(core_status(draining=(drain,)))

    assert not is_news(draining("2 requests"), draining("3 requests"), thorough=False)
    assert is_news(draining("2 requests"), draining("3 requests"), thorough=True)


def test_the_body_of_the_write_has_no_nulls_and_is_bound_to_the_uid() -> None:
    body = status_manifest("demo", "team", "uid-1", build())
    assert body["metadata"] == {"name": "demo", "namespace": "team", "uid": "uid-1"}
    assert "None" not in str(body)
    assert body["status"]["conditions"][0]["lastTransitionTime"].endswith("Z")
    assert InferenceClusterStatus.model_validate(body["status"]) == build()


def test_a_wrong_spec_is_stalled_and_keeps_the_rest_of_the_status() -> None:
    status = build_stalled_status(SPEC_ERROR, build(), generation=4, now=NOW)
    found = {entry.type: entry for entry in status.conditions}
    assert (found["Stalled"].status, found["Reconciling"].status) == (
        ConditionStatus.TRUE,
        ConditionStatus.FALSE,
    )
    assert "spec.engine.env is X" in found["Stalled"].message
    assert status.observed_generation == 4
    assert status.pools == build().pools


def test_a_wrong_spec_overrides_what_the_old_fleet_says_of_itself() -> None:
    metrics = condition(ConditionType.METRICS_AVAILABLE, ConditionStatus.TRUE)
    ready = condition(ConditionType.READY, ConditionStatus.TRUE)
    wrong = invalid_spec_conditions(SPEC_ERROR, serving_generation=2)
    found = {entry.type: entry for entry in override_conditions((ready, metrics), wrong)}
    assert len(found) == 4
    assert found[ConditionType.READY].reason == "InvalidSpec"
    assert "generation 2 keeps serving" in found[ConditionType.READY].message
    assert found[ConditionType.METRICS_AVAILABLE] == metrics


def test_a_change_of_size_and_a_new_reason_are_events_and_nothing_else_is() -> None:
    before = build()
    assert events_of(before, before, ()) == ()
    (size,) = events_of(before, before, (record(),))
    assert (size.type, size.reason) == (EventType.NORMAL, "PrefillWork")
    assert size.message == "prefill 1 -> 2: busy"
    stalled = condition(ConditionType.STALLED, ConditionStatus.TRUE, "ImagePull")
    ready = condition(ConditionType.READY, ConditionStatus.TRUE)
    (worry,) = events_of(build(core_status(ready, stalled)), before, ())
    assert (worry.type, worry.reason) == (EventType.WARNING, "ImagePull")

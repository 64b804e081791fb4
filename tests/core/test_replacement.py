"""Giving up replicas and backing off, told as a story: what was seen when, and what followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.strategies import make_observation, make_replica, make_spec

from inferencecluster.core.fleet import Lifecycle, PoolName, Replica
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import PoolCapacity, Refusal
from inferencecluster.core.replacement import (
    FIRST_BACK_OFF_SECONDS,
    LONGEST_BACK_OFF_SECONDS,
    SHORTEST_RETURN_SECONDS,
    TROUBLE_IS_OVER_SECONDS,
    ReplacementMemory,
    review_replicas,
)
from inferencecluster.core.spec import ClusterSpec

PREFILL, DECODE, _ = PoolName
SPEC = make_spec(gpus=2)
"""Startup deadline 100 s."""


def review(
    replicas: Sequence[Replica],
    memory: ReplacementMemory | None = None,
    *,
    now: float = 1000.0,
    spec: ClusterSpec = SPEC,
    free: tuple[int, int] | None = None,
) -> tuple[ReplacementMemory, dict[str, str]]:
    """The new memory, and reasons by replica name. `free` is (free GPUs, largest free block) of prefill's nodes."""
    capacity = Missing("NotAllowed") if free is None else (PoolCapacity(PREFILL, 4, 32, 32 - free[0], *free),)
    observation = make_observation(spec, replicas, now=now, capacity=capacity)
    memory, given_up = review_replicas(memory or ReplacementMemory.empty(), observation)
    return memory, {item.replica.name: item.reason for item in given_up}


def pending(ordinal: int = 0, created_at: float = 900.0) -> Replica:
    return make_replica(ordinal, lifecycle=Lifecycle.PENDING, created_at=created_at)


def failed(failure: str, ordinal: int = 0, *, ready_at: float | None = None) -> Replica:
    return make_replica(ordinal, lifecycle=Lifecycle.FAILED, failure=failure, ready_at=ready_at)


@pytest.mark.parametrize(
    ("replica", "reason"),
    [
        pytest.param(pending(), "NodesExhausted", id="Pending at the deadline"),
        pytest.param(pending(created_at=900.5), None, id="Pending just before it"),
        pytest.param(
            make_replica(0, lifecycle=Lifecycle.STARTING, created_at=900.0),
            "StartupDeadlineExceeded",
            id="starting",
        ),
        pytest.param(failed("ErrImagePull: not found"), "ImagePullFailed", id="image"),
        pytest.param(failed("ImagePullBackOff: back-off"), "ImagePullFailed", id="image back-off"),
        pytest.param(failed("CrashLoopBackOff: exit code 1"), "EngineCrashed", id="crash loop"),
        pytest.param(failed("Evicted: disk pressure", ready_at=5.0), "ReplicaFailed", id="evicted"),
        pytest.param(failed(""), "ReplicaFailed", id="no word why"),
        pytest.param(make_replica(0), None, id="ready"),
        pytest.param(make_replica(0, lifecycle=Lifecycle.TERMINATING), None, id="terminating"),
        pytest.param(replace(pending(), fenced_at=950.0), None, id="leaving already"),
    ],
)
def test_who_is_given_up(replica: Replica, reason: str | None) -> None:
    _, given_up = review([replica])
    assert given_up == ({} if reason is None else {"c-engine-0": reason})


@pytest.mark.parametrize(
    ("replica", "message"),
    [
        pytest.param(
            replace(pending(), gpus=2),
            "c-engine-0 could not be scheduled within 100 s, no node has 2 GPUs free for it; add nodes, free GPUs, or "
            "correct spec.pools.prefill.nodeSelector and tolerations",
            id="Pending",
        ),
        pytest.param(
            make_replica(0, lifecycle=Lifecycle.STARTING, created_at=900.0),
            "c-engine-0 was not ready within 100 s; read the engine's log, or raise "
            "spec.scaling.startupTimeoutSeconds for a large model",
            id="starting",
        ),
        pytest.param(
            failed("ErrImagePull: not found"),
            "c-engine-0 failed with ErrImagePull: not found; check spec.engine.image and its pull secret",
            id="image",
        ),
        pytest.param(
            failed("CrashLoopBackOff: exit code 1"),
            "c-engine-0 failed with CrashLoopBackOff: exit code 1; check spec.engine.config and the model against the "
            "engine's log",
            id="crash loop",
        ),
        pytest.param(
            failed(""),
            "c-engine-0 failed with no reason given; see the Pod's events",
            id="no word why",
        ),
    ],
)
def test_messages_say_what_to_do(replica: Replica, message: str) -> None:
    _, given_up = review_replicas(ReplacementMemory.empty(), make_observation(SPEC, [replica]))
    assert given_up[0].message == message


class TestReplicasThatStopAnswering:
    """They served, and are not ready any more."""

    @pytest.mark.parametrize("lifecycle", [Lifecycle.UNREADY, Lifecycle.STARTING])
    def test_they_are_given_up_after_a_startup_deadline_without_readiness(self, lifecycle: Lifecycle) -> None:
        replica = make_replica(0, lifecycle=lifecycle, ready_at=10.0)
        memory, given_up = review([replica], now=1000.0)
        assert given_up == {}
        memory, given_up = review([replica], memory, now=1099.0)
        assert given_up == {}
        memory, given_up = review([replica], memory, now=1100.0)
        assert given_up == {"c-engine-0": "Unresponsive"}
        assert memory.waiting(1100.0) == {}

    @pytest.mark.parametrize("lifecycle", [Lifecycle.UNREADY, Lifecycle.STARTING])
    @pytest.mark.parametrize(
        ("boot", "patience"),
        [
            pytest.param(10.0, SHORTEST_RETURN_SECONDS, id="boots faster than a lost node may come back"),
            pytest.param(400.0, 800.0, id="twice its own boot"),
            pytest.param(1200.0, 1800.0, id="never beyond the startup deadline"),
            pytest.param(5000.0, 1800.0, id="its first readiness was not seen"),
            pytest.param(-5.0, SHORTEST_RETURN_SECONDS, id="clocks that differ"),
        ],
    )
    def test_their_time_follows_from_how_long_they_booted(
        self, lifecycle: Lifecycle, boot: float, patience: float
    ) -> None:
        spec = replace(SPEC, startup_deadline_seconds=1800.0)
        replica = make_replica(0, lifecycle=lifecycle, created_at=0.0, ready_at=boot)
        memory, _ = review([replica], now=10_000.0, spec=spec)
        _, given_up = review([replica], memory, now=10_000.0 + patience - 1, spec=spec)
        assert given_up == {}
        _, given_up = review([replica], memory, now=10_000.0 + patience, spec=spec)
        assert given_up == {"c-engine-0": "Unresponsive"}

    def test_one_that_boots_for_the_first_time_has_the_whole_startup_deadline(self) -> None:
        spec = replace(SPEC, startup_deadline_seconds=1800.0)
        booting = make_replica(0, lifecycle=Lifecycle.STARTING, created_at=0.0)
        assert review([booting], now=1799.0, spec=spec)[1] == {}
        assert review([booting], now=1800.0, spec=spec)[1] == {"c-engine-0": "StartupDeadlineExceeded"}

    def test_a_moment_of_readiness_starts_the_time_anew(self) -> None:
        replica = make_replica(0, lifecycle=Lifecycle.UNREADY)
        memory, _ = review([replica], now=1000.0)
        memory, _ = review([make_replica(0)], memory, now=1050.0)
        memory, _ = review([replica], memory, now=1060.0)
        _, given_up = review([replica], memory, now=1110.0)
        assert given_up == {}

    def test_those_that_drain_are_left_alone(self) -> None:
        replica = make_replica(0, lifecycle=Lifecycle.UNREADY, fenced_at=1001.0)
        memory, _ = review([replica], now=1002.0)
        assert memory.unready_since == {}


class TestBackOff:
    """Length, growth and end."""

    def test_a_pool_backs_off_and_others_do_not(self) -> None:
        memory, _ = review([pending(0), pending(1), make_replica(2, DECODE)])
        assert {name: item.replicas for name, item in memory.waiting(1000.0).items()} == {PREFILL: 2}
        assert memory.waiting(1000.0 + FIRST_BACK_OFF_SECONDS) == {}

    def test_waits_double_up_to_ten_minutes(self) -> None:
        memory, now, waits = ReplacementMemory.empty(), 1000.0, []
        for attempt in range(7):
            broken = replace(failed("ErrImagePull: not found", attempt), uid=f"try-{attempt}")
            memory, _ = review([broken], memory, now=now)
            back_off = memory.pools[PREFILL]
            waits.append(back_off.until - now)
            now = back_off.until
        assert waits == [30, 60, 120, 240, 480, 600, 600]
        assert LONGEST_BACK_OFF_SECONDS == 600

    def test_a_replica_is_counted_once_while_its_deletion_takes_time(self) -> None:
        broken = failed("ErrImagePull: not found")
        memory, _ = review([broken], now=1000.0)
        later, given_up = review([broken], memory, now=1025.0)
        assert given_up == {"c-engine-0": "ImagePullFailed"}
        assert later == memory

    def test_failures_during_a_wait_are_one_trouble_with_it(self) -> None:
        memory, _ = review([failed("ErrImagePull: x", 0)], now=1000.0)
        memory, _ = review([failed("ErrImagePull: x", 0), failed("ErrImagePull: x", 1)], memory, now=1010.0)
        assert (memory.pools[PREFILL].replicas, memory.pools[PREFILL].until) == (2, 1040.0)

    def test_a_replica_that_had_served_is_replaced_at_once(self) -> None:
        memory, given_up = review([failed("Evicted: disk pressure", ready_at=500.0)])
        assert given_up == {"c-engine-0": "ReplicaFailed"}
        assert memory.pools == {}

    def test_unless_it_crashes_again_and_again(self) -> None:
        memory, _ = review([failed("CrashLoopBackOff: exit code 1", ready_at=500.0)])
        assert PREFILL in memory.waiting(1000.0)

    def test_another_spec_is_tried_at_once(self) -> None:
        memory, _ = review([failed("ErrImagePull: not found")], now=1000.0)
        memory, _ = review([], memory, now=1001.0, spec=replace(SPEC, generation=2))
        assert memory.pools == {}

    def test_trouble_is_forgotten_after_a_start_and_ten_minutes_without_it(self) -> None:
        memory, _ = review([failed("ErrImagePull: not found")], now=1000.0)
        end = 1000.0 + FIRST_BACK_OFF_SECONDS + SPEC.startup_deadline_seconds + TROUBLE_IS_OVER_SECONDS
        assert PREFILL in review([], memory, now=end - 1)[0].pools
        assert review([], memory, now=end)[0].pools == {}


class TestCapacity:
    """More free GPUs end a wait for nodes."""

    @pytest.mark.parametrize(
        ("free_before", "free_after", "ends"),
        [
            pytest.param((0, 0), (2, 2), True, id="room for a replica"),
            pytest.param((0, 0), (2, 1), False, id="free GPUs on two nodes"),
            pytest.param((4, 2), (4, 2), False, id="as before: something else is the matter"),
            pytest.param((0, 0), (1, 1), False, id="too few"),
            pytest.param(None, (8, 8), False, id="not known before"),
            pytest.param((0, 0), None, False, id="not known now"),
        ],
    )
    def test_the_wait_ends(
        self, free_before: tuple[int, int] | None, free_after: tuple[int, int] | None, ends: bool
    ) -> None:
        memory, _ = review([pending()], now=1000.0, free=free_before)
        memory, _ = review([], memory, now=1005.0, free=free_after)
        assert (memory.waiting(1005.0) == {}) is ends
        assert PREFILL in memory.pools, "the next wait is still longer"

    def test_free_gpus_do_not_mend_an_image(self) -> None:
        memory, _ = review([failed("ErrImagePull: not found")], now=1000.0, free=(0, 0))
        memory, _ = review([], memory, now=1005.0, free=(8, 8))
        assert PREFILL in memory.waiting(1005.0)

    def test_pools_without_listed_nodes_wait_for_the_time(self) -> None:
        memory, _ = review([replace(pending(), home=DECODE)], now=1000.0, free=(0, 0))
        memory, _ = review([], memory, now=1005.0, free=(8, 8))
        assert DECODE in memory.waiting(1005.0)


class TestRefusedCreates:
    """By pool and reason."""

    QUOTA = Refusal(PREFILL, "QuotaExceeded", "exceeded quota: gpus (403)")

    def refuse(
        self,
        memory: ReplacementMemory,
        *refusals: Refusal,
        now: float,
        replicas: Sequence[Replica] = (),
        spec: ClusterSpec = SPEC,
    ) -> ReplacementMemory:
        observation = replace(make_observation(spec, replicas, now=now), refusals=refusals)
        return review_replicas(memory, observation)[0]

    def test_waits_double_from_a_second_to_five_minutes(self) -> None:
        memory, now, waits = ReplacementMemory.empty(), 1000.0, []
        for _ in range(11):
            memory = self.refuse(memory, self.QUOTA, now=now)
            back_off = memory.waiting(now)[PREFILL]
            waits.append(back_off.until - now)
            now = back_off.until
        assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]

    def test_each_reason_has_its_own_wait_and_the_longest_counts(self) -> None:
        memory = self.refuse(ReplacementMemory.empty(), self.QUOTA, now=1000.0)
        memory = self.refuse(memory, self.QUOTA, now=1001.0)
        right = Refusal(PREFILL, "Forbidden", "pods is forbidden (403)")
        memory = self.refuse(memory, right, now=1002.0)
        assert [item.seconds for item in memory.refusals.values()] == [2, 1]
        assert memory.waiting(1002.5)[PREFILL].reason == "QuotaExceeded"
        memory = self.refuse(memory, self.QUOTA, now=1003.0)
        assert memory.waiting(1003.0)[PREFILL].seconds == 4

    def test_other_pools_do_not_wait(self) -> None:
        memory = self.refuse(ReplacementMemory.empty(), self.QUOTA, now=1000.0)
        assert set(memory.waiting(1000.0)) == {PREFILL}

    def test_a_create_that_succeeds_ends_the_trouble(self) -> None:
        fleet = [make_replica(0)]
        memory = self.refuse(ReplacementMemory.empty(), self.QUOTA, now=1000.0, replicas=fleet)
        memory = self.refuse(memory, now=1001.0, replicas=fleet)
        assert memory.refusals, "nothing was created yet"
        created = make_replica(1, lifecycle=Lifecycle.PENDING, created_at=1001.0)
        memory = self.refuse(memory, now=1002.0, replicas=[*fleet, created])
        assert memory.refusals == {}

    def test_another_spec_is_tried_at_once(self) -> None:
        memory = self.refuse(ReplacementMemory.empty(), self.QUOTA, now=1000.0)
        memory = self.refuse(memory, now=1000.5, spec=replace(SPEC, generation=2))
        assert memory.troubles == {}

    def test_it_is_forgotten_ten_minutes_after_the_last_wait(self) -> None:
        memory = self.refuse(ReplacementMemory.empty(), self.QUOTA, now=1000.0)
        end = 1001.0 + TROUBLE_IS_OVER_SECONDS
        assert self.refuse(memory, now=end - 1).refusals
        assert self.refuse(memory, now=end).refusals == {}

    @pytest.mark.parametrize(
        ("reason", "advice"),
        [
            ("NamespaceTerminating", "nothing can be created before the namespace is gone and made anew"),
            ("QuotaExceeded", "raise the namespace's ResourceQuota, or lower maxReplicas"),
            ("Forbidden", "grant the operator's ServiceAccount the right, or change the admission policy"),
            ("InvalidPod", "correct what the message names in spec.engine or spec.pools"),
        ],
    )
    def test_the_servers_words_and_what_to_do_are_told(self, reason: str, advice: str) -> None:
        refusal = Refusal(PREFILL, reason, "pods is forbidden (403)")
        memory = self.refuse(ReplacementMemory.empty(), refusal, now=1000.0)
        told = memory.troubles[PREFILL].message
        assert told == f"no replica can be created: pods is forbidden (403); {advice}"


class TestAClockThatIsSetBack:
    """By a day."""

    def test_a_back_off_is_no_longer_than_its_wait(self) -> None:
        memory, _ = review([pending(created_at=99_900.0)], now=100_000.0)
        memory, _ = review([], memory, now=13_600.0)
        assert PREFILL in memory.waiting(13_629.0)
        assert not memory.waiting(13_600.0 + FIRST_BACK_OFF_SECONDS)

    def test_a_refusal_is_no_longer_than_its_wait(self) -> None:
        refused = replace(
            make_observation(SPEC, now=100_000.0), refusals=(Refusal(PREFILL, "QuotaExceeded", "full"),)
        )
        memory, _ = review_replicas(ReplacementMemory.empty(), refused)
        memory, _ = review([], memory, now=13_600.0)
        assert PREFILL in memory.waiting(13_600.0)
        assert not memory.waiting(13_601.0)

    def test_a_replica_that_does_not_answer_is_given_up_all_the_same(self) -> None:
        unready = make_replica(0, lifecycle=Lifecycle.UNREADY)
        memory, _ = review([unready], now=100_000.0)
        memory, _ = review([unready], memory, now=13_600.0)
        assert review([unready], memory, now=13_699.0)[1] == {}
        assert review([unready], memory, now=13_700.0)[1] == {"c-engine-0": "Unresponsive"}

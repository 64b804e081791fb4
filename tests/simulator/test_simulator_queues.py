"""What the router holds is shown to policies once, as queues of the pool that it waits for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulator.simulator_builders import LINK, ROUND, cluster_spec, hardware, scenario, steady

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.routing import HoldReason
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.simulator.queues import in_equal_parts, stands_before
from inferencecluster.simulator.signals import PoolSignals, Signals
from inferencecluster.simulator.simulation import Simulation
from inferencecluster.simulator.workload import Request

P, D, M = PoolName.PREFILL, PoolName.DECODE, PoolName.MIXED
SPLIT, DECODE_ONLY, MIXED_ONLY = (1, 1, 1), (0, 1, 1), (0, 0, 1)


@pytest.mark.parametrize(
    ("sizes", "reason", "expected"),
    [
        pytest.param(SPLIT, HoldReason.PREFILL_FULL, P, id="prompts have no room"),
        pytest.param(SPLIT, HoldReason.DECODE_FULL, D, id="only answers have none: prompts would be done"),
        pytest.param(SPLIT, HoldReason.ALL_FULL, P, id="both have none: prompts come first"),
        pytest.param(SPLIT, HoldReason.NO_REPLICA, P, id="nobody serves: prompts come first"),
        pytest.param(DECODE_ONLY, HoldReason.PREFILL_FULL, D, id="a pool that is off queues nothing"),
        pytest.param(MIXED_ONLY, HoldReason.ALL_FULL, M, id="without base pools it is the mixed one's"),
    ],
)
def test_the_line_stands_before_the_pool_that_is_full(
    sizes: tuple[int, int, int], reason: HoldReason, expected: PoolName
) -> None:
    assert stands_before(reason, cluster_spec(sizes)) is expected


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_equal_parts_lose_nothing(total: int, count: int) -> None:
    parts = in_equal_parts(total, count)
    assert (sum(parts), len(parts)) == (total, count)
    assert max(parts) - min(parts) <= 1


@dataclass
class Look:
    """What one look showed, beside what the router held then."""

    held_requests: int
    held_tokens: int
    pools: dict[PoolName, PoolSignals]


class Watching:
    """Lets everything as it is, and looks every ten seconds."""

    name = "watching"
    interval_seconds = 10.0

    def __init__(self) -> None:
        self.looks: list[Look] = []
        self.simulation: Simulation | None = None

    def sizes(self, signals: Signals) -> dict[PoolName, int]:
        assert self.simulation is not None
        frontend = self.simulation.frontend
        self.looks.append(Look(frontend.held_requests, frontend.held_tokens, dict(signals.pools)))
        return {}


def looks(spec: ClusterSpec, workload: list[Request], **changes: object) -> list[Look]:
    # Links that nobody waits for: engines queue nothing by themselves.
    engines = {pool.name: hardware(pool.performance, link_bytes_per_second=100 * LINK) for pool in spec.pools}
    policy = Watching()
    policy.simulation = simulation = Simulation(scenario(spec, hardware=engines, **changes), policy)
    simulation.serve(workload)
    return policy.looks[: int(workload[-1].arrival / policy.interval_seconds)]


def test_prompts_that_wait_in_the_router_queue_at_prefill_replicas_in_equal_parts() -> None:
    found = looks(cluster_spec((2, 1, 0), overflow_tokens=None), steady(60.0, 21.0))
    assert len(found) == 2
    for look in found:
        prefill, decode = look.pools[P], look.pools[D]
        assert look.held_requests > 100
        assert prefill.waiting_requests == look.held_requests
        assert decode.waiting_requests == prefill.unserved_requests == 0
        first, second = prefill.members
        assert 0 <= first.waiting_requests - second.waiting_requests <= 1
        # What was sent to them is within their limit, which is below 0.5 s of prompts.
        assert 0 <= first.queued_tokens + second.queued_tokens - look.held_tokens <= 12_000
        assert first.ttft_estimate_seconds == pytest.approx(ROUND.prefill.seconds(first.queued_tokens + 1000))
        assert prefill.concurrency > look.held_requests
        assert decode.concurrency < look.held_requests


def test_what_only_decode_has_no_room_for_queues_there_with_its_prompts_done() -> None:
    memory = replace(ROUND, kv_capacity_tokens=30_000)
    spec = cluster_spec((2, 1, 0), performance=memory, overflow_tokens=None)
    # Prefill replicas lend nothing: they are of an engine without a batch.
    prefill = replace(spec.pool(P), performance=replace(memory, max_batch_size=1))
    spec = replace(spec, pools=(prefill, *spec.pools[1:]))
    *_, last = looks(spec, steady(8.0, 61.0, output=400))
    assert last.held_requests > 50
    (decode,) = last.pools[D].members
    assert decode.waiting_requests >= last.held_requests
    assert decode.queued_tokens < 1000 * last.held_requests
    assert last.pools[P].waiting_requests < 5


def test_without_base_pools_the_line_is_the_mixed_ones() -> None:
    last = looks(cluster_spec((0, 0, 2), overflow_tokens=0), steady(60.0, 21.0))[-1]
    assert last.held_requests > 100
    assert last.pools[M].waiting_requests >= last.held_requests
    assert last.pools[P].waiting_requests == last.pools[D].waiting_requests == 0


def test_a_pool_without_replicas_is_waited_for_by_everybody_and_later_by_nobody() -> None:
    first, *_, last = looks(
        cluster_spec((1, 1, 0), boot_seconds=15.0), steady(2.0, 61.0), initial={P: 0, D: 0}
    )
    assert first.held_requests > 10
    for name in (P, D):
        pool = first.pools[name]
        assert pool.members == ()
        assert pool.unserved_requests == pool.waiting_requests == pool.concurrency == first.held_requests
    assert first.pools[M].waiting_requests == 0
    assert last.held_requests == 0
    assert all(pool.unserved_requests == 0 for pool in last.pools.values())

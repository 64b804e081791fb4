"""Cached prompt tokens: learned from what engines report, believed slowly, and taken off the work of prefill alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.sizing_builders import cluster, demand, flow, metrics, observation

from inferencecluster.core.arrivals import Arrivals
from inferencecluster.core.demand import Demand, DemandMemory, observe_demand
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.observation import QueueState
from inferencecluster.core.prefixes import LONG_TOKENS, SHORT_TOKENS, PrefixHits, uncached
from inferencecluster.core.sizing import size_pools

PREFILL, DECODE, MIXED = PoolName
THOUSAND = 1000.0


def after(*prompts: tuple[float, float]) -> PrefixHits:
    """Hits after these (tokens, cached tokens)."""
    hits = PrefixHits.unknown()
    for tokens, cached in prompts:
        hits = hits.learn(tokens, cached)
    return hits


def test_nothing_is_cached_until_engines_have_said_so() -> None:
    assert PrefixHits.unknown().share == 0.0
    assert after((0.0, 0.0)).share == 0.0
    assert 0.0 < after(*[(THOUSAND, 500.0)] * 20).share < 0.3
    assert after(*[(THOUSAND, 500.0)] * 5000).share == pytest.approx(0.5, rel=0.05)


def test_a_lost_cache_counts_within_some_hundred_requests_and_a_new_one_only_when_it_has_lasted() -> None:
    warm = after(*[(THOUSAND, 800.0)] * 5000)
    cold = warm
    for _ in range(400):
        cold = cold.learn(THOUSAND, 0.0)
    again = cold
    for _ in range(400):
        again = again.learn(THOUSAND, 800.0)
    assert cold.share < 0.15
    assert again.share == again.long.share < again.short.share


@given(st.lists(st.tuples(st.floats(0.0, 5e6), st.floats(-1e6, 1e7)), max_size=20))
def test_the_share_is_a_share_and_its_memory_is_bounded_whatever_engines_report(
    prompts: list[tuple[float, float]],
) -> None:
    hits = after(*prompts)
    assert 0.0 <= hits.share <= 1.0
    largest = max((tokens for tokens, _ in prompts), default=0.0)
    assert hits.long.tokens <= max(LONG_TOKENS, largest) * 1.001
    assert hits.short.tokens <= max(SHORT_TOKENS, largest) * 1.001


LENGTHS = st.lists(st.tuples(st.integers(1, 20_000), st.floats(0.0, 1.0)), min_size=1, max_size=20)


@given(LENGTHS)
def test_the_work_that_is_left_is_never_underestimated(prompts: list[tuple[int, float]]) -> None:
    """Against each prompt by itself: L - C new tokens, which attend to all L."""
    tokens = float(sum(length for length, _ in prompts))
    squares = float(sum(length * length for length, _ in prompts))
    cached = [length * share for length, share in prompts]
    left = uncached(Arrivals(float(len(prompts)), tokens, squares), sum(cached) / tokens)
    exact = squares - sum(part * part for part in cached)
    assert left.tokens == pytest.approx(tokens - sum(cached), abs=1e-6 * tokens)
    assert left.tokens_squared >= exact - 1e-6 * squares
    assert (left.requests, left.tokens >= -1e-6 * tokens) == (len(prompts), True)


def test_prompts_that_share_one_prefix_are_exact() -> None:
    lengths, prefix = (1000.0, 2000.0, 3000.0), 800.0
    left = uncached(Arrivals(3.0, 6000.0, 14e6), 3 * prefix / 6000.0)
    assert left.tokens_squared == pytest.approx(sum(length**2 - prefix**2 for length in lengths))


def test_more_hits_shrink_prefill_and_leave_decode_as_it_is() -> None:
    spec = cluster()
    sized = [
        size_pools(spec, replace(demand(60.0), cached_share=share), ()) for share in (0.0, 0.3, 0.6, 0.9)
    ]
    prefill = [pools[0].need for pools in sized]
    assert all(more > less for more, less in pairwise(prefill))
    assert prefill[-1] < prefill[0] / 3
    assert len({pools[1].need for pools in sized}) == 1
    assert dict(sized[1][0].inputs)["cachedShare"] == 0.3
    assert "cachedShare" not in dict(sized[0][0].inputs)


def test_a_queue_of_prompts_that_are_mostly_cached_needs_less() -> None:
    queue = QueueState(500, 500_000, 5.0, 0, 0, 0, 0)
    cold, warm = (
        size_pools(cluster(), replace(demand(1.0, queue=queue), cached_share=share), ())[0]
        for share in (0, 0.8)
    )
    assert cold.reason == warm.reason == "QueueAge"
    assert warm.need < cold.need / 2


def test_hits_are_learned_from_the_routers_flow_and_absent_reports_are_no_hits() -> None:
    def share(prefilled: float, cached: float) -> float:
        memory = DemandMemory.empty()
        for tick in range(40):
            told = replace(flow(200.0), prefilled_prompt_tokens=prefilled, cached_prompt_tokens=cached)
            memory, seen = observe_demand(
                memory, observation(1000.0 + 15.0 * tick, routers=told, metrics=metrics(told))
            )
        assert isinstance(seen, Demand)
        return seen.cached_share

    assert share(0.0, 0.0) == 0.0
    assert share(200_000.0, 0.0) == 0.0
    assert share(200_000.0, 100_000.0) == pytest.approx(0.5, abs=0.01)

"""What `allocate` holds for any wishes, fleets and changes of the spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.core.allocation_builders import (
    D,
    M,
    P,
    Three,
    back_off,
    request,
    restored,
    sizes_of,
)
from tests.core.sizing_builders import MISSING, cluster, fleet, pool, rules

from inferencecluster.core.allocation import AllocationMemory, allocate
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.replacement import BackOff
from inferencecluster.core.spec import ClusterSpec, PolicyType, ScalingMode, ScalingPolicy, SelectPolicy

COUNTS = st.integers(0, 40)
BACK_OFFS = st.builds(
    lambda reason, is_refusal: back_off(reason, is_refusal=is_refusal),
    st.sampled_from(["NodesExhausted", "QuotaExceeded", "EngineCrashed"]),
    st.booleans(),
)
THREE = st.tuples(COUNTS, COUNTS, COUNTS)
POLICIES = st.lists(
    st.builds(ScalingPolicy, st.sampled_from(PolicyType), st.integers(1, 200), st.sampled_from([15.0, 60.0])),
    max_size=2,
)
RULES = st.builds(
    lambda window, policies, select: rules(window, *policies, select=select),
    st.sampled_from([0.0, 60.0, 300.0]),
    POLICIES,
    st.sampled_from(SelectPolicy),
)


def pools(name: PoolName) -> st.SearchStrategy[object]:
    return st.builds(
        lambda minimum, room, gpus: pool(name, minimum=minimum, maximum=minimum + room, gpus=gpus),
        st.integers(0, 3),
        st.integers(0, 30),
        st.sampled_from([1, 2, 3, 4, 8]),
    )


SPECS = st.builds(
    lambda prefill, decode, mixed, budget, up, down, mode: cluster(
        prefill=prefill, decode=decode, mixed=mixed, budget=budget, up=up, down=down, mode=mode
    ),
    pools(P),
    pools(D),
    pools(M),
    st.integers(1, 120),
    RULES,
    RULES,
    st.sampled_from(ScalingMode),
)
STEPS = st.lists(
    st.tuples(st.floats(0, 200), st.one_of(THREE, st.just(MISSING)), st.booleans(), SPECS),
    min_size=1,
    max_size=6,
)


def gpus_of(spec: ClusterSpec, sizes: Three) -> int:
    return sum(item.gpus_per_replica * size for item, size in zip(spec.pools, sizes, strict=True))


@given(STEPS, THREE, st.dictionaries(st.sampled_from(PoolName), BACK_OFFS))
def test_the_budget_and_the_bounds_hold_for_any_wishes_fleets_and_changes_of_the_spec(
    steps: list[tuple[float, Three | Missing, bool, ClusterSpec]],
    present: Three,
    back_offs: Mapping[PoolName, BackOff],
) -> None:
    memory, now, replicas = AllocationMemory.empty(), 0.0, fleet(*present)
    for step, wish, complete, spec in steps:
        now += step
        asked = request(
            wish, now=now, spec=spec, replicas=replicas, shrink_allowed=complete, back_offs=back_offs
        )
        again = allocate(memory, asked)
        memory, targets = allocate(memory, asked)
        assert (memory, targets) == again
        sizes = sizes_of(targets)
        assert gpus_of(spec, sizes) <= spec.budget_gpus
        prefill, decode, mixed = (item.min_replicas for item in spec.pools)
        minimums = gpus_of(spec, (prefill, decode, mixed))
        for item, target in zip(spec.pools, targets, strict=True):
            assert target.replicas <= item.max_replicas
            if target.replicas < item.min_replicas:
                assert minimums > spec.budget_gpus
            if target.replicas != target.wanted:
                assert target.limited_by


@given(SPECS, THREE, THREE, st.floats(0, 4000), st.one_of(st.booleans(), st.none()))
def test_missing_sources_never_shrink_a_pool_that_hard_limits_allow(
    spec: ClusterSpec, present: Three, wish: Three, age: float, incomplete: bool | None
) -> None:
    first, settled = allocate(restored(present), request(MISSING, spec=spec, now=0.0))
    asked = wish if incomplete else MISSING
    _, later = allocate(first, request(asked, spec=spec, now=age, shrink_allowed=False))
    for before, after in zip(sizes_of(settled), sizes_of(later), strict=True):
        assert after >= before


@given(THREE, THREE, st.floats(0, 299))
def test_a_restored_operator_never_shrinks_before_its_window(present: Three, wish: Three, age: float) -> None:
    _, targets = allocate(restored(present), request(wish, now=age))
    for before, after in zip(present, sizes_of(targets), strict=True):
        assert after >= before


@given(SPECS, THREE, THREE)
def test_an_unchanged_wish_settles(spec: ClusterSpec, present: Three, wish: Three) -> None:
    unlimited = replace(spec, behavior=cluster(down=rules(0)).behavior)
    memory, _ = allocate(restored(present), request(wish, spec=unlimited, now=0.0))
    memory, second = allocate(memory, request(wish, spec=unlimited, now=15.0))
    _, third = allocate(memory, request(wish, spec=unlimited, now=30.0))
    assert sizes_of(second) == sizes_of(third)


def test_every_small_budget_is_used_as_far_as_replicas_fit() -> None:
    """Exhaustive: three pools of 1, 2 and 3 GPUs, every wish up to 3, every budget that holds a pair, up to 12."""
    for budget in range(5, 13):
        spec = cluster(budget=budget, prefill=pool(P, gpus=3), decode=pool(D, gpus=2), mixed=pool(M, gpus=1))
        for wish in ((p, d, m) for p in range(4) for d in range(4) for m in range(4)):
            _, targets = allocate(AllocationMemory.empty(), request(wish, spec=spec))
            left = budget - gpus_of(spec, sizes_of(targets))
            assert left >= 0
            for item, target in zip(spec.pools, targets, strict=True):
                is_raised = target.limited_by == "pair"
                is_granted = target.replicas == target.wanted or is_raised
                assert is_granted or item.gpus_per_replica > left, (budget, wish)

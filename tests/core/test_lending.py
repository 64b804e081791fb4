"""What decode replicas can lend to prompts, in round numbers: a step takes 10 ms, a sequence 0.1 ms and 1 us per context token."""

from __future__ import annotations

import pytest

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.lending import lendable, lends
from inferencecluster.core.needs import Need, reserved_need
from inferencecluster.core.perfmodel import DecodeModel, PerformanceModel, PrefillModel
from inferencecluster.core.spec import PoolSpec

MODEL = PerformanceModel(PrefillModel(0.0, 1e-4, 0.0), DecodeModel(0.010, 1e-4, 1e-6), 10**6)


@pytest.mark.parametrize(
    ("replicas", "itl", "tokens", "lent"),
    [
        pytest.param(4, 0.040, 0.0, 3.0, id="three quarters of each when nothing decodes"),
        # 5,000 tokens/s * (0.1 ms + 400 * 1 us) = 2.5 replicas
        pytest.param(4, 0.040, 5_000.0, 0.5, id="less what sequences take"),
        pytest.param(4, 0.040, 9_000.0, 0.0, id="nothing when they are full"),
        pytest.param(4, 0.010, 0.0, 0.0, id="nothing when a step alone takes the whole target"),
        pytest.param(4, 0.005, 0.0, 0.0, id="nor when it takes longer"),
        pytest.param(0, 0.040, 0.0, 0.0, id="nobody lends nothing"),
    ],
)
def test_what_can_be_lent(replicas: int, itl: float, tokens: float, lent: float) -> None:
    found = lendable(MODEL, replicas=replicas, itl_seconds=itl, tokens_per_second=tokens, context=400.0)
    assert found == pytest.approx(lent)


@pytest.mark.parametrize(
    ("itl", "interchangeable", "expected"),
    [
        # 10 ms and 288 tokens of 0.1 ms.
        pytest.param(0.040, False, True, id="prompts fit beside tokens"),
        pytest.param(0.030, False, False, id="the fewest prompt tokens are too many"),
        pytest.param(0.040, True, False, id="iterations as long as those of prefill"),
    ],
)
def test_who_lends_at_all(itl: float, interchangeable: bool, expected: bool) -> None:
    pool = PoolSpec(PoolName.DECODE, 0, 8, 2, MODEL, interchangeable=interchangeable)
    assert lends(pool, itl_seconds=itl) is expected


@pytest.mark.parametrize(
    ("needs", "lent", "present", "wanted"),
    [
        pytest.param((6.0, 4.0), (0.5, 0.5), 0, 5.5, id="a part of the reserve"),
        pytest.param((6.0, 4.0), (3.0, 3.0), 0, 4.0, id="more than the reserve: what is planned stays"),
        pytest.param((6.0, 4.0), (0.0, 0.0), 0, 6.0, id="nothing"),
        pytest.param((4.0, 4.0), (3.0, 3.0), 0, 4.0, id="there is no reserve"),
        pytest.param((6.0, 4.0), (2.0, 0.0), 4, 4.0, id="lenders that are ordered: no more is ordered here"),
        pytest.param((6.0, 4.0), (2.0, 0.0), 5, 5.0, id="lenders that are ordered: who is there stays"),
        pytest.param((6.0, 4.0), (2.0, 0.0), 9, 6.0, id="but no more than without them"),
        pytest.param((6.0, 4.0), (2.0, 2.0), 9, 4.0, id="lenders that serve: the reserve may go"),
    ],
)
def test_a_reserve_is_held_only_as_far_as_it_cannot_be_lent(
    needs: tuple[float, float], lent: tuple[float, float], present: int, wanted: float
) -> None:
    """`needs` with the reserve and without; `lent` by all that are wanted, and by those that serve."""
    full, least = needs
    need = reserved_need(
        Need(full, "Work", "full"),
        least=Need(least, "Work", "least"),
        lent=lent[0],
        lent_now=lent[1],
        present=present,
    )
    assert need.replicas == pytest.approx(wanted)

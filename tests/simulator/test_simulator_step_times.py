"""Other step times than the closed form, prompts that are never cut, links of one's own, answers of known length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulator.simulator_builders import (
    DYADIC,
    KV_BYTES,
    LINK,
    ROUND,
    RecordingHost,
    cluster_spec,
    hardware,
    requests,
    run,
    scenario,
)

from inferencecluster.core.fleet import PoolName
from inferencecluster.simulator.iterations import MAX_PAUSES
from inferencecluster.simulator.links import Network
from inferencecluster.simulator.prefill_engine import Chunk
from inferencecluster.simulator.sequences import Phase
from inferencecluster.simulator.sequences import Sequence as EngineSequence
from inferencecluster.simulator.step_times import LinearTimes

# With ROUND: 1000 tokens of prompt take 10 + 100 ms, alone.
PROMPT = 0.110


@dataclass(frozen=True)
class Measured:
    """A table: a prompt takes 100 ms, a step 20 ms alone and 50 ms for two, both phases together 300 ms."""

    context_token_seconds: float = 0.0

    def flat_step_seconds(self, sequences: int) -> float:
        return 0.020 if sequences == 1 else 0.050

    def prompt_seconds(self, prompt_tokens: int) -> float:
        return 0.1

    def prefill_seconds(self, chunks: Sequence[Chunk]) -> float:
        return 0.1 * len(chunks)

    def mixed_seconds(
        self, chunks: Sequence[Chunk], sequences: int, context_tokens: int
    ) -> tuple[float, float]:
        return 0.3, 0.5


def step(context: int) -> float:
    """Of one sequence with ROUND."""
    return ROUND.decode.step_seconds(1, context)


def test_an_engine_takes_as_long_as_its_step_times_say() -> None:
    host = RecordingHost().start(times=Measured())
    host.submit_at(1, 0.0, Phase.WHOLE, 10, 10)
    host.submit_at(2, 0.13, Phase.WHOLE, 10, 3)
    host.run()
    assert host.first_tokens == pytest.approx({1: 0.1, 2: 0.44})
    # 1: two steps alone, one beside the prompt, two with the other, four alone.
    assert host.ends == pytest.approx({2: 0.54, 1: 0.62})
    assert host.engine.usage.prefill_seconds == pytest.approx(0.1 + 0.3 / 2)


def test_measured_step_times_of_a_pool_serve_and_judge_its_requests() -> None:
    plan = scenario(
        cluster_spec((0, 0, 1)),
        hardware={PoolName.MIXED: hardware(step_times=Measured(), power_cap=0.5)},
    )
    (journey,) = run(plan, requests((0.0, 1000, 3))).journeys
    assert journey.ttft_seconds == pytest.approx(0.1)
    assert journey.ended_at == pytest.approx(0.14)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=6))
def test_chunks_of_a_prompt_take_what_it_takes_whole_and_a_base_for_each(parts: list[int]) -> None:
    times = LinearTimes(DYADIC)
    sequence = EngineSequence(1, Phase.WHOLE, sum(parts), 2)
    seconds = 0.0
    for tokens in parts:
        seconds += times.prefill_seconds([(sequence, tokens)])
        sequence.prefilled += tokens
    bases = (len(parts) - 1) * DYADIC.prefill.base_seconds
    assert seconds == pytest.approx(times.prompt_seconds(sum(parts)) + bases)


def whole_prompts(max_num_tokens: int = 1000) -> RecordingHost:
    return RecordingHost().start(max_num_tokens=max_num_tokens, chunked_prefill=False)


def test_a_batch_waits_for_a_whole_prompt_that_leaves_it_no_room() -> None:
    host = whole_prompts()
    host.submit_at(1, 0.0, Phase.WHOLE, 1000, 3)
    host.submit_at(2, PROMPT + 0.001, Phase.PREFILL, 1000, 1)
    host.run()
    # The step that was under way ends, then the prompt comes, alone, then the last step.
    begin = PROMPT + step(1001)
    assert host.prefills[2] == pytest.approx(begin + PROMPT)
    assert host.ends[1] == pytest.approx(begin + PROMPT + step(1002))


def test_a_batch_goes_on_beside_whole_prompts_that_leave_it_room() -> None:
    host = whole_prompts(1001)
    host.submit_at(1, 0.0, Phase.WHOLE, 1000, 3)
    host.submit_at(2, PROMPT + 0.001, Phase.PREFILL, 1000, 1)
    host.run()
    # One pass over the weights: the base of 10 ms once.
    both = PROMPT + step(1001) + PROMPT + step(1002) - 0.010
    assert host.prefills[2] == host.ends[1] == pytest.approx(both)


def test_a_prompt_longer_than_an_iteration_is_computed_in_one_piece() -> None:
    host = whole_prompts(500)
    host.submit_at(1, 0.0, Phase.PREFILL, 1000, 1)
    host.run()
    assert host.prefills[1] == pytest.approx(PROMPT)


def test_prompts_that_do_not_fit_together_come_one_after_the_other_in_order() -> None:
    host = whole_prompts()
    for number, prompt in enumerate((600, 300, 200)):
        host.submit_at(number, 0.0, Phase.PREFILL, prompt, 1)
    host.run()
    # The first came when nothing ran; the other two fit one iteration.
    first = ROUND.prefill.seconds(600)
    assert host.prefills == pytest.approx({0: first, 1: first + 0.060, 2: first + 0.060})


def test_a_batch_that_waited_for_long_makes_a_step_before_further_prompts() -> None:
    host = whole_prompts()
    host.submit_at(1, 0.0, Phase.WHOLE, 1000, 2)
    for number in range(2, 8):
        host.submit_at(number, 0.050, Phase.PREFILL, 1000, 1)
    host.run()
    before = [number for number, end in host.prefills.items() if end < host.ends[1]]
    assert len(before) == MAX_PAUSES
    assert host.ends[1] == pytest.approx((1 + MAX_PAUSES) * PROMPT + step(1001))


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**20),
            st.sampled_from([Phase.WHOLE, Phase.DECODE]),
            st.integers(1, 3000),
            st.integers(2, 40),
        ),
        min_size=1,
        max_size=15,
    ),
    st.sampled_from([64, 1024, 4096]),
)
def test_with_whole_prompts_every_answer_is_complete_and_no_token_is_made_twice(
    items: list[tuple[int, Phase, int, int]], max_num_tokens: int
) -> None:
    host = RecordingHost().start(DYADIC, max_num_tokens=max_num_tokens, chunked_prefill=False)
    for number, (time, phase, prompt, output) in enumerate(items):
        host.submit_at(number, time * 2**-20, phase, prompt, output)
    host.run()
    assert set(host.ends) == set(range(len(items)))
    assert host.stepped_tokens == sum(output - 1 for *_, output in items)
    assert host.engine.held_tokens == 0


def test_caches_on_links_of_their_own_do_not_wait_for_each_other() -> None:
    plan = scenario(cluster_spec((2, 1, 0)), network=Network(dedicated=True))
    journeys = run(plan, requests((0.0, 1000, 3), (0.0, 1000, 3))).journeys
    arrived = PROMPT + 1000 * KV_BYTES / LINK
    # Both arrive at once; the second joins when the step that the first began is over.
    assert [journey.first_token_at for journey in journeys] == pytest.approx([arrived, arrived + step(1001)])


@pytest.mark.parametrize(
    ("knows", "reserved"),
    [pytest.param(True, 700, id="known"), pytest.param(False, 844, id="learned: 211, doubled twice")],
)
def test_room_is_reserved_for_what_the_router_believes_of_an_answer(knows: bool, reserved: int) -> None:
    plan = scenario(cluster_spec((0, 0, 1)), knows_outputs=knows)
    (journey,) = run(plan, requests((0.0, 100, 700))).journeys
    assert journey.expected_output == reserved

"""The parts around the scheduler: requests, clock, links, held caches, statistics, utilisation, faults."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from emulated_engine.api_requests import parse_order
from emulated_engine.clock import EngineClock
from emulated_engine.configuration import Configuration
from emulated_engine.engine import TokenStream
from emulated_engine.errors import RequestError
from emulated_engine.faults import Faults
from emulated_engine.iteration_statistics import LARGEST_BACKLOG, IterationStatistics
from emulated_engine.kv_transfer import HeldCaches, KvLocation, Link
from emulated_engine.prometheus_metrics import PrometheusMetrics
from emulated_engine.sequences import IterationsDone, Load, Phase, Sequence
from emulated_engine.timing import DecodeModel, PrefillModel
from emulated_engine.utilisation import GpuLabels, UtilisationWindow, exposition

LOCATION = KvLocation("http://10.0.0.1:8000", 7, 3, "m@1.3.0rc29")


def configuration(**changes: Any) -> Configuration:
    values: dict[str, Any] = {"kv_capacity_tokens": 6400, "version": "1.3.0rc29", **changes}
    return Configuration(PrefillModel(0.01, 1e-5, 0.0), DecodeModel(0.01, 1e-5, 0.0), **values)


def generation_parameters(**changes: Any) -> dict[str, Any]:
    return {
        "request_type": "generation_only",
        "disagg_request_id": 1 << 40,
        "first_gen_tokens": [1],
        "ctx_request_id": 7,
        "encoded_opaque_state": LOCATION.encode(),
        **changes,
    }


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        pytest.param({"prompt": "twelve chars"}, 3, id="text, four characters a token"),
        pytest.param({"prompt": [5, 6, 7, 8]}, 4, id="token ids"),
        pytest.param({"prompt": ["abcde"]}, 2, id="one text in a list"),
        pytest.param({"prompt": [[1, 2]]}, 2, id="one prompt of ids in a list"),
    ],
)
def test_prompt_tokens_of_completions(body: dict[str, Any], tokens: int) -> None:
    order = parse_order({"model": "m", **body}, is_chat=False, configuration=configuration())
    assert order.prompt.tokens == tokens
    assert len(order.prompt.ids()) == tokens


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        pytest.param({"messages": [{"role": "user", "content": "12345678"}]}, 4 + 2, id="text"),
        pytest.param(
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "1234"}, {"type": "image"}]}
                ]
            },
            4 + 1,
            id="parts",
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": "x"}], "prompt_token_ids": [1, 2]}, 2, id="ids win"
        ),
        pytest.param({"messages": [{"role": "assistant", "content": None}] * 2}, 8, id="empty messages"),
    ],
)
def test_prompt_tokens_of_chats(body: dict[str, Any], tokens: int) -> None:
    assert (
        parse_order({"model": "m", **body}, is_chat=True, configuration=configuration()).prompt.tokens
        == tokens
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, (16, "length"), id="the API's default"),
        pytest.param({"max_tokens": 9}, (9, "length"), id="max_tokens"),
        pytest.param({"max_tokens": 9, "min_tokens": 4}, (4, "stop"), id="ends at min_tokens"),
        pytest.param({"max_tokens": 9, "min_tokens": 4, "ignore_eos": True}, (9, "length"), id="ignore_eos"),
        pytest.param(
            {"max_tokens": 9, "emulated_output_tokens": 3, "ignore_eos": True}, (3, "stop"), id="ours"
        ),
        pytest.param(
            {"max_tokens": 9, "emulated_output_tokens": 30}, (9, "length"), id="never above max_tokens"
        ),
    ],
)
def test_output_tokens(fields: dict[str, Any], expected: tuple[int, str]) -> None:
    order = parse_order({"model": "m", "prompt": "x", **fields}, is_chat=False, configuration=configuration())
    assert (order.output_tokens, order.finish_reason) == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param([], "must be a JSON object", id="no object"),
        pytest.param({"prompt": "x"}, "model is None", id="no model"),
        pytest.param({"model": "m"}, "prompt must be", id="no prompt"),
        pytest.param({"model": "m", "prompt": ["a", "b"]}, "one prompt per request", id="two prompts"),
        pytest.param({"model": "m", "prompt": [1, "a"]}, "list of token ids", id="mixed ids"),
        pytest.param({"model": "m", "prompt": "x", "n": 2}, "n is 2", id="two choices"),
        pytest.param({"model": "m", "prompt": "x", "max_tokens": 0}, "max_tokens is 0", id="no tokens"),
        pytest.param(
            {"model": "m", "prompt": "x", "max_tokens": 1.5}, "max_tokens is 1.5", id="half a token"
        ),
        pytest.param({"model": "m", "prompt": "x", "stream_options": 1}, "stream_options", id="options"),
    ],
)
def test_a_wrong_request_is_refused_with_its_reason(body: object, message: str) -> None:
    with pytest.raises(RequestError, match=message) as error:
        parse_order(body, is_chat=False, configuration=configuration())
    assert error.value.status == 400


@pytest.mark.parametrize(
    ("version", "parameters", "message"),
    [
        pytest.param("1.3.0", {"request_type": "other"}, "request_type is 'other'", id="unknown type"),
        pytest.param(
            "1.3.0", {"request_type": "context_only"}, "disagg_request_id is None", id="1.3 needs an id"
        ),
        pytest.param(
            "1.3.0", {"request_type": "context_only", "disagg_request_id": 5}, "from 2\\^40", id="a local id"
        ),
        pytest.param(
            "1.2.1",
            {"request_type": "context_only", "disagg_request_id": 1 << 40},
            "disagg_request_id: extra inputs are not permitted by release 1.2.1",
            id="1.2 does not know the id",
        ),
        pytest.param("1.3.0", generation_parameters(encoded_opaque_state=None), "must carry", id="no state"),
        pytest.param(
            "1.3.0", generation_parameters(encoded_opaque_state="%"), "cannot be read", id="broken state"
        ),
        pytest.param(
            "1.3.0", generation_parameters(ctx_request_id=8), "belongs to 7", id="of another request"
        ),
    ],
)
def test_disaggregated_parameters_are_checked_as_by_the_release(
    version: str, parameters: dict[str, Any], message: str
) -> None:
    body = {"model": "m", "prompt": [1, 2, 3], "disaggregated_params": parameters}
    with pytest.raises(RequestError, match=message):
        parse_order(body, is_chat=False, configuration=configuration(version=version))


def test_a_generation_must_send_the_prompt_of_its_context() -> None:
    body = {"model": "m", "prompt": [1, 2], "disaggregated_params": generation_parameters()}
    with pytest.raises(RequestError, match="the prompt has 2 tokens, but its KV cache 3"):
        parse_order(body, is_chat=False, configuration=configuration())


def test_a_generation_knows_where_its_cache_lies() -> None:
    body = {"model": "m", "prompt": [1, 2, 3], "disaggregated_params": generation_parameters()}
    order = parse_order(body, is_chat=False, configuration=configuration())
    assert (order.phase, order.location) == (Phase.GENERATION_ONLY, LOCATION)


def test_a_context_request_cannot_stream() -> None:
    parameters = {"request_type": "context_only", "disagg_request_id": 1 << 40}
    body = {"model": "m", "prompt": "x", "stream": True, "disaggregated_params": parameters}
    with pytest.raises(RequestError, match="stream is true"):
        parse_order(body, is_chat=False, configuration=configuration())


def test_the_clock_stands_still_while_stopped_and_catches_nothing_up() -> None:
    time = [10.0]
    clock = EngineClock(lambda: time[0])
    clock.stop()
    time[0] = 50.0
    assert (clock.now(), clock.is_stopped) == (10.0, True)
    clock.resume()
    time[0] = 51.0
    assert clock.now() == 11.0


def test_a_link_carries_one_transfer_after_the_other() -> None:
    link = Link(100.0)
    assert [link.reserve(50.0, 0.0), link.reserve(50.0, 0.1), link.reserve(50.0, 9.0)] == [0.5, 1.0, 9.5]


async def test_a_held_cache_can_be_taken_once() -> None:
    released: list[Sequence] = []
    caches = HeldCaches(released.append, timeout_seconds=60.0)
    sequence = Sequence(Phase.CONTEXT_ONLY, 10, 5, 0.0)
    caches.hold(1, sequence)
    assert caches.take(1) is sequence
    with pytest.raises(RequestError, match="no KV cache 1 is held") as error:
        caches.take(1)
    assert (error.value.status, released) == (404, [])


async def test_a_held_cache_expires() -> None:
    expired = asyncio.Event()
    caches = HeldCaches(lambda _: expired.set(), timeout_seconds=0.001)
    caches.hold(1, Sequence(Phase.CONTEXT_ONLY, 10, 5, 0.0))
    await expired.wait()
    assert caches.expired_total == 1
    with pytest.raises(RequestError, match="no KV cache"):
        caches.take(1)


async def test_a_slow_reader_gets_its_tokens_in_one_delta() -> None:
    tokens = TokenStream()
    tokens.deliver(2, finished=False)
    tokens.deliver(3, finished=True)
    assert await tokens.next() == (5, True)


async def test_a_waiting_reader_hears_of_a_failure() -> None:
    tokens = TokenStream()
    reader = asyncio.ensure_future(tokens.next())
    await asyncio.sleep(0)
    tokens.fail(RequestError("broken", status=500))
    with pytest.raises(RequestError, match="broken"):
        await reader


NO_LOAD = Load(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def run_of(iterations: int, *, at: float = 1.0, seconds: float = 0.5, load: Load = NO_LOAD) -> IterationsDone:
    return IterationsDone(
        at=at,
        iterations=iterations,
        seconds=seconds,
        prefill_seconds=0.0,
        context_requests=0,
        context_tokens=0,
        generation_requests=4,
        completed=0,
        load=load,
    )


def test_rows_are_read_once() -> None:
    statistics = IterationStatistics(configuration(version="1.2.1"))
    statistics.add(run_of(5), 100.0)
    statistics.add(run_of(2), 101.0)
    assert [row["iter"] for row in statistics.take()] == [5, 7]
    assert statistics.take() == []


def test_a_row_gives_the_mean_latency_of_its_iterations_and_the_fields_of_its_release() -> None:
    rows = {}
    for version in ("1.2.1", "1.3.0rc29"):
        statistics = IterationStatistics(configuration(version=version, return_perf_metrics=False))
        load = Load(
            active=5,
            queued_contexts=2,
            queued_context_tokens=300,
            waiting_generations=1,
            waiting_generation_tokens=40,
            queued=3,
            decoding=4,
            decoding_tokens=100,
            prefilling=1,
            prefilled_tokens=20,
            held=0,
            held_tokens=0,
            resident_tokens=130,
        )
        statistics.add(run_of(10, seconds=0.2, load=load), 0.0)
        (rows[version],) = statistics.take()
    assert rows["1.2.1"]["iterLatencyMS"] == pytest.approx(20.0)
    assert rows["1.2.1"]["timestamp"] == "01-01-1970 00:00:00.000000"
    assert rows["1.2.1"]["kvCacheStats"]["usedNumBlocks"] == 5
    assert rows["1.2.1"]["numQueuedRequests"] == 3
    assert "numQueuedCtxTokens" not in rows["1.2.1"]["inflightBatchingStats"]
    inflight = rows["1.3.0rc29"]["inflightBatchingStats"]
    assert (inflight["numQueuedCtxTokens"], inflight["numQueuedGenKvTokens"]) == (300, 40)


def test_from_1_3_on_rows_appear_when_a_request_completes() -> None:
    statistics = IterationStatistics(configuration())
    statistics.add(run_of(5), 100.0)
    assert statistics.take() == []
    assert statistics.gauges is None
    statistics.collect()
    assert len(statistics.take()) == 1
    assert statistics.gauges is not None


def test_unread_rows_are_bounded() -> None:
    statistics = IterationStatistics(configuration(version="1.2.1"))
    for _ in range(LARGEST_BACKLOG + 5):
        statistics.add(run_of(1), 0.0)
    rows = statistics.take()
    assert (len(rows), rows[-1]["iter"]) == (LARGEST_BACKLOG, LARGEST_BACKLOG + 5)


@pytest.mark.parametrize(
    ("version", "present", "absent"),
    [
        pytest.param(
            "1.2.1",
            [
                'request_success_total{engine_type="undefined",finished_reason="length",model_name="undefined"} 1.0'
            ],
            ["trtllm_", "prompt_tokens_total"],
            id="1.2: five unprefixed metrics",
        ),
        pytest.param(
            "1.3.0rc29",
            [
                'trtllm_request_success_total{engine_type="pytorch",finished_reason="length",model_name="m"} 1.0',
                'trtllm_prompt_tokens_total{engine_type="pytorch",model_name="m"} 100.0',
                'trtllm_generation_tokens_total{engine_type="pytorch",model_name="m"} 11.0',
                'trtllm_time_to_first_token_seconds_sum{engine_type="pytorch",model_name="m"} 2.0',
                'trtllm_time_per_output_token_seconds_sum{engine_type="pytorch",model_name="m"} 0.5',
                'trtllm_request_queue_time_seconds_sum{engine_type="pytorch",model_name="m"} 1.0',
                "trtllm_num_requests_running{",
            ],
            ["\nrequest_success_total"],
            id="1.3: prefixed, with gauges",
        ),
    ],
)
def test_prometheus_names_follow_the_release(version: str, present: list[str], absent: list[str]) -> None:
    settings = configuration(version=version)
    statistics = IterationStatistics(settings)
    metrics = PrometheusMetrics(settings, "m", statistics)
    sequence = Sequence(Phase.WHOLE, 100, 11, 1.0, delivered=11)
    sequence.scheduled_at, sequence.first_token_at, sequence.ended_at = 2.0, 3.0, 8.0
    metrics.request_ended(sequence)
    statistics.add(run_of(1), 0.0)
    statistics.collect()
    text = metrics.exposition().decode()
    assert [line for line in present if line not in text] == []
    assert [line for line in absent if line in text] == []


def test_a_context_engine_measures_no_decode() -> None:
    settings = configuration()
    metrics = PrometheusMetrics(settings, "m", IterationStatistics(settings))
    sequence = Sequence(Phase.CONTEXT_ONLY, 100, 11, 1.0, delivered=1)
    sequence.scheduled_at, sequence.first_token_at, sequence.ended_at = 2.0, 3.0, 3.0
    metrics.request_ended(sequence)
    text = metrics.exposition().decode()
    assert 'trtllm_request_prefill_time_seconds_count{engine_type="pytorch",model_name="m"} 1.0' in text
    assert 'trtllm_request_decode_time_seconds_count{engine_type="pytorch",model_name="m"} 0.0' in text


@pytest.mark.parametrize(
    ("prefill_share", "tensor", "dram"),
    [
        pytest.param(1.0, 0.92, 0.30, id="prefill: tensor cores"),
        pytest.param(0.0, 0.28, 0.90, id="decode: memory"),
    ],
)
def test_utilisation_is_full_whatever_runs_but_the_ratios_tell_the_phases_apart(
    prefill_share: float, tensor: float, dram: float
) -> None:
    window = UtilisationWindow()
    for number in range(40):
        window.add(end=(number + 1) * 0.25, seconds=0.25, prefill_seconds=0.25 * prefill_share)
    shares = window.shares(10.0)
    assert shares.gpu_utilisation_percent == pytest.approx(100.0)
    assert shares.tensor_active == pytest.approx(tensor)
    assert shares.dram_active == pytest.approx(dram)


def test_utilisation_is_the_busy_share_of_the_window_and_forgets() -> None:
    window = UtilisationWindow()
    window.add(end=8.5, seconds=2.5, prefill_seconds=0.0)
    assert window.shares(10.0).decode == pytest.approx(2.5 / 5)
    assert window.shares(14.0).decode == pytest.approx(0.5 / 5)
    assert window.shares(30.0).decode == 0.0


def test_dcgm_labels_are_those_of_the_exporter() -> None:
    environment = {"POD_NAME": "pod-1", "POD_NAMESPACE": "space", "NODE_NAME": "node-1"}
    gpus = tuple(GpuLabels.of(gpu, "H200", environment) for gpu in range(2))
    lines = exposition(gpus, UtilisationWindow().shares(10.0)).decode().splitlines()
    utilisation = [line for line in lines if line.startswith("DCGM_FI_DEV_GPU_UTIL{")]
    assert len(utilisation) == 2
    for part in (
        'gpu="1"',
        'modelName="H200"',
        'hostname="node-1"',
        'namespace="space"',
        'pod="pod-1"',
        'UUID="GPU-',
    ):
        assert part in utilisation[1]
    assert utilisation[0] != utilisation[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"melt": True}, "fault 'melt' is unknown", id="unknown"),
        pytest.param({"hang": 1}, "must be true or false", id="no boolean"),
        pytest.param({"slow_factor": 0}, "must be above 0", id="zero"),
        pytest.param({"slow_factor": True}, "must be above 0", id="boolean factor"),
        pytest.param([], "must be a JSON object", id="no object"),
    ],
)
def test_a_wrong_fault_changes_nothing(changes: object, message: str) -> None:
    faults = Faults()
    with pytest.raises(RequestError, match=message):
        faults.update({"fail_health": True, **changes} if isinstance(changes, dict) else changes)
    assert faults == Faults()

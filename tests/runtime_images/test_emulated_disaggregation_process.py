"""Two real engines that exchange a KV cache, with the test in the router's place."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.runtime_images.processes import Engine, becomes, engine, get, post, request, stream

DISAGG_ID = (1 << 40) + 5


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture(scope="module", params=["1.2.1", "1.3.0rc29"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, Engine, str]]:
    folder, version = tmp_path_factory.mktemp("pair"), str(request.param)
    with (
        engine(folder, version=version, role="prefill") as context,
        engine(folder, version=version, role="decode") as generation,
    ):
        yield context, generation, version


def context_parameters(version: str) -> dict[str, Any]:
    identity = {} if version.startswith("1.2") else {"disagg_request_id": DISAGG_ID, "schedule_style": 0}
    return {"request_type": "context_only", **identity}


async def prefill(
    session: aiohttp.ClientSession, url: str, version: str = "1.3.0rc29", **fields: Any
) -> dict[str, Any]:
    body = request(
        fields.pop("prompt", [7, 8, 9]), disaggregated_params=context_parameters(version), **fields
    )
    status, answer = await post(session, f"{url}/v1/completions", body)
    assert status == 200
    return dict(answer)


def decode_request(answer: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """What TensorRT-LLM's orchestrator makes of a context answer."""
    parameters = {**answer["choices"][0]["disaggregated_params"], "request_type": "generation_only"}
    return request(answer["prompt_token_ids"], disaggregated_params=parameters, **fields)


async def held(session: aiohttp.ClientSession, url: str) -> int:
    info = await get(session, f"{url}/server_info")
    return int(info["emulation"]["held_kv_caches"])


async def test_a_request_travels_through_both_engines(
    pair: tuple[Engine, Engine, str], session: aiohttp.ClientSession
) -> None:
    context, generation, version = pair
    answer = await prefill(session, context.url, version)
    choice = answer["choices"][0]
    assert choice["finish_reason"] in {"length", "not_finished"}
    assert choice["disaggregated_params"]["first_gen_tokens"]
    assert choice["disaggregated_params"].get("disagg_request_id") == context_parameters(version).get(
        "disagg_request_id"
    )
    assert answer["prompt_token_ids"] == [7, 8, 9]
    assert await held(session, context.url) == 1
    body = decode_request(answer, stream=True, stream_options={"include_usage": True})
    async with session.post(f"{generation.url}/v1/completions", json=body) as response:
        assert response.status == 200
        *chunks, end = await stream(response)
    used = json.loads(chunks[-1])["usage"]
    assert (end, used["prompt_tokens"], used["completion_tokens"]) == ("[DONE]", 3, 5)
    assert await held(session, context.url) == 0


async def test_a_chat_travels_through_both_engines(
    pair: tuple[Engine, Engine, str], session: aiohttp.ClientSession
) -> None:
    context, generation, version = pair
    body = {"model": "m", "messages": [{"role": "user", "content": "good morning"}], "max_tokens": 4}
    _, answer = await post(
        session,
        f"{context.url}/v1/chat/completions",
        {**body, "disaggregated_params": context_parameters(version)},
    )
    parameters = {**answer["choices"][0]["disaggregated_params"], "request_type": "generation_only"}
    follow_up = {**body, "prompt_token_ids": answer["prompt_token_ids"], "disaggregated_params": parameters}
    status, answer = await post(session, f"{generation.url}/v1/chat/completions", follow_up)
    assert (status, answer["choices"][0]["message"]["content"].split()) == (200, ["la"] * 4)


async def test_every_engine_serves_every_phase(
    pair: tuple[Engine, Engine, str], session: aiohttp.ClientSession
) -> None:
    context, generation, version = pair
    answer = await prefill(session, generation.url, version)
    status, _ = await post(session, f"{context.url}/v1/completions", decode_request(answer))
    assert status == 200
    whole = request(disaggregated_params={"request_type": "context_and_generation"})
    status, _ = await post(session, f"{context.url}/v1/completions", whole)
    assert status == 200


async def test_a_text_that_ends_at_its_first_token_needs_no_generation(
    pair: tuple[Engine, Engine, str], session: aiohttp.ClientSession
) -> None:
    context, _, version = pair
    answer = await prefill(session, context.url, version, emulated_output_tokens=1)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["disaggregated_params"] is None
    assert await held(session, context.url) == 0


async def test_a_cache_is_fetched_once(
    pair: tuple[Engine, Engine, str], session: aiohttp.ClientSession
) -> None:
    context, generation, version = pair
    body = decode_request(await prefill(session, context.url, version))
    assert (await post(session, f"{generation.url}/v1/completions", body))[0] == 200
    status, error = await post(session, f"{generation.url}/v1/completions", {**body, "stream": True})
    assert status == 500
    assert "404" in error["message"]


async def test_engines_of_two_releases_do_not_understand_each_other(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    with (
        engine(tmp_path, version="1.3.0rc29") as context,
        engine(tmp_path, version="1.3.0rc30") as generation,
    ):
        answer = await prefill(session, context.url)
        status, error = await post(session, f"{generation.url}/v1/completions", decode_request(answer))
    assert status == 500
    assert "engines of one revision" in error["message"]


async def test_a_refused_transfer_is_an_error_before_the_first_byte_and_leaves_no_room_taken(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    with engine(tmp_path) as context, engine(tmp_path) as generation:
        answer = await prefill(session, context.url)
        await post(session, f"{context.url}/faults", {"refuse_kv_transfer": True})
        body = decode_request(answer, stream=True)
        status, error = await post(session, f"{generation.url}/v1/completions", body)
        assert (status, "refused" in error["message"]) == (500, True)
        info = await get(session, f"{generation.url}/server_info")
        assert info["emulation"]["reserved_kv_tokens"] == 0
        assert await held(session, context.url) == 1
        await post(session, f"{context.url}/faults", {"refuse_kv_transfer": False})
        status, _ = await post(session, f"{generation.url}/v1/completions", decode_request(answer))
        assert status == 200


async def test_a_dead_context_engine_is_an_error(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    with engine(tmp_path) as generation:
        with engine(tmp_path) as context:
            answer = await prefill(session, context.url)
        status, error = await post(session, f"{generation.url}/v1/completions", decode_request(answer))
    assert (status, "KV transfer" in error["message"]) == (500, True)


async def test_a_cache_that_nobody_fetches_is_freed_after_the_timeout(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    with engine(tmp_path, kv_transfer_timeout_seconds=0.2) as context:
        await prefill(session, context.url)

        async def is_freed() -> bool:
            info = (await get(session, f"{context.url}/server_info"))["emulation"]
            return bool(info["expired_kv_caches"] == 1 and info["reserved_kv_tokens"] == 0)

        assert await becomes(is_freed)


async def test_a_hanging_context_engine_runs_into_the_transfer_timeout(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    with engine(tmp_path) as context, engine(tmp_path, kv_transfer_timeout_seconds=0.3) as generation:
        answer = await prefill(session, context.url)
        await post(session, f"{context.url}/faults", {"hang": True})
        status, error = await post(session, f"{generation.url}/v1/completions", decode_request(answer))
    assert (status, "took over 0.3 s" in error["message"]) == (500, True)


async def test_a_held_cache_blocks_the_next_prompt_until_it_is_fetched(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    with engine(tmp_path, kv_capacity_tokens=100) as context, engine(tmp_path) as generation:
        first = await prefill(session, context.url, prompt=list(range(80)))
        second = asyncio.ensure_future(prefill(session, context.url, prompt=list(range(80))))

        async def is_queued() -> bool:
            info = await get(session, f"{context.url}/server_info")
            return bool(info["emulation"]["queued"] == 1)

        assert await becomes(is_queued)
        assert not second.done()
        await post(session, f"{generation.url}/v1/completions", decode_request(first))
        assert (await second)["choices"][0]["disaggregated_params"] is not None


async def test_the_engine_that_prefills_reports_what_it_found_cached(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    prompt = list(range(10))
    with engine(tmp_path, role="prefill", prefix_hit_share=0.75) as context:
        answer = await prefill(session, context.url, prompt=prompt, max_tokens=3)
        status, whole = await post(session, f"{context.url}/v1/completions", request(prompt))
        decoded = await post(session, f"{context.url}/v1/completions", decode_request(answer, max_tokens=3))
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 7}
    assert (status, whole["usage"]["prompt_tokens_details"]) == (200, {"cached_tokens": 7})
    assert decoded[1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}

"""A real engine process, spoken to as trtllm-serve's clients speak to it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.runtime_images.processes import (
    FAST,
    SERVING,
    Engine,
    becomes,
    engine,
    engine_command,
    environment,
    free_port,
    get,
    get_text,
    post,
    refuses,
    request,
    running,
    stream,
)

SLOW_DECODE = {**FAST["decode"], "base_seconds": 0.02}


@pytest.fixture(scope="module")
def shared_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("engine")) as started:
        yield started


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def test_discovery_endpoints(shared_engine: Engine, session: aiohttp.ClientSession) -> None:
    async with session.get(f"{shared_engine.url}/health") as health:
        assert (health.status, await health.read()) == (200, b"")
    assert await get(session, f"{shared_engine.url}/version") == {"version": "1.3.0rc29"}
    models = await get(session, f"{shared_engine.url}/v1/models")
    assert [model["id"] for model in models["data"]] == ["m"]
    assert "disaggregated_params" in await get(session, f"{shared_engine.url}/server_info")


async def test_a_completion(shared_engine: Engine, session: aiohttp.ClientSession) -> None:
    status, answer = await post(session, f"{shared_engine.url}/v1/completions", request([1, 2, 3]))
    assert status == 200
    assert (answer["object"], answer["model"]) == ("text_completion", "m")
    assert answer["choices"][0]["text"].split() == ["la"] * 5
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["prompt_tokens"] == 3
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["usage"]["total_tokens"] == 8


async def test_a_chat(shared_engine: Engine, session: aiohttp.ClientSession) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 3}
    status, answer = await post(session, f"{shared_engine.url}/v1/chat/completions", body)
    assert (status, answer["object"]) == (200, "chat.completion")
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": " la la la"}


@pytest.mark.parametrize("usage", [True, False])
async def test_a_streamed_completion(
    shared_engine: Engine, session: aiohttp.ClientSession, *, usage: bool
) -> None:
    body = request([1, 2], stream=True, stream_options={"include_usage": usage})
    async with session.post(f"{shared_engine.url}/v1/completions", json=body) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        *chunks, end = await stream(response)
    assert end == "[DONE]"
    documents = [json.loads(chunk) for chunk in chunks]
    if usage:
        final = documents.pop()
        assert final["choices"] == []
        assert final["usage"]["completion_tokens"] == 5
    words = "".join(document["choices"][0]["text"] for document in documents).split()
    assert words == ["la"] * 5
    reasons = [document["choices"][0]["finish_reason"] for document in documents]
    assert reasons == [None] * (len(documents) - 1) + ["length"]
    assert len({document["id"] for document in documents}) == 1


async def test_a_streamed_chat_names_its_role_once(
    shared_engine: Engine, session: aiohttp.ClientSession
) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "stream": True}
    async with session.post(f"{shared_engine.url}/v1/chat/completions", json=body) as response:
        documents = [json.loads(chunk) for chunk in (await stream(response))[:-1]]
    deltas = [document["choices"][0]["delta"] for document in documents]
    assert [delta.get("role") for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert "".join(delta["content"] for delta in deltas).split() == ["la"] * 3


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        pytest.param("/v1/completions", b"{", (400, "not JSON"), id="broken JSON"),
        pytest.param("/v1/completions", b"{}", (400, "model is None"), id="no model"),
        pytest.param(
            "/v1/completions",
            json.dumps(request("x", max_tokens=20_000)).encode(),
            (400, "the KV cache holds 10000"),
            id="longer than the cache",
        ),
        pytest.param("/v1/internal/kv/77/pull", b"", (404, "no KV cache 77"), id="unknown cache"),
        pytest.param("/v1/internal/kv/x/pull", b"", (400, "is an integer"), id="no cache"),
    ],
)
async def test_errors_have_the_real_engines_shape(
    shared_engine: Engine, session: aiohttp.ClientSession, path: str, body: bytes, expected: tuple[int, str]
) -> None:
    async with session.post(shared_engine.url + path, data=body) as response:
        answer = await response.json()
    status, message = expected
    assert (response.status, answer["object"], answer["code"]) == (status, "error", status)
    assert message in answer["message"]


async def test_metrics_are_read_once_and_prometheus_is_not(
    shared_engine: Engine, session: aiohttp.ClientSession
) -> None:
    await post(session, f"{shared_engine.url}/v1/completions", request())
    rows = await get(session, f"{shared_engine.url}/metrics")
    assert rows[-1]["numActiveRequests"] == 0
    assert await get(session, f"{shared_engine.url}/metrics") == []
    first = await get_text(session, f"{shared_engine.url}/prometheus/metrics")
    assert "trtllm_kv_cache_utilization" in first
    assert await get_text(session, f"{shared_engine.url}/prometheus/metrics/") == first


async def test_dcgm_metrics_are_served(shared_engine: Engine, session: aiohttp.ClientSession) -> None:
    text = await get_text(session, f"{shared_engine.url}/dcgm/metrics")
    for name in ("DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "DCGM_FI_PROF_DRAM_ACTIVE"):
        assert re.search(rf"^{name}{{.*}} ", text, re.MULTILINE)


async def test_a_client_that_leaves_frees_its_place(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    with engine(tmp_path, decode=SLOW_DECODE) as started:

        async def emulation() -> dict[str, Any]:
            info = await get(session, f"{started.url}/server_info")
            return dict(info["emulation"])

        async with session.post(
            f"{started.url}/v1/completions", json=request(max_tokens=5000, stream=True)
        ) as response:
            await response.content.readline()
            assert (await emulation())["open_requests"] == 1
            response.close()

        async def is_idle() -> bool:
            held = await emulation()
            return bool(held["open_requests"] == 0 and held["reserved_kv_tokens"] == 0)

        assert await becomes(is_idle)


async def test_the_port_refuses_until_booted(tmp_path: Path) -> None:
    port = free_port()
    command = engine_command(tmp_path, {"boot_seconds": 3600}, port=port)
    with running(command, tmp_path, environment()) as process:
        process.find(re.compile("Booting for"))
        assert await refuses(port)
        process.send(signal.SIGTERM)
        assert await process.exit_code() == -signal.SIGTERM


async def test_boot_jitter_is_seeded(tmp_path: Path) -> None:
    boots = []
    for seed in (1, 1, 2):
        command = engine_command(tmp_path, {"boot_seconds": 1000, "boot_jitter": 0.5, "seed": seed})
        with running(command, tmp_path, environment()) as process:
            boots.append(process.find(re.compile(r"Booting for (\S+) s"))[1])
    assert boots[0] == boots[1] != boots[2]
    assert all(500 <= float(boot) <= 1500 for boot in boots)


async def test_sigterm_closes_the_port_and_finishes_open_responses(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    with engine(tmp_path, decode=SLOW_DECODE) as started:
        body = request(max_tokens=60, stream=True)
        async with session.post(f"{started.url}/v1/completions", json=body) as response:
            first = await response.content.readline()
            started.running.send(signal.SIGTERM)
            assert await becomes(lambda: refuses(started.port))
            # uvicorn ignores a second SIGTERM: only SIGINT forces it.
            started.running.send(signal.SIGTERM)
            rest = await stream(response)
        assert first.startswith(b"data: ")
        assert len(rest) == 60
        assert rest[-1] == "[DONE]"
        assert await started.running.exit_code() == -signal.SIGTERM


async def test_sigint_after_sigterm_cuts_open_responses(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    with engine(tmp_path, decode=SLOW_DECODE) as started:
        body = request(max_tokens=5000, stream=True)
        async with session.post(f"{started.url}/v1/completions", json=body) as response:
            await response.content.readline()
            started.running.send(signal.SIGTERM)
            started.running.find(re.compile("Shutting down, 1 requests open"))
            started.running.send(signal.SIGINT)
            assert await started.running.exit_code() == -signal.SIGTERM
            with pytest.raises(aiohttp.ClientPayloadError):
                await stream(response)


async def test_a_hang_stops_tokens_while_health_stays_good(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    with engine(tmp_path) as started:
        await post(session, f"{started.url}/faults", {"hang": True})
        waiting = asyncio.ensure_future(post(session, f"{started.url}/v1/completions", request()))
        async with session.get(f"{started.url}/health") as health:
            assert health.status == 200
        await becomes(lambda: _open_requests(session, started, 1))
        assert not waiting.done()
        await post(session, f"{started.url}/faults", {"hang": False})
        status, _ = await waiting
        assert status == 200


async def _open_requests(session: aiohttp.ClientSession, started: Engine, wanted: int) -> bool:
    info = await get(session, f"{started.url}/server_info")
    return bool(info["emulation"]["open_requests"] == wanted)


async def test_failing_health_and_wrong_faults(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    with engine(tmp_path) as started:
        status, faults = await post(session, f"{started.url}/faults", {"fail_health": True, "slow_factor": 2})
        assert (status, faults["fail_health"], faults["slow_factor"]) == (200, True, 2)
        assert await get(session, f"{started.url}/faults") == faults
        async with session.get(f"{started.url}/health") as health:
            assert health.status == 503
        status, error = await post(session, f"{started.url}/faults", {"burn": True})
        assert (status, error["object"]) == (400, "error")


async def test_a_crash_cuts_streams_and_ends_the_process(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    with engine(tmp_path, decode=SLOW_DECODE) as started:
        body = request(max_tokens=5000, stream=True)
        async with session.post(f"{started.url}/v1/completions", json=body) as response:
            await response.content.readline()
            with pytest.raises(aiohttp.ClientError):
                await post(session, f"{started.url}/faults", {"crash": True})
            with pytest.raises(aiohttp.ClientPayloadError):
                await stream(response)
        assert await started.running.exit_code() == 1


async def test_faults_and_metrics_exist_only_where_configured(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    with engine(tmp_path, allow_faults=False, return_perf_metrics=False) as started:
        for path in ("/faults", "/prometheus/metrics"):
            async with session.get(started.url + path) as response:
                assert response.status == 404


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--config", "/nonexistent.json"], "--config is '/nonexistent.json'", id="no file"),
        pytest.param(
            ["--boot-seconds", "-1"], "boot_seconds is -1.0: must not be negative", id="a flag's value"
        ),
    ],
)
def test_a_wrong_configuration_ends_with_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [*engine_command(tmp_path, {}), *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("emulated-engine: ")
    assert message in done.stderr


def test_a_taken_port_ends_with_one_line(tmp_path: Path, shared_engine: Engine) -> None:
    done = subprocess.run(
        engine_command(tmp_path, {}, port=shared_engine.port),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, "cannot listen on" in done.stderr) == (1, True)


def test_help_names_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "emulated_engine", "serve", "--help"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert "--config" in done.stdout
    assert SERVING.search(done.stdout) is None

"""The router as a process of its own, with emulated engines as processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.runtime_images.processes import (
    RunningProcess,
    becomes,
    engine,
    get,
    get_text,
    post,
    request,
    running,
)

OPERATOR = Path(__file__).resolve().parents[2] / "operator"
SERVES = re.compile(r'"message": "router serves".*"port": (\d+)')
ADMIN = re.compile(r'"message": "router serves".*"admin_port": (\d+)')
VARIABLES = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": str(OPERATOR),
    "PYTHONDONTWRITEBYTECODE": "1",
    "IC_ROUTER_PORT": "0",
    "IC_NOTICE_SECONDS": "0.3",
}


@contextmanager
def router(folder: Path, fleet: Mapping[str, Any]) -> Iterator[tuple[str, RunningProcess]]:
    """A serving router over a fleet file; its URL."""
    file = folder / "fleet.json"
    file.write_text(json.dumps(fleet))
    command = [
        sys.executable,
        "-m",
        "inferencecluster.router",
        "--host",
        "127.0.0.1",
        "--static-fleet",
        str(file),
    ]
    with running(command, folder, VARIABLES) as process:
        port = process.find(SERVES)[1]
        yield f"http://127.0.0.1:{port}", process
    assert "Traceback" not in process.output, process.output


def admin(process: RunningProcess) -> str:
    """URL of /state and /metrics."""
    return f"http://127.0.0.1:{process.find(ADMIN)[1]}"


@contextmanager
def cluster(folder: Path, **settings: Any) -> Iterator[tuple[str, RunningProcess]]:
    """A router over two prefill and two decode engines."""
    with ExitStack() as stack:
        replicas = []
        for name in ("p0", "p1", "d0", "d1"):
            role = "prefill" if name.startswith("p") else "decode"
            found = stack.enter_context(engine(folder, role=role, **settings))
            replicas.append({"name": name, "pool": role, "url": found.url, "kvCapacityTokens": 10_000})
        version = settings.get("version", "1.3.0rc29")
        fleet = {"model": "m", "engineVersion": version, "replicas": replicas}
        yield stack.enter_context(router(folder, fleet))


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as opened:
        yield opened


@pytest.mark.parametrize("version", ["1.2.1", "1.3.0rc29"])
async def test_emulated_engines_of_both_lines_serve_every_kind_of_request(
    version: str, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    chat = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    with cluster(tmp_path, version=version) as (url, process):
        for path, body in (("/v1/completions", request()), ("/v1/chat/completions", chat)):
            status, answer = await post(session, url + path, body)
            assert (status, answer["usage"]["completion_tokens"]) == (200, 5)
            async with session.post(url + path, json={**body, "stream": True}) as response:
                events = (await response.read()).split(b"\n\n")
            # A busy machine wakes the engine late, and it then sends what is due in one chunk: tokens are what counts.
            assert b"".join(events).count(b" la") == 5
            assert events[-2] == b"data: [DONE]"
        single = await post(session, f"{url}/v1/completions", request(max_tokens=1))
        ended = await post(session, f"{url}/v1/completions", request(emulated_output_tokens=1))
        many = await asyncio.gather(*(post(session, f"{url}/v1/completions", request()) for _ in range(40)))
        metrics = await get_text(session, f"{admin(process)}/metrics")
        state = await get(session, f"{admin(process)}/state")

    assert single[1]["choices"][0]["finish_reason"] == "length"
    assert ended[1]["choices"][0]["finish_reason"] == "stop"
    assert {status for status, _ in many} == {200}
    assert 'outcome="completed",path="disaggregated"} 46.0' in metrics
    assert state["totals"]["completed"] == 46
    assert all(entry["in_flight"] == entry["kv_transfers"] == 0 for entry in state["replicas"])


async def test_an_engine_that_crashes_costs_no_request(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    with cluster(tmp_path) as (url, _):
        replicas = json.loads((tmp_path / "fleet.json").read_text())["replicas"]
        tasks = [asyncio.create_task(post(session, f"{url}/v1/completions", request())) for _ in range(20)]
        with pytest.raises(aiohttp.ClientError):
            await post(session, f"{replicas[0]['url']}/faults", {"crash": True})
        tasks += [asyncio.create_task(post(session, f"{url}/v1/completions", request())) for _ in range(20)]
        answers = await asyncio.gather(*tasks)

    assert {status for status, _ in answers} == {200}


async def test_sigterm_finishes_every_stream_and_refuses_new_requests(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    slow = {"base_seconds": 0.02, "per_sequence_seconds": 0.0, "per_context_token_seconds": 0.0}
    with cluster(tmp_path, decode=slow) as (url, process):
        body = request(max_tokens=100, stream=True)
        async with session.post(f"{url}/v1/completions", json=body) as response:
            await response.content.readany()
            process.send(signal.SIGTERM)

            async def is_closed() -> bool:
                return (await post(session, f"{url}/v1/completions", request()))[0] == 503

            async with session.get(f"{url}/healthz") as alive:
                assert alive.status == 200
            await becomes(is_closed)
            state = await get(session, f"{admin(process)}/state")
            rest = await response.read()
        code = await process.exit_code()

    assert sum(entry["in_flight"] for entry in state["replicas"]) == 1
    assert rest.endswith(b"data: [DONE]\n\n")
    assert code == 0
    assert "hello" not in process.output


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        pytest.param({}, "IC_CLUSTER is empty", id="no cluster"),
        pytest.param({"IC_CLUSTER": "c"}, "IC_NAMESPACE is empty", id="no namespace"),
        pytest.param({"IC_LOG_LEVEL": "loud"}, "IC_LOG_LEVEL is loud", id="a wrong value"),
    ],
)
async def test_a_mistake_in_the_environment_ends_the_process_with_words(
    variables: dict[str, str], words: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "inferencecluster.router"]
    with running(command, tmp_path, {**VARIABLES, **variables}) as process:
        assert await process.exit_code() == 2
    assert words in process.output
    assert "Traceback" not in process.output


async def test_a_taken_port_ends_the_process_with_words(tmp_path: Path) -> None:
    with router(tmp_path, {"model": "m"}) as (url, _):
        other = tmp_path / "other"
        other.mkdir()
        file = tmp_path / "fleet.json"
        command = [sys.executable, "-m", "inferencecluster.router", "--host", "127.0.0.1"]
        variables = {**VARIABLES, "IC_ROUTER_PORT": url.rpartition(":")[2]}
        with running([*command, "--static-fleet", str(file)], other, variables) as process:
            assert await process.exit_code() == 1
    assert "address already in use" in process.output
    assert "Traceback" not in process.output

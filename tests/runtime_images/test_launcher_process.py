"""The launcher over a real process tree: the emulated engine in trtllm-serve's place, with workers of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.runtime_images.processes import (
    FAST,
    SERVING,
    RunningProcess,
    becomes,
    engine,
    engine_command,
    environment,
    free_port,
    post,
    refuses,
    request,
    running,
    stream,
)

SLOW_DECODE = {**FAST["decode"], "base_seconds": 0.02}
IMPATIENT = {"QUIET_SECONDS": "0.1", "KV_TRANSFER_SECONDS": "0"}
DRAINING = re.compile("DRAINING")
STOPPING = re.compile("STOPPING")

FAKE_TRTLLM_SERVE = """\
#!{python}
import os, pathlib, subprocess, sys

# As MPI does: one worker in the engine's group, one in a session of its own, and one whose parent is gone.
workers = [subprocess.Popen(["sleep", "3600"]), subprocess.Popen(["sleep", "3600"], start_new_session=True)]
orphan = subprocess.run(["sh", "-c", "setsid sleep 3600 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True)
pathlib.Path({pids!r}).write_text(" ".join([*(str(w.pid) for w in workers), orphan.stdout.strip(), str(os.getpid())]))
options = sys.argv[sys.argv.index("serve") + 2 :]
os.execv(sys.executable, [sys.executable, "-m", "emulated_engine", "serve", "--model", "m", *options])
"""


@dataclass
class Launched:
    """A launcher with a serving engine."""

    url: str
    port: int
    running: RunningProcess
    pids: Path

    def tree(self) -> list[int]:
        """Process ids of the workers and, last, of the engine."""
        return [int(word) for word in self.pids.read_text(encoding="utf-8").split()]


@contextlib.contextmanager
def launched(folder: Path, variables: dict[str, str], **settings: Any) -> Iterator[Launched]:
    """The launcher in front of a fake trtllm-serve on PATH; every process of it is gone afterwards."""
    pids, port = folder / "pids", free_port()
    tools = folder / "tools"
    tools.mkdir()
    fake = tools / "trtllm-serve"
    fake.write_text(FAKE_TRTLLM_SERVE.format(python=sys.executable, pids=str(pids)), encoding="utf-8")
    fake.chmod(0o755)
    config = engine_command(folder, settings)[-1]
    serve = ["trtllm-serve", "serve", "some/model", "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "trtllm_launcher", "--", *serve, "--config", config]
    changes = {f"TRTLLM_LAUNCHER_{name}": value for name, value in variables.items()}
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    try:
        with running(command, folder, environment(PATH=path, **changes)) as process:
            yield Launched(process.find(SERVING)[1], port, process, pids)
    finally:
        for pid in [int(word) for word in pids.read_text().split()] if pids.exists() else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """The process exists (a zombie does, too)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def test_a_stop_cuts_no_stream_answers_latecomers_and_leaves_nothing(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    variables = {"QUIET_SECONDS": "1.5", "KV_TRANSFER_SECONDS": "0"}
    with launched(tmp_path, variables, decode=SLOW_DECODE) as launcher:
        body = request(max_tokens=150, stream=True)
        async with session.post(f"{launcher.url}/v1/completions", json=body) as response:
            first = (await response.content.readline()).decode().strip().removeprefix("data: ")
            launcher.running.send(signal.SIGTERM)
            launcher.running.find(DRAINING)
            status, _ = await post(session, f"{launcher.url}/v1/completions", request())
            assert status == 200
            launcher.running.find(STOPPING)
            assert await becomes(lambda: refuses(launcher.port))
            *events, last = [first, *await stream(response)]
        assert last == "[DONE]"
        # An engine that comes late on a busy machine tells of two tokens in one event.
        assert sum(len(json.loads(event)["choices"][0]["text"].split()) for event in events) == 150
        assert await launcher.running.exit_code() == 0
        assert [pid for pid in launcher.tree() if is_alive(pid)] == []


async def test_a_kv_cache_can_be_fetched_from_an_engine_that_shall_stop(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    variables = {"QUIET_SECONDS": "0", "KV_TRANSFER_SECONDS": "500"}
    with launched(tmp_path, variables) as launcher, engine(other) as generation:
        parameters = {"request_type": "context_only", "disagg_request_id": 1 << 40}
        prompt = request([1, 2, 3], disaggregated_params=parameters)
        _, answer = await post(session, f"{launcher.url}/v1/completions", prompt)
        launcher.running.send(signal.SIGTERM)
        launcher.running.find(re.compile("Waiting for (open connections|KV caches)"))
        parameters = {**answer["choices"][0]["disaggregated_params"], "request_type": "generation_only"}
        fetch = request(answer["prompt_token_ids"], disaggregated_params=parameters)
        status, _ = await post(session, f"{generation.url}/v1/completions", fetch)
        assert status == 200
        launcher.running.send(signal.SIGTERM)
        launcher.running.find(STOPPING)
        assert await launcher.running.exit_code() == 0


async def test_an_idle_engine_stops_soon(tmp_path: Path) -> None:
    with launched(tmp_path, {"QUIET_SECONDS": "0", "KV_TRANSFER_SECONDS": "500"}) as launcher:
        launcher.running.send(signal.SIGTERM)
        launcher.running.find(re.compile("STOPPING: drained"))
        assert await launcher.running.exit_code() == 0


async def test_a_killed_engine_ends_the_launcher_with_its_code_and_takes_its_workers_along(
    tmp_path: Path,
) -> None:
    with launched(tmp_path, {}) as launcher:
        *workers, engine_pid = launcher.tree()
        assert all(is_alive(pid) for pid in workers)
        os.kill(engine_pid, signal.SIGKILL)
        assert await launcher.running.exit_code() == 128 + signal.SIGKILL
        assert [pid for pid in workers if is_alive(pid)] == []


async def test_a_crash_in_the_middle_of_a_drain_is_not_taken_for_a_stop(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    with launched(tmp_path, {"QUIET_SECONDS": "500"}) as launcher:
        launcher.running.send(signal.SIGTERM)
        launcher.running.find(DRAINING)
        with pytest.raises(aiohttp.ClientError):
            await post(session, f"{launcher.url}/faults", {"crash": True})
        assert await launcher.running.exit_code() == 1


async def test_the_deadline_ends_an_endless_stream(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    variables = {**IMPATIENT, "DEADLINE_SECONDS": "1", "STOP_SECONDS": "0.5"}
    with launched(tmp_path, variables, decode=SLOW_DECODE) as launcher:
        body = request(max_tokens=9000, stream=True)
        async with session.post(f"{launcher.url}/v1/completions", json=body) as response:
            await response.content.readline()
            launcher.running.send(signal.SIGTERM)
            with pytest.raises(aiohttp.ClientPayloadError):
                await stream(response)
        assert await launcher.running.exit_code() == 128 + signal.SIGKILL
        assert [pid for pid in launcher.tree() if is_alive(pid)] == []


async def test_each_further_signal_skips_a_stage(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    with launched(tmp_path, {"QUIET_SECONDS": "500"}, decode=SLOW_DECODE) as launcher:
        body = request(max_tokens=9000, stream=True)
        async with session.post(f"{launcher.url}/v1/completions", json=body) as response:
            await response.content.readline()
            for stage in (DRAINING, STOPPING, re.compile("KILLING")):
                launcher.running.send(signal.SIGTERM)
                launcher.running.find(stage)
            assert await launcher.running.exit_code() == 128 + signal.SIGKILL


async def test_a_drain_past_its_deadline_still_lets_the_engine_finish(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    variables = {"QUIET_SECONDS": "500", "DEADLINE_SECONDS": "60.2", "STOP_SECONDS": "60"}
    with launched(tmp_path, variables, decode=SLOW_DECODE) as launcher:
        body = request(max_tokens=60, stream=True)
        async with session.post(f"{launcher.url}/v1/completions", json=body) as response:
            await response.content.readline()
            launcher.running.send(signal.SIGTERM)
            launcher.running.find(re.compile("STOPPING: deadline of the drain"))
            assert (await stream(response))[-1] == "[DONE]"
        assert await launcher.running.exit_code() == 0


async def test_orphans_are_reaped_while_the_engine_serves(tmp_path: Path) -> None:
    with launched(tmp_path, {}) as launcher:
        *_, orphan, _ = launcher.tree()
        os.kill(orphan, signal.SIGKILL)

        async def is_reaped() -> bool:
            return not is_alive(orphan)

        assert await becomes(is_reaped)
        assert launcher.running.process.poll() is None


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        pytest.param(["sh", "-c", "exit 3"], 3, "exit code 3", id="ends by itself"),
        pytest.param(["sh", "-c", "kill -SEGV $$"], 139, "exit code 139", id="ends by a signal"),
        pytest.param(["no-such-engine"], 127, "cannot start no-such-engine", id="does not exist"),
        pytest.param([], 2, "no command given", id="nothing to run"),
    ],
)
async def test_the_exit_code_tells_what_happened(
    tmp_path: Path, command: list[str], code: int, message: str
) -> None:
    full = [sys.executable, "-m", "trtllm_launcher", *command]
    with running(full, tmp_path, environment()) as process:
        assert await asyncio.wait_for(process.exit_code(), 30) == code
        assert message in process.output


async def test_the_engine_starts_with_signals_as_if_the_launcher_were_not_there(tmp_path: Path) -> None:
    command = ["grep", "-E", "^Sig(Blk|Ign):", "/proc/self/status"]
    # Whoever runs the tests may ignore signals itself (nohup does): the engine inherits that, and nothing else.
    with running(command, tmp_path, environment()) as process:
        assert await process.exit_code() == 0
        alone = process.output
    with running([sys.executable, "-m", "trtllm_launcher", *command], tmp_path, environment()) as process:
        assert await process.exit_code() == 0
        output = process.output
    assert signal_masks(output) == signal_masks(alone)
    assert signal_masks(output)[0] == 0, "no signal is blocked"


def signal_masks(status: str) -> list[int]:
    """Blocked and ignored signals, bit N-1 for signal N; those from 32 on belong to the C library."""
    return [int(mask, 16) & 0x7FFFFFFF for mask in re.findall(r"Sig(?:Blk|Ign):\t(\w+)", status)]

"""Real engine processes on the loopback interface."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

IMAGES = Path(__file__).resolve().parents[2] / "runtime_images"
EMULATED_SOURCE = IMAGES / "emulated" / "src"
LAUNCHER_SOURCE = IMAGES / "trtllm" / "src"
PATIENCE_SECONDS = 30.0
"""Longest wait for something that must happen; a busy machine may need seconds."""

FAST: dict[str, Any] = {
    "prefill": {"base_seconds": 0.002, "per_token_seconds": 1e-6, "per_token_squared_seconds": 0.0},
    "decode": {"base_seconds": 0.002, "per_sequence_seconds": 1e-6, "per_context_token_seconds": 0.0},
    "kv_capacity_tokens": 10_000,
    "version": "1.3.0rc29",
    "allow_faults": True,
    "seed": 1,
}
SERVING = re.compile(r"Serving on (http://\S+)")


class ProcessError(AssertionError):
    """A process did not do what every test relies on."""


def environment(**changes: str) -> dict[str, str]:
    """What the processes of the tests see."""
    path = os.pathsep.join([str(EMULATED_SOURCE), str(LAUNCHER_SOURCE)])
    return {"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **changes}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class RunningProcess:
    """A process and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        """Everything it has written."""
        return self.log.read_text(encoding="utf-8")

    def find(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """Wait for a line. Raises `ProcessError` when the process ends first."""
        end = time.monotonic() + PATIENCE_SECONDS
        while (match := pattern.search(self.output)) is None:
            if self.process.poll() is not None and pattern.search(self.output) is None:
                raise ProcessError(f"ended with {self.process.returncode}:\n{self.output}")
            if time.monotonic() > end:
                raise ProcessError(f"no {pattern.pattern!r} within {PATIENCE_SECONDS} s:\n{self.output}")
            time.sleep(0.01)
        return match

    def send(self, number: signal.Signals) -> None:
        """Signal it."""
        self.process.send_signal(number)

    async def exit_code(self) -> int:
        """Wait for its end; negative after a signal."""
        return await asyncio.to_thread(self.process.wait, PATIENCE_SECONDS)


@contextlib.contextmanager
def running(command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> Iterator[RunningProcess]:
    """Start a process that the block may end; afterwards it is gone."""
    log = folder / f"{len(list(folder.iterdir()))}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(list(command), stdout=file, stderr=subprocess.STDOUT, env=dict(variables))
    try:
        yield RunningProcess(process, log)
    finally:
        process.kill()
        process.wait()


@dataclass
class Engine:
    """A running engine."""

    url: str
    running: RunningProcess

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])


def engine_command(folder: Path, settings: Mapping[str, Any], *arguments: str, port: int = 0) -> list[str]:
    """Command line of an engine; its configuration is written into `folder`."""
    file = folder / f"config-{len(list(folder.iterdir()))}.json"
    file.write_text(json.dumps({**FAST, **settings}), encoding="utf-8")
    serve = ("serve", "--host", "127.0.0.1", "--port", str(port), "--model", "m", "--config", str(file))
    return [sys.executable, "-m", "emulated_engine", *serve, *arguments]


@contextlib.contextmanager
def engine(folder: Path, **settings: Any) -> Iterator[Engine]:
    """A serving engine. Whatever the test did to it, it must not have stumbled: `ProcessError` if it logged that."""
    with running(engine_command(folder, settings), folder, environment()) as process:
        yield Engine(process.find(SERVING)[1], process)
    if re.search(r"Traceback|Unclosed|never retrieved|Error handling request", process.output):
        raise ProcessError(process.output)


def request(prompt: str | list[int] = "hello", **fields: Any) -> dict[str, Any]:
    """A completions body."""
    return {"model": "m", "prompt": prompt, "max_tokens": 5, **fields}


async def post(session: aiohttp.ClientSession, url: str, body: Any) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    async with session.post(url, json=body) as response:
        return response.status, await response.json()


async def get(session: aiohttp.ClientSession, url: str) -> Any:
    """JSON of an answer."""
    async with session.get(url) as response:
        return await response.json()


async def get_text(session: aiohttp.ClientSession, url: str) -> str:
    """Text of an answer."""
    async with session.get(url) as response:
        return await response.text()


async def stream(response: aiohttp.ClientResponse) -> list[str]:
    """The data of all server-sent events that are left."""
    lines = [line.decode().strip() async for line in response.content]
    return [line.removeprefix("data: ") for line in lines if line]


async def becomes(check: Any) -> Any:
    """Await `check()` until it gives something true. Raises `ProcessError` after `PATIENCE_SECONDS`."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (value := await check()):
        if time.monotonic() > end:
            raise ProcessError("it never came true")
        await asyncio.sleep(0.02)
    return value


async def refuses(port: int) -> bool:
    """Nobody listens on `port`."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    await writer.wait_closed()
    return False

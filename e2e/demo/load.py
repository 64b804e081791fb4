"""The clients: replays requests against the OpenAI API and writes one JSON line for each that ended.

A process of its own, so that drawing the live table never delays a request or distorts a latency.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TextIO

import aiohttp
import uvloop

from e2e.demo.trace import Request

REQUEST_TIMEOUT_SECONDS = 300.0
"""Longest answer in the Azure traces is 1,900 tokens: 76 s at 40 ms each; the rest is room for queues."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How one request ended. Times are seconds; `at` is the planned arrival, `late` how far the client was behind."""

    at: float
    late: float
    sent_at: float
    """Unix time."""
    prompt_tokens: int
    output_tokens: int
    received_tokens: int
    ttft: float | None
    seconds: float
    error: str

    @property
    def tpot(self) -> float | None:
        """(E2E - TTFT) / (output - 1): None without a first token or with a single one."""
        if self.ttft is None or self.output_tokens < 2:
            return None
        return (self.seconds - self.ttft) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What a client process plays, and where it writes."""

    url: str
    model: str
    requests: tuple[Request, ...]
    results: Path


def start(plan: LoadPlan) -> BaseProcess:
    """Start the replay in its own process; it ends after the last answer. The results file is made first."""
    plan.results.parent.mkdir(parents=True, exist_ok=True)
    plan.results.write_text("")
    process = multiprocessing.get_context("spawn").Process(target=_main, args=(plan,), daemon=True)
    process.start()
    return process


def _main(plan: LoadPlan) -> None:
    with plan.results.open("w", buffering=1) as out:
        uvloop.run(_replay(plan, out))


async def _replay(plan: LoadPlan, out: TextIO) -> None:
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS)
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        asyncio.TaskGroup() as group,
    ):
        start_time = time.monotonic()
        for request in plan.requests:
            delay = start_time + request.at - time.monotonic()
            if delay > 0:
                await asyncio.sleep(delay)
            group.create_task(_play(session, plan, request, start_time, out))


async def _play(
    session: aiohttp.ClientSession, plan: LoadPlan, request: Request, start_time: float, out: TextIO
) -> None:
    sent, sent_at = time.monotonic(), time.time()
    ttft: float | None = None
    received, error = 0, ""
    body = {
        "model": plan.model,
        # Token ids, so that every hop sees the exact length; their values mean nothing to an emulated engine.
        "prompt": list(range(1, request.prompt_tokens + 1)),
        "max_tokens": request.output_tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    try:
        async with session.post(f"{plan.url}/v1/completions", json=body) as response:
            if response.status != 200:
                error = f"HTTP {response.status}: {(await response.text())[:200]}"
            else:
                last = b""
                async for line in response.content:
                    if not line.startswith(b"data:"):
                        continue
                    ttft = ttft if ttft is not None else time.monotonic() - sent
                    if b'"usage"' in line or b'"error"' in line:
                        last = line
                received, error = _ending(last, request.output_tokens)
    except (aiohttp.ClientError, TimeoutError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    ended = time.monotonic()
    answer = Answer(
        at=request.at,
        late=sent - start_time - request.at,
        sent_at=sent_at,
        prompt_tokens=request.prompt_tokens,
        output_tokens=request.output_tokens,
        received_tokens=received,
        ttft=ttft,
        seconds=ended - sent,
        error=error,
    )
    out.write(json.dumps(asdict(answer)) + "\n")


def _ending(line: bytes, wanted_tokens: int) -> tuple[int, str]:
    """Tokens that the stream's usage frame counts, and what is wrong with the ending ("" when nothing is)."""
    if not line:
        return 0, "the stream ended without a usage frame: it was cut"
    frame = json.loads(line.removeprefix(b"data:"))
    if frame.get("error"):
        return 0, f"error in the stream: {frame['error']}"
    tokens = int((frame.get("usage") or {}).get("completion_tokens", 0))
    return tokens, "" if tokens == wanted_tokens else f"{tokens} of {wanted_tokens} tokens arrived"


def read_answers(results: Path, *, skip: int = 0) -> Sequence[Answer]:
    """Answers written so far, after the first `skip`; an unfinished last line is left for the next look."""
    lines = results.read_text().split("\n")
    return [Answer(**json.loads(line)) for line in lines[skip:-1]]

"""What tests of a busy router do to it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from tests.router.harness import (
    SETTINGS,
    Reply,
    RouterUnderTest,
    eventually,
)

FULL: dict[str, Any] = {"max_batch_size": 1}
"""A decode or mixed replica that holds one request is full."""
SHORT = replace(SETTINGS, max_queue_seconds=0.2)


async def held(router: RouterUnderTest, count: int) -> None:
    """Wait until so many requests are in the queue."""
    await eventually(lambda: router.process.services.dispatcher.held_requests == count)


def slow_prompts(router: RouterUnderTest) -> None:
    """Answers in one piece count as prompts for as long as a test takes."""
    router.process.services.estimates.learn_prefill(seconds=1e6, pending_tokens=1)


async def finish(tasks: list[asyncio.Task[Reply]]) -> list[int]:
    return [reply.status for reply in await asyncio.gather(*tasks)]

"""Load on a cluster beside a test, and what its answers must be."""

from __future__ import annotations

import threading
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from e2e.demo.load import Answer, LoadPlan, read_answers, start
from e2e.demo.trace import Request
from e2e.stack.cluster import Cluster


def steady(rate: float, seconds: float, *, prompt: int = 1000, output: int = 60) -> tuple[Request, ...]:
    """Requests at a constant rate."""
    return tuple(Request(index / rate, prompt, output) for index in range(round(rate * seconds)))


@contextmanager
def load(cluster: Cluster, requests: Sequence[Request], folder: Path) -> Iterator[Callable[[], list[Answer]]]:
    """Play requests beside the block; the function given to it waits for the end and returns the answers."""
    results = folder / "requests.jsonl"
    process = start(LoadPlan(cluster.url(), "llama-70b", tuple(requests), results))

    def finish() -> list[Answer]:
        process.join(timeout=240)
        assert process.exitcode == 0, "the clients did not end"
        return list(read_answers(results))

    try:
        yield finish
    finally:
        process.terminate()


def assert_all_whole(answers: Sequence[Answer], planned: Sequence[Request]) -> None:
    """Every request was answered to its end."""
    failed = [answer.error for answer in answers if answer.error]
    assert not failed, f"{len(failed)} of {len(planned)} requests failed, the first: {failed[0]}"
    assert len(answers) == len(planned)


@contextmanager
def streams(cluster: Cluster, *, count: int, output_tokens: int) -> Iterator[Callable[[], list[int]]]:
    """`count` completions at once beside the block; the given function returns the tokens that each got."""
    got: list[int] = []
    url = cluster.url()

    def call() -> None:
        try:
            completion = cluster.complete(prompt_tokens=400, output_tokens=output_tokens, timeout=90)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{url}: {error.code} {error.read()[:200]!r}") from error
        got.append(int(completion["usage"]["completion_tokens"]))

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()

    def finish() -> list[int]:
        for thread in threads:
            thread.join(timeout=120)
        return got

    yield finish
    for thread in threads:
        thread.join(timeout=120)

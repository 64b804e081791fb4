"""What is to be served: arrivals in windows, lengths as histograms, so that plans cost little however long a trace is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from inferencecluster.core.errors import SpecError
from inferencecluster.simulator.workload import Request

WINDOW_SECONDS: Final = 60.0
"""Longer than any queue that meets a latency target, shorter than a boot: sizes cannot follow anything faster."""
MAX_WINDOWS: Final = 240
"""A day becomes windows of six minutes: about as fine as sizes follow (a boot ahead, one held), and planned in seconds."""
LENGTH_RATIO: Final = 1.2
"""Lengths within 20 % of each other share a bar of the histogram; their mean stands for them. Sums stay exact."""

Histogram = tuple[tuple[float, float], ...]
"""(mean tokens, share of the requests) by ascending tokens; shares add up to 1."""


@dataclass(frozen=True, slots=True)
class Window:
    """Arrivals of one stretch of time, taken as a Poisson process."""

    seconds: float
    requests: float
    """How many arrived; 0 for a silent window, whose other figures are then 0 or empty."""
    prompt_tokens: float
    """Mean L."""
    prompt_tokens_squared: float
    """Mean L**2."""
    steps: float
    """Mean output tokens after the first one, each of which takes a decode step."""
    context_steps: float
    """Mean over requests of the context tokens summed over its steps: (O-1) * (L + O/2)."""
    prompts: Histogram
    outputs: Histogram

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def context(self) -> float:
        """Mean context of a sequence in a decode batch: long outputs weigh more, because they stay longer."""
        return self.context_steps / self.steps if self.steps > 0 else self.prompt_tokens

    @property
    def final_context(self) -> float:
        """KV tokens set aside for a sequence at its admission (TensorRT-LLM reserves the whole output)."""
        return self.context + self.steps / 2

    def scaled(self, factor: float) -> Window:
        """The same mix of requests, `factor` times as many."""
        return replace(self, requests=self.requests * factor)


@dataclass(frozen=True, slots=True)
class Traffic:
    """A workload as the planner sees it."""

    windows: tuple[Window, ...]
    """In order of time, all equally long."""
    description: str

    @property
    def window_seconds(self) -> float:
        """Length of a window."""
        return self.windows[0].seconds

    @property
    def hours(self) -> float:
        """Length of the whole."""
        return self.window_seconds * len(self.windows) / 3600

    @property
    def requests(self) -> float:
        """All of them."""
        return sum(window.requests for window in self.windows)

    def mean_over_requests(self, value: Callable[[Window], float]) -> float:
        """The mean of a figure of windows, each weighted with its requests."""
        return (
            sum(value(window) * window.requests for window in self.windows if window.requests) / self.requests
        )

    def scaled(self, factor: float) -> Traffic:
        """The same workload with `factor` times the requests."""
        return replace(self, windows=tuple(window.scaled(factor) for window in self.windows))


def steady(*, rate: float, prompt_tokens: int, output_tokens: int) -> Traffic:
    """One hour of `rate` requests per second, all of one length. Raises `SpecError` for figures that are not positive."""
    for field, value in (
        ("--rate", rate),
        ("--prompt-tokens", prompt_tokens),
        ("--output-tokens", output_tokens),
    ):
        if not 0 < value < float("inf"):
            raise SpecError(
                field=field, value=value, rule="it must be above 0", advice="give a positive number"
            )
    prompt, output = float(prompt_tokens), float(output_tokens)
    window = Window(
        seconds=3600.0,
        requests=rate * 3600.0,
        prompt_tokens=prompt,
        prompt_tokens_squared=prompt * prompt,
        steps=output - 1,
        context_steps=(output - 1) * (prompt + output / 2),
        prompts=((prompt, 1.0),),
        outputs=((output, 1.0),),
    )
    return Traffic(
        (window,), f"{rate:g} requests/s of {prompt_tokens} prompt and {output_tokens} output tokens"
    )


def from_requests(requests: Iterable[Request], *, name: str) -> Traffic:
    """A trace in windows of a minute, or longer ones when it is longer than four hours.

    The last, incomplete window is dropped unless it is the only one. Raises `SpecError` for an empty trace.
    """
    everything = list(requests)
    if not everything:
        raise SpecError(
            field="--trace", value=name, rule="it holds no request", advice="name a trace with requests"
        )
    span = max(request.arrival for request in everything)
    seconds = max(WINDOW_SECONDS, WINDOW_SECONDS * math.ceil(span / WINDOW_SECONDS / MAX_WINDOWS))
    count = max(1, int(span // seconds))
    members: list[list[Request]] = [[] for _ in range(count)]
    for request in everything:
        index = int(request.arrival // seconds)
        if index < count:
            members[index].append(request)
    windows = tuple(_window(of_window, seconds) for of_window in members)
    return Traffic(windows, f"{name}: {len(everything)} requests in {span / 60:.0f} min")


def _window(requests: list[Request], seconds: float) -> Window:
    if not requests:
        return Window(seconds, 0.0, 0.0, 0.0, 0.0, 0.0, (), ())
    count = len(requests)
    prompts = [request.prompt_tokens for request in requests]
    outputs = [request.output_tokens for request in requests]
    return Window(
        seconds=seconds,
        requests=float(count),
        prompt_tokens=sum(prompts) / count,
        prompt_tokens_squared=sum(tokens * tokens for tokens in prompts) / count,
        steps=sum(tokens - 1 for tokens in outputs) / count,
        context_steps=sum(
            (output - 1) * (prompt + output / 2) for prompt, output in zip(prompts, outputs, strict=True)
        )
        / count,
        prompts=_histogram(prompts),
        outputs=_histogram(outputs),
    )


def _histogram(lengths: list[int]) -> Histogram:
    bars: dict[int, list[int]] = {}
    scale = 1 / math.log(LENGTH_RATIO)
    for length in lengths:
        bars.setdefault(int(math.log(max(length, 1)) * scale), []).append(length)
    return tuple((sum(bar) / len(bar), len(bar) / len(lengths)) for _, bar in sorted(bars.items()))

"""Splitwise's traces: Poisson arrivals, prompt and output lengths drawn independently of each other, with replacement.

As splitwise-sim makes them from the Azure traces of 2023, but for the random generator: the published runs drew theirs
without a seed, so that nobody has the identical requests.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

from inferencecluster.core.errors import SpecError
from inferencecluster.simulator.chance import chance
from inferencecluster.simulator.workload import Request, read_trace

SECONDS: Final = 120.0
"""Length of the traces that Splitwise searches with."""
FILES: Final = {"conv": "AzureLLMInferenceTrace_conv.csv", "code": "AzureLLMInferenceTrace_code.csv"}


@lru_cache(maxsize=len(FILES))
def lengths(folder: Path, trace: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Prompt and output lengths of a trace. Raises `SpecError` for a trace that is not one of `FILES`, and `OSError`."""
    if trace not in FILES:
        raise SpecError(
            field="trace",
            value=repr(trace),
            rule=f"it is one of {', '.join(FILES)}",
            advice="name one of them",
        )
    requests = tuple(read_trace(folder / FILES[trace]))
    return tuple(item.prompt_tokens for item in requests), tuple(item.output_tokens for item in requests)


def generate(
    known: tuple[tuple[int, ...], tuple[int, ...]], *, rate: float, seed: int, seconds: float = SECONDS
) -> list[Request]:
    """`seconds` of `rate` requests a second on average, of `known` lengths (prompts, outputs).

    Of one seed, a higher rate sends the same requests earlier, and more of them.
    """
    prompts, outputs = known
    arrivals, prompt, output = (chance(seed, purpose) for purpose in ("arrivals", "prompts", "outputs"))
    found: list[Request] = []
    time = arrivals.expovariate(1.0) / rate
    while time < seconds:
        found.append(Request(time, prompt.choice(prompts), output.choice(outputs)))
        time += arrivals.expovariate(1.0) / rate
    return found

"""Where the two base traces come from: files that somebody names, or stand-ins that everybody has.

The Azure LLM inference traces of 2023 (CC-BY, https://github.com/Azure/AzurePublicDataset) are not part of this project. Without
them, synthetic hours of about their rate, lengths and minute-to-minute burstiness take their place: the command works for
everyone, and results say which of the two they rest on.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from inferencecluster.core.errors import SpecError
from inferencecluster.simulator.chance import chance
from inferencecluster.simulator.synthetic import Phase, Shape, alternating
from inferencecluster.simulator.workload import Request, read_trace

FILES: Final = {
    "conversation": "AzureLLMInferenceTrace_conv.csv",
    "code": "AzureLLMInferenceTrace_code.csv",
}
"""Names that the files have in Azure's repository."""
STAND_IN_SECONDS: Final = 3500.0
"""Both traces last 58 minutes."""
_MINUTE: Final = 60.0
_SEED: Final = 2023


@dataclass(frozen=True, slots=True)
class Traces:
    """The base traces of one run of the benchmark; hashable, so that workers keep what they have read."""

    folder: Path | None
    """Holds `FILES`; None: stand-ins."""

    @property
    def origin(self) -> str:
        """For results."""
        return "synthetic stand-ins" if self.folder is None else "Azure LLM inference traces 2023"

    def check(self) -> None:
        """Raises `SpecError` when a file is absent."""
        for name in FILES.values():
            if self.folder is not None and not (self.folder / name).is_file():
                raise SpecError(
                    field="--traces",
                    value=self.folder,
                    rule=f"the folder holds {' and '.join(FILES.values())}, and {name} is absent",
                    advice="name the folder with the Azure LLM inference traces of 2023, or none for stand-ins",
                )

    def read(self, name: str) -> Sequence[Request]:
        """`conversation` or `code`: one hour of requests."""
        return _read(self.folder, name)


@cache
def _read(folder: Path | None, name: str) -> Sequence[Request]:
    if folder is not None:
        return tuple(read_trace(folder / FILES[name]))
    return tuple(_conversation() if name == "conversation" else _code())


def _conversation() -> list[Request]:
    """Some 5.5 requests per second whose rate wanders by a quarter, slowly."""
    source = chance(_SEED, "conversation")
    rates = [5.3 * level for level in _wander(source, deviation=0.22, memory=0.78)]
    return _minutes(Shape(1020, 129, 0.98, 0.86, longest=14_050), rates)


def _code() -> list[Request]:
    """Some 2.5 requests per second in bursts: every fifth minute has none."""
    source = chance(_SEED, "code")
    levels = _wander(source, deviation=0.9, memory=0.3)
    rates = [0.0 if source.random() < 0.2 else 2.2 * level for level in levels]
    return _minutes(Shape(1469, 13, 1.0, 0.85, longest=7_437), rates)


def _wander(source: random.Random, *, deviation: float, memory: float) -> list[float]:
    """Levels around 1, one a minute: the logarithm is an autoregressive process of order one."""
    levels = []
    state = 0.0
    for _ in range(math.ceil(STAND_IN_SECONDS / _MINUTE)):
        state = memory * state + deviation * math.sqrt(1 - memory * memory) * source.gauss(0.0, 1.0)
        levels.append(math.exp(state))
    return levels


def _minutes(shape: Shape, rates: Sequence[float]) -> list[Request]:
    phases = [Phase(shape, rate) for rate in rates]
    return list(alternating(phases, phase_seconds=_MINUTE, duration_seconds=STAND_IN_SECONDS, seed=_SEED))

"""Splitwise's machines and cluster designs, with what they cost and draw, and what was published of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from inferencecluster.core.fleet import PoolName

GPUS: Final = 8
"""Of a machine, a DGX: one replica."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One kind. Costs and power units are those of splitwise-sim's notebooks."""

    hardware: str
    """Its name in the table."""
    dollars_per_gpu_hour: float
    power: float
    """Units of which an H100 machine has 44."""
    link_bytes_per_second: float
    """To other machines: 200 and 400 Gbit/s per GPU (Splitwise, table I)."""
    unoverlapped_seconds: float
    """Of a layer-wise KV transfer (Splitwise, section IV-C)."""

    @property
    def dollars_per_hour(self) -> float:
        """Of all its GPUs."""
        return self.dollars_per_gpu_hour * GPUS


A100: Final = Machine("a100-80gb", 2.21, 24.8, 25e9 * GPUS, 0.008)
H100: Final = Machine("h100-80gb", 4.76, 44.0, 50e9 * GPUS, 0.005)
CAPPED: Final = Machine("h100-80gb-pcap", 4.76, 30.8, 50e9 * GPUS, 0.005)
"""An H100 machine at 70 % of its power."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A design without sizes."""

    name: str
    prompt: Machine
    token: Machine
    is_baseline: bool = False
    """Every machine serves whole requests; `prompt` and `token` are the same."""


BASE_A100: Final = Kind("Base-A100", A100, A100, is_baseline=True)
BASE_H100: Final = Kind("Base-H100", H100, H100, is_baseline=True)
AA: Final = Kind("AA", A100, A100)
HH: Final = Kind("HH", H100, H100)
HA: Final = Kind("HA", H100, A100)
HHCAP: Final = Kind("HHcap", H100, CAPPED)


@dataclass(frozen=True, slots=True)
class Design:
    """Machines for prompts and for tokens; a baseline has all of them as `prompts`."""

    kind: Kind
    prompts: int
    tokens: int = 0

    @property
    def name(self) -> str:
        """As Splitwise writes it."""
        sizes = f"{self.prompts}" if self.kind.is_baseline else f"{self.prompts}P,{self.tokens}T"
        return f"{self.kind.name}({sizes})"

    @property
    def sizes(self) -> Mapping[PoolName, int]:
        """By pool."""
        pools = (0, 0, self.prompts) if self.kind.is_baseline else (self.prompts, self.tokens, 0)
        return dict(zip(PoolName, pools, strict=True))

    @property
    def machines(self) -> int:
        """All of them."""
        return self.prompts + self.tokens

    @property
    def dollars_per_hour(self) -> float:
        """Of all machines."""
        return (
            self.prompts * self.kind.prompt.dollars_per_hour + self.tokens * self.kind.token.dollars_per_hour
        )

    @property
    def power(self) -> float:
        """Of all machines, in units of `Machine.power`."""
        return self.prompts * self.kind.prompt.power + self.tokens * self.kind.token.power


def splits(kind: Kind, *, dollars_per_hour: float, power: float) -> tuple[Design, ...]:
    """Every number of prompt machines with as many token machines as cost and power leave. One for a baseline.

    With equal machines these are the splits of one number of machines.
    """
    found = []
    prompts = 1
    while True:
        dollars = dollars_per_hour - prompts * kind.prompt.dollars_per_hour
        units = power - prompts * kind.prompt.power
        tokens = _whole(min(dollars / kind.token.dollars_per_hour, units / kind.token.power))
        if tokens < (0 if kind.is_baseline else 1):
            break
        found.append(Design(kind, prompts, 0 if kind.is_baseline else tokens))
        prompts += 1
    return tuple(found[-1:] if kind.is_baseline else found)


def _whole(number: float) -> int:
    # What a design costs must leave room for that very design: sums of prices carry rounding.
    return int(number + 1e-9) if number >= -1e-9 else -1


ISO_POWER: Final = (
    Design(BASE_A100, 70),
    Design(BASE_H100, 40),
    Design(AA, 45, 25),
    Design(HH, 25, 15),
    Design(HA, 25, 26),
    Design(HHCAP, 25, 21),
)
ISO_COST: Final = (
    Design(BASE_A100, 86),
    Design(BASE_H100, 40),
    Design(AA, 51, 35),
    Design(HH, 25, 15),
    Design(HA, 30, 21),
    Design(HHCAP, 30, 10),
)
CODE_OPTIMUM: Final = Design(HH, 27, 3)
CODE_RATE: Final = 70.0
"""Splitwise's cheapest cluster for 70 requests/s of the code trace (figure 12)."""
PEER_FRONTIER: Final[Mapping[Design, float]] = MappingProxyType(
    dict(zip(ISO_POWER, (50.0, 110.0, 110.0, 120.0, 130.0, 130.0), strict=True))
)
"""Highest requests/s inside the nine SLOs that splitwise-sim 8f99e7d itself gives: conversation, BLOOM-176B, 10 requests/s apart."""


@dataclass(frozen=True, slots=True)
class Model:
    """What is served. KV bytes are 2 * layers * heads * head dimension * 2 bytes."""

    name: str
    weight_bytes: float
    """As splitwise-sim has it."""
    kv_bytes_per_token: float
    peer_kv_bytes_per_token: float
    """With the hidden size in place of the KV heads: eight times too large for a model with grouped heads."""


MODELS: Final[Mapping[str, Model]] = MappingProxyType(
    {
        "bloom-176b": Model("bloom-176b", 329e9, 4.0 * 70 * 14336, 4.0 * 70 * 14336),
        "llama2-70b": Model("llama2-70b", 135e9, 4.0 * 80 * 8 * 128, 4.0 * 80 * 8192),
    }
)

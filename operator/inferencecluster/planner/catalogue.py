"""What may be planned with: models by the names that users write, GPUs with prices, peaks and power.

| GPU | 16 bits, dense | FP8, dense | memory bandwidth | $ per GPU-hour, specialised clouds, May 2026 |
|---|---|---|---|---|
| A100 SXM 80 GB | 312 TFLOP/s | none | 2.039 TB/s | 1.10-1.50 |
| H100 SXM | 989 | 1,979 | 3.35 | 2.50-3.50 |
| H200 SXM | 989 | 1,979 | 4.8 | 3.50-4.50 |
| B200 SXM | 2,250 | 4,500 | 8.0 | 5.00-7.00 |
| L40S | 362 | 733 | 0.864 | 0.80-1.90 |

Peaks and bandwidths: NVIDIA's data sheets, as in the system files of aiconfigurator 0.12.0. Prices: list prices that
price-comparison pages showed in May 2026; for B200 and L40S an estimate. The default price, the link and the power of a GPU
are those of `simulator.hardware.GPU_FACTS`, so that plan and simulation charge the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from inferencecluster.core.errors import SpecError
from inferencecluster.core.profiles import PROFILES, Gpu, Model, Profile
from inferencecluster.simulator.hardware import GPU_FACTS

PRICES_AS_OF: Final = "May 2026"
_TERA: Final = 1e12


@dataclass(frozen=True, slots=True)
class GpuSheet:
    """One GPU as its data sheet and its price list describe it."""

    name: str
    """As in `core.profiles`."""
    arithmetic_16_bit: float
    """Peak of dense 16-bit matrix products, FLOP/s."""
    arithmetic_8_bit: float | None
    """The same in FP8; None where the GPU has no such arithmetic."""
    bandwidth: float
    """Bytes per second of its memory."""
    price_range: tuple[float, float]
    """Dollars per GPU-hour, lowest and highest of the list prices."""
    has_fp4: bool = False
    """Blackwell: FP4 arithmetic and KV caches."""

    def arithmetic(self, bytes_per_weight: int) -> float:
        """Peak FLOP/s for weights of this width; weights that are narrower than its arithmetic are widened."""
        if bytes_per_weight == 1 and self.arithmetic_8_bit is not None:
            return self.arithmetic_8_bit
        return self.arithmetic_16_bit


GPU_SHEETS: Final[Mapping[str, GpuSheet]] = MappingProxyType(
    {
        sheet.name: sheet
        for sheet in (
            GpuSheet("a100", 312 * _TERA, None, 2.039 * _TERA, (1.10, 1.50)),
            GpuSheet("h100", 989 * _TERA, 1979 * _TERA, 3.35 * _TERA, (2.50, 3.50)),
            GpuSheet("h200", 989 * _TERA, 1979 * _TERA, 4.8 * _TERA, (3.50, 4.50)),
            GpuSheet("b200", 2250 * _TERA, 4500 * _TERA, 8.0 * _TERA, (5.00, 7.00), has_fp4=True),
            GpuSheet("l40s", 362 * _TERA, 733 * _TERA, 0.864 * _TERA, (0.80, 1.90)),
        )
    }
)

_REPOSITORIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "llama-3.1-70b-fp8": "nvidia/Llama-3.1-70B-Instruct-FP8",
        "llama-3.1-70b-bf16": "meta-llama/Llama-3.1-70B-Instruct",
        "llama-3.1-8b-bf16": "meta-llama/Llama-3.1-8B-Instruct",
        "qwen3-32b-fp8": "Qwen/Qwen3-32B-FP8",
    }
)
"""Where a model of `core.profiles` is published; for users who name the profile's model instead of a repository."""


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model that profiles exist for."""

    model: Model
    source: str
    """For `spec.model.source`."""


@dataclass(frozen=True, slots=True)
class PricedGpu:
    """A GPU that the plan may use, at the user's price."""

    name: str
    dollars_per_hour: float

    @property
    def watts(self) -> float:
        """Thermal design power."""
        return GPU_FACTS[self.name].watts


def find_model(name: str) -> ModelChoice:
    """The model called `name`: a repository or local directory that profiles match, or a profile's model.

    Raises `SpecError` for a model without a profile.
    """
    models = {row.model.name: row.model for row in PROFILES.values()}
    if name in models:
        return ModelChoice(models[name], _REPOSITORIES[name])
    last = name.rstrip("/").rpartition("/")[2].lower()
    for model in models.values():
        if last in model.sources:
            return ModelChoice(model, name)
    raise SpecError(
        field="--model",
        value=repr(name),
        rule=f"performance is known for {', '.join(models)} and their repositories only",
        advice="name one of them; for another model measure a replica and write performance.coefficients yourself",
    )


def profiles_of(model: Model, gpus: Iterable[PricedGpu]) -> tuple[Profile, ...]:
    """The profiles of `model` on `gpus`, in a fixed order. Raises `SpecError` when there is none."""
    names = {gpu.name for gpu in gpus}
    found = tuple(row for row in PROFILES.values() if row.model == model and row.gpu.name in names)
    if not found:
        known = dict.fromkeys(row.gpu.name for row in PROFILES.values() if row.model == model)
        raise SpecError(
            field="--gpu",
            value=", ".join(sorted(names)),
            rule=f"{model.name} has profiles on {', '.join(known)} only",
            advice="name one of these GPUs",
        )
    return found


def gpus_for(model: Model) -> tuple[PricedGpu, ...]:
    """Every GPU that `model` has a profile on, at its default price."""
    names = dict.fromkeys(row.gpu.name for row in PROFILES.values() if row.model == model)
    return tuple(PricedGpu(name, GPU_FACTS[name].dollars_per_hour) for name in names)


def parse_gpu(text: str) -> PricedGpu:
    """`h100`, `h100-sxm` or `h100-sxm=3.0` (dollars per GPU-hour). Raises `SpecError` when it is none of these."""
    name, has_price, price = text.partition("=")
    name = name.strip().lower().removesuffix("-sxm")
    if name not in GPU_SHEETS:
        raise SpecError(
            field="--gpu",
            value=repr(text),
            rule=f"the known GPUs are {', '.join(GPU_SHEETS)}",
            advice="write one of them, with =PRICE for your price per GPU-hour",
        )
    return PricedGpu(name, _price(text, price) if has_price else GPU_FACTS[name].dollars_per_hour)


def _price(text: str, price: str) -> float:
    try:
        dollars = float(price)
    except ValueError:
        dollars = 0.0
    if not 0.0 < dollars < float("inf"):
        raise SpecError(
            field="--gpu",
            value=repr(text),
            rule="a price is a number of dollars per GPU-hour above 0",
            advice="write h100=3.0",
        )
    return dollars


def sheet_of(gpu: Gpu) -> GpuSheet:
    """The data sheet of a profile's GPU."""
    return GPU_SHEETS[gpu.name]

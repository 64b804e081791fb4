"""What one replica is made of: how fast it computes, what its memory and its link hold, what it costs and draws."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.perfmodel import PerformanceModel, PrefillModel
from inferencecluster.core.profiles import Profile
from inferencecluster.core.token_budget import PREFILL_TOKENS, iteration_tokens
from inferencecluster.simulator.step_times import LinearTimes, StepTimes

POWER_CAP_EXPONENT: Final = 0.7356
"""Prompts take 1.3 times as long under a cap of 70 % and token phases as long as before, at every size (splitwise-sim's
measured table, `h100-80gb-pcap` against `h100-80gb`): 0.7 ** -0.7356 = 1.3."""


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What one GPU costs and draws."""

    dollars_per_hour: float
    watts: float
    """Thermal design power."""


GPU_FACTS: Final = {
    "a100": GpuFacts(1.30, 400.0),
    "h100": GpuFacts(3.00, 700.0),
    "h200": GpuFacts(4.00, 700.0),
    "b200": GpuFacts(6.00, 1000.0),
    "l40s": GpuFacts(1.30, 350.0),
}
"""By the names of `core.profiles`. Prices: middle of specialised clouds' list prices of May 2026. Watts: data sheets."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """One replica of a pool as it really is; what the operator believes of it stands in the spec."""

    name: str
    performance: PerformanceModel
    """At full power."""
    kv_bytes_per_token: float
    link_bytes_per_second: float
    """Of the whole replica, each way."""
    max_num_tokens: int = PREFILL_TOKENS
    """Tokens of one iteration: prompts and one for each decoding sequence."""
    dollars_per_gpu_hour: float = 0.0
    watts_per_gpu: float = 0.0
    power_cap: float = 1.0
    """Share of the full power that is allowed, above 0."""
    step_times: StepTimes | None = None
    """Measured at the power that is allowed; they come in place of the speed, not of the limits, of `performance`."""

    @classmethod
    def of_profile(cls, profile: Profile, pool: PoolName, *, itl_seconds: float) -> Hardware:
        """The built-in profile, configured as this product configures engines of that pool for that ITL target."""
        facts = GPU_FACTS[profile.gpu.name]
        return cls(
            name=profile.name,
            performance=profile.performance,
            kv_bytes_per_token=float(profile.kv_bytes_per_token),
            link_bytes_per_second=profile.gpu.link_bytes_per_second * profile.tensor_parallel,
            max_num_tokens=iteration_tokens(pool, profile.performance, itl_seconds=itl_seconds),
            dollars_per_gpu_hour=facts.dollars_per_hour,
            watts_per_gpu=facts.watts,
        )

    @property
    def times(self) -> StepTimes:
        """How long its iterations take."""
        return self.step_times or LinearTimes(self.capped_performance)

    @property
    def capped_performance(self) -> PerformanceModel:
        """Its speed under the power cap: prompts slow down, decode steps do not (Splitwise, ISCA'24, section III)."""
        slower = self.power_cap**-POWER_CAP_EXPONENT
        prefill = self.performance.prefill
        return replace(
            self.performance,
            prefill=PrefillModel(
                prefill.base_seconds * slower,
                prefill.per_token_seconds * slower,
                prefill.per_token_squared_seconds * slower,
            ),
        )

"""What is true of a workload whoever serves it: its size, its means, its least sizes, and the oracle's costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from benches.policy.cluster import Sizes, elastic
from benches.policy.loads import Load
from benches.policy.workloads import WARM_UP_SECONDS
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.simulator.policies.context import PolicyContext
from inferencecluster.simulator.policies.hindsight import Hindsight, least_serving_sizes
from inferencecluster.simulator.policies.oracle import INTERVAL_SECONDS, oracle_gpu_seconds, schedules_of
from inferencecluster.simulator.workload import Request

START_SECONDS: Final = 60.0
"""Every run begins with the least sizes of its first minute: nobody is judged by how a cluster is first created."""
_HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Facts:
    """One workload at one load with one seed."""

    requests: int
    """Scored ones and those of the warm-up."""
    scored: int
    last_arrival: float
    prompt_tokens: float
    """Mean of the scored ones."""
    output_tokens: float
    initial: Sizes
    """Least sizes of the first minute."""
    peak: Sizes
    """Largest sizes that hindsight needs at any time: what static peak holds."""
    prefill: tuple[int, ...]
    """The oracle's sizes per `INTERVAL_SECONDS`, warm-up included."""
    decode: tuple[int, ...]
    fluid_gpu_hours: float
    """Of the scored part, as the next two: see `policies.oracle`."""
    split_gpu_hours: float

    @property
    def mean_need(self) -> tuple[float, float]:
        """Prefill and decode replicas that the oracle has on average."""
        count = max(len(self.prefill), len(self.decode), 1)
        return sum(self.prefill) / count, sum(self.decode) / count

    def scheduled_gpu_hours(self, boot_seconds: float) -> float:
        """The oracle of ratios at this boot time; with 0 the one without boots."""
        spec = _spec(boot_seconds)
        schedules = schedules_of(
            spec, self.prefill, self.decode, interval_seconds=INTERVAL_SECONDS, boot_seconds=boot_seconds
        )
        window = {"since": WARM_UP_SECONDS, "until": self.last_arrival}
        return sum(schedule.gpu_seconds(**window) for schedule in schedules) / _HOUR

    def context(self, *, boot_seconds: float, spec: ClusterSpec, target: float | None) -> PolicyContext:
        """What a policy may be built from, but for the future."""
        return PolicyContext(
            spec=spec,
            boot_seconds=boot_seconds,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            static_sizes=dict(zip(PoolName, self.peak, strict=True)),
            target=target,
        )

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Facts:
        """The inverse."""
        lists = {name: tuple(document[name]) for name in ("initial", "peak", "prefill", "decode")}
        return cls(**{**document, **lists})


def gather(load: Load) -> Facts:
    """Goes through the workload five times; nothing of it is held."""
    spec = _spec(0.0)
    count, scored, prompts, outputs, last = 0, 0, 0, 0, 0.0
    for request in load.requests():
        count += 1
        last = request.arrival
        if request.arrival >= WARM_UP_SECONDS:
            scored += 1
            prompts += request.prompt_tokens
            outputs += request.output_tokens
    means = prompts / max(scored, 1), outputs / max(scored, 1)
    whole = oracle_gpu_seconds(load.requests(), spec, boot_seconds=0.0)
    alone = oracle_gpu_seconds(load.scored(), spec, boot_seconds=0.0)
    hindsight = Hindsight(PolicyContext(spec, 0.0, *means, workload=load.requests()))
    peak = hindsight.peak_sizes()
    first = [
        max((1, *sizes[: int(START_SECONDS / INTERVAL_SECONDS)]))
        for sizes in least_serving_sizes(_until(load.requests(), START_SECONDS), spec)
    ]
    return Facts(
        requests=count,
        scored=scored,
        last_arrival=last,
        prompt_tokens=means[0],
        output_tokens=means[1],
        initial=(first[0], first[1], 0),
        peak=(peak[PoolName.PREFILL], peak[PoolName.DECODE], peak[PoolName.MIXED]),
        prefill=whole.prefill,
        decode=whole.decode,
        fluid_gpu_hours=alone.fluid_gpu_seconds / _HOUR,
        split_gpu_hours=alone.split_gpu_seconds / _HOUR,
    )


def _spec(boot_seconds: float) -> ClusterSpec:
    """Bounds do not matter to hindsight."""
    return elastic(boot_seconds=boot_seconds, initial=(1, 1, 0), peak=(1, 1, 0), seed=0).spec


def _until(requests: Iterator[Request], end: float) -> Iterator[Request]:
    for request in requests:
        if request.arrival >= end:
            return
        yield request

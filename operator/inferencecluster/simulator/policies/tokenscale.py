"""TokenScale: arriving tokens per second against the token velocity of each stage.

Source: arXiv 2512.03416. Velocities are the most tokens per second that one replica absorbs: V_P prompt tokens
prefilled, V_N prompt tokens whose KV the link carries, V_D tokens of whole requests that decode finishes, which is how fast it
frees memory.

    prefill = ceil(arriving prompt tokens/s / min(V_P, V_N))
    decode  = ceil(arriving requests/s * (prompt + predicted output) / V_D) - convertible

The paper profiles velocities offline per class of lengths and predicts a request's class (85 % right suffices). Here
they are the performance model at the mean lengths, with one class, and the predicted output is the mean of requests that
ended. Convertible decoders, a number fixed offline from the burst ratio of past traffic, which prefill bursts may use
within milliseconds, are replicas of the mixed pool: they take whole requests when the others are full. Their number is
an argument here: a policy is built without past traffic (`PolicyContext.workload` is the future), and what we know of
the paper tells neither how its ratio is taken nor how it becomes a number. Interval and hold are not in what is
published: rates are looked at every 5 s, and a pool shrinks to no less than what it wanted within one boot (the paper
boots in 3 to 10 s; without a hold every dip would cost a boot of minutes).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Final

from inferencecluster.core.fleet import PoolName
from inferencecluster.simulator.policies.capacity import ReplicaCapacity
from inferencecluster.simulator.policies.context import Lengths, PolicyContext, bounded, whole
from inferencecluster.simulator.signals import Signals

INTERVAL_SECONDS: Final = 5.0
CONVERTIBLE: Final = 1
"""Convertible decoders unless told otherwise: the fewest that exist at all."""


class TokenScale:
    """Prefill and decode by velocities, convertible decoders fixed.

    `network_tokens_per_second` is V_N, unlimited by default: in TensorRT-LLM's disaggregation KV leaves layer by layer
    while the prompt is still computed, and seldom binds.
    """

    name: Final = "tokenscale"
    interval_seconds: Final = INTERVAL_SECONDS

    def __init__(
        self,
        context: PolicyContext,
        *,
        convertible: int = CONVERTIBLE,
        network_tokens_per_second: float = math.inf,
    ) -> None:
        self._spec = context.spec
        self._hold = context.boot_seconds
        self._network = network_tokens_per_second
        self._convertible = min(convertible, context.spec.pool(PoolName.MIXED).max_replicas)
        self._lengths = Lengths(context.prompt_tokens, context.output_tokens)
        self._wanted: deque[tuple[float, int, int]] = deque()

    def sizes(self, signals: Signals) -> Mapping[PoolName, int]:
        """Sizes for the tokens that arrive; sizes hold while nothing was measured yet."""
        mixed = self._spec.pool(PoolName.MIXED)
        sizes = {PoolName.MIXED: max(mixed.min_replicas, self._convertible)}
        flow, now = signals.flow, signals.now
        if flow.seconds <= 0:
            return sizes
        self._lengths.learn(flow)
        capacity = ReplicaCapacity.of(
            self._spec, prompt_tokens=self._lengths.prompt, output_tokens=self._lengths.output
        )
        velocity = min(capacity.prompt_tokens * capacity.prefills_per_second, self._network)
        length = capacity.prompt_tokens + capacity.output_tokens
        arriving = flow.requests / flow.seconds * length
        prefill = whole(flow.prompt_tokens / flow.seconds / velocity)
        decode = whole(arriving / (length * capacity.decodes_per_second)) - self._convertible
        self._wanted.append((now, prefill, decode))
        while self._wanted[0][0] < now - self._hold:
            self._wanted.popleft()
        sizes[PoolName.PREFILL] = bounded(
            self._spec.pool(PoolName.PREFILL), max(wanted for _, wanted, _ in self._wanted)
        )
        sizes[PoolName.DECODE] = bounded(
            self._spec.pool(PoolName.DECODE), max(wanted for _, _, wanted in self._wanted)
        )
        return sizes

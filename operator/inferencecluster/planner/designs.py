"""The designs that compete: one mixed pool, or a prefill and a decode pool, each on its own hardware."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from inferencecluster.api.scalars import MAX_REPLICAS
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.perfmodel import PerformanceModel
from inferencecluster.core.profiles import Profile
from inferencecluster.core.sizing import ROUNDING
from inferencecluster.planner.capacity import PromptTime, Target, TokenPhase, batch_limit, prefill_prompt
from inferencecluster.planner.catalogue import PricedGpu
from inferencecluster.planner.chunked import MixedPhase, idle_prompt
from inferencecluster.planner.queueing import Queue, Wait
from inferencecluster.planner.traffic import Window

EXTRA_DECODES: Final = 3
"""Decode replicas above the fewest that are tried: each may save a prefill replica, because its shorter steps leave TTFT room."""

PREFILL_TARGET: Final = 0.8
"""Busy share of a prefill replica, and share of a mixed one's time with prompts present, that no plan exceeds. Requests queue
for it one by one: at 80 %, a pool of three lets 6 % of them wait longer than four prefills, a pool of six 0.4 % (Erlang C)."""
DECODE_TARGET: Final = 0.85
"""Share of the batches within the ITL that no plan exceeds. Decode does not queue, it slows down: 15 % is twice the standard
deviation of 180 sequences in flight, about one replica's batch."""


@dataclass(frozen=True, slots=True)
class PoolShape:
    """One replica of a pool: what it runs on and what it costs."""

    profile: Profile
    gpu: PricedGpu

    @property
    def gpus(self) -> int:
        """Of one replica."""
        return self.profile.tensor_parallel

    @property
    def dollars_per_hour(self) -> float:
        """Of one replica."""
        return self.gpus * self.gpu.dollars_per_hour

    @property
    def watts(self) -> float:
        """Provisioned for one replica: the thermal design power of its GPUs."""
        return self.gpus * self.gpu.watts

    @property
    def performance(self) -> PerformanceModel:
        """Of one replica."""
        return self.profile.performance

    def __str__(self) -> str:
        return f"{self.gpu.name} x{self.gpus}"


@dataclass(frozen=True, slots=True)
class Attainment:
    """Shares of requests that meet their targets."""

    ttft: float
    itl: float

    @property
    def both(self) -> float:
        """Misses of the two are taken as independent."""
        return self.ttft * self.itl


NOTHING_IN_TIME: Final = Attainment(0.0, 0.0)
NO_WAIT: Final = Wait(0.0, 0.0)

Sizes = tuple[int, ...]
"""Replicas per pool, in the order of a design's `pools`."""


class Design(Protocol):
    """Pools of fixed shapes; how many replicas each has is what the search finds."""

    @property
    def name(self) -> str:
        """As tables show it."""
        ...

    @property
    def pools(self) -> tuple[tuple[PoolName, PoolShape], ...]:
        """Pools that hold replicas, in the order of `Sizes`."""
        ...

    def attainment(self, window: Window, target: Target, sizes: Sizes) -> Attainment:
        """Under this window's arrivals."""
        ...

    def unloaded(self, window: Window, target: Target) -> Attainment:
        """With as many replicas as one likes: what the hardware alone makes of the targets."""
        ...

    def least(self, window: Window, target: Target) -> Sizes:
        """The fewest replicas that stay below the busy shares of a steady plan: no plan is below it.

        The operator wants other sizes: it knows how wrong its own forecasts were, a plan does not.
        """
        ...

    def smallest(self, window: Window, target: Target, *, share: float) -> Sizes | None:
        """The sizes of least price at which `share` of the requests meet both latencies; None when no size does."""
        ...

    def pressure(self, window: Window, target: Target, sizes: Sizes) -> str:
        """What the replicas are busy with, for people."""
        ...


@dataclass(frozen=True, slots=True)
class Mixed:
    """Every replica serves whole requests, prompts in chunks beside the decode batch."""

    shape: PoolShape

    @property
    def name(self) -> str:
        """As tables show it."""
        return f"mixed {self.shape}"

    @property
    def pools(self) -> tuple[tuple[PoolName, PoolShape], ...]:
        """The only one."""
        return ((PoolName.MIXED, self.shape),)

    def attainment(self, window: Window, target: Target, sizes: Sizes) -> Attainment:
        """Prompts wait for a free replica, then share its iterations with its batch."""
        (replicas,) = sizes
        phase = self._phase(window, target, replicas)
        if phase is None:
            return NOTHING_IN_TIME
        admitted = phase.tokens.within(batch_limit(self.shape.performance, window), replicas=replicas)
        return Attainment(
            phase.meets_ttft(window, target, replicas=replicas) * admitted,
            phase.meets_itl(window, target, replicas=replicas),
        )

    def unloaded(self, window: Window, target: Target) -> Attainment:
        """Every request alone on its replica."""
        performance = self.shape.performance
        own = idle_prompt(performance, itl_seconds=target.itl_seconds)
        ttft = own.in_time(window, wait=NO_WAIT, seconds=target.ttft_seconds)
        return Attainment(ttft, _alone(performance, window, target))

    def least(self, window: Window, target: Target) -> Sizes:
        """Prompts queue for these replicas as they do for prefill ones, and what decodes there has to fit."""
        decoding = _full_batches(self.shape.performance, window, target)

        def holds(replicas: int) -> bool:
            phase = self._phase(window, target, replicas)
            return phase is not None and phase.busy <= PREFILL_TARGET

        found = _fewest(_at_least_one(decoding / DECODE_TARGET), holds)
        return (MAX_REPLICAS if found is None else found,)

    def smallest(self, window: Window, target: Target, *, share: float) -> Sizes | None:
        """By bisection: more replicas never serve fewer in time."""
        (least,) = self.least(window, target)
        found = _fewest(least, lambda count: self.attainment(window, target, (count,)).both >= share)
        return None if found is None else (found,)

    def pressure(self, window: Window, target: Target, sizes: Sizes) -> str:
        """How far prompts slow down the tokens of everybody else, and tokens the prompts."""
        phase = self._phase(window, target, sizes[0])
        if phase is None:
            return "overloaded"
        longest = _ninth_decile(window)
        return (
            f"prompts are in the iterations {phase.busy:.0%} of the time and stretch a token from {_ms(phase.tokens.step_seconds)} to "
            f"{_ms(phase.filled_seconds)} meanwhile, {_ms(phase.tokens.seconds_per_token)} on average of {_ms(target.itl_seconds)} allowed; "
            f"a long prompt takes {_ms(phase.own.seconds(longest))} in chunks of {phase.own.chunk_tokens:.0f} tokens"
        )

    def _phase(self, window: Window, target: Target, replicas: int) -> MixedPhase | None:
        """Of each replica."""
        return MixedPhase.of(
            self.shape.performance, window, rate=window.rate / replicas, itl_seconds=target.itl_seconds
        )


@dataclass(frozen=True, slots=True)
class Disaggregated:
    """Prompts on one pool, tokens on the other; the KV cache travels between them."""

    prefill: PoolShape
    decode: PoolShape

    @property
    def name(self) -> str:
        """As tables show it."""
        return f"prefill {self.prefill} + decode {self.decode}"

    @property
    def pools(self) -> tuple[tuple[PoolName, PoolShape], ...]:
        """Both."""
        return ((PoolName.PREFILL, self.prefill), (PoolName.DECODE, self.decode))

    def attainment(self, window: Window, target: Target, sizes: Sizes) -> Attainment:
        """Wait and prefill on one replica, transfer, then the next step of the other."""
        prefills, decodes = sizes
        performance = self.decode.performance
        phase = TokenPhase.of(performance, window, rate=window.rate / decodes)
        if phase is None:
            return NOTHING_IN_TIME
        wait = _wait(prefill_prompt(self.prefill.performance), window, prefills)
        # The first token reaches the client with the decode engine's next step: half a step away on average.
        ttft = self._in_time(window, wait=wait, seconds=target.ttft_seconds - phase.step_seconds / 2)
        admitted = phase.within(batch_limit(performance, window), replicas=decodes)
        itl = phase.meets_itl(window, target.itl_seconds, replicas=decodes)
        return Attainment(ttft * admitted, itl)

    def unloaded(self, window: Window, target: Target) -> Attainment:
        """Every request alone on its replicas."""
        ttft = self._in_time(window, wait=NO_WAIT, seconds=target.ttft_seconds)
        return Attainment(ttft, _alone(self.decode.performance, window, target))

    def least(self, window: Window, target: Target) -> Sizes:
        """Each pool by its own measure."""
        decoding = _full_batches(self.decode.performance, window, target)
        return (
            _at_least_one(_busy(self.prefill.performance, window) / PREFILL_TARGET),
            _at_least_one(decoding / DECODE_TARGET),
        )

    def smallest(self, window: Window, target: Target, *, share: float) -> Sizes | None:
        """The fewest decode replicas and a few more, each with the fewest prefill replicas: the pair of least price."""
        prefills, decodes = self.least(window, target)

        def holds(prefill: int, decode: int) -> bool:
            return self.attainment(window, target, (prefill, decode)).both >= share

        fewest = _fewest(decodes, partial(holds, MAX_REPLICAS))
        if fewest is None:
            return None
        best: tuple[float, Sizes] | None = None
        for decode in range(fewest, fewest + EXTRA_DECODES + 1):
            prefill = _fewest(prefills, partial(holds, decode=decode))
            if prefill is None:
                continue
            price = prefill * self.prefill.dollars_per_hour + decode * self.decode.dollars_per_hour
            if best is None or price < best[0]:
                best = (price, (prefill, decode))
        return best[1] if best else None

    def pressure(self, window: Window, target: Target, sizes: Sizes) -> str:
        """How busy each pool is by its own measure."""
        prefills, decodes = sizes
        busy = _busy(self.prefill.performance, window) / prefills
        phase = TokenPhase.of(self.decode.performance, window, rate=window.rate / decodes)
        if phase is None:
            return "overloaded"
        transfer = self.transfer_seconds_per_token * _ninth_decile(window)
        return (
            f"prefill is {busy:.0%} busy; decode batches of {phase.batch:.0f} take {_ms(phase.seconds_per_token)} per token "
            f"of {_ms(target.itl_seconds)} allowed; a long prompt's cache travels {_ms(transfer)}"
        )

    @property
    def transfer_seconds_per_token(self) -> float:
        """Of KV cache between the replicas, over the slower end's links, as if it left when the prefill ends.

        Engines send layer by layer, which hides most of it: a bound from above.
        """
        slower = min(
            shape.profile.gpu.link_bytes_per_second * shape.gpus for shape in (self.prefill, self.decode)
        )
        return self.prefill.profile.kv_bytes_per_token / slower

    def _in_time(self, window: Window, *, wait: Wait, seconds: float) -> float:
        prompt = prefill_prompt(self.prefill.performance)
        return prompt.in_time(window, wait=wait, seconds=seconds, per_token=self.transfer_seconds_per_token)


def _wait(prompt: PromptTime, window: Window, replicas: int) -> Wait:
    """How long prompts queue for `replicas`."""
    return Queue(replicas, window.rate, prompt.mean(window), prompt.mean_squared(window)).wait()


def _fewest(least: int, holds: Callable[[int], bool]) -> int | None:
    """The smallest count from `least` to `MAX_REPLICAS` for which `holds`, which stays true once it is."""
    low, high = least - 1, least
    while not holds(high):
        if high >= MAX_REPLICAS:
            return None
        low, high = high, min(2 * high, MAX_REPLICAS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _ninth_decile(window: Window) -> float:
    """Prompt tokens that a tenth of the requests exceed."""
    below = 0.0
    for tokens, share in window.prompts:
        below += share
        if below >= 0.9:
            return tokens
    return window.prompts[-1][0]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _alone(performance: PerformanceModel, window: Window, target: Target) -> float:
    """Share of requests whose ITL holds in a batch of one."""
    if performance.decode.step_seconds(1.0, window.context) <= target.itl_seconds:
        return 1.0
    return sum(share for tokens, share in window.outputs if tokens < 2)


def _busy(performance: PerformanceModel, window: Window) -> float:
    """Replicas that the arriving prompts keep busy."""
    return window.rate * prefill_prompt(performance).mean(window)


def _full_batches(performance: PerformanceModel, window: Window, target: Target) -> float:
    """Replicas that the sequences in flight fill when each decodes a whole batch: what fits the ITL, the memory and the engine."""
    itl = max(target.itl_seconds, performance.decode.step_seconds(1.0, window.context))
    batch = max(1.0, performance.max_batch(itl_seconds=itl, mean_context_tokens=window.context))
    pace = performance.decode.step_seconds(batch, batch * window.context)
    return window.rate * window.steps * pace / batch


def _at_least_one(replicas: float) -> int:
    return max(1, math.ceil(replicas - ROUNDING))

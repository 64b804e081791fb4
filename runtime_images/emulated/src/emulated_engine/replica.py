"""One emulated replica: engine, caches, faults and measurements, wired together."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Any

from emulated_engine.api_requests import Order
from emulated_engine.clock import EngineClock
from emulated_engine.configuration import Configuration
from emulated_engine.engine import Engine
from emulated_engine.errors import RequestError
from emulated_engine.faults import Faults
from emulated_engine.iteration_statistics import IterationStatistics
from emulated_engine.kv_transfer import HeldCaches, KvLocation, KvPuller, Link
from emulated_engine.prometheus_metrics import PrometheusMetrics
from emulated_engine.scheduler import Limits, Scheduler
from emulated_engine.sequences import IterationsDone, Phase, Sequence
from emulated_engine.utilisation import GpuLabels, UtilisationWindow

SMALLEST_STRETCH = 0.01
"""A step always takes time, however large the jitter."""


def limits_of(configuration: Configuration) -> Limits:
    """What bounds the batches of an engine so configured."""
    return Limits(
        kv_capacity_tokens=configuration.kv_capacity_tokens,
        max_batch_size=min(configuration.max_batch_size, configuration.max_num_tokens),
        max_num_tokens=configuration.max_num_tokens,
        splits_prompts=configuration.splits_prompts,
    )


class Replica:
    """Everything behind the HTTP surface of one engine."""

    def __init__(self, configuration: Configuration, model_name: str, seed: int) -> None:
        self.configuration = configuration
        self.model_name = model_name
        self.started_at = time.time()
        self.clock = EngineClock(time.monotonic)
        self.faults = Faults()
        self.statistics = IterationStatistics(configuration)
        self.metrics = PrometheusMetrics(configuration, model_name, self.statistics)
        self.utilisation = UtilisationWindow()
        self.gpus = tuple(
            GpuLabels.of(gpu, configuration.gpu_model_name, os.environ) for gpu in range(configuration.gpus)
        )
        self._random = random.Random(seed)  # noqa: S311  -- jitter, no secrets
        # One link each way, as full duplex network ports have.
        self._outgoing = Link(configuration.kv_bandwidth_bytes_per_second)
        self.puller = KvPuller(
            time.monotonic,
            bytes_per_token=configuration.kv_bytes_per_token,
            link=Link(configuration.kv_bandwidth_bytes_per_second),
            timeout_seconds=configuration.kv_transfer_timeout_seconds,
        )
        self.engine = Engine(self._scheduler(), self.clock, self, start_transfer=self.puller.start)
        self.puller.attach(self.engine)
        self.caches = HeldCaches(
            self.engine.release, timeout_seconds=configuration.kv_transfer_timeout_seconds
        )
        self.running = asyncio.Event()
        """Cleared while the replica hangs."""
        self.running.set()
        self._finished = False

    def _scheduler(self) -> Scheduler:
        settings = self.configuration
        return Scheduler(limits_of(settings), settings.prefill, settings.decode, stretch=self._stretch)

    def _stretch(self) -> float:
        jitter = self.configuration.step_jitter
        factor = 1.0 + self._random.uniform(-jitter, jitter) if jitter else 1.0
        return max(SMALLEST_STRETCH, factor) * self.faults.slow_factor

    def sequence(self, order: Order) -> Sequence:
        """What the engine is asked to compute for `order`."""
        is_prefilled_here = order.phase is not Phase.GENERATION_ONLY
        share = self.configuration.prefix_hit_share if is_prefilled_here else 0.0
        cached = min(int(share * order.prompt.tokens), max(order.prompt.tokens - 1, 0))
        return Sequence(
            phase=order.phase,
            prompt_tokens=order.prompt.tokens,
            output_tokens=order.output_tokens,
            arrived_at=self.clock.now(),
            cached_tokens=cached,
            prefilled=cached,
            finish_reason="not_finished" if order.phase is Phase.CONTEXT_ONLY else order.finish_reason,
            chunk_tokens=self.configuration.stream_interval if order.stream else None,
        )

    def iterations_done(self, done: IterationsDone) -> None:
        """Observer of the engine: keep the statistics of a run."""
        self.statistics.add(done, time.time() - (self.clock.now() - done.at))
        self.utilisation.add(end=done.at, seconds=done.seconds, prefill_seconds=done.prefill_seconds)

    def sequence_ended(self, sequence: Sequence) -> None:
        """Observer of the engine: count a request."""
        self.metrics.request_ended(sequence)
        self._finished = True

    def batch_of_events_ended(self) -> None:
        """Observer of the engine: after a completed request the collector of statistics wakes."""
        if self._finished:
            self._finished = False
            self.statistics.collect()

    @property
    def engine_identity(self) -> str:
        """What two engines must share to exchange KV caches."""
        return f"{self.model_name}@{self.configuration.version}"

    def check_origin(self, location: KvLocation) -> None:
        """Raises `RequestError` for the KV cache of another model or release."""
        if location.engine != self.engine_identity:
            raise RequestError(
                f"the KV cache was made by {location.engine}, this engine is {self.engine_identity}: "
                f"send both phases to engines of one revision",
                status=500,
                kind="InternalServerError",
            )

    def address(self, transport: asyncio.BaseTransport | None) -> str:
        """URL under which other engines reach this one: POD_IP, or the address that the request was sent to."""
        host, port = (transport.get_extra_info("sockname") if transport else ("127.0.0.1", 0))[:2]
        host = os.environ.get("POD_IP") or host
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def send_cache(self, sequence: Sequence) -> None:
        """Wait until the outgoing link has carried the cache of `sequence`."""
        size = sequence.prompt_tokens * self.configuration.kv_bytes_per_token
        done_at = self._outgoing.reserve(size, time.monotonic())
        await asyncio.sleep(max(0.0, done_at - time.monotonic()))

    def change_faults(self, changes: object) -> None:
        """Switch faults. Raises `RequestError`."""
        self.faults.update(changes)
        if self.faults.hang:
            self.clock.stop()
            self.running.clear()
        else:
            self.clock.resume()
            self.running.set()
            self.engine.pump()

    def describe(self) -> dict[str, Any]:
        """`/server_info`, with our own `emulation` beside what the real engine tells."""
        load = self.engine.load()
        return {
            "disaggregated_params": {"ctx_dp_rank": 0, "ctx_info_endpoint": None},
            "emulation": {
                "role": self.configuration.role,
                "open_requests": self.engine.open_requests,
                "active": load.active,
                "queued": load.queued,
                "decoding": load.decoding,
                "held_kv_caches": load.held,
                "held_kv_tokens": load.held_tokens,
                "expired_kv_caches": self.caches.expired_total,
                "resident_kv_tokens": load.resident_tokens,
                "reserved_kv_tokens": self.engine.reserved_tokens,
                "iterations": self.statistics.iterations,
            },
        }

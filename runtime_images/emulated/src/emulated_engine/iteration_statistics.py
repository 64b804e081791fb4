"""`GET /metrics`: the statistics of iterations as JSON rows, each row read once.

Reading is destructive, as in TensorRT-LLM: rows go to whoever asks first. From release 1.3 on, with
`return_perf_metrics`, a collector stands between: rows (and the gauges of /prometheus/metrics) become visible only
when a request completes, so they are old while long generations run.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from emulated_engine.configuration import Configuration
from emulated_engine.sequences import IterationsDone

LARGEST_BACKLOG: Final = 1000
"""Rows that wait for a reader (TensorRT-LLM's `iter_stats_max_iterations`); older ones are dropped."""


@dataclass(frozen=True, slots=True)
class Row:
    """A run of iterations, with the number of its last iteration and when it ended (Unix seconds)."""

    number: int
    unix_seconds: float
    done: IterationsDone


class IterationStatistics:
    """Rows from the engine to the reader. One row stands for all iterations of a run: their mean latency, the
    state at the end.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._pending: deque[Row] = deque(maxlen=LARGEST_BACKLOG)
        self._visible: deque[Row] = deque(maxlen=LARGEST_BACKLOG)
        self._iterations = 0
        self._newest: Row | None = None
        self._collected: Row | None = None

    @property
    def _has_collector(self) -> bool:
        return self._configuration.is_1_3_or_newer and self._configuration.return_perf_metrics

    def add(self, done: IterationsDone, unix_seconds: float) -> None:
        """A run of iterations ended."""
        self._iterations += done.iterations
        self._newest = Row(self._iterations, unix_seconds, done)
        self._pending.append(self._newest)

    def collect(self) -> None:
        """A request completed: the collector wakes."""
        self._collected = self._newest
        if self._has_collector:
            self._visible.extend(self._pending)
            self._pending.clear()

    @property
    def gauges(self) -> Row | None:
        """What the Prometheus gauges show: the newest row that the collector has seen."""
        return self._collected

    @property
    def iterations(self) -> int:
        """Iterations since the start."""
        return self._iterations

    def take(self) -> list[dict[str, Any]]:
        """All unread rows, oldest first; they are gone afterwards."""
        source = self._visible if self._has_collector else self._pending
        rows = [self._as_json(row) for row in source]
        source.clear()
        return rows

    def _as_json(self, row: Row) -> dict[str, Any]:
        settings, done, load = self._configuration, row.done, row.done.load
        moment = datetime.fromtimestamp(row.unix_seconds, UTC)
        return {
            "timestamp": moment.strftime("%m-%d-%Y %H:%M:%S.%f"),
            "iter": row.number,
            "iterLatencyMS": 1000 * done.seconds / done.iterations,
            "numActiveRequests": load.active,
            "numQueuedRequests": load.queued,
            "numCompletedRequests": done.completed,
            "maxNumActiveRequests": settings.max_batch_size,
            "maxBatchSizeStatic": settings.max_batch_size,
            "maxBatchSizeRuntime": settings.max_batch_size,
            "maxNumTokensStatic": settings.max_num_tokens,
            "maxNumTokensRuntime": settings.max_num_tokens,
            "kvCacheStats": kv_cache_blocks(settings, load.resident_tokens),
            "inflightBatchingStats": self._inflight(done),
            "staticBatchingStats": None,
        }

    def _inflight(self, done: IterationsDone) -> dict[str, Any]:
        load = done.load
        common = {
            "numScheduledRequests": done.context_requests + done.generation_requests,
            "numContextRequests": done.context_requests,
            "numGenRequests": done.generation_requests,
            "numPausedRequests": 0,
            "numCtxTokens": done.context_tokens,
            "microBatchId": 0,
            "avgNumDecodedTokensPerIter": 1.0 if done.generation_requests else 0.0,
        }
        if not self._configuration.is_1_3_or_newer:
            return common
        return common | {
            "numCtxKvTokens": load.prefilled_tokens,
            "numGenKvTokens": load.decoding_tokens,
            "numQueuedContextRequests": load.queued_contexts,
            "numQueuedCtxTokens": load.queued_context_tokens,
            "numQueuedGenRequests": load.waiting_generations,
            "numQueuedGenKvTokens": load.waiting_generation_tokens,
            "numPausedKvTokens": 0,
        }


def kv_cache_blocks(configuration: Configuration, resident_tokens: int) -> dict[str, Any]:
    """`kvCacheStats`. Partly filled blocks are not counted: fewer than one per sequence."""
    per_block = configuration.tokens_per_block
    total = configuration.kv_capacity_tokens // per_block
    used = min(total, -(-resident_tokens // per_block))
    return {
        "maxNumBlocks": total,
        "freeNumBlocks": total - used,
        "usedNumBlocks": used,
        "tokensPerBlock": per_block,
        "reusedBlocks": 0,
        "missedBlocks": 0,
        "cacheHitRate": 0.0,
    }

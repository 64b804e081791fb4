"""What operator and policies see of the simulated cluster: `Observation` and `Signals`, as the real ones would be."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import (
    Flow,
    MetricsSample,
    Observation,
    PoolUtilization,
    QueueState,
    RouterSample,
)
from inferencecluster.core.spec import ClusterSpec
from inferencecluster.simulator.activity import utilization
from inferencecluster.simulator.counters import Counters, Totals
from inferencecluster.simulator.frontend import Frontend
from inferencecluster.simulator.ledger import Entry
from inferencecluster.simulator.queues import in_equal_parts, sized_pools, stands_before
from inferencecluster.simulator.replicas import Replicas, SimulatedReplica
from inferencecluster.simulator.scenario import Faults, is_out
from inferencecluster.simulator.signals import PoolSignals, ReplicaSignals, Signals


@dataclass(frozen=True, slots=True)
class _Use:
    """What one replica has done since it became ready."""

    since: float
    prefill_seconds: float
    decode_seconds: float
    sequence_seconds: float
    kv_token_seconds: float
    concurrency_seconds: float

    def less(self, before: _Use | None) -> _Use:
        """What it has done since `before`; all of it where there is none."""
        if before is None:
            return self
        return _Use(
            self.since,
            self.prefill_seconds - before.prefill_seconds,
            self.decode_seconds - before.decode_seconds,
            self.sequence_seconds - before.sequence_seconds,
            self.kv_token_seconds - before.kv_token_seconds,
            self.concurrency_seconds - before.concurrency_seconds,
        )


@dataclass(frozen=True, slots=True)
class _Snapshot:
    totals: Totals
    uses: Mapping[str, _Use]
    """By uid of the replicas that were ready."""


@dataclass(frozen=True, slots=True)
class _Line:
    """Requests that wait in the router for one pool, and their prompt tokens that are to be prefilled there."""

    requests: int
    tokens: int

    def parts(self, replicas: int) -> list[_Line]:
        """In equal parts, one for each replica."""
        if replicas == 0:
            return []
        return [
            _Line(requests, tokens)
            for requests, tokens in zip(
                in_equal_parts(self.requests, replicas), in_equal_parts(self.tokens, replicas), strict=True
            )
        ]


class Observer:
    """Looks at the cluster on the operator's behalf."""

    def __init__(
        self,
        frontend: Frontend,
        replicas: Replicas,
        counters: Counters,
        *,
        window_seconds: float,
        faults: Faults,
    ) -> None:
        """`window_seconds`: what metrics are taken over. `faults` tells when routers and metrics do not answer."""
        self._faults = faults
        self._frontend = frontend
        self._replicas = replicas
        self._counters = counters
        self._window_seconds = window_seconds
        self._snapshots: deque[_Snapshot] = deque()
        self._metrics: MetricsSample | Missing = Missing("NotAskedYet", "no scrape yet")
        self._last: Totals | None = None
        self._policy_last: _Snapshot | None = None

    def observe(
        self,
        now: float,
        spec: ClusterSpec,
        *,
        external: Mapping[PoolName, int] | Missing,
        sizing_due: bool,
    ) -> Observation:
        """One look of the operator. The flow is counted from the look before this one."""
        self._account(now)
        totals = self._counters.totals(now)
        if sizing_due:
            self._scrape(totals, spec)
        replicas = self._replicas.observed()
        routers: RouterSample | Missing
        if is_out(self._faults.routers, now):
            routers = Missing("RouterUnreachable", "no router answers")
            replicas = tuple(replace(replica, load=routers) for replica in replicas)
        else:
            routers = RouterSample(self._queue(now), self._flow(totals))
            self._last = totals
        metrics = self._metrics
        if is_out(self._faults.metrics, now):
            metrics = Missing("PrometheusUnreachable", "no answer")
        return Observation(
            now=now,
            spec=spec,
            replicas=replicas,
            routers=routers,
            metrics=metrics,
            capacity=self._replicas.nodes.capacity(),
            external=external,
            sizing_due=sizing_due,
        )

    def signals(self, now: float, spec: ClusterSpec) -> Signals:
        """One look of a policy; everything is over the time since the one before it."""
        self._account(now)
        snapshot = _Snapshot(self._counters.totals(now), self._uses(now))
        before = self._policy_last or _Snapshot(Counters().totals(0.0), {})
        self._policy_last = snapshot
        totals, earlier = snapshot.totals, before.totals
        return Signals(
            now=now,
            spec=spec,
            pools=MappingProxyType({name: self._pool(name, spec, snapshot, before) for name in PoolName}),
            flow=totals.flow_since(earlier),
            decoded_tokens=float(totals.decoded_tokens - earlier.decoded_tokens),
            completed_tokens=float(totals.completed_tokens - earlier.completed_tokens),
            mean_ttft_seconds=totals.mean_ttft_since(earlier),
            mean_itl_seconds=totals.mean_itl_since(earlier),
        )

    def _flow(self, totals: Totals) -> Flow | Missing:
        """Since the last look that the routers answered."""
        if self._last is None:
            return Missing("FirstLook", "a flow needs two looks at the routers")
        return totals.flow_since(self._last)

    def _account(self, now: float) -> None:
        for entry in self._frontend.ledger.entries.values():
            entry.engine.account(now)

    def _scrape(self, totals: Totals, spec: ClusterSpec) -> None:
        """A new sample of the metrics: what grew within their window."""
        now = totals.time
        snapshot = _Snapshot(totals, self._uses(now))
        snapshots = self._snapshots
        # The oldest one kept is the youngest that is at least a window old: ticks come a little early or late.
        while len(snapshots) > 1 and snapshots[1].totals.time <= now - 0.99 * self._window_seconds:
            snapshots.popleft()
        if not snapshots:
            self._metrics = Missing("NoSeries", "a rate needs two scrapes")
        else:
            oldest = snapshots[0]
            self._metrics = MetricsSample(
                flow=totals.flow_since(oldest.totals),
                ttft_seconds=totals.ttft_since(oldest.totals, spec.slo.percentile),
                itl_seconds=totals.itl_since(oldest.totals, spec.slo.percentile),
                utilization=MappingProxyType(self._utilization(snapshot, oldest)),
            )
        snapshots.append(snapshot)

    def _utilization(self, now: _Snapshot, before: _Snapshot) -> dict[PoolName, PoolUtilization]:
        found: dict[PoolName, PoolUtilization] = {}
        for name in PoolName:
            shares = [
                (use.prefill_seconds / seconds, use.decode_seconds / seconds)
                for _, use, seconds in self._grown(name, now, before)
            ]
            if shares:
                found[name] = utilization(
                    prefill=sum(share[0] for share in shares) / len(shares),
                    decode=sum(share[1] for share in shares) / len(shares),
                )
        return found

    def _grown(
        self, name: PoolName, now: _Snapshot, before: _Snapshot
    ) -> Iterable[tuple[SimulatedReplica, _Use, float]]:
        """What each ready replica of a pool did between two snapshots, and the seconds that it was there."""
        for replica in self._replicas:
            use = now.uses.get(replica.uid)
            if replica.home is name and use is not None:
                seconds = now.totals.time - max(before.totals.time, use.since)
                if seconds > 0:
                    yield replica, use.less(before.uses.get(replica.uid)), seconds

    def _uses(self, now: float) -> dict[str, _Use]:
        found: dict[str, _Use] = {}
        for replica in self._replicas:
            entry = replica.entry
            if entry is None or not entry.alive or replica.ready_at is None:
                continue
            entry.note(now, 0)
            usage = entry.engine.usage
            found[replica.uid] = _Use(
                replica.ready_at,
                usage.prefill_seconds,
                usage.decode_seconds,
                usage.sequence_seconds,
                usage.kv_token_seconds,
                entry.concurrency_seconds,
            )
        return found

    def _queue(self, now: float) -> QueueState:
        frontend = self._frontend
        entries = frontend.ledger.entries.values()
        return QueueState(
            held_requests=frontend.held_requests,
            held_tokens=frontend.held_tokens,
            head_age_seconds=frontend.head_age_seconds(now),
            pending_prefill_tokens=sum(entry.pending_prefill_tokens for entry in entries),
            decoding_sequences=sum(entry.decoding for entry in entries),
            resident_kv_tokens=sum(entry.resident_kv_tokens(now) for entry in entries),
            mixed_requests=frontend.ledger.mixed_requests,
            borrowed_replicas=tuple(sorted(entry.name for entry in entries if entry.borrowed)),
        )

    def _pool(self, name: PoolName, spec: ClusterSpec, now: _Snapshot, before: _Snapshot) -> PoolSignals:
        mine = [replica for replica in self._replicas if replica.home is name]
        serving = sorted(
            (entry for replica in mine if replica.is_serving and (entry := replica.entry) is not None),
            key=lambda entry: entry.name,
        )
        line = self._line(name, spec, is_served=bool(serving))
        used = [
            (replica, use, seconds)
            for replica, use, seconds in self._grown(name, now, before)
            if replica.is_serving
        ]
        count = len(used) or 1
        capacity = max(spec.pool(name).performance.kv_capacity_tokens, 1)
        return PoolSignals(
            replicas=sum(not replica.is_leaving and not replica.failure for replica in mine),
            serving=len(serving),
            kernel_utilization=sum(
                (use.prefill_seconds + use.decode_seconds) / seconds for _, use, seconds in used
            )
            / count,
            busy_share=sum(_busy(name, spec, use) / seconds for _, use, seconds in used) / count,
            kv_share=sum(use.kv_token_seconds / seconds / capacity for _, use, seconds in used) / count,
            concurrency=sum(use.concurrency_seconds / seconds for _, use, seconds in used) + line.requests,
            unserved_requests=0 if serving else line.requests,
            members=tuple(
                self._member(entry, spec, now.totals, part)
                for entry, part in zip(serving, line.parts(len(serving)), strict=True)
            ),
        )

    def _line(self, name: PoolName, spec: ClusterSpec, *, is_served: bool) -> _Line:
        """What the router holds that waits for this pool. A pool without a serving replica keeps all of it waiting."""
        frontend = self._frontend
        if name not in sized_pools(spec) or (
            is_served and name is not stands_before(frontend.hold_reason, spec)
        ):
            return _Line(0, 0)
        # Prompts are done before a request waits for decode.
        return _Line(frontend.held_requests, 0 if name is PoolName.DECODE else frontend.held_tokens)

    def _member(self, entry: Entry, spec: ClusterSpec, totals: Totals, line: _Line) -> ReplicaSignals:
        """With its part of the router's line."""
        engine, performance = entry.engine, spec.pool(entry.home).performance
        mean_prompt = totals.prompt_tokens / totals.requests if totals.requests else 0.0
        queued_tokens = entry.pending_prefill_tokens + line.tokens
        return ReplicaSignals(
            name=entry.name,
            queued_tokens=queued_tokens,
            waiting_requests=engine.waiting_requests + line.requests,
            running_requests=engine.running_requests,
            resident_kv_tokens=engine.resident_tokens(totals.time),
            kv_capacity_tokens=entry.kv_capacity_tokens,
            ttft_estimate_seconds=performance.prefill.seconds(queued_tokens + mean_prompt),
            itl_estimate_seconds=performance.decode.step_seconds(
                max(1, engine.batch.size), engine.context_tokens(totals.time)
            ),
        )


def _busy(name: PoolName, spec: ClusterSpec, use: _Use) -> float:
    """Honest busy seconds of one replica: those of prompts, and those of sequences over the batch that keeps the ITL."""
    prompts = use.prefill_seconds
    if name is PoolName.PREFILL:
        return prompts
    if use.sequence_seconds <= 0:
        return prompts if name is PoolName.MIXED else 0.0
    context = use.kv_token_seconds / use.sequence_seconds
    batch = spec.pool(name).performance.max_batch(
        itl_seconds=spec.slo.itl_seconds, mean_context_tokens=context
    )
    tokens = use.sequence_seconds / max(batch, 1.0)
    return prompts + tokens if name is PoolName.MIXED else tokens

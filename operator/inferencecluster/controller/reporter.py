"""Writes what a look found out: status, Events, metrics, log. A write happens only when it says something new."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from inferencecluster.adapters.clock import Clock
from inferencecluster.adapters.kube import KubeClient
from inferencecluster.api.status import InferenceClusterStatus
from inferencecluster.controller.accepted import AcceptedSpec
from inferencecluster.controller.clusters import ClusterStore, ClusterView, cluster_view
from inferencecluster.controller.events import Event, EventReason, EventRecorder, EventType
from inferencecluster.controller.metrics import OperatorMetrics
from inferencecluster.controller.report import (
    Report,
    build_defect_status,
    build_stalled_status,
    build_status,
    defect_conditions,
    endpoint_of,
    events_of,
    invalid_spec_conditions,
    is_news,
    override_conditions,
    status_manifest,
)
from inferencecluster.controller.state import ClusterState
from inferencecluster.core.decision import Decision
from inferencecluster.core.errors import ApplyError, Conflict, SpecError
from inferencecluster.core.observation import Observation
from inferencecluster.core.status import ClusterStatus, DecisionRecord

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a cluster whose spec can be acted on."""

    view: ClusterView
    state: ClusterState
    accepted: AcceptedSpec
    observation: Observation
    decision: Decision

    @property
    def about(self) -> dict[str, str]:
        """For logs."""
        return {"cluster": f"{self.view.key.namespace}/{self.view.key.name}"}


def read_status(manifest: Mapping[str, Any]) -> InferenceClusterStatus | None:
    """The status of an InferenceCluster; None when there is none, or one of another version: it is written anew."""
    try:
        return InferenceClusterStatus.model_validate(manifest.get("status"))
    except ValidationError:
        return None


class Reporter:
    """Reports on clusters."""

    def __init__(
        self,
        client: KubeClient,
        clusters: ClusterStore,
        events: EventRecorder,
        metrics: OperatorMetrics,
        clock: Clock,
    ) -> None:
        self._client = client
        self._clusters = clusters
        self._events = events
        self._metrics = metrics
        self._clock = clock

    async def report(self, look: Look) -> None:
        """After a decision. Raises `ApiUnavailable`; a status that is refused is counted and shown as an Event."""
        view, decision, told = look.view, look.decision, _with_refusal(look)
        self._metrics.reported(view.key, told, at=self._clock.monotonic())
        for record in decision.records:
            self._decided(look, record)
        status = build_status(
            Report(
                generation=view.generation,
                revision=look.accepted.spec.revision,
                endpoint=endpoint_of(view.key.name, view.key.namespace),
                status=told,
                records=decision.records,
            ),
            look.state.status,
            now=look.observation.now,
        )
        thorough = look.observation.sizing_due or bool(decision.records)
        await self._publish(view, look.state, status, decision.records, thorough=thorough)

    async def report_stalled(self, view: ClusterView, state: ClusterState, error: SpecError) -> None:
        """For a cluster of which no generation could be read. Raises `ApiUnavailable`."""
        self._metrics.conditions(view.key, invalid_spec_conditions(error, serving_generation=None))
        status = build_stalled_status(error, state.status, generation=view.generation, now=self._clock.now())
        await self._publish(view, state, status, (), thorough=True)

    async def report_defect(self, view: ClusterView, state: ClusterState, error: Exception) -> None:
        """For a cluster at which a look was ended by a defect. Raises `ApiUnavailable`."""
        self._metrics.conditions(view.key, defect_conditions(error))
        status = build_defect_status(error, state.status, generation=view.generation, now=self._clock.now())
        await self._publish(view, state, status, (), thorough=True)

    async def report_deletion(self, view: ClusterView, state: ClusterState, core: ClusterStatus) -> None:
        """For a cluster that drains to its end. Raises `ApiUnavailable`."""
        now, told = self._clock.now(), state.status
        self._metrics.reported(view.key, core, at=self._clock.monotonic())
        report = Report(
            generation=view.generation,
            revision=(told.revision if told else None) or "",
            endpoint=endpoint_of(view.key.name, view.key.namespace),
            status=core,
            records=(),
        )
        await self._publish(view, state, build_status(report, told, now=now), (), thorough=False)

    async def refused(self, view: ClusterView, errors: Sequence[ApplyError]) -> None:
        """Count writes that the API server would not do, and show those that time alone does not heal."""
        for error in errors:
            self.count_refused(error)
            if not isinstance(error, Conflict):
                await self.tell(view, Event(EventType.WARNING, EventReason.WRITE_REFUSED, str(error)))

    def count_refused(self, error: ApplyError) -> None:
        """Count and log one; for creates of replicas that is all, because conditions tell of them."""
        self._metrics.writes.labels(type(error).__name__).inc()
        # A conflict is everyday: the world moved between the look and the write.
        level = logging.INFO if isinstance(error, Conflict) else logging.WARNING
        _logger.log(level, "write refused", extra={"error": str(error)})

    async def tell(self, view: ClusterView, event: Event) -> None:
        """Write one Event about the cluster."""
        await self._events.record(view.reference, event)

    async def _publish(
        self,
        view: ClusterView,
        state: ClusterState,
        status: InferenceClusterStatus,
        records: Sequence[DecisionRecord],
        *,
        thorough: bool,
    ) -> None:
        events = events_of(status, state.status, records)
        if is_news(status, state.status, thorough=thorough):
            try:
                await self._write(view, state, status)
            except ApplyError as error:
                await self.refused(view, (error,))
        for event in events:
            await self.tell(view, event)

    async def _write(self, view: ClusterView, state: ClusterState, status: InferenceClusterStatus) -> None:
        body = status_manifest(view.key.name, view.key.namespace, view.uid, status)
        written = cluster_view(await self._client.apply_status(body))
        self._clusters.refresh(written)
        state.status = status
        state.seen_version = written.resource_version

    def _decided(self, look: Look, record: DecisionRecord) -> None:
        self._metrics.decided(look.view.key, record)
        about: dict[str, object] = {
            "pool": record.pool.value,
            "before": record.before,
            "after": record.after,
            "reason": record.reason,
            "limited_by": record.limited_by,
        }
        _logger.info("size decided", extra={**look.about, **about})


def _with_refusal(look: Look) -> ClusterStatus:
    """The decision's status; while the newest generation is wrong, with that said in its conditions."""
    status, refused = look.decision.status, look.state.refused
    if refused is None:
        return status
    wrong = invalid_spec_conditions(refused, serving_generation=look.accepted.spec.generation)
    return replace(status, conditions=override_conditions(status.conditions, wrong))

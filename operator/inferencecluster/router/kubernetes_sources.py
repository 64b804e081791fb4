"""Replicas and settings from the Kubernetes API: the Pods of one cluster, and its InferenceCluster."""

from __future__ import annotations

import logging
from typing import Final

from inferencecluster.adapters.informer import Informer
from inferencecluster.adapters.kube import KubeClient, Selection
from inferencecluster.adapters.kube_resources import CLUSTERS, PODS, Manifest
from inferencecluster.adapters.pods import EnginePod, project_pod
from inferencecluster.api.inferencecluster import InferenceCluster, InferenceClusterSpec, parse_cluster
from inferencecluster.api.names import (
    ANNOTATION_ENGINE_VERSION,
    ANNOTATION_FENCED_AT,
    ANNOTATION_KV_CAPACITY,
    ANNOTATION_MAX_BATCH,
    ANNOTATION_SERVED_NAME,
    COMPONENT_ENGINE,
    ENGINE_PORT,
    LABEL_CLUSTER,
    LABEL_COMPONENT,
)
from inferencecluster.api.translate import to_core
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import Lifecycle
from inferencecluster.core.routing import RoutingPolicy
from inferencecluster.core.sleep import wake_hold_seconds
from inferencecluster.core.spec import ClusterSpec, ScalingMode
from inferencecluster.core.token_budget import PREFILL_TOKENS
from inferencecluster.render.trtllm.shape import configured_version
from inferencecluster.render.trtllm.versions import EngineVersion, parse_version
from inferencecluster.router.sources import (
    ReplicaListener,
    ReplicaRecord,
    RouterSettings,
    SettingsListener,
    WakeSettings,
)

_USUAL_PROMPT: Final = 1000
"""Tokens, about the mean of the Azure LLM inference trace 2023, conversation."""
_MOST_DIGITS: Final = 15
"""Of a count in an annotation: whoever writes more writes no count."""

_logger: Final = logging.getLogger(__name__)


class KubernetesFleet:
    """`FleetSource` over the engine Pods of one cluster."""

    def __init__(self, client: KubeClient, *, cluster: str, namespace: str) -> None:
        self._listener: ReplicaListener | None = None
        self._informer = Informer(
            client,
            Selection(
                PODS,
                namespace,
                label_selector=f"{LABEL_CLUSTER}={cluster},{LABEL_COMPONENT}={COMPONENT_ENGINE}",
            ),
            project_replica,
            on_change=self._changed,
        )

    @property
    def listed(self) -> bool:
        """The first complete list has arrived."""
        return self._informer.listed

    @property
    def synced(self) -> bool:
        """Listed and connected to the watch."""
        return self._informer.synced

    async def run(self, listener: ReplicaListener) -> None:
        """Follow the Pods until cancelled."""
        self._listener = listener
        await self._informer.run()

    def _changed(self, before: ReplicaRecord | None, after: ReplicaRecord | None) -> None:
        if self._listener is not None:
            self._listener(before, after)


class KubernetesSettings:
    """`SettingsSource` over one InferenceCluster. A spec that cannot be read keeps the last settings."""

    def __init__(self, client: KubeClient, *, cluster: str, namespace: str) -> None:
        self._listener: SettingsListener | None = None
        self._informer = Informer(
            client,
            Selection(CLUSTERS, namespace, field_selector=f"metadata.name={cluster}"),
            project_settings,
            on_change=self._changed,
        )

    async def run(self, listener: SettingsListener) -> None:
        """Follow the InferenceCluster until cancelled."""
        self._listener = listener
        await self._informer.run()

    def _changed(self, _: RouterSettings | None, after: RouterSettings | None) -> None:
        if self._listener is not None and after is not None:
            self._listener(after)


def project_replica(pod: Manifest) -> ReplicaRecord | None:
    """The replica that a Pod is; None for Pods that are no engine, or that do not say what they can hold."""
    found = project_pod(pod)
    if not isinstance(found, EnginePod):
        return None
    replica = found.replica
    annotations = pod["metadata"].get("annotations") or {}
    capacity = _positive(annotations.get(ANNOTATION_KV_CAPACITY))
    largest_batch = _positive(annotations.get(ANNOTATION_MAX_BATCH))
    if capacity is None or largest_batch is None:
        _logger.warning(
            "replica left out: the annotations of its capacity are absent or no positive integers",
            extra={"replica": replica.name, "annotations": [ANNOTATION_KV_CAPACITY, ANNOTATION_MAX_BATCH]},
        )
        return None
    return ReplicaRecord(
        name=replica.name,
        uid=replica.uid,
        home=replica.home,
        revision=replica.revision,
        url=_url(found.address),
        ready=replica.lifecycle is Lifecycle.READY,
        # Any value counts: a fence with a malformed time is a fence.
        fenced=ANNOTATION_FENCED_AT in annotations or replica.lifecycle is Lifecycle.TERMINATING,
        kv_capacity_tokens=capacity,
        max_batch_size=largest_batch,
        engine_version=_version(annotations.get(ANNOTATION_ENGINE_VERSION)),
        fenced_at=found.fence,
        model=annotations.get(ANNOTATION_SERVED_NAME, ""),
    )


def project_settings(manifest: Manifest) -> RouterSettings | None:
    """The settings that an InferenceCluster holds; None, with a warning, when this version cannot read them."""
    try:
        cluster = parse_cluster(manifest)
        spec = cluster.spec
        version = configured_version(spec.engine)
    except SpecError as error:
        _logger.warning("spec cannot be read, the last settings stay", extra={"error": str(error)})
        return None
    known = _with_speeds(cluster)
    return RouterSettings(
        model=spec.model.served_name or spec.model.source,
        engine_version=version,
        routing=_one_limit(spec) if known is None else RoutingPolicy.of(known),
        max_queue_seconds=float(spec.router.max_queue_seconds),
        ttft_seconds=spec.slo.ttft_milliseconds / 1000,
        kv_transfer_timeout_seconds=float(spec.engine.kv_transfer.timeout_seconds),
        wake=_wake(spec),
        prefill_seconds_per_token=None if known is None else _prefill_speed(known),
    )


def _wake(spec: InferenceClusterSpec) -> WakeSettings | None:
    """None where a pool keeps a minimum, or where it is not demand that decides: nothing would wake the cluster."""
    pools = (spec.pools.prefill, spec.pools.decode, spec.pools.mixed)
    if spec.scaling.mode is not ScalingMode.AUTOMATIC or any(pool and pool.min_replicas for pool in pools):
        return None
    boot, hold = spec.scaling.expected_boot_seconds, spec.router.wake_queue_seconds
    derived = wake_hold_seconds(boot_seconds=boot, max_queue_seconds=spec.router.max_queue_seconds)
    return WakeSettings(float(boot), derived if hold is None else float(hold))


def _with_speeds(cluster: InferenceCluster) -> ClusterSpec | None:
    """None where the spec does not tell how fast replicas are, which is the operator's to complain about."""
    try:
        return to_core(cluster, revision="")
    except SpecError:
        return None


def _one_limit(spec: InferenceClusterSpec) -> RoutingPolicy:
    """What the user chose, or else what one iteration of a prefill replica holds."""
    chosen = spec.router.overflow_tokens
    return RoutingPolicy.alike(PREFILL_TOKENS if chosen is None else chosen)


def _prefill_speed(spec: ClusterSpec) -> float | None:
    """Of the slowest pool; None where every pool is off."""
    pools = (pool for pool in spec.pools if pool.max_replicas)
    seconds = (pool.performance.prefill.seconds(_USUAL_PROMPT) for pool in pools)
    return max(seconds, default=0.0) / _USUAL_PROMPT or None


def _url(address: str | None) -> str:
    if not address:
        return ""
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{ENGINE_PORT}"


def _version(text: str | None) -> EngineVersion | None:
    """None without the annotation, which operators of older releases did not write."""
    if not text:
        return None
    try:
        return parse_version(text)
    except SpecError as error:
        _logger.warning("a replica's engine version cannot be read", extra={"error": str(error)})
        return None


def _positive(text: str | None) -> int | None:
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > _MOST_DIGITS:
        return None
    return int(text) or None

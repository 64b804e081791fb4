"""What belongs to an InferenceCluster beside itself: Pods, EnginePools, Events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from inferencecluster.adapters.informer import ObjectKey
from inferencecluster.adapters.kube_resources import Manifest
from inferencecluster.adapters.pods import ClusterPod, EnginePod, RouterPod, project_pod
from inferencecluster.api.names import ANNOTATION_KV_CAPACITY
from inferencecluster.cli.live_traffic import Home
from inferencecluster.core.missing import Missing

_MOST_DIGITS: Final = 15
"""More tokens than any memory holds; Python itself refuses numbers of some thousand digits."""


@dataclass(frozen=True, slots=True)
class ClusterPods:
    """The Pods of one cluster."""

    engines: tuple[EnginePod, ...] = ()
    routers: tuple[RouterPod, ...] = ()
    homes: Mapping[str, Home] = field(default_factory=dict)
    """Of the engines, by UID."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Of one cluster; each of it may be refused by itself."""

    pods: ClusterPods | Missing
    pools: Sequence[Manifest] | Missing
    """EnginePools."""
    events: Sequence[Manifest] | Missing


def pods_by_cluster(pods: Iterable[Manifest]) -> Mapping[ObjectKey, ClusterPods]:
    """Clusters that have a Pod; Pods of other components are left out."""
    by_cluster: defaultdict[ObjectKey, list[tuple[Manifest, ClusterPod]]] = defaultdict(list)
    for manifest in pods:
        pod = project_pod(manifest)
        if pod is not None:
            by_cluster[pod.cluster].append((manifest, pod))
    return {key: _cluster_pods(entries) for key, entries in by_cluster.items()}


def _cluster_pods(entries: Sequence[tuple[Manifest, ClusterPod]]) -> ClusterPods:
    engines = [(manifest, pod) for manifest, pod in entries if isinstance(pod, EnginePod)]
    return ClusterPods(
        engines=tuple(pod for _, pod in engines),
        routers=tuple(pod for _, pod in entries if isinstance(pod, RouterPod)),
        homes={pod.replica.uid: Home(pod.replica.home, _kv_capacity(manifest)) for manifest, pod in engines},
    )


def _kv_capacity(pod: Manifest) -> int | None:
    written = (pod["metadata"].get("annotations") or {}).get(ANNOTATION_KV_CAPACITY, "")
    return int(written) if written.isdecimal() and len(written) <= _MOST_DIGITS else None

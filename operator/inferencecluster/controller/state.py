"""What the operator remembers about a cluster between two looks; all of it can be lost and found again."""

from __future__ import annotations

from dataclasses import dataclass, field

from inferencecluster.adapters.routers import Look
from inferencecluster.api.status import InferenceClusterStatus
from inferencecluster.controller.accepted import AcceptedSpec
from inferencecluster.core.decision import Memory
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import MetricsSample


@dataclass(slots=True)
class ChildMemo:
    """Which children are known to be as rendered, so that a look at rest reads and writes nothing."""

    settled: dict[tuple[str, str], str] = field(default_factory=dict)
    """(kind, name) -> digest of the manifest that the API server was last seen to hold."""
    foreign: set[tuple[str, str]] = field(default_factory=set)
    """Names that somebody else's objects have taken."""
    pool_counts: dict[PoolName, tuple[int, int]] = field(default_factory=dict)
    """EnginePool status as last written or read: replicas and ready replicas."""
    checked_at: float | None = None
    """Monotonic time of the last full comparison; None asks for one."""

    def distrust_one(self, kind: str, name: str) -> None:
        """One child changed: compare it at the next look."""
        self.settled.pop((kind, name), None)
        self.foreign.discard((kind, name))

    def distrust(self) -> None:
        """Anything may have changed: compare everything at the next look."""
        self.settled.clear()
        self.foreign.clear()
        self.pool_counts.clear()
        self.checked_at = None


@dataclass(slots=True)
class ClusterState:
    """One cluster, by its UID: a cluster that was made anew under the same name starts anew."""

    uid: str
    memory: Memory
    status: InferenceClusterStatus | None
    """As the API server last showed or took it."""
    seen_version: str
    """Resource version that `status` is from."""
    accepted: AcceptedSpec | None = None
    """The newest generation without an error: it keeps serving while a later one is wrong."""
    refused: SpecError | None = None
    """What is wrong with the newest generation."""
    generation: int = -1
    """The newest generation that was read."""
    look: Look | None = None
    metrics: MetricsSample | Missing = Missing("NotAskedYet")
    ready_since: dict[str, float] = field(default_factory=dict)
    """Replica uid -> first readiness: the Pod itself only tells the latest."""
    children: ChildMemo = field(default_factory=ChildMemo)
    sized_at: float | None = None
    """Monotonic time of the last sizing tick."""

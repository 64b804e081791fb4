"""What the operator remembers about a cluster between two looks; all of it can be lost and found again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from inferencecluster.adapters.routers import Look
from inferencecluster.api.status import InferenceClusterStatus
from inferencecluster.controller.accepted import AcceptedSpec
from inferencecluster.controller.sightings import Sightings
from inferencecluster.core.decision import Memory
from inferencecluster.core.errors import SpecError
from inferencecluster.core.fleet import PoolName
from inferencecluster.core.missing import Missing
from inferencecluster.core.observation import MetricsSample, Refusal
from inferencecluster.core.replacement import next_refusal_seconds


@dataclass(frozen=True, slots=True)
class Retry:
    """When a write that was refused is tried again."""

    at: float
    """Monotonic seconds."""
    seconds: float
    """Length of this wait; the next one is longer."""


@dataclass(slots=True)
class Waits:
    """Growing waits after writes that were refused, by what was to be written."""

    _retries: dict[tuple[str, str], Retry] = field(default_factory=dict)

    def is_waiting(self, key: tuple[str, str], now: float) -> bool:
        """A write was refused, and its wait is not over."""
        retry = self._retries.get(key)
        return retry is not None and now < retry.at

    def wait(self, key: tuple[str, str], now: float) -> None:
        """A write was refused: the next one comes after a longer wait than this one."""
        before = self._retries.get(key)
        seconds = next_refusal_seconds(before.seconds if before is not None else 0.0)
        self._retries[key] = Retry(now + seconds, seconds)

    def forget(self, key: tuple[str, str]) -> None:
        """A write was taken."""
        self._retries.pop(key, None)

    def clear(self) -> None:
        """Try everything again."""
        self._retries.clear()

    def keep_only(self, names: Collection[str]) -> None:
        """Forget what does not exist any more; `names` are the second parts of keys."""
        self._retries = {key: retry for key, retry in self._retries.items() if key[1] in names}


@dataclass(slots=True)
class ChildMemo:
    """Which children are known to be as rendered, so that a look at rest reads and writes nothing."""

    settled: dict[tuple[str, str], str] = field(default_factory=dict)
    """(kind, name) -> digest of the manifest that the API server was last seen to hold."""
    foreign: set[tuple[str, str]] = field(default_factory=set)
    """Names that somebody else's objects have taken."""
    waits: Waits = field(default_factory=Waits)
    """Children that the API server would not write."""
    pool_counts: dict[PoolName, tuple[int, int]] = field(default_factory=dict)
    """EnginePool status as last written or read: replicas and ready replicas."""
    checked_at: float | None = None
    """Monotonic time of the last full comparison; None asks for one."""

    mounted: frozenset[str] = frozenset()
    """Names of the engine configurations that replicas mounted at the last look."""
    is_collection_due: bool = False
    """The last look compared everything; the next one deletes what is not needed any more."""

    def distrust_one(self, kind: str, name: str) -> None:
        """One child changed: compare it at the next look."""
        self.settled.pop((kind, name), None)
        self.foreign.discard((kind, name))

    def distrust(self) -> None:
        """Anything may have changed: compare everything at the next look."""
        self.settled.clear()
        self.foreign.clear()
        self.waits.clear()
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
    sightings: Sightings = field(default_factory=Sightings)
    versions: Mapping[str, str] = field(default_factory=dict)
    """Replica uid -> resource version of its Pod at the last look: what that decides on has to be still so."""
    is_confirmed: bool = False
    """The Pods known of the cluster were compared with the API server's since this process last did not know what
    became of a write, its first look included: another process may have written until a moment ago."""
    waits: Waits = field(default_factory=Waits)
    """Writes to Pods, by kind of write and uid, that the API server refused."""
    children: ChildMemo = field(default_factory=ChildMemo)
    sized_at: float | None = None
    """Monotonic time of the last sizing tick."""
    refusals: tuple[Refusal, ...] = ()
    """Creates of the last look that the API server refused; the next one decides with them."""
